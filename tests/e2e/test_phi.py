"""Names, identifiers and dates of birth stay in the DICOM objects: nothing else that the node writes holds them.

Marked values go the whole road with the node at its most talkative (DEBUG); then every byte that it has written
outside its DICOM files is searched: log, store, job folders, results, environments, command lines, file names.
"""

import gzip
import io
import re
import sqlite3
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from typer.testing import CliRunner

from dicom_node.cli import app
from dicom_node.demo_pacs import DemoPacs
from dicom_node.logs import mark_of
from tests.e2e.node import (
    LOG,
    PACS,
    SCORED_OBJECTS,
    SETTINGS,
    destination,
    ended,
    filed,
    items_of,
    kinds_in,
    log_of,
    send,
    serving,
    spool_of,
    wait_for,
    write_settings,
)
from tests.network import association, data_set_bytes, store_bytes
from tests.synthetic import CT, ct_series, drop_slice, rtstruct, save, save_all

MARKS = {
    "PatientName": "Qzxname^Qzxgiven",
    "PatientID": "QZXPATID77",
    "AccessionNumber": "QZXACCN55",
    "PatientBirthDate": "19470813",
    "InstitutionName": "Qzxhospital",
    "ReferringPhysicianName": "Qzxreferrer",
    "PatientAddress": "Qzxstreet 5",
    "PatientComments": "Qzxcomment",
    "OtherPatientIDs": "QZXOTHER",
}
NEEDLES = [b"qzx", b"19470813"]
TABLE = "clinical.csv"
# The settings do not offer this level: debug lines are for us.
LOUD = """
import logging, dicom_node.cli as cli, dicom_node.logs as logs
usual = logs.write_to
logs.write_to = lambda stream, level=0, **more: usual(stream, logging.DEBUG, **more)
cli.main()
"""


def found_in(data: bytes) -> list[str]:
    """The marks in some bytes, in any case, also as UTF-16.

    But for one place: result.json says which ROI was scored by the name that it came with (RoiFacts.names).
    """
    lower = re.sub(rb'"names": ?\[\s*"gtv qzxroi"\s*\]', b"", data.lower())
    return [n.decode() for n in NEEDLES if n in lower or n.decode().encode("utf-16-le") in lower]


def marked(seed: int, **attributes: str) -> tuple[list[Dataset], Dataset]:
    ct = ct_series(12, 36, 36, seed=seed, **(MARKS | {"patient_name": MARKS["PatientName"]} | attributes))
    for instance in ct:
        instance.PatientID, instance.AccessionNumber = MARKS["PatientID"], MARKS["AccessionNumber"]
    contour = rtstruct(ct, roi_names=("GTV Qzxroi",))
    for keyword in MARKS:
        setattr(contour, keyword, getattr(ct[0], keyword))
    return ct, contour


@dataclass
class Watch:
    """Looks at the node's children and job folders while they last."""

    pid: int
    spool: Path
    environments: dict[int, bytes] = field(default_factory=dict)
    commands: dict[int, bytes] = field(default_factory=dict)
    job_files: dict[Path, bytes] = field(default_factory=dict)
    done: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        while not self.done.is_set():
            for path in Path("/proc").glob("[0-9]*"):
                with suppress(OSError, IndexError, ValueError):  # processes end while they are read
                    if int((path / "stat").read_text().rpartition(")")[2].split()[1]) == self.pid:
                        self.environments[int(path.name)] = (path / "environ").read_bytes()
                        self.commands[int(path.name)] = (path / "cmdline").read_bytes()
            with suppress(OSError):  # a folder may go while it is looked through
                for path in self.spool.glob("jobs/**/*"):
                    with suppress(OSError):
                        self.job_files[path] = b"" if path.suffix == ".dcm" or path.is_dir() else path.read_bytes()
            time.sleep(0.02)


@dataclass
class Ward:
    """What is left of a node that scored, refused, held, failed and was sent nonsense."""

    folder: Path
    watch: Watch
    pacs: DemoPacs
    held_log: str
    studies: list[str]


