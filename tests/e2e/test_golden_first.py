"""A worker that is ready has not begun to analyse: its bundle's golden case runs beside the start, and comes first."""

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from config.settings import Settings
from config.settings import load as load_settings
from dicom_node import analyst, check_machine
from dicom_node.bundles import Bundles
from dicom_node.job import Runner
from dicom_node.reload import Reloader
from dicom_node.ticket import Ticket
from dicom_node.web import facts, node_pages
from dicom_node.worker import Worker
from dicom_node.workitem import Permanent, State
from models.bundle import DEMO, Bundle, load
from tests.e2e.test_rules import other_bundle
from tests.road import Road, road
from tests.synthetic import ct_series, rtstruct

CT = ct_series(14, 32, 32, seed=91)


def proving(made: Road) -> Worker:
    runner = Runner(made.spool, made.settings.job, made.bundle)
    made.worker = Worker(made.settings, made.spool, made.bundle, runner, made.clock, prove=True)
    return made.worker


def states(made: Road) -> list[State]:
    return [item.state for item in made.store.items()]


def turn_of(worker: Worker, name: str) -> Callable[[], bool]:
    assert worker.analyst is not None
    return next(stage.step for stage in worker.analyst.stages if stage.name == name)


def test_no_job_is_claimed_before_the_golden_case_has_passed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = road(tmp_path)
    worker = proving(made)
    made.take(*CT, rtstruct(CT))
    made.work()
    assert states(made) == [State.SCHEDULED]
    assert worker.pulse() == (True, "golden case waits; work items: 1 SCHEDULED")
    monkeypatch.setattr(analyst, "verify_golden", lambda *_: "agrees")
    turn_of(worker, "golden")()
    assert worker.pulse() == (True, "work items: 1 SCHEDULED")
    made.work()
    assert states(made)[0] in (State.REPORTED, State.COMPLETED)
    runner = made.store.vitals.component("run")
    assert runner is not None
    assert runner.facts["golden"] == "agrees"


def fails(*_: object) -> str:
    raise Permanent("other numbers", "install the bundle again")


def test_a_golden_case_that_fails_ends_the_process_before_any_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = road(tmp_path)
    worker = proving(made)
    made.take(*CT, rtstruct(CT))
    ended: list[int] = []
    monkeypatch.setattr(analyst, "verify_golden", fails)
    monkeypatch.setattr(analyst.signal, "getsignal", lambda _: None)
    monkeypatch.setattr(analyst.os, "kill", lambda _, number: ended.append(number))
    for _ in range(2):
        turn_of(worker, "golden")()
        made.work()
    assert ended == [analyst.signal.SIGTERM]
    assert str(worker.unfit) == "other numbers"
    assert states(made) == [State.SCHEDULED]


def test_a_process_that_hears_no_signal_is_not_ended_and_runs_no_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = road(tmp_path)
    worker = proving(made)
    made.take(*CT, rtstruct(CT))
    monkeypatch.setattr(analyst, "verify_golden", fails)
    monkeypatch.setattr(analyst, "HANDLER_SECONDS", 0.1)
    monkeypatch.setattr(analyst.signal, "getsignal", lambda _: analyst.signal.SIG_DFL)
    monkeypatch.setattr(analyst.os, "kill", lambda *_: pytest.fail("it would be killed without a word"))
    for _ in range(2):
        assert not turn_of(worker, "golden")()
        made.work()
    assert states(made) == [State.SCHEDULED]
    runner = made.store.vitals.component("run")
    assert runner is not None
    assert runner.facts["waits"] == "other numbers; install the bundle again"


