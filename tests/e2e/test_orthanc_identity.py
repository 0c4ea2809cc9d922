"""A real PACS, a node and a RIS, each a process of its own, and a patient who changes between CT and contour: by an HL7
merge, by an HL7 update, or in the PACS alone."""

import copy
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread

from dicom_node.mllp import Reader, framed
from dicom_node.store import Store
from tests.dicom.test_reports_identity import NAMES
from tests.e2e.node import (
    Node,
    assert_valid,
    completed,
    destination,
    kind_of,
    log_of,
    serving,
    spool_of,
    wait_for,
    write_settings,
)
from tests.e2e.orthanc import AE_TITLE, DICOM_PORT, NODE_PORT, Orthanc, orthanc
from tests.hl7.ris import Ris, ris
from tests.hl7_inputs import adt, segments
from tests.synthetic import ct_series, rtstruct, save
from tests.validators import pixelmed

pytestmark = pytest.mark.orthanc
HL7_PORT = 2575
FORWARD_NOTHING = "function OnStoredInstance(instanceId, tags, metadata, origin)\nend\n"
OURS = ("SR", "OT", "SEG", "PR")


@dataclass
class Hospital:
    """The three of them; the study lies in Orthanc, and goes to the node series by series when a test says so."""

    folder: Path
    pacs: Orthanc
    node: Node
    ris: Ris
    study: list[Dataset]

    @property
    def uid(self) -> str:
        return str(self.study[0].StudyInstanceUID)

    def upload(self) -> None:
        for dataset in self.study:
            self.pacs.upload(save(dataset, self.folder / "study"))

    def send(self, modality: str) -> None:
        (series,) = [s["ID"] for s in self.pacs.series_of(self.uid) if s["MainDicomTags"]["Modality"] == modality]
        self.pacs.send_series(series)

    def correct_in_the_pacs(self, **attributes: str) -> None:
        """The same SOP instances with other demographics, as a PACS has them after it has changed them."""
        for study in self.pacs.find("Study", StudyInstanceUID=self.uid):
            self.pacs.delete(f"/studies/{study}")
        changed = []
        for dataset in self.study:
            changed.append(copy.deepcopy(dataset))
            for keyword, value in attributes.items():
                setattr(changed[-1], keyword, value)
        self.study = changed
        self.upload()

    def says(self, text: str) -> None:
        """The RIS tells the node, and waits for the acknowledgement."""
        with socket.create_connection(("127.0.0.1", HL7_PORT), 10) as sock:
            sock.settimeout(30)
            sock.sendall(framed(text.encode()))
            reader, answers = Reader(1 << 16), list[bytes]()
            while not answers:
                answers += reader.feed(sock.recv(65_536))
        assert b"MSA|AA|" in answers[0], answers[0]

    def store(self) -> Store:
        return Store.open(spool_of(self.node.folder).store)

    def back(self) -> list[Path]:
        """What the node has filed in the PACS."""
        folder = self.folder / "back"
        return [path for modality in OURS for path in self.pacs.files(self.uid, modality, folder)]


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Hospital]]:
    """A new patient of the same hospital each time: the seed makes study and Patient ID."""
    tmp_path = tmp_path_factory.mktemp("hospital")
    with orthanc(tmp_path / "orthanc", FORWARD_NOTHING) as pacs, ris(tmp_path / "ris") as ris_process:
        peer = destination(AE_TITLE, DICOM_PORT) | {"sends": True}
        listening = {"listen": True, "port": HL7_PORT}
        path = write_settings(tmp_path / "node", peer, port=NODE_PORT, hl7=listening)
        with path.open("a", encoding="utf-8") as settings:
            settings.write(f'\n[[hl7_peers]]\nname = "RIS"\nport = {ris_process.port}\n')
        with serving(tmp_path / "node") as node:
            wait_for(lambda: "hl7.listening MLLP" in log_of(node.folder), "the listener", folder=node.folder)

            def make(seed: int, **attributes: str) -> Hospital:
                ct = ct_series(16, 40, 40, seed=seed, patient_id=f"P{seed}", **attributes)  # type: ignore[arg-type]
                made = Hospital(tmp_path / str(seed), pacs, node, ris_process, [*ct, rtstruct(ct)])
                made.upload()
                return made

            yield make