@pytest.fixture(scope="module")
def ward(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ward]:
    folder = tmp_path_factory.mktemp("phi")
    node_folder = folder / "node"
    with DemoPacs(folder / "pacs", PACS, commitment="same") as pacs:
        write_settings(
            node_folder,
            destination(PACS, pacs.port),
            destination("QUIET", 1),  # nobody is there: what is said about a destination that is down
            clinical={"table": TABLE, "patient_id_column": "id"},
        )
        row = f"{MARKS['PatientID']},39,1\n"
        (node_folder / TABLE).write_text(f"id,albumin,ecog\n{row}{row}")  # two lines for one patient: cannot be used
        with serving(node_folder, program=[sys.executable, "-c", LOUD]) as node:
            watch = Watch(node.process.pid, spool_of(node_folder).root)
            eyes = threading.Thread(target=watch.run)
            eyes.start()
            try:
                ct, contour = marked(91)
                send(node.port, [*save_all(ct, folder / "a"), save(contour, folder / "a")])
                wait_for(lambda: "plan.held" in log_of(node_folder), "the item is held", folder=node_folder)
                held = log_of(node_folder)
                assert [item.reason for item in items_of(node_folder)] == ["CLINICAL_VALUES_UNAVAILABLE"]
                (node_folder / TABLE).write_text(f"id,albumin,ecog\n{row}")
                _send_nonsense(node.port, ct, folder / "nonsense")
                gap = drop_slice(marked(92, PatientBirthDate="19470813-Qzx", StudyTime="Qzxtime")[0])
                send(node.port, [*save_all(gap, folder / "b"), save(rtstruct(gap), folder / "b")])
                studies = [ct[0].StudyInstanceUID, gap[0].StudyInstanceUID]
                wait_for(lambda: _delivered(pacs) == 8, "both reports are in the PACS", folder=node_folder)
            finally:
                watch.done.set()
                eyes.join()
        yield Ward(node_folder, watch, pacs, held, studies)


def _delivered(pacs: DemoPacs) -> int:
    return sum(kinds_in(pacs).values())


def _send_nonsense(port: int, ct: list[Dataset], folder: Path) -> None:
    """Objects that are refused: marks where the node has to say what is wrong."""
    good = data_set_bytes(save(ct[0], folder))
    study, number = str(ct[0].StudyInstanceUID).encode(), str(ct[0].SOPInstanceUID)
    with association(port, [CT]) as made:
        for bad in (good[:300], good.replace(study, b"QZX" * 10 + study[30:]), b"QZXNAME " * 100):
            status, comment = store_bytes(made, CT, number, bad)
            assert status != 0
            assert not found_in(comment.encode())
        spoilt = ct_series(1, seed=93)[0]
        tag = Tag("SeriesNumber")
        spoilt._dict[tag] = RawDataElement(tag, "IS", 10, b"QZXPATID77", 0, False, True)
        assert store_bytes(made, CT, spoilt.SOPInstanceUID, data_set_bytes(save(spoilt, folder)))[0] == 0
    with association(port, [CT], calling="QZX^NAME") as made:
        assert not made.is_established


def test_one_mark_of_the_log_leads_from_the_association_of_a_study_to_its_delivery(ward: Ward) -> None:
    mark = mark_of(ward.studies[0])
    lines = [line for line in log_of(ward.folder).splitlines() if mark in line]

    road = ["association.ended", "plan.held", "plan.scheduled", "workitem.analysed", "workitem.reported", "object.sent"]
    assert list(dict.fromkeys(event for line in lines for event in road if f" {event} " in line)) == road
    assert all(line.endswith(f"study {mark}]") for line in lines)


def test_the_marks_are_in_the_objects_where_they_belong(ward: Ward) -> None:
    """Else the searches below would find nothing whatever the node wrote."""
    stored = list(spool_of(ward.folder).root.glob("instances/*/*.dcm"))
    assert len(stored) > 20
    assert all(found_in(path.read_bytes()) for path in stored)
    assert kinds_in(ward.pacs, ward.studies[0]) == SCORED_OBJECTS
    for dataset, _ in filed(ward.pacs, ward.studies[0]):
        assert (dataset.PatientName, dataset.PatientID) == (MARKS["PatientName"], MARKS["PatientID"])


def test_no_mark_is_in_the_log_even_at_debug(ward: Ward) -> None:
    lines = log_of(ward.folder).splitlines()
    assert any(" DEBUG " in line for line in lines), "the log was to be at its most talkative"
    expected = [line for line in lines if "association.refused" in line]
    assert expected, "the AE title of a stranger is named: it is no patient's"
    assert [line for line in lines if line not in expected and found_in(line.encode())] == []
    assert "plan.held" in ward.held_log


def test_marks_are_in_the_store_where_the_patient_is_and_nowhere_else(ward: Ward) -> None:
    """Whose study it is stands in tables of its own; the rest is facts, an ROI's name and a stranger's AE title."""
    connection = sqlite3.connect(spool_of(ward.folder).store)
    tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
    marked = set()
    for table in tables:
        rows = connection.execute(f"SELECT * FROM {table}").fetchall()
        text = repr(rows).lower().replace("gtv qzxroi", "").replace("qzx^name", "")
        if found_in(text.encode()):
            marked.add(table)
    connection.close()
    assert "study" in marked, "the search would find nothing whatever the node wrote"
    assert marked <= {"study", "identity_change", "work_item"} | {name for name in tables if "study_search" in name}


