"""Retention: only what is delivered and proved goes, a kill in the middle loses nothing, and no result comes twice."""

import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread

from config.keeping import Storage
from dicom_node.audit_message import event_of
from dicom_node.demo_pacs import DemoPacs
from dicom_node.executors.ahead import PREFIX
from dicom_node.retention import Kept
from dicom_node.storage import Cleaner
from dicom_node.watermark import room
from dicom_node.workitem import DeliveryState, State
from tests.kept import DAY, PACS, copied_pacs, delivered, exhaustive, study
from tests.paths import ROOT
from tests.road import Road
from tests.synthetic import ct_series, rtstruct, shuffled

SHORT = Storage(
    warn_free_bytes=0,
    warn_free_percent=0,
    received_days=10,
    results_days=30,
    superseded_days=10,
    jobs_days=5,
    clinical_days=0,
    identity_days=0,
)


def clean(made: Road, *, pressed: bool = False) -> list[str]:
    cleaner = Cleaner(made.store, made.spool, made.settings, made.clock)
    return list(cleaner.everything(pressed=pressed))


def instances(made: Road) -> list[Path]:
    return sorted(made.spool.root.glob("instances/*/*.dcm"))


def results(made: Road) -> list[Path]:
    return [path for path in made.spool.root.glob("results/*/*/*") if path.is_file()]


def sent(pacs: DemoPacs) -> dict[str, int]:
    """How many objects of each SOP class the PACS holds."""
    found: dict[str, int] = {}
    for each in pacs.objects():
        found[each.sop_class_uid] = found.get(each.sop_class_uid, 0) + 1
    return found


@pytest.fixture
def pacs(tmp_path: Path) -> Iterator[DemoPacs]:
    with DemoPacs(copied_pacs(tmp_path / "pacs"), PACS, commitment="same") as made:
        yield made


# -- what goes, and when ---------------------------------------------------------------------------------------


def test_a_delivered_study_goes_after_its_days_and_its_results_after_theirs(tmp_path: Path) -> None:
    made = delivered(tmp_path, storage=SHORT, days=9)
    assert clean(made) == []
    made.clock.now += 2 * DAY
    assert clean(made) == ["received"]
    assert instances(made) == []
    assert results(made)
    assert clean(made) == []
    made.clock.now += 20 * DAY
    assert clean(made) == ["results"]
    assert results(made) == []
    (item,) = made.items
    assert (item.state, item.outcome) == (State.COMPLETED, "SCORED")
    actions = [entry.action for entry in reversed(made.store.audit.newest(2))]
    assert actions == ["study.removed", "result.removed"]
    assert event_of("study.removed").meaning == "DICOM Study Deleted"


def test_zero_days_keep_for_ever(tmp_path: Path) -> None:
    made = delivered(
        tmp_path, storage=Storage(received_days=0, results_days=0, superseded_days=0, canceled_days=0), days=9000
    )
    assert clean(made) == clean(made, pressed=True) == []
    assert len(instances(made)) == 17


def test_a_low_disk_lets_things_go_sooner_but_not_what_is_kept_for_ever(tmp_path: Path) -> None:
    low = replace(SHORT, warn_free_percent=99.9, pressure_days=3, results_days=0)
    made = delivered(tmp_path, storage=low, days=4)
    assert room(made.spool.root, made.settings).low
    assert clean(made) == []
    assert clean(made, pressed=True) == ["received"]
    made.clock.now += 100 * DAY
    assert clean(made, pressed=True) == []
    assert results(made)


