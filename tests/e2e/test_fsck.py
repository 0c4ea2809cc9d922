"""fsck: finds what does not agree, changes nothing while it looks, and mends with consent, also after a kill."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pynetdicom import evt

from config.settings import Peer, Settings, load
from dicom_node import cli_fsck
from dicom_node.demo_pacs import DemoPacs
from dicom_node.executors.ahead import PREFIX
from dicom_node.fsck import Examiner, Problem
from dicom_node.inspection import Inspection
from dicom_node.workitem import State, WorkItem
from tests.e2e.node import (
    PROGNODE,
    SETTINGS,
    destination,
    send,
    serving,
    spool_of,
    store_of,
    write_settings,
)
from tests.kept import PACS, copied_pacs, delivered, exhaustive, peer, study
from tests.network import receiving, settings_for, storescu
from tests.paths import ROOT
from tests.road import Clock, Road
from tests.synthetic import ct_series, save, save_all

LATER = 1_700_000_200.0  # than it was delivered


@pytest.fixture
def node(tmp_path: Path) -> Path:
    """A node, not running, with one study that was delivered and proved."""
    delivered(tmp_path).store.close()
    write_settings(tmp_path)
    return tmp_path


def fsck(folder: Path, *arguments: str, said: str = "") -> "subprocess.CompletedProcess[str]":
    command = [str(PROGNODE), "fsck", *arguments, "--config", str(folder / SETTINGS)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, input=said)


def kinds(folder: Path, *, pacs: bool = False) -> dict[str, int]:
    """How many findings of each kind, as the command finds them."""
    settings = load(folder / SETTINGS)
    with store_of(folder) as store:
        found = cli_fsck._examine(store, spool_of(folder), settings, alone=False, quick=False)
        assert not pacs or not cli_fsck._ask_pacs(store, spool_of(folder), settings, found)
    return {problem.name: len(findings) for problem, findings in found.items()}


def content(folder: Path) -> dict[str, str]:
    """Everything in the spool but the store, which reading may touch, and the audit."""
    root = folder / "spool"
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file() and not path.name.startswith("store.sqlite") and path.suffix != ".lock"
    }


def repaired(folder: Path, *, pacs: bool = False) -> int:
    """Everything is mended that can be; gives how many findings are left."""
    settings, spool = load(folder / SETTINGS), spool_of(folder)
    with store_of(folder) as store, ExitStack() as held:
        cli_fsck._hold(spool, held)
        found = cli_fsck._examine(store, spool, settings, alone=True, quick=False)
        assert not pacs or not cli_fsck._ask_pacs(store, spool, settings, found)
        left = cli_fsck._repair(store, spool, settings, found, ask=False)
    assert left or kinds(folder) == {}
    return left


def audited(folder: Path) -> list[str]:
    with store_of(folder) as store:
        return [entry.action for entry in store.audit.newest() if entry.origin == "cli"]


def images(folder: Path) -> list[Path]:
    return sorted(folder.glob("spool/instances/*/*.dcm"))


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def sql(folder: Path, statement: str) -> None:
    with store_of(folder) as store:
        store._db.execute(statement)


def test_a_spool_and_a_store_that_agree_are_clean(node: Path) -> None:
    done = fsck(node)
    assert (done.returncode, done.stdout) == (0, "ok: spool and store agree\n")


def new_image(folder: Path) -> Path:
    """A file as the receiver makes it, whose row was never written."""
    from dicom_node import headers

    path = save(ct_series(3, 16, 16, seed=9)[0], folder / "sent")
    digest = headers.data_set_digest(path)
    target = spool_of(folder).instance_path(headers.read(path, digest).sop_instance_uid, digest)
    shutil.copyfile(path, target)
    return target


def job(folder: Path, name: str = "0" * 64) -> None:
    (folder / "spool" / "jobs" / name / "in").mkdir(parents=True)


def drafts(folder: Path) -> None:
    (folder / "spool" / "incoming" / "0123").write_bytes(b"half")
    (next(folder.glob("spool/results/*")) / ".report.abcd1234").mkdir()
    (folder / "spool" / ".store.sqlite.schema-1.draft").write_bytes(b"half")


DAMAGE: dict[str, tuple[Callable[[Path], object], str, int]] = {
    "a file that is gone": (lambda f: images(f)[0].unlink(), "FILE_MISSING", 1),
    "a bit that turned": (lambda f: flip(images(f)[3]), "FILE_DAMAGED", 1),
    "a file without a row": (new_image, "FILE_UNKNOWN", 1),
    "a row that is gone": (lambda f: sql(f, "DELETE FROM instance WHERE id = 5"), "FILE_UNKNOWN", 1),
    "something foreign": (lambda f: (images(f)[0].parent / "notes.txt").write_text("hello"), "FILE_FOREIGN", 1),
    "a file under another name": (
        lambda f: shutil.copyfile(images(f)[0], images(f)[0].with_name(f"{'0' * 32}-{'1' * 32}.dcm")),
        "FILE_FOREIGN",
        1,
    ),
    "a result that is gone": (lambda f: shutil.rmtree(next(f.glob("spool/results/*/report"))), "RESULT_MISSING", 1),
    "a result that turned": (lambda f: flip(next(f.glob("spool/results/*/report/page-1.dcm"))), "RESULT_MISSING", 1),
    "a part of a result that is gone": (
        lambda f: next(f.glob("spool/results/*/analysis/result.json")).unlink(),
        "RESULT_MISSING",
        1,
    ),
    "a result of nobody": (
        lambda f: (f / "spool" / "results" / ("9" * 64) / "report").mkdir(parents=True),
        "RESULT_UNKNOWN",
        1,
    ),
    "a lease of a worker that is gone": (
        lambda f: sql(f, "UPDATE work_item SET lease_owner = 'gone', lease_until = 5.0"),
        "LEASE_STALE",
        1,
    ),
    "a job of nobody": (job, "JOB_ORPHANED", 1),
    "half-written files": (drafts, "DRAFT_LEFT", 3),
    "a removal that was interrupted": (
        lambda f: sql(f, "UPDATE instance SET removed = 1 WHERE id = 2"),
        "REMOVAL_UNFINISHED",
        1,
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_what_is_wrong_is_found_nothing_is_changed_and_repair_mends_it(node: Path, name: str) -> None:
    damage, kind, count = DAMAGE[name]
    damage(node)
    before = content(node)
    expected = {kind: count}
    if kind == "DRAFT_LEFT":
        expected = {kind: 2}  # what lies in the spool's root may be of a backup, as long as somebody may make one
    assert kinds(node) == expected
    assert content(node) == before
    repaired(node)
    assert audited(node)[0] in ("fsck.repaired", "instances.quarantined")


def test_the_command_prints_kind_by_kind_what_it_found_and_what_repair_would_do(node: Path) -> None:
    images(node)[0].unlink()
    job(node)
    done = fsck(node)
    assert done.returncode == 1
    for problem in (Problem.FILE_MISSING, Problem.JOB_ORPHANED):
        assert f"1 {problem.title}\n    repair: {problem.repair}\n" in done.stdout
    assert str(study()[0].PatientID) not in done.stdout
    found = json.loads(fsck(node, "--json").stdout)
    assert [kind["kind"] for kind in found["kinds"]] == ["FILE_MISSING", "JOB_ORPHANED"]
    assert found["kinds"][0]["findings"][0]["study_instance_uid"] == study()[0].StudyInstanceUID
    done = fsck(node, "--repair", "--yes")
    assert done.returncode == 0, done.stdout + done.stderr
    assert fsck(node).returncode == 0


def working(folder: Path, *peers: Peer) -> Road:
    """The node at work, without its processes."""
    return Road(folder, replace(Settings(), peers=peers or (Peer(PACS, port=1, receives_results=True),)), Clock(LATER))


def worked(folder: Path, pacs: DemoPacs) -> WorkItem:
    """It works until its one work item is at its end."""
    made = working(folder, peer(pacs))
    made.work()
    made.later(60.0)
    made.worker._store.close()
    (item,) = made.items
    assert item.state is State.COMPLETED, made.store.details(item.id)
    made.store.close()
    return item


def test_the_folder_of_the_process_that_waits_is_left_over_only_where_no_runner_works(node: Path) -> None:
    waiting = node / "spool" / "jobs" / f"{PREFIX}{'a' * 32}"
    (waiting / "in").mkdir(parents=True)
    os.utime(waiting, (1.6e9, 1.6e9))
    with spool_of(node).lock("work"):
        assert kinds(node) == {}
    assert kinds(node) == {"JOB_ORPHANED": 1}
    repaired(node)
    assert not waiting.exists()


# -- what a repair comes to ------------------------------------------------------------------------------------


def test_a_lost_object_is_taken_as_new_when_it_is_sent_again(node: Path) -> None:
    images(node)[0].unlink()
    repaired(node)
    assert len(images(node)) == 16
    made = working(node)
    made.take(*study())
    made.work()
    made.worker._store.close()
    assert len(images(node)) == 17
    assert kinds(node) == {}
    with store_of(node) as store:
        assert [item.state for item in store.items() if item.state is not State.CANCELED] == [State.COMPLETED]


def test_a_damaged_object_is_kept_in_quarantine(node: Path) -> None:
    flip(images(node)[3])
    damaged = images(node)[3].read_bytes()
    repaired(node)
    (kept,) = (node / "spool" / "quarantine").iterdir()
    assert kept.read_bytes() == damaged


def test_an_object_whose_row_was_lost_is_planned_and_analysed(node: Path) -> None:
    sql(node, "DELETE FROM instance WHERE id = 17")
    sql(node, "DELETE FROM event")
    sql(node, "DELETE FROM delivery")
    sql(node, "DELETE FROM work_item")
    assert kinds(node) == {"FILE_UNKNOWN": 1, "RESULT_UNKNOWN": 1}
    repaired(node)
    with DemoPacs(node / "pacs", PACS, commitment="same") as pacs:
        assert worked(node, pacs).outcome == "SCORED"


def test_a_row_that_was_lost_has_its_sender_again_and_with_it_its_rule(node: Path) -> None:
    study = save_all(ct_series(2, 16, 16, seed=10), node / "sent")
    with receiving(node, settings_for(Peer("TRIAL_CT"))) as (receiver, _):
        assert storescu(receiver.port, study, calling="TRIAL_CT").returncode == 0
    sql(node, "DELETE FROM instance WHERE calling_ae_title = 'TRIAL_CT'")
    assert kinds(node) == {"FILE_UNKNOWN": 2}
    repaired(node)
    with store_of(node) as store:
        rows = store._db.rows("SELECT calling_ae_title AS title FROM instance ORDER BY id DESC LIMIT 2")
    assert [row["title"] for row in rows] == ["TRIAL_CT"] * 2


@pytest.mark.parametrize("state", ["COMPLETED", *exhaustive("ANALYSED", "REPORTED")])
def test_a_missing_result_is_made_again_and_what_was_proved_is_not_sent_again(node: Path, state: str) -> None:
    with store_of(node) as store:
        (item,) = store.items()
        report = spool_of(node).results(item.key or "", "report")
        before = {path.name: path.read_bytes() for path in report.iterdir()}
        store._db.execute("UPDATE work_item SET state = ?", [state])
    shutil.rmtree(report.parent)
    assert kinds(node) == {"RESULT_MISSING": 1}
    repaired(node)
    with DemoPacs(copied_pacs(node / "pacs"), PACS, commitment="same") as pacs:
        held = {each.sop_instance_uid: each.path.read_bytes() for each in pacs.objects()}
        worked(node, pacs)
        assert {each.sop_instance_uid: each.path.read_bytes() for each in pacs.objects()} == held
    uids = {name: data for name, data in before.items() if name.endswith(".dcm")}
    assert {path.name for path in report.glob("*.dcm")} == set(uids)
    assert kinds(node) == {}


def test_a_proved_result_that_cannot_be_made_again_is_marked_as_removed(node: Path) -> None:
    shutil.rmtree(next(node.glob("spool/results/*")))
    sql(node, "UPDATE instance SET removed = 2")
    for path in images(node):
        path.unlink()
    assert kinds(node) == {"RESULT_LOST": 1}
    repaired(node)
    with store_of(node) as store:
        assert store.items()[0].state is State.COMPLETED


def test_a_result_that_retention_removes_while_fsck_looks_is_not_missing(
    node: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = Inspection.items_with_results

    def later(inspection: Inspection) -> Iterator[Any]:
        for item in really(inspection):
            sql(node, "UPDATE work_item SET results_removed = 1")  # its row was read before
            shutil.rmtree(spool_of(node).results(item.key, "report").parent)
            yield item

    monkeypatch.setattr(Inspection, "items_with_results", later)
    assert kinds(node) == {"REMOVAL_UNFINISHED": 1}


def test_an_older_content_does_not_take_the_place_of_a_newer_one(node: Path) -> None:
    sql(node, "UPDATE instance SET received_at = 4e9 WHERE id = 5")
    with store_of(node) as store:
        row = store._db.rows("SELECT sop_instance_uid AS uid, digest FROM instance WHERE id = 5")[0]
    path = spool_of(node).instance_path(row["uid"], row["digest"])
    from dicom_node import headers

    other = node / "other.dcm"
    other.write_bytes(path.read_bytes())
    flip(other)
    digest = headers.data_set_digest(other)
    shutil.copyfile(other, spool_of(node).instance_path(row["uid"], digest))
    assert kinds(node) == {"FILE_FOREIGN": 1}
    repaired(node)
    with store_of(node) as store:
        found = store.arrivals.instance(row["uid"])
        assert found is not None
        assert found.digest == row["digest"]


# -- the PACS --------------------------------------------------------------------------------------------------


@pytest.fixture
def pacs(node: Path) -> Iterator[DemoPacs]:
    with DemoPacs(copied_pacs(node / "pacs"), PACS, commitment="same") as made:
        write_settings(node, destination(PACS, made.port))
        yield made


def forget(pacs: DemoPacs, sop_instance_uid: str) -> None:
    """The PACS loses an object that it had committed to."""
    pacs._index.pop(sop_instance_uid).path.unlink()


def test_what_was_proved_and_is_not_in_the_pacs_any_more_is_found_and_sent_again(node: Path, pacs: DemoPacs) -> None:
    assert kinds(node, pacs=True) == {}
    victim = pacs.objects()[0]
    forget(pacs, victim.sop_instance_uid)
    assert kinds(node) == {}
    assert kinds(node, pacs=True) == {"NOT_IN_PACS": 1}
    assert repaired(node, pacs=True) == 0
    worked(node, pacs)
    assert kinds(node, pacs=True) == {}
    assert victim.sop_instance_uid in {each.sop_instance_uid for each in pacs.objects()}
    with store_of(node) as store:
        assert any(entry.action == "query.sent" for entry in store.audit.newest())


def test_what_is_neither_there_nor_here_is_said(node: Path, pacs: DemoPacs) -> None:
    forget(pacs, pacs.objects()[0].sop_instance_uid)
    sql(node, "UPDATE work_item SET results_removed = 2")
    shutil.rmtree(next(node.glob("spool/results/*")))
    assert kinds(node, pacs=True) == {"NOT_IN_PACS_NOR_HERE": 1}
    assert repaired(node, pacs=True) == 1, "nothing can be done about it here"


def test_a_pacs_that_is_down_is_an_error_and_not_a_finding(node: Path) -> None:
    write_settings(node, destination(PACS, 1), deliver={"connect_timeout_seconds": 1.0})
    done = fsck(node, "--pacs")
    assert done.returncode == 69
    assert "could not be asked" in done.stderr
    assert "ok: spool and store agree" in done.stdout


def test_a_question_that_a_pacs_does_not_answer_is_audited_as_failed(
    node: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_answer(pacs: DemoPacs, event: evt.Event) -> Iterator[tuple[int, None]]:
        yield 0xC001, None

    monkeypatch.setattr(DemoPacs, "_on_find", no_answer)
    with DemoPacs(node / "pacs", PACS) as pacs, store_of(node) as store:
        write_settings(node, destination(PACS, pacs.port))
        not_asked = cli_fsck._ask_pacs(store, spool_of(node), load(node / SETTINGS), {})
        entry = next(entry for entry in store.audit.newest() if entry.action == "query.sent")
    assert "status C001H" in not_asked
    assert (entry.outcome, entry.detail) == ("failed", "the peer could not answer C-FIND (status C001H)")


# -- consent, locks, kills -------------------------------------------------------------------------------------


def test_each_kind_is_asked_for_and_no_is_no(node: Path) -> None:
    images(node)[0].unlink()
    job(node)
    done = fsck(node, "--repair", said="n\ny\n")
    assert done.returncode == 1
    assert kinds(node) == {"FILE_MISSING": 1}
    assert fsck(node, "--repair", said="").returncode == 1, "nobody there to consent"
    assert kinds(node) == {"FILE_MISSING": 1}
    assert fsck(node, "--repair", said="y\n").returncode == 0


def test_a_node_that_works_is_looked_at_and_not_repaired(node: Path) -> None:
    with serving(node):
        assert kinds(node) == {}
        done = fsck(node, "--repair", "--yes")
        assert done.returncode == 78
        assert "uses this spool; stop it" in done.stderr


def test_a_spool_whose_runner_works_is_not_repaired(node: Path) -> None:
    with spool_of(node).lock("run"):
        done = fsck(node, "--repair", "--yes")
    assert done.returncode == 78
    assert "another `prognode run` (or serve) uses this spool; stop it" in done.stderr


def test_a_node_at_work_shows_no_false_findings(tmp_path: Path) -> None:
    with DemoPacs(tmp_path / "pacs", PACS, commitment="same") as pacs:
        write_settings(tmp_path, destination(PACS, pacs.port))
        paths = save_all(study(), tmp_path / "sent")
        with serving(tmp_path) as running:
            pacs.report_to = ("127.0.0.1", running.port)
            for path in paths:
                send(running.port, [path])
                if len(images(tmp_path)) % 4 == 0:
                    assert kinds(tmp_path) == {}
            looks = 0
            while looks < 3 or not any(item.state is State.COMPLETED for item in items(tmp_path)):
                assert kinds(tmp_path) == {}
                looks += 1


def items(folder: Path) -> list[Any]:
    with store_of(folder) as store:
        return store.items()


KILLED = """
import os, signal, sys
from dicom_node import cli, fsck_repair
from dicom_node.spool import Spool
step = int(sys.argv.pop(1))
real, calls = fsck_repair.Repairer._say, []
def counted(self, *a, **k):
    calls.append(1)
    if len(calls) == step:
        os.kill(os.getpid(), signal.SIGKILL)
    real(self, *a, **k)
