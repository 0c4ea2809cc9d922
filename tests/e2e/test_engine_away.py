"""No job can be started for hours: the queue waits as a whole, the log stays short, and nothing is lost."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dicom_node.executors import process
from tests.road import Road, road
from tests.synthetic import ct_series, rtstruct

HOUR = 3600


@pytest.fixture
def waiting(tmp_path: Path) -> Road:
    """Three studies, ready for their jobs."""
    made = road(tmp_path)
    for seed in (71, 72, 73):
        ct = ct_series(20, seed=seed)
        made.take(*ct, rtstruct(ct))
    made.worker.step_plan()
    made.clock.now += 60
    while made.worker.step_plan():
        pass
    return made


@pytest.fixture
def tries(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """When the executor was asked for a process; it has none to give."""
    found: list[float] = []

    def command(*_: object) -> list[str]:
        found.append(0.0)
        return ["/nowhere/bwrap"]

    monkeypatch.setattr(process, "command", command)
    return found


def turns(made: Road, seconds: int, each: Callable[[], None] = lambda: None) -> None:
    """As the worker's clock turns the stage, but once a second."""
    for _ in range(seconds):
        made.clock.now += 1
        while made.worker.step_analyse():
            pass
        each()


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage() for record in caplog.records if record.name in ("dicom_node.analyst", "dicom_node.loop")
    ]


def test_three_studies_and_an_hour_without_a_job_engine_give_six_lines(
    waiting: Road, tries: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    assert [item.state for item in waiting.items] == ["SCHEDULED"] * 3
    turns(waiting, HOUR)
    lines = said(caplog)
    assert [line.split(",")[0] for line in lines] == [f"engine.down try {2**n}" for n in range(6)]
    assert "the job could not be started" in lines[0]
    assert 55 < len(tries) < 75  # 5, 10, 20, 40 s, then once a minute, whatever number of studies waits
    assert {(item.state, item.attempts) for item in waiting.items} == {("SCHEDULED", 0)}


def test_a_job_whose_engines_cannot_be_imported_fails_in_one_sentence(
    waiting: Road, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread imports them while the CT is read: what it meets must not be lost, nor said twice."""
    program = (
        "import sys; sys.modules['analysis.texture'] = None\n"
        "import runpy; runpy.run_module('analysis.run', alter_sys=True, run_name='__main__')"
    )
    real = process.command

    def command(*asked: Any) -> list[str]:
        return [{"-m": "-c", "analysis.run": program}.get(word, word) for word in real(*asked)]

    monkeypatch.setattr(process, "command", command)
    assert waiting.worker.step_analyse()
    failed = next(item for item in waiting.items if item.state == "FAILED")
    assert "status 70" in str(waiting.store.worklist.events(failed.id))
    log = (waiting.spool.job(failed.key or "") / process.LOG_FILE).read_text()
    assert re.fullmatch(r"ERROR analysis.run job.installation analysis.texture cannot be imported: [^\n]+\n", log)


def test_when_it_is_there_again_all_go_on_within_a_minute(
    waiting: Road, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    with monkeypatch.context() as gone:
        gone.setattr(process, "command", lambda *_: ["/nowhere/bwrap"])
        turns(waiting, 600)
    turns(waiting, 60)
    assert {(item.state, item.outcome) for item in waiting.items} == {("ANALYSED", "SCORED")}
    assert sum("engine.runs" in line for line in said(caplog)) == 1


def test_a_study_that_is_not_scored_needs_no_engine_and_goes_on(waiting: Road, tries: list[float]) -> None:
    turns(waiting, 300)
    asked = len(tries)
    ct = ct_series(20, seed=74)
    for image in ct:
        image.Modality = "PT"
    waiting.take(*ct, rtstruct(ct))
    waiting.worker.step_plan()
    waiting.clock.now += 35
    while waiting.worker.step_plan():
        pass
    turns(waiting, 1)
    assert [item.state for item in waiting.items] == ["ANALYSED"] + ["SCHEDULED"] * 3
    assert waiting.items[0].outcome == "NOT_SCORED"
    assert len(tries) - asked <= 1


def test_a_wall_clock_that_is_put_back_does_not_prolong_the_wait(waiting: Road, tries: list[float]) -> None:
    turns(waiting, 1)
    waiting.clock.now -= 5 * HOUR
    turns(waiting, 10)
    assert len(tries) > 1