def test_the_clock_s_turn_warns_once_and_removes_at_once_while_the_disk_is_low(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = delivered(tmp_path, storage=replace(SHORT, warn_free_percent=99.9, pressure_days=1), days=2)
    cleaner = Cleaner(made.store, made.spool, made.settings, made.clock)
    with caplog.at_level("INFO"):
        for _ in range(5):
            while cleaner.step():
                pass
            made.clock.now += 15
    assert caplog.text.count("storage.low") == 1
    assert instances(made) == []
    assert str(study()[0].PatientID) not in caplog.text


# -- what stays ------------------------------------------------------------------------------------------------


def keeps(made: Road, why: Kept) -> None:
    (item,) = [each for each in made.items if each.key] or made.items
    assert why in made.store.retention.condition(item.study_instance_uid).kept
    before = (instances(made), results(made))
    made.clock.now += 9000 * DAY
    assert [kind for kind in clean(made) if kind != "jobs"] == []
    assert (instances(made), results(made)) == before


def test_what_is_on_its_way_stays(tmp_path: Path) -> None:
    made = delivered(tmp_path, storage=SHORT)
    row = made.store.deliveries.of_item(made.items[0].id)[0]
    made.store.deliveries.record(row.id, state=DeliveryState.PENDING, final=0)
    keeps(made, Kept.ON_ITS_WAY)


def test_what_was_refused_stays(tmp_path: Path) -> None:
    made = delivered(tmp_path, storage=replace(SHORT, failed_days=1))
    row = made.store.deliveries.of_item(made.items[0].id)[0]
    made.store._db.execute("UPDATE work_item SET state = 'FAILED'")
    made.store.deliveries.record(row.id, state=DeliveryState.FAILED, final=1)
    keeps(made, Kept.FAILED)


def test_what_was_sent_nowhere_stays(tmp_path: Path) -> None:
    made = delivered(tmp_path, storage=SHORT)
    made.store._db.execute("DELETE FROM delivery")
    keeps(made, Kept.SENT_NOWHERE)


def test_what_an_operator_holds_stays(tmp_path: Path) -> None:
    made = delivered(tmp_path, storage=SHORT)
    made.store._db.execute("UPDATE work_item SET held = 1, state = 'REPORTED'")
    keeps(made, Kept.HELD)


def test_a_second_contour_that_waits_keeps_its_study(tmp_path: Path) -> None:
    made = delivered(tmp_path, storage=SHORT)
    ct = list(study()[:16])
    missing = rtstruct([*ct, *ct_series(17, 40, 40, seed=31)[16:]], name="GTV-2")
    made.take(missing)
    made.worker.step_plan()
    keeps(made, Kept.WAITING)


def test_a_contour_of_another_study_that_needs_the_images_keeps_them(tmp_path: Path) -> None:
    made = delivered(tmp_path, storage=SHORT)
    ct = list(study()[:16])
    elsewhere = rtstruct([*ct, *ct_series(17, 40, 40, seed=31)[16:]], name="GTV-9")
    elsewhere.StudyInstanceUID = "1.2.3.4.5"
    made.take(elsewhere)
    assert Kept.NEEDED in made.store.retention.condition(ct[0].StudyInstanceUID).kept, "before it is planned"
    made.worker.step_plan()
    keeps(made, Kept.NEEDED)


def test_a_ct_that_waits_for_its_first_contour_stays_until_it_is_given_up(tmp_path: Path) -> None:
    made = delivered(tmp_path, storage=replace(SHORT, waiting_days=0))
    other = ct_series(12, 32, 32, seed=5)
    made.take(*other)
    made.worker.step_plan()
    assert Kept.NO_CONTOUR in made.store.retention.condition(other[0].StudyInstanceUID).kept
    made.clock.now += 9000 * DAY
    assert clean(made) == ["received", "results"]
    assert len(instances(made)) == 12
    made.settings = replace(made.settings, storage=replace(SHORT, waiting_days=20))
    assert clean(made) == ["waiting"]
    made.clock.now += 11 * DAY
    assert clean(made) == ["received"]
    assert instances(made) == []


def test_a_second_ct_without_a_contour_does_not_keep_a_study_that_is_done(tmp_path: Path) -> None:
    made = delivered(tmp_path, storage=SHORT)
    other = ct_series(12, 32, 32, seed=5)
    for each in other:
        each.StudyInstanceUID = study()[0].StudyInstanceUID
    made.take(*other)
    made.worker.step_plan()
    made.clock.now += 11 * DAY
    assert clean(made) == ["received"]
    assert instances(made) == []
    states = [item.state for item in made.store.items()]
    assert sorted(states) == [State.CANCELED, State.COMPLETED] or State.WAITING not in states


# -- what comes again ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1, *exhaustive(2, 3)])
def test_a_study_that_is_sent_again_is_known_and_makes_no_second_result(
    tmp_path: Path, pacs: DemoPacs, seed: int
) -> None:
    made = delivered(tmp_path / "node", pacs, SHORT, days=40)
    assert clean(made) == ["received", "results"]
    before = sent(pacs)
    for dataset in shuffled(study(), seed):
        made.take(dataset)
        if seed % 2:
            made.work()
    made.work()
    made.later(90_000.0)  # longer than images are waited for
    assert sent(pacs) == before
    (item,) = made.items
    assert (item.state, item.revision) == (State.COMPLETED, 1)
    assert len(instances(made)) == 17
    made.clock.now += 11 * DAY
    assert clean(made) == ["received"], "it goes again, in its time"


def test_a_contour_that_is_sent_again_without_its_ct_makes_no_second_result(tmp_path: Path, pacs: DemoPacs) -> None:
    made = delivered(tmp_path / "node", pacs, SHORT, days=40)
    clean(made)
    before = sent(pacs)
    made.take(study()[16])
    made.work()
    made.later(90_000.0)
    made.later(90_000.0)
    assert sent(pacs) == before
    assert [item.state for item in made.items] == [State.COMPLETED]


def test_part_of_a_ct_that_is_sent_again_makes_no_second_result(tmp_path: Path, pacs: DemoPacs) -> None:
    made = delivered(tmp_path / "node", pacs, SHORT, days=40)
    clean(made)
    before = sent(pacs)
    made.take(*study()[3:9])
    made.work()
    made.later(90_000.0)
    assert sent(pacs) == before
    assert [item.state for item in made.items] == [State.COMPLETED]


def test_a_new_contour_on_removed_images_waits_for_them_and_is_the_next_revision(
    tmp_path: Path, pacs: DemoPacs
) -> None:
    made = delivered(tmp_path / "node", pacs, SHORT, days=40)
    first = made.items[0]
    before = {each.sop_instance_uid for each in pacs.objects()}
    clean(made)
    contour = rtstruct(list(study()[:16]), radius=12.0)
    contour.SOPInstanceUID = study()[16].SOPInstanceUID
    made.take(contour)
    made.work()
    made.later(90_000.0)
    (waiting,) = [item for item in made.items if item.state is State.WAITING]
    assert waiting.reason == "INPUTS_REMOVED"
    assert "16 of 17 objects" in (waiting.hint or "")
    made.take(*study()[:16])
    made.work()
    made.later(60.0)
    newest = made.items[0]
    assert (newest.state, newest.revision, newest.predecessor_key) == (State.COMPLETED, 2, first.key)
    new = [each for each in pacs.objects() if each.sop_instance_uid not in before]
    risk = next(header for each in new if "126001" in str(header := dcmread(each.path, stop_before_pixels=True)))
    references = [
        item.ReferencedSOPInstanceUID
        for study_item in risk.PredecessorDocumentsSequence
        for series in study_item.ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    ]
    assert references, "the chain goes back to what was removed here"
    assert set(references) <= before


# -- contents, jobs, events ------------------------------------------------------------------------------------


def test_replaced_contents_go_before_the_study_does(tmp_path: Path) -> None:
    made = delivered(tmp_path, storage=replace(SHORT, received_days=100, superseded_days=10), days=1)
    made.store._db.execute(
        "UPDATE instance SET current = 0 WHERE sop_instance_uid = ?", [str(study()[0].SOPInstanceUID)]
    )
    made.clock.now += 11 * DAY
    assert clean(made) == ["superseded"]
    assert len(instances(made)) == 16
    assert made.store.audit.newest(1)[0].action == "instances.removed"


def test_job_folders_that_are_nobodys_go_and_those_at_work_stay(tmp_path: Path) -> None:
    made = delivered(tmp_path, storage=SHORT)
    (item,) = made.items
    for name in (item.key or "", "0" * 64):
        (made.spool.root / "jobs" / name / "out").mkdir(parents=True)
        (made.spool.root / "jobs" / name / "out" / "job.log").write_text("why it failed")
    waiting = made.spool.root / "jobs" / f"{PREFIX}{'a' * 32}"
    (waiting / "in").mkdir(parents=True)
    made.clock.now = time.time() + 6 * DAY
    made.store._db.execute("UPDATE work_item SET state = 'SCHEDULED'")
    assert clean(made) == ["jobs"]
    assert {path.name for path in (made.spool.root / "jobs").iterdir()} == {item.key, waiting.name}
    made.store._db.execute("UPDATE work_item SET state = 'FAILED'")
    assert clean(made) == ["jobs"]
    assert list((made.spool.root / "jobs").iterdir()) == [waiting]


def test_events_of_work_that_is_done_go_but_for_the_last(tmp_path: Path) -> None:
    made = delivered(tmp_path, storage=replace(SHORT, received_days=0, results_days=0, events_days=100))
    before = made.store.details(made.items[0].id)["events"]
    assert len(before) > 3
    made.clock.now += 101 * DAY
    assert clean(made) == ["events"]
    assert made.store.details(made.items[0].id)["events"] == before[-1:]


def test_work_that_failed_before_anything_was_composed_is_given_up_when_asked_for(tmp_path: Path) -> None:
    made = delivered(tmp_path, storage=replace(SHORT, failed_days=0))
    made.store._db.execute("DELETE FROM delivery")
    made.store._db.execute("UPDATE work_item SET state = 'FAILED'")
    made.clock.now += 900 * DAY
    assert clean(made) == []
    made.settings = replace(made.settings, storage=replace(SHORT, failed_days=30))
    assert clean(made) == ["failed"]
    assert made.store.items()[0].state is State.CANCELED
    assert made.store.audit.newest(1)[0].action == "workitem.canceled"


# -- kills and races -------------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
from pathlib import Path
from dicom_node import storage
from dicom_node.retention import Retention
from tests.kept import Road
import tests.e2e.test_retention as t
folder, where, days = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
die = lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL)
unlink, calls = Path.unlink, []
def counted(self, *a, **k):
    unlink(self, *a, **k)
    calls.append(self)
    if where.isdigit() and len([p for p in calls if p.suffix == ".dcm"]) == int(where):
        die()