fsck_repair.Repairer._say = counted
moved = Spool.quarantined
def after(self, path):
    place = moved(self, path)
    if step == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return place
Spool.quarantined = after
sys.argv[0] = "prognode"
cli.main()
"""


@pytest.mark.parametrize("step", [0, 3, 6, *exhaustive(1, 2, 4, 5)])
def test_a_repair_that_is_killed_is_finished_by_the_next_one(node: Path, step: int) -> None:
    images(node)[0].unlink()
    flip(images(node)[3])
    damaged = images(node)[3].read_bytes()
    shutil.rmtree(next(node.glob("spool/results/*/report")))
    (images(node)[0].parent / "notes.txt").write_text("hello")
    drafts(node)
    command = [sys.executable, "-c", KILLED, str(step), "fsck", "--repair", "--yes", "--config", str(node / SETTINGS)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    repaired(node)
    kept = {path.read_bytes() for path in (node / "spool" / "quarantine").iterdir()}
    assert kept == {damaged, b"hello"}
    with store_of(node) as store:
        assert store.items()[0].state is State.COMPLETED
        assert list(store.inspection.items_with_results()) == [], "it cannot be made again without its images"


def test_a_store_that_is_damaged_is_said_and_not_touched(node: Path) -> None:
    path = spool_of(node).store
    with store_of(node) as store:
        store._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        page = store._db.rows("SELECT rootpage AS n FROM sqlite_master WHERE name = 'event_by_work_item'")[0]["n"]
    data = bytearray(path.read_bytes())
    size = int.from_bytes(data[16:18], "big")
    data[(page - 1) * size + 8 : (page - 1) * size + 40] = b"\xff" * 32
    path.write_bytes(data)
    before = path.read_bytes()
    done = fsck(node)
    assert done.returncode == 1, done.stderr
    assert "restore a backup" in done.stdout
    assert "Traceback" not in done.stderr
    assert fsck(node, "--repair", "--yes").returncode == 1
    assert path.read_bytes() == before


def test_a_changed_audit_trail_is_said_and_not_mended(node: Path) -> None:
    with serving(node):
        pass
    (path,) = spool_of(node).audit.glob("audit-*.jsonl")
    path.write_bytes(path.read_bytes().replace(b"Application", b"Applicatiom", 1))
    assert kinds(node) == {"TRAIL_ALTERED": 1}
    assert fsck(node, "--repair", "--yes").returncode == 1


def test_leases_of_a_running_worker_are_no_finding(node: Path) -> None:
    with store_of(node) as store:
        spool = spool_of(node)
        store._db.execute("UPDATE work_item SET lease_owner = 'me', lease_until = 1e12")
        examiner = Examiner(store, spool, "", alone=False)
        assert [finding.problem for finding in examiner.everything(quick=True)] == []