def test_no_mark_is_in_a_file_name(ward: Ward) -> None:
    names = [str(path.relative_to(ward.folder)) for path in ward.folder.rglob("*")]
    names += [str(path) for path in ward.watch.job_files]
    assert len(names) > 50
    assert [name for name in names if found_in(name.encode())] == []


def test_no_mark_is_in_a_job_s_folder_environment_or_command_line(ward: Ward) -> None:
    jobs = [pid for pid, command in ward.watch.commands.items() if b"analysis.run" in command]
    assert jobs, "a job was seen at work"
    for pid in jobs:
        assert found_in(ward.watch.environments[pid]) == []
        assert found_in(ward.watch.commands[pid]) == []
        names = {pair.partition(b"=")[0].decode() for pair in ward.watch.environments[pid].split(b"\0") if pair}
        assert names <= {
            "PATH", "LANG", "HOME", "PWD", "TMPDIR", "PYTHONDONTWRITEBYTECODE", "ORT_DISABLE_TELEMETRY",
            "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
        }  # fmt: skip
    seen = {path.name for path in ward.watch.job_files}
    assert {"job.json", "job.log"} <= seen
    assert {str(path): found_in(data) for path, data in ward.watch.job_files.items() if found_in(data)} == {}


def test_no_mark_is_in_the_results_beside_the_dicom_objects(ward: Ward) -> None:
    looked = 0
    for path in spool_of(ward.folder).root.glob("results/*/analysis/*"):
        data = path.read_bytes()
        if path.name.endswith(".gz"):
            data = gzip.decompress(data)
        if path.suffix == ".npz":
            data = b"".join(zipfile.ZipFile(io.BytesIO(data)).read(name) for name in zipfile.ZipFile(path).namelist())
        assert found_in(data) == [], path.name
        looked += 1
    assert looked >= 6


def test_no_mark_is_in_anything_else_that_the_node_wrote(ward: Ward) -> None:
    """A sweep, so that a file that nobody thought of is found."""
    for path in ward.folder.rglob("*"):
        inside = path.relative_to(ward.folder).parts
        known = path.suffix == ".dcm" or inside[-1] in (TABLE, LOG, SETTINGS) or inside[-1].startswith("store.sqlite")
        known |= path.suffix == ".png"  # compressed pixels: three letters come up by chance; no name is drawn there
        known |= "audit" in inside  # says whose objects were sent (PS3.15 A.5), which is what it is for
        if path.is_file() and not known:
            assert found_in(path.read_bytes()) == [], inside


def test_no_mark_is_in_what_status_prints(ward: Ward) -> None:
    config = ["--config", str(ward.folder / SETTINGS)]
    for arguments in (["status"], *(["status", "--study", study] for study in ward.studies)):
        done = CliRunner().invoke(app, [*arguments, *config])
        assert done.exit_code == 0, done.output
        assert found_in(done.output.encode()) == []


def test_no_mark_is_in_what_a_failing_job_leaves_for_the_operator(tmp_path: Path) -> None:
    """A job that breaks keeps its folder: its log, its job.json and the hint are what an operator sends to support."""
    write_settings(tmp_path, job={"memory_bytes": 400_000_000, "attempts": 1})
    with serving(tmp_path, program=[sys.executable, "-c", LOUD]) as node:
        ct, contour = marked(94)
        send(node.port, [*save_all(ct, tmp_path / "in"), save(contour, tmp_path / "in")])
        (item,) = ended(tmp_path)
        assert item.state == "FAILED"
    left = [path for path in spool_of(tmp_path).root.glob("jobs/*/**/*") if path.is_file() and path.suffix != ".dcm"]
    assert {"job.json", "job.log"} <= {path.name for path in left}
    for path in [*left, tmp_path / LOG]:
        assert found_in(path.read_bytes()) == [], path.name
    status = CliRunner().invoke(
        app, ["status", "--study", item.study_instance_uid, "--config", str(tmp_path / SETTINGS)]
    )
    assert "to do:" in status.output
    assert found_in(status.output.encode()) == []


def test_no_mark_is_in_what_score_prints_or_summarises(tmp_path: Path) -> None:
    ct, contour = marked(95)
    folder = tmp_path / "in"
    paths = [*save_all(ct, folder), save(contour, folder)]
    paths[0].with_name("cut.dcm").write_bytes(paths[0].read_bytes()[:-100])
    done = CliRunner().invoke(app, ["score", str(folder), "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert found_in(done.output.encode()) == []
    for path in (tmp_path / "out").rglob("*"):
        assert found_in(path.name.encode()) == []
        if path.is_file() and path.suffix in (".json", ".png"):
            assert found_in(path.read_bytes()) == [], path.name
