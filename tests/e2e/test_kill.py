"""SIGKILL after each stage and in the middle of stages; after a restart: the same bytes, one SR of each kind."""

import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from pydicom import Dataset

from dicom_node.demo_pacs import DemoPacs
from dicom_node.workitem import WorkItem
from tests.e2e.node import (
    PACS,
    SCORED_OBJECTS,
    SETTINGS,
    Node,
    assert_same_content,
    assert_valid,
    completed,
    deliveries_of,
    destination,
    filed,
    items_of,
    kinds_in,
    log_of,
    report_digests,
    send,
    serving,
    spool_of,
    store_of,
    storescu,
    undisturbed,
    wait_for,
    write_settings,
)
from tests.e2e.step import MOMENT, STAGES
from tests.paths import ROOT
from tests.synthetic import ct_series, rtstruct, save, save_all

SHORT = ("job-ran", "composed", "sent")  # an act done and not written down; between two stages the matrix kills more


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("study")
    ct = ct_series(16, 40, 40, seed=31)
    return [*save_all(ct, folder), save(rtstruct(ct), folder)]


@pytest.fixture(scope="module")
def expected(study: list[Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Digests of what an undisturbed run writes at the moment at which `tests.e2e.step` schedules."""
    folder = tmp_path_factory.mktemp("undisturbed")
    return undisturbed(study, MOMENT, folder, write_settings(folder))


@contextmanager
def _place(folder: Path) -> Iterator[tuple[Path, DemoPacs]]:
    """Settings of a node, and the PACS it delivers to, which outlives it."""
    with DemoPacs(folder / "pacs", PACS, commitment="same") as pacs:
        write_settings(folder / "node", destination(PACS, pacs.port))
        yield folder / "node", pacs


@pytest.fixture(scope="module")
def received(study: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A spool whose receiver acknowledged the study and was gone the moment after."""
    folder = tmp_path_factory.mktemp("received")
    write_settings(folder)
    with serving(folder, command=("receive",)) as node:
        send(node.port, study)
        node.kill()
    assert len(list(spool_of(folder).root.glob("instances/*/*.dcm"))) == len(study)
    return spool_of(folder).root


def _restart(folder: Path, pacs: DemoPacs) -> WorkItem:
    """The real service, until the work item is completed."""
    with serving(folder) as node:
        pacs.report_to = ("127.0.0.1", node.port)
        return completed(folder)


def _assert_as_if_nothing_had_happened(
    folder: Path, pacs: DemoPacs, item: WorkItem, expected: dict[str, str] | None = None
) -> None:
    """`expected`: digests of the reports, where this is about their bytes."""
    assert item.outcome == "SCORED"
    assert len(items_of(folder)) == 1
    if expected is not None:
        digests = report_digests(folder, item)
        assert {name: digests[name] for name in expected} == expected
    assert kinds_in(pacs) == SCORED_OBJECTS
    assert_same_content(pacs, folder, item)
    assert_valid([path for _, path in filed(pacs)])
    rows = deliveries_of(folder, item)
    assert sorted(row.document for row in rows) == sorted(SCORED_OBJECTS)
    assert {str(row.state) for row in rows} <= {"COMMITTED", "SEEN"}
    assert list(spool_of(folder).root.glob("jobs/*")) == []
    assert list(spool_of(folder).incoming.iterdir()) == []
    assert list(spool_of(folder).root.glob("results/*/.*")) == [], "drafts are swept"


def test_killed_after_the_last_acknowledgement_it_scores_what_it_had_acknowledged(
    tmp_path: Path, received: Path
) -> None:
    with _place(tmp_path) as (folder, pacs):
        shutil.copytree(received, spool_of(folder).root)
        _assert_as_if_nothing_had_happened(folder, pacs, _restart(folder, pacs))


@pytest.mark.parametrize(
    "stage", [pytest.param(stage, marks=[] if stage in SHORT else pytest.mark.exhaustive) for stage in STAGES]
)
def test_killed_after_a_stage_it_goes_on_from_there(
    tmp_path: Path, received: Path, expected: dict[str, str], stage: str
) -> None:
    with _place(tmp_path) as (folder, pacs):
        shutil.copytree(received, spool_of(folder).root)
        command = [sys.executable, "-m", "tests.e2e.step", stage, "--config", str(folder / SETTINGS)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == -9, done.stderr
        (left,) = items_of(folder)
        state = {"scheduled": "SCHEDULED", "job-ran": "SCHEDULED", "analysed": "ANALYSED", "composed": "ANALYSED"}
        assert left.state == state.get(stage, "REPORTED")
        before = report_digests(folder, left) if stage not in ("scheduled", "job-ran", "analysed") else {}
        sent = list(pacs.received)
        assert len(sent) == (len(SCORED_OBJECTS) if stage in ("sent", "recorded") else 0)
        item = _restart(folder, pacs)
        assert item.key == left.key
        assert before in ({}, report_digests(folder, item))
        _assert_as_if_nothing_had_happened(folder, pacs, item, expected)
        # Sent but not recorded goes out again, under the same UIDs; what is recorded as sent does not.
        assert pacs.received == (sent * 2 if stage == "sent" else (sent or pacs.received))
        assert len(pacs.received) == len(SCORED_OBJECTS) * (2 if stage == "sent" else 1)


def test_killed_in_the_middle_of_a_delivery_it_delivers_the_rest(tmp_path: Path, study: list[Path]) -> None:
    """The PACS has filed the object, but its answer never arrives."""
    with _place(tmp_path) as (folder, pacs):
        with serving(folder) as node:

            def status(_: str) -> int:
                if len(pacs.received) == 2:
                    node.kill()
                return 0x0000

            pacs.status = status
            send(node.port, study)
            wait_for(lambda: node.process.poll() is not None, "the kill", folder=folder)
        pacs.status = lambda _: 0x0000
        (left,) = items_of(folder)
        assert left.state == "REPORTED"
        before = report_digests(folder, left)
        item = _restart(folder, pacs)
        assert report_digests(folder, item) == before
        _assert_as_if_nothing_had_happened(folder, pacs, item)


def test_killed_during_a_job_the_job_dies_with_the_node_and_runs_again(tmp_path: Path, study: list[Path]) -> None:
    with _place(tmp_path) as (folder, pacs):
        with serving(folder) as node:
            send(node.port, study)

            def jobs() -> list[int]:
                """Those at work: one that waits for its inputs is there before, and is none yet."""
                claimed = [item for item in items_of(folder) if item.state == "SCHEDULED" and item.attempts]
                return _children(node.process.pid, "analysis.run") if claimed else []

            job = wait_for(jobs, "a job", folder=folder)[0]
            node.kill()
        wait_for(lambda: not _runs(job), "the job dies with its node")
        (left,) = items_of(folder)
        assert left.state == "SCHEDULED"
        assert list(spool_of(folder).root.glob("jobs/*")) != [], "what the dead job left"
        item = _restart(folder, pacs)
        expected = undisturbed(study, item.scheduled_at or 0.0, tmp_path / "undisturbed", folder / SETTINGS)
        _assert_as_if_nothing_had_happened(folder, pacs, item, expected)


@pytest.mark.exhaustive
@pytest.mark.parametrize("seed", range(1, 6))
def test_killed_again_and_again_at_random_moments_it_ends_in_the_same_bytes(
    tmp_path: Path, study: list[Path], seed: int
) -> None:
    """Kills fall on receiving too; a sender that was not answered sends its study again, as any PACS does."""
    moments = random.Random(seed)
    with _place(tmp_path) as (folder, pacs):
        for _ in range(2):
            with serving(folder) as node:
                pacs.report_to = ("127.0.0.1", node.port)
                sender = threading.Thread(target=_send_as_far_as_it_goes, args=(node, study))
                sender.start()
                time.sleep(moments.uniform(0.05, 3.5))
                node.kill()
                sender.join()
        with serving(folder) as node:
            pacs.report_to = ("127.0.0.1", node.port)
            send(node.port, study)
            item = completed(folder)
        expected = undisturbed(study, item.scheduled_at or 0.0, tmp_path / "undisturbed", folder / SETTINGS)
        _assert_as_if_nothing_had_happened(folder, pacs, item, expected)
        assert len(set(pacs.received)) == len(SCORED_OBJECTS)


def test_a_half_received_object_is_swept_and_its_sender_had_no_success(tmp_path: Path) -> None:
    with _place(tmp_path) as (folder, _):
        ct: Dataset = ct_series(1, 2048, 2048, seed=32)[0]
        path = save(ct, tmp_path)
        with serving(folder) as node:
            sender = subprocess.Popen(
                ["storescu", "-R", "-aet", "MODALITY", "-aec", "PROGNODE", "-pdu", "4096", "127.0.0.1",
                 str(node.port), str(path)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            wait_for(lambda: list(spool_of(folder).incoming.iterdir()) or sender.poll() is not None, "a beginning")
            node.kill()
            acknowledged = sender.wait(timeout=60) == 0
        kept = list(spool_of(folder).root.glob("instances/*/*.dcm"))
        with store_of(folder) as store:
            known = store.arrivals.instance(ct.SOPInstanceUID)
        assert (known is not None) or not acknowledged, "what was acknowledged is known"
        with serving(folder):
            assert list(spool_of(folder).incoming.iterdir()) == []
        assert list(spool_of(folder).root.glob("instances/*/*.dcm")) == kept
        assert "Traceback" not in log_of(folder)


def _send_as_far_as_it_goes(node: Node, study: list[Path]) -> None:
    with suppress(subprocess.TimeoutExpired):
        storescu(node.port, study)


def _children(parent: int, word: str) -> list[int]:
    """Processes below `parent` that run `word`."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            ancestor = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            if ancestor == parent and word.encode() in (path / "cmdline").read_bytes():
                found.append(int(path.name))
    return found


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
