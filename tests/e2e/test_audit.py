"""A real node and its audit trail: what it did is in the file, in the collector, and nowhere in the log."""

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dicom_node.audit_verify import verify
from tests.audit_schema import check, event_of
from tests.collector import Collector
from tests.e2e.node import PROGNODE, SETTINGS, log_of, send, serving, spool_of, store_of, wait_for, write_settings
from tests.synthetic import ct_series, save_all


@pytest.fixture
def collector(tmp_path: Path) -> Iterator[Collector]:
    made = Collector(tmp_path / "collector")
    yield made
    made.stop()


def settings(folder: Path, collector: Collector, **more: object) -> None:
    table = {"host": "127.0.0.1", "port": collector.port, "ca": str(collector.authority.path), "timeout_seconds": 30.0}
    write_settings(folder, **{"audit.syslog": {**table, **more}})  # type: ignore[arg-type]


def kinds(collector: Collector) -> list[tuple[str, str, str]]:
    declaration = '<?xml version="1.0" encoding="UTF-8"?>'
    return [event_of(check(message.text.removeprefix(declaration))) for message in collector.messages]


def entered(folder: Path, action: str) -> bool:
    with store_of(folder) as store:
        return any(entry.action == action for entry in store.audit.newest())


def test_start_callers_objects_and_end_reach_the_collector_and_the_trail_is_whole(
    tmp_path: Path, collector: Collector
) -> None:
    folder = tmp_path / "node"
    settings(folder, collector)
    ct = ct_series(6, 16, 16, seed=5)
    with serving(folder) as node:
        send(node.port, save_all(ct, tmp_path / "ct"))
        wait_for(lambda: ("110104", "C", "0") in kinds(collector), "the objects are heard of", folder=folder)
        node.stop()
    wait_for(lambda: kinds(collector).count(("110100", "E", "0")) == 2, "the end is heard of", folder=folder)
    assert kinds(collector)[0] == ("110100", "E", "0")
    assert ("110113", "E", "0") in kinds(collector), "the caller was let in"
    assert kinds(collector)[-1] == ("110100", "E", "0")
    assert collector.sequences == sorted(set(collector.sequences))
    with store_of(folder) as store:
        assert list(verify(spool_of(folder).audit, store.audit)) == []
        assert store.audit.unwritten() == []
        actions = [entry.action for entry in reversed(store.audit.newest())]
    assert (actions[0], actions[-1]) == ("node.start", "node.stop")
    patient = str(ct[0].PatientID)
    assert any(f'ParticipantObjectID="{patient}' in message.text for message in collector.messages)
    assert patient not in log_of(folder)
    assert str(ct[0].PatientName) not in log_of(folder)


def test_a_collector_that_is_down_keeps_nobody_from_work_and_gets_everything_later(
    tmp_path: Path, collector: Collector
) -> None:
    folder = tmp_path / "node"
    settings(folder, collector, longest_delay_seconds=1.0)
    collector.stop()
    with serving(folder) as node:
        send(node.port, save_all(ct_series(4, 16, 16, seed=5), tmp_path / "ct"))
        wait_for(lambda: "audit.collector_down" in log_of(folder), "it notices", folder=folder)
        wait_for(lambda: entered(folder, "instances.received"), "the objects have their entry", folder=folder)
        node.kill()
    collector.start()
    with serving(folder):
        wait_for(lambda: kinds(collector).count(("110100", "E", "0")) == 2, "both starts arrive", folder=folder)
        assert ("110104", "C", "0") in kinds(collector)
        time.sleep(0.1)
    with store_of(folder) as store:
        assert list(verify(spool_of(folder).audit, store.audit)) == []


@pytest.mark.exhaustive
def test_changed_settings_stand_in_the_trail_by_section(tmp_path: Path) -> None:
    folder = tmp_path / "node"
    write_settings(folder)
    with serving(folder):
        pass
    write_settings(folder, report={"series_number": 9100})
    with serving(folder):
        pass
    with serving(folder):
        pass
    with store_of(folder) as store:
        changes = [entry.detail for entry in store.audit.newest() if entry.action == "settings.changed"]
    assert changes == ["changed since the last start: report"]


def test_the_verify_command_says_where_the_trail_was_changed(tmp_path: Path) -> None:
    folder = tmp_path / "node"
    write_settings(folder)
    with serving(folder) as node:
        send(node.port, save_all(ct_series(2, 16, 16, seed=5), tmp_path / "ct"))
    command = [str(PROGNODE), "audit", "verify", "--config", str(folder / SETTINGS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split()[0]) == (0, "ok"), done.stderr
    (path,) = spool_of(folder).audit.glob("audit-*.jsonl")
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], *lines[2:]]))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "removed" in done.stdout
    assert "line 2 is missing" in done.stdout