def test_a_node_whose_golden_case_fails_says_so_and_ends_with_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "node.toml").write_text('[node]\nport = 0\nspool = "spool"\n')
    program = (
        "from dicom_node import analyst, cli\n"
        "from dicom_node.workitem import Permanent\n"
        "def fails(*_): raise Permanent('other numbers', 'install the bundle again')\n"
        "analyst.verify_golden = fails\n"
        "cli.main()\n"
    )
    command = [sys.executable, "-c", program, "serve", "--config", str(tmp_path / "node.toml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 78, done.stderr
    assert re.search(r"prognode: other numbers install the bundle again", done.stderr)


def test_a_reload_tries_a_bundle_once_with_the_executor_that_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[object] = []
    monkeypatch.setattr(analyst, "verify_golden", lambda _, executor: given.append(executor) or "agrees")
    monkeypatch.setattr("dicom_node.job.chosen", lambda *_: pytest.fail("another executor, which tries all anew"))
    executor: Any = object()
    before = Bundles(load(DEMO))
    for _ in range(2):
        before = analyst.renewed(before, Settings(), executor)
    assert (given, before.golden) == ([executor], {load(DEMO).digest: "agrees"})


def test_a_reload_while_a_bundle_is_proved_takes_its_place_and_its_failure_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = road(tmp_path / "node")
    worker = proving(made)
    made.take(*CT, rtstruct(CT))
    made.work()
    new = other_bundle(tmp_path / "new")

    def golden_case(bundle: Bundle, _: object) -> str:
        if bundle.digest != made.bundle.digest:
            return "agrees"
        worker.ready_for(replace(made.settings, bundle=new))()  # what SIGHUP does, in another thread
        raise Permanent("other numbers")

    monkeypatch.setattr(analyst, "verify_golden", golden_case)
    step = turn_of(worker, "golden")
    assert step(), "the bundles of the reload are next"
    assert not step()
    assert worker.unfit is None
    made.work()
    made.later(60.0)
    (item,) = made.items
    assert item.state in (State.REPORTED, State.COMPLETED)
    assert Ticket.from_json(item.plan or "").bundle_digest == load(new).digest, "the other one was never proved"


def test_a_bundle_whose_folder_was_replaced_by_one_that_is_refused_keeps_jobs_waiting_until_it_is_mended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder, kept = other_bundle(tmp_path / "bundle"), tmp_path / "kept"
    made = road(tmp_path / "node", bundle=folder)
    made.restart(bundle=load(folder))
    made.clock.now = time.time()  # `check` asks who was heard of lately
    made.take(*CT, rtstruct(CT))
    made.worker.step_plan()
    made.clock.now += 60.0
    made.worker.step_plan()
    folder.rename(kept)
    shutil.copytree(DEMO, folder)
    config = tmp_path / "node.toml"
    config.write_text(f'bundle = "{folder}"\n[node]\nspool = "{made.spool.root}"\n[plan]\nquiet_seconds = 30.0\n')

    def golden_case(bundle: Bundle, _: object) -> str:
        if bundle.digest == load(DEMO).digest:
            raise Permanent("other numbers", "install the bundle again")
        return "agrees"

    monkeypatch.setattr(analyst, "verify_golden", golden_case)
    reloader = Reloader(config, load_settings(config, {}), made.spool, "serve", [made.worker], made.clock)
    assert not reloader.reload()
    for _ in range(2):
        assert made.worker.step_analyse()
        made.clock.now += 61.0
    (item,) = made.items
    assert (item.state, item.attempts) == (State.SCHEDULED, 0)
    assert "settings.refused the settings stay as they were: other numbers; install the bundle again" in caplog.text
    assert f"engine.down try 1, no job can be started, the next try is in 5 s: {folder}: the folder" in caplog.text
    found = {one.id: one for one in check_machine.running(made.settings)}
    assert "other numbers; install the bundle again" in found["node.settings"].text
    assert "holds something else since it was loaded" in found["node.jobs"].text
    assert found["node.jobs"].remedy.startswith("reload or restart what runs the jobs")
    shown = node_pages.system_view(facts.system(made.settings, made.spool, made.store, "1"))
    assert "other numbers" in shown["refused"]["serve"].text
    assert "holds something else" in shown["processes"]["Jobs"]["state"].text

    shutil.rmtree(folder)
    kept.rename(folder)
    assert reloader.reload()
    made.work()
    assert made.items[0].outcome == "SCORED"
    assert all(one.well for one in check_machine.running(made.settings))
