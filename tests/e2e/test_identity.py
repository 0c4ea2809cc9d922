"""Demographics that change between the arrival of the images and the result: the objects are filed where the patient is
now, pass the validators, and both sides of the change are kept. Stages run in this process, jobs do not."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset, dcmread

from analysis.contract import RESULT_FILE, JobResult, Reason
from config.settings import Deliver, Hl7, Peer, Receive
from dicom_node import clinical_codes
from dicom_node.demo_pacs import DemoPacs
from dicom_node.hl7_apply import Office, apply
from dicom_node.hl7_reader import read
from dicom_node.identity import Identity
from dicom_node.job import Runner
from dicom_node.workitem import State, WorkItem
from tests import synthetic
from tests.e2e.node import kind_of
from tests.hl7_inputs import adt
from tests.road import Road, road
from tests.validators import dciodvfy, pixelmed

CT = synthetic.ct_series(16, 40, 40, seed=1)
STUDY = str(CT[0].StudyInstanceUID)
QUICK = Deliver(first_delay_seconds=1.0, longest_delay_seconds=4.0, connect_timeout_seconds=2.0)
ORIGINAL = Identity(
    patient_id=str(CT[0].PatientID),
    patient_name=str(CT[0].PatientName),
    patient_birth_date=str(CT[0].PatientBirthDate),
    patient_sex=str(CT[0].PatientSex),
    accession_number=str(CT[0].AccessionNumber),
)


@dataclass
class Site:
    node: Road
    pacs: DemoPacs

    def hears(self, text: str) -> None:
        """An HL7 message comes in, past the socket."""
        office = Office(Hl7(), clinical_codes.load(None))
        data = text.encode()
        apply(self.node.store, read(data), data, "127.0.0.1", office, self.node.clock())

    def score(self, *datasets: Dataset) -> WorkItem:
        self.node.take(*datasets)
        for _ in range(3):
            self.node.later()
        return self.node.items[0]

    @property
    def arrived(self) -> list[Path]:
        return sorted(one.path for one in self.pacs.objects())

    def who(self) -> set[tuple[str, str, str, str]]:
        """Patient ID, name, birth date and accession number of what arrived."""
        return {
            (str(one.PatientID), str(one.PatientName), str(one.PatientBirthDate), str(one.AccessionNumber))
            for one in map(dcmread, self.arrived)
        }

    def events(self, item: WorkItem) -> list[tuple[str, str]]:
        return [(event["name"], event["detail"]) for event in self.node.store.details(item.id)["events"]]


class Abrupt(DemoPacs):
    """Keeps the first object and ends the association instead of answering."""

    def _on_store(self, event: Any) -> int:
        status = super()._on_store(event)
        if len(self.received) == 1:
            event.assoc.abort()
        return status


@pytest.fixture(autouse=True)
def the_same_content_is_analysed_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """These tests differ in what comes before and after the job: its results are kept by their key."""
    kept = tmp_path_factory.getbasetemp() / "analyses"
    really = Runner.analyse

    def analyse(self: Runner, key: str, *arguments: Any) -> JobResult:
        if not (kept / key).is_dir():
            really(self, key, *arguments)
            shutil.copytree(self._spool.results(key, "analysis"), kept / key)
        with self._spool.replace_results(key, "analysis") as folder:
            shutil.copytree(kept / key, folder, dirs_exist_ok=True)
        return JobResult.model_validate_json((kept / key / RESULT_FILE).read_bytes())

    monkeypatch.setattr(Runner, "analyse", analyse)


def site_in(folder: Path, pacs: DemoPacs, **deliver: object) -> Site:
    peer = Peer("PACS", port=pacs.port, sends=False, receives_results=True, proof="find")
    patience = Receive(acse_timeout_seconds=20.0, dimse_timeout_seconds=20.0, network_timeout_seconds=20.0)
    node = road(folder, peers=(peer,), deliver=replace(QUICK, **deliver), receive=patience)  # type: ignore[arg-type]
    return Site(node, pacs)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with DemoPacs(tmp_path / "pacs", "PACS", commitment="none") as pacs:
        yield site_in(tmp_path, pacs)


def merged_into(new: str, name: str = "Neu^Anna") -> str:
    return adt("A40", f"1||{new}||{name}||19520304|F", mrg=ORIGINAL.patient_id)


def valid(paths: list[Path]) -> None:
    for path in paths:
        assert dciodvfy(path) == [], path.name


@pytest.mark.exhaustive
def test_a_merge_between_receive_and_send_is_what_the_objects_say(site: Site) -> None:
    site.node.take(*CT)
    site.hears(merged_into("SURVIVING"))
    item = site.score(synthetic.rtstruct(CT))
    assert item.state is State.COMPLETED
    assert site.who() == {("SURVIVING", "Neu^Anna", "19520304", ORIGINAL.accession_number)}
    valid(site.arrived)
    (risk,) = [path for path in site.arrived if kind_of(dcmread(path)) == "risk-sr"]
    assert pixelmed(risk) == []
    (change,) = site.node.store.patients.changes(STUDY)
    assert (change.source, change.before.patient_id, change.after.patient_id) == (
        "HL7 ADT^A40",
        ORIGINAL.patient_id,
        "SURVIVING",
    )
    assert Identity.from_json(item.identity or "").patient_id == "SURVIVING"


def test_an_update_renames_what_has_not_left(site: Site) -> None:
    site.node.take(*CT)
    site.hears(adt("A08", f"1||{ORIGINAL.patient_id}||Neu^Anna"))
    site.score(synthetic.rtstruct(CT))
    assert {(who[0], who[1]) for who in site.who()} == {(ORIGINAL.patient_id, "Neu^Anna")}
    valid(site.arrived)


def test_what_the_pacs_has_corrected_is_what_the_objects_say_and_is_recorded(site: Site) -> None:
    site.pacs.studies[STUDY] = replace(
        ORIGINAL, patient_id="PACS-ID", patient_name="Neu^Anna", accession_number="ACC-NEW"
    )
    item = site.score(*CT, synthetic.rtstruct(CT))
    assert item.state is State.COMPLETED
    assert {(who[0], who[1], who[3]) for who in site.who()} == {("PACS-ID", "Neu^Anna", "ACC-NEW")}
    valid(site.arrived)
    (change,) = site.node.store.patients.changes(STUDY)
    assert (change.source, change.attributes) == ("C-FIND", ("patient_id", "patient_name", "accession_number"))
    assert ("identity changed", "C-FIND: patient_id, patient_name, accession_number") in site.events(item)
    assert "composed again" in [name for name, _ in site.events(item)]
    assert len(site.pacs.received) == len(site.arrived), "nothing went out under the old identity"
    (entry,) = [one for one in site.node.store.audit.of_item(item.id) if one.action == "identity.changed"]
    assert "Neu" not in entry.detail


def test_a_pacs_that_has_not_followed_a_merge_yet_files_the_objects_all_the_same(site: Site) -> None:
    """It decides what it files under; who the patient is now stays what the merge says."""
    site.pacs.studies[STUDY] = ORIGINAL
    site.node.take(*CT)
    site.hears(merged_into("SURVIVING"))
    item = site.score(synthetic.rtstruct(CT))
    assert {who[0] for who in site.who()} == {ORIGINAL.patient_id}
    now = site.node.store.patients.of_study(STUDY)
    assert now is not None
    assert (now.patient_id, now.patient_name) == ("SURVIVING", "Neu^Anna")
    assert "identity differs" in [name for name, _ in site.events(item)]


def test_a_pacs_that_says_what_the_images_say_changes_nothing(site: Site) -> None:
    plain = site.score(*CT, synthetic.rtstruct(CT))
    uids = {str(dcmread(path).SOPInstanceUID) for path in site.arrived}
    site.pacs.studies[STUDY] = replace(
        ORIGINAL, patient_name=f"{ORIGINAL.patient_name}^^", patient_sex="", accession_number=""
    )
    other = site_in(site.node.folder / "again", site.pacs)
    item = other.score(*CT, synthetic.rtstruct(CT))
    assert item.key == plain.key
    assert {str(dcmread(path).SOPInstanceUID) for path in other.node.report(item).parent.glob("*.dcm")} >= uids
    assert other.node.store.patients.changes(STUDY) == []


def test_another_identity_has_other_uids_so_that_one_uid_never_has_two_contents(site: Site) -> None:
    site.score(*CT, synthetic.rtstruct(CT))
    before = {dcmread(path).SOPInstanceUID for path in site.arrived}
    again = site_in(site.node.folder / "again", site.pacs, reread_demographics=False)
    again.node.take(*CT)
    again.hears(merged_into("SURVIVING"))
    item = again.score(synthetic.rtstruct(CT))
    after = {dcmread(path).SOPInstanceUID for path in again.node.report(item).parent.glob("*.dcm")}
    assert not before & after


def test_a_change_after_composing_makes_new_objects_as_long_as_none_has_left(tmp_path: Path) -> None:
    with DemoPacs(tmp_path / "pacs", "PACS", commitment="none") as pacs:
        site = site_in(tmp_path, pacs, reread_demographics=False)
        pacs.stop()
        item = site.score(*CT, synthetic.rtstruct(CT))
        assert item.state is State.REPORTED
        composed = dcmread(site.node.report(item))
        assert composed.PatientID == ORIGINAL.patient_id
        site.hears(merged_into("SURVIVING"))
        pacs.start()
        for _ in range(3):
            site.node.later()
        assert site.node.items[0].state is State.COMPLETED
        assert {who[0] for who in site.who()} == {"SURVIVING"}
        assert dcmread(site.node.report(item)).SOPInstanceUID != composed.SOPInstanceUID
        assert [one for one in pacs.received if pacs.received.count(one) > 1] == []


def test_a_change_after_sending_is_recorded_and_makes_no_second_series(tmp_path: Path) -> None:
    with (
        DemoPacs(tmp_path / "pacs", "PACS", commitment="none") as pacs,
        DemoPacs(tmp_path / "late", "LATE", commitment="none") as late,
    ):
        site = site_in(tmp_path, pacs)
        second = Peer("LATE", port=late.port, sends=False, receives_results=True, proof="find")
        site.node.restart(settings=replace(site.node.settings, peers=(*site.node.settings.peers, second)))
        late.stop()
        item = site.score(*CT, synthetic.rtstruct(CT))
        sent = {path: path.read_bytes() for path in site.arrived}
        assert sent
        site.hears(merged_into("SURVIVING"))
        late.start()
        for _ in range(4):
            site.node.later()
        assert site.node.items[0].state is State.COMPLETED
        assert {path: path.read_bytes() for path in site.arrived} == sent
        assert {dcmread(one.path).SOPInstanceUID for one in late.objects()} == {
            dcmread(path).SOPInstanceUID for path in sent
        }
        assert ("identity changed", "HL7 ADT^A40: patient_id, patient_name, patient_birth_date") in site.events(item)


def test_an_object_that_may_have_arrived_is_not_made_again_under_another_uid(tmp_path: Path) -> None:
    """The PACS stored it, and the answer was lost."""
    with Abrupt(tmp_path / "pacs", "PACS", commitment="none") as pacs:
        site = site_in(tmp_path, pacs)
        site.node.take(*CT, synthetic.rtstruct(CT))
        site.node.work()
        assert len(site.arrived) == 1
        assert site.node.items[0].state is State.REPORTED
        site.pacs.studies[STUDY] = replace(ORIGINAL, patient_id="OTHER")
        for _ in range(4):
            site.node.later()
        item = site.node.items[0]
        assert item.state is State.COMPLETED
        made = {str(dcmread(path).SOPInstanceUID) for path in site.node.report(item).parent.glob("*.dcm")}
        assert set(pacs.received) <= made
        assert {who[0] for who in site.who()} == {ORIGINAL.patient_id}


@pytest.mark.parametrize("offers", ["nothing", "refused", "two patients", "not here"])
def test_without_an_answer_the_result_goes_out_under_what_is_known_and_says_so(offers: str, tmp_path: Path) -> None:
    with DemoPacs(tmp_path / "pacs", "PACS", commitment="none", offers_find=offers != "nothing") as pacs:
        site = site_in(tmp_path, pacs)
        site.node.restart(
            settings=replace(
                site.node.settings, peers=tuple(replace(p, proof="none") for p in site.node.settings.peers)
            )
        )
        if offers == "refused":
            pacs._studies = lambda wanted: iter(())  # type: ignore[method-assign]
        if offers == "two patients":
            other = pacs._studies
            pacs.studies[STUDY] = ORIGINAL
            pacs._studies = lambda wanted: iter([*other(wanted), *_renamed(other(wanted))])  # type: ignore[method-assign]
        item = site.score(*CT, synthetic.rtstruct(CT))
        assert item.state is State.COMPLETED
        assert {who[0] for who in site.who()} == {ORIGINAL.patient_id}
        said = [detail for name, detail in site.events(item) if name == "identity not confirmed"]
        expected = {"nothing": ["PACS offers no C-FIND"], "two patients": ["PACS files the study under several"]}
        assert [text[: len(want)] for text, want in zip(said, expected.get(offers, []), strict=True)] == expected.get(
            offers, []
        )


def _renamed(answers: Iterator[Dataset]) -> Iterator[Dataset]:
    for answer in answers:
        answer.PatientID = "SOMEBODY-ELSE"
        yield answer


def test_a_dead_first_destination_does_not_hold_the_others_for_ever(tmp_path: Path) -> None:
    with (
        DemoPacs(tmp_path / "dead", "PACS", commitment="none") as dead,
        DemoPacs(tmp_path / "alive", "ALIVE", commitment="none") as alive,
    ):
        site = site_in(tmp_path, dead)
        second = Peer("ALIVE", port=alive.port, sends=False, receives_results=True, proof="find")
        site.node.restart(settings=replace(site.node.settings, peers=(*site.node.settings.peers, second)))
        dead.stop()
        site.node.take(*CT, synthetic.rtstruct(CT))
        site.node.work()
        assert alive.objects() == [], "the first one is asked a few times"
        for _ in range(6):
            site.node.later()
        assert len(alive.objects()) > 0
        item = site.node.items[0]
        assert ("identity not confirmed", "PACS does not answer") in site.events(item)


def test_under_another_patient_id_nothing_of_the_other_person_is_left(site: Site) -> None:
    other = [synthetic.item_of(PatientID="OLD-OTHER", TypeOfPatientID="TEXT")]
    ct = synthetic.ct_series(
        16, 40, 40, seed=1, OtherPatientIDsSequence=other, PatientComments="of the other", PatientAge="074Y",
        IssuerOfPatientID="ISSUER",
    )  # fmt: skip
    site.pacs.studies[STUDY] = Identity(patient_id="NEW", patient_birth_date="19991231")
    site.score(*ct, synthetic.rtstruct(ct))
    for dataset in map(dcmread, site.arrived):
        assert dataset.PatientID == "NEW"
        assert dataset.IssuerOfPatientID == "ISSUER", "the PACS did not say another one"
        assert not {"OtherPatientIDsSequence", "PatientComments", "PatientAge"} & set(dataset.dir())
    valid(site.arrived)


def test_a_contour_drawn_after_the_merge_is_of_the_same_patient(site: Site) -> None:
    contour = synthetic.rtstruct(CT)
    contour.PatientID = "SURVIVING"
    site.node.take(*CT)
    site.hears(merged_into("SURVIVING"))
    assert site.score(contour).outcome == "SCORED"


def test_a_merge_that_comes_after_a_refusal_has_it_planned_again(site: Site) -> None:
    contour = synthetic.rtstruct(CT)
    contour.PatientID = "SURVIVING"
    refused = site.score(*CT, contour)
    assert refused.reason == Reason.ROI_PATIENT_DIFFERS
    site.hears(merged_into("SURVIVING"))
    for _ in range(3):
        site.node.later()
    newest = site.node.items[0]
    assert (newest.outcome, newest.revision) == ("SCORED", refused.revision + 1)


def test_studies_of_an_older_version_get_their_identity_from_the_spool(site: Site) -> None:
    site.node.take(*CT)
    site.node.store._db.execute("DELETE FROM study")  # as the migration finds it
    site.node.store._db.execute("INSERT INTO study_unidentified SELECT DISTINCT study_instance_uid FROM instance")
    assert site.node.store.patients.of_study(STUDY) is None
    while site.node.worker.step_identify():
        pass
    found = site.node.store.patients.of_study(STUDY)
    assert found is not None
    assert (found.patient_id, found.patient_name) == (ORIGINAL.patient_id, ORIGINAL.patient_name)
    assert site.node.store.patients.missing() == []