def check(hospital: Hospital, expected: dict[str, str], source: str) -> None:
    item = completed(hospital.node.folder, hospital.uid)
    assert item.outcome == "SCORED"
    assert len(hospital.pacs.find("Study", StudyInstanceUID=hospital.uid)) == 1, "one study, one patient"
    back = hospital.back()
    assert len(back) >= 5
    for dataset in map(dcmread, back):
        assert {keyword: str(dataset[keyword].value) for keyword in expected} == expected
    assert_valid(back)
    (risk,) = [path for path in back if kind_of(dcmread(path)) == "risk-sr"]
    assert pixelmed(risk) == []
    store = hospital.store()
    sources = [change.source for change in store.patients.changes(hospital.uid)]
    store.close()
    assert sources == [source]
    (message,) = [one for one in hospital.ris.messages if f"|{hospital.uid}|" in one]
    pid = segments(message, "PID")[0]
    assert pid[3].split("^")[0] == expected["PatientID"]
    assert pid[5].startswith(expected["PatientName"])


def test_a_merge_by_hl7_that_the_pacs_has_heard_too(hospital: Callable[..., Hospital]) -> None:
    here = hospital(31)
    here.send("CT")
    old = str(here.study[0].PatientID)
    here.says(adt("A40", "1||SURVIVING||Müller^Jörg||19520304|M", control_id="31", mrg=old))
    new = {
        "PatientID": "SURVIVING", "PatientName": "Müller^Jörg", "PatientBirthDate": "19520304", "PatientSex": "M",
        "SpecificCharacterSet": "ISO_IR 192",
    }  # fmt: skip
    here.correct_in_the_pacs(**new)
    here.send("RTSTRUCT")  # it has the new Patient ID, the CT here has the old one
    check(here, new, "HL7 ADT^A40")


@pytest.mark.exhaustive
def test_an_update_by_hl7_that_the_pacs_has_heard_too(hospital: Callable[..., Hospital]) -> None:
    here = hospital(32)
    here.send("CT")
    patient = str(here.study[0].PatientID)
    here.says(adt("A08", f"1||{patient}||Neu^Anna||19520304|F", control_id="32"))
    new = {"PatientName": "Neu^Anna", "PatientBirthDate": "19520304", "PatientSex": "F"}
    here.correct_in_the_pacs(**new)
    here.send("RTSTRUCT")
    check(here, {"PatientID": patient, **new}, "HL7 ADT^A08")


@pytest.mark.exhaustive
def test_a_correction_in_the_pacs_alone(hospital: Callable[..., Hospital]) -> None:
    here = hospital(33)
    here.send("CT")
    new = {"PatientName": "Neu^Anna", "PatientBirthDate": "19520304", "AccessionNumber": "NEW-7"}
    here.correct_in_the_pacs(**new)
    here.send("RTSTRUCT")
    check(here, {"PatientID": str(here.study[0].PatientID), **new}, "C-FIND")


@pytest.mark.parametrize(
    "script",
    ["Korean", *(pytest.param(one, marks=pytest.mark.exhaustive) for one in ("Cyrillic", "Japanese", "Chinese"))],
)
def test_asking_a_pacs_that_has_changed_nothing_loses_no_name(script: str, hospital: Callable[..., Hospital]) -> None:
    """However the PACS writes the name in its answer."""
    character_set, name, description = NAMES[script]
    here = hospital(
        40 + list(NAMES).index(script), character_set=character_set, patient_name=name, StudyDescription=description
    )
    here.send("CT")
    here.send("RTSTRUCT")
    item = completed(here.node.folder, here.uid)
    store = here.store()
    changes, events = store.patients.changes(here.uid), store.details(item.id)["events"]
    store.close()
    assert changes == []
    assert "identity not confirmed" not in [event["name"] for event in events], "the PACS was asked, and answered"
    assert {str(dcmread(path).PatientName) for path in here.back()} == {name}
