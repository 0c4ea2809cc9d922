"""A worker that is ready has not begun to analyse: its bundle's golden case runs beside the start, and comes first."""

import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from config.settings import Settings
from dicom_node import analyst
from dicom_node.bundles import Bundles
from dicom_node.job import Runner
from dicom_node.worker import Worker
from dicom_node.workitem import Permanent, State
from models.bundle import DEMO, load
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
    monkeypatch.setattr(analyst, "verify_golden", lambda *_: "agrees")
    turn_of(worker, "golden")()
    made.work()
    assert states(made)[0] in (State.REPORTED, State.COMPLETED)
    runner = made.store.vitals.component("run")
    assert runner is not None
    assert runner.facts["golden"] == "agrees"


def test_a_golden_case_that_fails_ends_the_process_before_any_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = road(tmp_path)
    worker = proving(made)
    made.take(*CT, rtstruct(CT))

    def fails(*_: object) -> str:
        raise Permanent("other numbers", "install the bundle again")

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


def test_the_watchdog_hears_of_each_golden_case_of_a_reload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        heard: list[bytes] = []
        monkeypatch.setattr(analyst, "verify_golden", lambda *_: heard.append(manager.recv(100)) or "agrees")
        bundle = load(DEMO)
        before = Bundles(bundle)
        for _ in range(2):
            before = analyst.renewed(before, Settings(), tries=True)
        assert (heard, before.golden) == ([b"WATCHDOG=1"], {bundle.digest: "agrees"})
