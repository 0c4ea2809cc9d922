"""receive, work and run as processes of their own, over one spool: the way of the systemd units."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from dicom_node.demo_pacs import DemoPacs
from dicom_node.store import Store
from tests.e2e.node import (
    PACS,
    PROGNODE,
    SCORED_OBJECTS,
    SETTINGS,
    Node,
    completed,
    destination,
    items_of,
    kinds_in,
    send,
    spool_of,
    wait_for,
    write_settings,
)
from tests.synthetic import ct_series, rtstruct, save_all

COMMANDS = {"work": ("work", "--without-jobs"), "run": ("run",)}


class Processes:
    """The node's three processes; `start` and `kill` one by its command."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.receiver = Node(folder, ("receive",))
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            command = [str(PROGNODE), *COMMANDS[name], "--config", str(self.folder / SETTINGS)]
            self._running[name] = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def niceness(self, name: str) -> int:
        return os.getpriority(os.PRIO_PROCESS, self._running[name].pid)

    def kill(self, name: str) -> None:
        process = self._running.pop(name)
        process.kill()
        process.wait(timeout=30)

    def stop(self) -> list[int]:
        for process in self._running.values():
            process.terminate()
        return [self.receiver.stop(), *(process.wait(timeout=60) for process in self._running.values())]


@pytest.fixture
def pacs(tmp_path: Path) -> Iterator[DemoPacs]:
    with DemoPacs(tmp_path / "pacs", PACS, commitment="same") as running:
        yield running


def test_three_processes_score_a_study_whichever_is_killed(tmp_path: Path, pacs: DemoPacs) -> None:
    folder = tmp_path / "node"
    write_settings(folder, destination(PACS, pacs.port))
    with ExitStack() as ending:
        node = Processes(folder)
        ending.callback(node.stop)
        pacs.report_to = ("127.0.0.1", node.receiver.port)
        node.start("work")
        ct = ct_series(16, 40, 40, seed=71)
        send(node.receiver.port, save_all([*ct, rtstruct(ct)], tmp_path / "study"))
        wait_for(lambda: [one.state for one in items_of(folder)] == ["SCHEDULED"], "it is planned", folder=folder)
        node.start("run")
        wait_for(lambda: items_of(folder)[0].attempts == 1, "its job is begun", folder=folder)
        assert [node.niceness(name) for name in ("work", "run")] == [min(os.nice(0) + 5, 19)] * 2
        node.kill("run")
        node.kill("work")
        assert items_of(folder)[0].state == "SCHEDULED", "nobody else runs jobs"
        node.start("run")
        wait_for(lambda: items_of(folder)[0].state == "ANALYSED", "it is analysed by another", folder=folder)
        node.start("work")
        item = completed(folder, ct[0].StudyInstanceUID)
        assert (item.outcome, item.revision) == ("SCORED", 1)
        assert kinds_in(pacs, ct[0].StudyInstanceUID) == SCORED_OBJECTS
        store = Store.open(spool_of(folder).store)
        facts = {one.component: one.facts for one in store.vitals.components()}
        store.close()
        assert facts["work"]["jobs"] == "apart"
        assert "in force" in facts["run"]["isolation"]
        assert set(node.stop()) == {0}


def test_a_second_runner_is_turned_away(tmp_path: Path) -> None:
    folder = tmp_path / "node"
    write_settings(folder)
    spool_of(folder).create()
    with spool_of(folder).lock("run"):
        command = [str(PROGNODE), "run", "--config", str(folder / SETTINGS)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 78
    assert "another `prognode run` (or serve) uses this spool" in done.stderr
