"""What the audit trail hears of associations: who came, who was refused, and what each brought."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from pydicom.uid import CTImageStorage, RTStructureSetStorage

from dicom_node import door
from dicom_node.audit import AuditEntry
from dicom_node.audit_message import Source, audit_message
from dicom_node.spool import Spool
from dicom_node.store import Store
from tests.audit_schema import check, event_of
from tests.network import SENDER, association, receiving, store_file, storescu
from tests.paths import ROOT
from tests.synthetic import CT, ct_series, rtstruct, save, save_all

SOURCE = Source("PROGNODE", "", "PROGNODE", "node", "Prognode")


def entries(spool: Spool, action: str) -> list[AuditEntry]:
    store = Store.open(spool.store)
    try:
        return [entry for entry in reversed(store.audit.newest(10_000)) if entry.action == action]
    finally:
        store.close()


def until(look: Callable[[], list[AuditEntry]], seconds: float = 60.0) -> list[AuditEntry]:
    end = time.monotonic() + seconds
    while not (found := look()) and time.monotonic() < end:
        time.sleep(0.05)
    return found


def test_one_association_is_one_entry_per_study_and_not_per_object(tmp_path: Path) -> None:
    ct, other = ct_series(6, 16, 16, seed=1), ct_series(3, 16, 16, seed=2)
    paths = [*save_all(ct, tmp_path / "a"), save(rtstruct(ct), tmp_path / "a"), *save_all(other, tmp_path / "b")]
    with receiving(tmp_path) as (receiver, spool):
        assert storescu(receiver.port, paths).returncode == 0
        found = until(lambda: entries(spool, "instances.received"))
    assert [(each.actor, each.origin, each.address) for each in found] == [(SENDER, "dicom", "127.0.0.1")] * 2
    brought = {each.study_instance_uid: each.facts["sop_classes"] for each in found}
    assert brought == {
        ct[0].StudyInstanceUID: {CTImageStorage: 6, RTStructureSetStorage: 1},
        other[0].StudyInstanceUID: {CTImageStorage: 3},
    }
    for each in found:
        assert event_of(check(audit_message(each, None, SOURCE)))[:2] == ("110104", "C")


def test_what_was_here_already_is_told_apart(tmp_path: Path) -> None:
    ct = ct_series(4, 16, 16, seed=1)
    paths = save_all(ct, tmp_path / "a")
    with receiving(tmp_path) as (receiver, spool):
        assert storescu(receiver.port, paths[:3]).returncode == 0
        until(lambda: entries(spool, "instances.received"))
        assert storescu(receiver.port, paths).returncode == 0
        (known,) = until(lambda: entries(spool, "instances.known"))
        first, second = entries(spool, "instances.received")
    assert (first.facts, second.facts) == ({"sop_classes": {CT: 3}}, {"sop_classes": {CT: 1}})
    assert known.facts == {"sop_classes": {CT: 3}}
    assert event_of(check(audit_message(known, None, SOURCE)))[:2] == ("110104", "R")


def test_an_unknown_caller_is_a_security_alert(tmp_path: Path) -> None:
    with receiving(tmp_path) as (receiver, spool), association(receiver.port, [CT], calling="EVIL") as made:
        assert made.is_rejected
        (alert,) = until(lambda: entries(spool, "association.refused"))
    assert (alert.outcome, alert.address) == ("refused", "127.0.0.1")
    assert "EVIL" in alert.detail
    assert event_of(check(audit_message(alert, None, SOURCE))) == ("110113", "E", "4")


def test_a_flood_of_unknown_callers_does_not_fill_the_trail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.monotonic()
    monkeypatch.setattr(door, "time", SimpleNamespace(monotonic=lambda: now, sleep=time.sleep))  # however slow we are
    with receiving(tmp_path) as (receiver, spool):
        for number in range(60):
            with association(receiver.port, [CT], calling=f"EVIL{number}"):
                pass
        alerts = until(lambda: entries(spool, "association.refused"))
    assert 1 <= len(alerts) <= 25


def test_callers_that_only_ask_for_an_echo_are_entered_once_an_hour(tmp_path: Path) -> None:
    with receiving(tmp_path) as (receiver, spool):
        for _ in range(5):
            with association(receiver.port, ["1.2.840.10008.1.1"]) as made:
                assert made.send_c_echo().Status == 0
        found = until(lambda: entries(spool, "association.accepted"))
        assert [(each.actor, each.address) for each in found] == [(SENDER, "127.0.0.1")]
        assert event_of(check(audit_message(found[0], None, SOURCE))) == ("110113", "E", "0")


KILLED = """
import sys, time
from pathlib import Path
from tests.network import receiving
with receiving(Path(sys.argv[1])) as (receiver, spool):
    print(receiver.port, flush=True)
    time.sleep(60)
"""


def test_a_node_that_is_killed_before_the_association_ends_has_its_entry_after_the_restart(tmp_path: Path) -> None:
    paths = save_all(ct_series(5, 16, 16, seed=1), tmp_path / "a")
    child = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert child.stdout is not None
    with association(int(child.stdout.readline()), [CT]) as made:
        for path in paths[:4]:
            assert store_file(made, path)[0] == 0x0000
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    child.stdout.close()
    assert entries(Spool(tmp_path / "spool"), "instances.received") == []
    with receiving(tmp_path) as (_, spool):
        (found,) = until(lambda: entries(spool, "instances.received"))
    assert (found.actor, found.facts) == (SENDER, {"sop_classes": {CT: 4}})
    assert "ended before" in found.detail