Path.unlink = counted
if where == "marked":
    storage.Cleaner._unlink = die
if where == "unlinked":
    Retention.contents_gone = die
if where == "results-marked":
    storage.Cleaner._drop_results = die
if where == "results-removed":
    Retention.results_gone = die
made = t.Road(folder, t.replace(t.SETTINGS(), storage=t.SHORT), t.CLOCK(days))
t.clean(made)
"""


def SETTINGS() -> object:
    from config.settings import Settings

    return Settings()


def CLOCK(days: float) -> object:
    from tests.road import Clock

    return Clock(1_700_000_060.0 + days * DAY)


@pytest.mark.parametrize(
    "where", ["9", "unlinked", "results-marked", *exhaustive("marked", "1", "16", "results-removed")]
)
def test_killed_in_the_middle_it_is_finished_later_and_nothing_looks_lost(
    tmp_path: Path, pacs: DemoPacs, where: str
) -> None:
    made = delivered(tmp_path / "node", pacs, SHORT, days=40)
    made.store.close()
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "node"), where, "40"], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    made = Road(tmp_path / "node", made.settings, made.clock)
    before = sent(pacs)
    clean(made)
    assert instances(made) == []
    assert results(made) == []
    assert made.store.retention.contents_going() == made.store.retention.results_going() == []
    removed = [entry.action for entry in made.store.audit.newest() if entry.action.endswith(".removed")]
    assert sorted(removed) == ["result.removed", "study.removed"], "each told once"
    made.take(*study())
    made.work()
    made.later(90_000.0)
    assert sent(pacs) == before


def test_what_comes_again_while_it_is_removed_is_not_lost(tmp_path: Path) -> None:
    """Arrivals and retention race for the same files: what was acknowledged is there at the end."""
    made = delivered(tmp_path, storage=SHORT, days=40)
    stop = threading.Event()

    def retain() -> None:
        mine = Road(tmp_path, made.settings, made.clock)
        while not stop.is_set():
            made.clock.now += 11 * DAY
            clean(mine)
        mine.store.close()

    keeper = threading.Thread(target=retain)
    keeper.start()
    chance = random.Random(3)
    try:
        for _ in range(60):
            dataset = chance.choice(study())
            made.take(dataset)
    finally:
        stop.set()
        keeper.join()
    for contents in made.store.retention.contents(str(study()[0].StudyInstanceUID)):
        assert made.spool.instance_path(contents.sop_instance_uid, contents.digest).is_file()
    here = {path.name for path in instances(made)}
    rows = made.store._db.rows("SELECT sop_instance_uid AS uid, digest FROM instance WHERE removed = 0")
    assert here == {made.spool.instance_path(row["uid"], row["digest"]).name for row in rows}


def test_retention_gets_its_turn_while_arrivals_never_stop(tmp_path: Path) -> None:
    made = delivered(tmp_path)
    stop = threading.Event()

    def arrive() -> None:
        while not stop.is_set():
            with made.spool.instances_kept():
                time.sleep(0.004)

    senders = [threading.Thread(target=arrive) for _ in range(8)]
    for sender in senders:
        sender.start()
    waits = []
    for _ in range(30):
        begun = time.monotonic()
        with made.spool.instances_kept(alone=True):
            waits.append(time.monotonic() - begun)
    stop.set()
    for sender in senders:
        sender.join()
    assert max(waits) < 30.0


def test_a_folder_that_cannot_be_written_loses_nothing_and_keeps_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = delivered(tmp_path, storage=SHORT, days=40)
    monkeypatch.setattr(Path, "unlink", lambda *a, **k: (_ for _ in ()).throw(OSError(30, "Read-only file system")))
    assert clean(made) == ["results"]
    monkeypatch.undo()
    assert len(made.store.retention.contents_going()) == 17
    assert clean(made) == []
    assert instances(made) == []


def test_one_file_that_cannot_be_removed_stays_marked_is_said_once_and_stops_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = delivered(tmp_path, storage=SHORT, days=40)
    stuck = instances(made)[0]
    content = stuck.read_bytes()
    stuck.unlink()
    (stuck / "in the way").mkdir(parents=True)
    cleaner = Cleaner(made.store, made.spool, made.settings, made.clock)
    assert list(cleaner.everything()) == ["received", "results"]
    assert instances(made) == [stuck]
    assert list(cleaner.everything()) == []
    said = [one.getMessage() for one in caplog.records if one.getMessage().startswith("storage.not_removed")]
    assert len(said) == 1
    assert stuck.name in said[0]
    (stuck / "in the way").rmdir()
    stuck.rmdir()
    stuck.write_bytes(content)
    assert list(cleaner.everything()) == []
    assert instances(made) == []
    assert made.store.retention.contents_going() == []


def test_what_the_clock_asks_uses_its_indexes(tmp_path: Path) -> None:
    made = delivered(tmp_path)
    retention, database = made.store.retention, made.store._db
    asked: list[tuple[str, Any]] = []
    real = database.rows
    database.rows = lambda sql, arguments=(): asked.append((sql, arguments)) or real(sql, arguments)  # type: ignore[func-returns-value,method-assign]
    retention.studies_here(1e12, (0.0, ""))
    retention.results_here(1e12, (0.0, 0))
    retention.contents_going()
    retention.results_going()
    retention.condition("1.2.3")
    database.rows = real  # type: ignore[method-assign]
    assert len(asked) == 7
    for sql, arguments in asked:
        plan = [row["detail"] for row in database.rows(f"EXPLAIN QUERY PLAN {sql}", arguments)]
        walks = [detail for detail in plan if detail.startswith("SCAN") and "USING" not in detail]
        assert set(walks) <= {"SCAN id", "SCAN CONSTANT ROW"}, plan
        assert not [detail for detail in plan if "TEMP B-TREE FOR ORDER BY" in detail], plan
