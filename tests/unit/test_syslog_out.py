"""Audit messages to a collector over real TLS: framed as RFC 5425 says; none is lost, whatever the collector does."""

import itertools
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from config.keeping import AuditTrail as AuditSettings
from config.keeping import Syslog
from config.settings import Settings
from dicom_node import syslog_out
from dicom_node.audit import AuditEntry
from dicom_node.audit_trail import AuditTrail
from dicom_node.check import _collector, _secrets
from dicom_node.spool import Spool
from dicom_node.store import Store
from dicom_node.syslog_out import SETTLED_SECONDS, Forwarder, Line, frame
from tests.audit_schema import check
from tests.certificates import Authority
from tests.collector import Collector, parsed


class Sender:
    """A node's trail and its way to a collector, with the clock in the test's hand."""

    def __init__(self, folder: Path, collector: Collector, **more: object) -> None:
        self.spool = Spool(folder / "spool")
        self.spool.create()
        self.store = Store.open(self.spool.store)
        where = {"host": "127.0.0.1", "port": collector.port, "ca": collector.authority.path, "timeout_seconds": 30.0}
        syslog = Syslog(**{**where, **more})  # type: ignore[arg-type]
        self.settings = replace(Settings(), audit=AuditSettings(rotate_bytes=20_000, syslog=syslog))
        self.now = 1_790_000_000.0
        self.forwarder = Forwarder(self.store, self.spool, self.settings, lambda: self.now)

    def write(self, count: int, **more: object) -> None:
        trail = AuditTrail(self.store, self.spool, self.settings, lambda: self.now)
        for number in range(count):
            entry = {"actor": f"user{number}", "origin": "web", "action": "signin", "address": "10.0.0.1", **more}
            self.store.audit.add(AuditEntry(self.now, **entry))  # type: ignore[arg-type]
        while trail.write():
            pass

    def turn(self, seconds: float = SETTLED_SECONDS) -> None:
        """One turn of the node's clock."""
        self.now += seconds
        while self.forwarder.step():
            pass
        time.sleep(0.05)  # for the bytes to reach the other thread and be confirmed

    @property
    def certain(self) -> int:
        return self.store.audit.sent(self.forwarder.name)


def until(true: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture
def collector(tmp_path: Path) -> Iterator[Collector]:
    made = Collector(tmp_path / "collector")
    yield made
    made.stop()


@pytest.fixture
def sender(tmp_path: Path, collector: Collector) -> Iterator[Sender]:
    made = Sender(tmp_path, collector)
    yield made
    made.forwarder.close()


def test_a_message_arrives_as_the_standards_have_it(sender: Sender, collector: Collector) -> None:
    sender.write(1)
    sender.write(1, outcome="refused", actor="Jörg\n<b>")
    sender.turn()
    until(lambda: len(collector.messages) == 2)
    good, bad = collector.messages
    assert (good.priority, bad.priority) == (85, 84), "facility 10; notice, and warning for what did not succeed"
    assert (good.app, good.message_id, good.sequence) == ("prognode", "DICOM+RFC3881", 1)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", good.time)
    for message in collector.messages:
        declaration = '<?xml version="1.0" encoding="UTF-8"?>'
        assert message.text.startswith(declaration)
        check(message.text.removeprefix(declaration))
    assert "Jörg" in bad.text


def test_what_arrived_counts_once_the_connection_has_stood_a_moment_longer(
    sender: Sender, collector: Collector
) -> None:
    sender.write(3)
    sender.turn()
    until(lambda: collector.sequences == [1, 2, 3])
    assert sender.certain == 0
    sender.turn()
    until(lambda: sender.turn(0.0) or sender.certain == 3)  # the kernel confirms in its own time
    sender.turn()
    assert collector.sequences == [1, 2, 3]
    assert collector.connections == 1


def test_a_long_outage_loses_nothing_and_blocks_nothing(sender: Sender, collector: Collector) -> None:
    sender.write(5)
    sender.turn()
    sender.turn()
    until(lambda: len(collector.messages) == 5)
    collector.stop()
    for _ in range(40):
        sender.write(10)  # several files
        started = time.monotonic()
        sender.turn(seconds=60.0)
        assert time.monotonic() - started < 25.0
    collector.start()
    until(lambda: sender.turn(seconds=60.0) or sender.certain == 405)
    assert set(collector.sequences) == set(range(1, 406))
    assert len(sender.store.audit.files()) > 5


def test_attempts_grow_apart_while_it_is_down(sender: Sender, collector: Collector) -> None:
    collector.stop()
    sender.write(1)
    tried = []
    real = syslog_out.socket.create_connection
    syslog_out.socket.create_connection = lambda *a, **k: (tried.append(sender.now), real(*a, **k))[1]  # type: ignore[assignment]
    try:
        for _ in range(1200):
            sender.now += 1.0
            sender.forwarder.step()
    finally:
        syslog_out.socket.create_connection = real  # type: ignore[assignment]
    waits = [later - earlier for earlier, later in itertools.pairwise(tried)]
    assert waits[:5] == [2.0, 4.0, 8.0, 16.0, 32.0]
    assert max(waits) == 300.0


def test_a_clock_that_is_set_back_holds_nothing_up(sender: Sender, collector: Collector) -> None:
    collector.stop()
    sender.write(1)
    sender.turn()
    collector.start()
    sender.turn(seconds=-1_000_000.0)
    until(lambda: collector.sequences == [1])
    sender.turn(seconds=-1_000_000.0)
    until(lambda: sender.turn(0.0) or sender.certain == 1)


def test_what_was_sent_before_a_connection_broke_is_sent_again(sender: Sender, collector: Collector) -> None:
    collector.drop_after = 4
    sender.write(10)
    sender.turn()
    until(lambda: len(collector.messages) >= 4)
    until(lambda: collector.dropped == 1)
    assert sender.certain == 0
    collector.drop_after = None
    until(lambda: sender.turn(seconds=10.0) or sender.certain == 10)
    assert set(collector.sequences) == set(range(1, 11))
    assert collector.sequences[:4] == collector.sequences[4:8] == [1, 2, 3, 4], "twice, and known by the number"


def test_a_node_that_ends_before_it_is_certain_sends_it_again(sender: Sender, collector: Collector) -> None:
    sender.write(2)
    sender.turn()
    until(lambda: len(collector.messages) == 2)
    again = Forwarder(sender.store, sender.spool, sender.settings, lambda: sender.now)
    again.step()
    until(lambda: collector.sequences == [1, 2, 1, 2])
    again.close()


def test_a_node_that_ends_in_peace_waits_for_certainty(tmp_path: Path, collector: Collector) -> None:
    sender = Sender(tmp_path, collector)
    sender.forwarder = Forwarder(sender.store, sender.spool, sender.settings, time.time)
    sender.write(2)
    sender.forwarder.step()
    sender.forwarder.settle()
    assert sender.certain == 2


def test_a_collector_that_takes_the_connection_and_never_speaks_costs_its_time_out(
    tmp_path: Path, collector: Collector
) -> None:
    sender = Sender(tmp_path, collector, timeout_seconds=0.5)
    collector.deaf = True
    sender.write(2)
    started = time.monotonic()
    assert not sender.forwarder.step()
    assert time.monotonic() - started < 25.0
    collector.deaf = False
    until(lambda: sender.forwarder._connection or sender.turn(seconds=10.0))  # half a second is short for a handshake
    until(lambda: collector.sequences == [1, 2])


def test_a_collector_with_a_certificate_of_somebody_else_gets_nothing(
    tmp_path: Path, collector: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    sender = Sender(tmp_path, collector, ca=Authority(tmp_path / "other").path)
    sender.write(1)
    with caplog.at_level("WARNING"):
        sender.turn()
    assert collector.messages == []
    assert "audit.collector_down" in caplog.text
    assert "certificate" in caplog.text
    assert "signin" not in caplog.text


def test_a_collector_that_asks_for_our_certificate_gets_it(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "authority")
    collector = Collector(tmp_path, client_ca=authority.path, authority=authority)
    ours = authority.issue("prognode")
    sender = Sender(tmp_path / "a", collector, certificate=ours.certificate, private_key=ours.key)
    sender.write(1)
    sender.turn()
    until(lambda: collector.sequences == [1])
    sender.turn()
    until(lambda: sender.turn(0.0) or sender.certain == 1)
    sender.forwarder.close()
    without = Sender(tmp_path / "b", collector)
    without.write(1)
    for _ in range(3):
        without.turn(seconds=10.0)
    assert collector.sequences == [1]
    assert without.certain == 0
    collector.stop()


def test_a_private_key_that_others_can_read_is_not_used(
    tmp_path: Path, collector: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    ours = collector.authority.issue("prognode")
    ours.key.chmod(0o644)
    sender = Sender(tmp_path, collector, certificate=ours.certificate, private_key=ours.key)
    sender.write(1)
    with caplog.at_level("WARNING"):
        sender.turn()
    assert "chmod 0600" in caplog.text
    assert collector.connections == 0


def test_without_a_collector_nothing_is_sent(tmp_path: Path, collector: Collector) -> None:
    sender = Sender(tmp_path, collector, host="")
    sender.write(3)
    sender.turn()
    assert collector.connections == 0


def test_the_length_before_a_message_counts_octets() -> None:
    message = '<AuditMessage EventDateTime="2026-01-01T00:00:00.000Z" EventOutcomeIndicator="0">ü山</AuditMessage>'
    data = frame(Line(7, message), "node name\n", 12)
    length, _, rest = data.partition(b" ")
    assert int(length) == len(rest)
    found = parsed(rest)
    assert (found.host, found.sequence, found.time) == ("nodename", 7, "2026-01-01T00:00:00.000Z")


def test_check_says_whether_the_collector_can_be_reached_and_whether_secrets_are_private(
    tmp_path: Path, collector: Collector
) -> None:
    ours = collector.authority.issue("prognode")
    sender = Sender(tmp_path, collector, certificate=ours.certificate, private_key=ours.key)
    found = [*_collector(sender.settings), *_secrets(sender.settings)]
    assert [(finding.name, finding.well) for finding in found] == [("audit collector", True), ("secrets", True)]
    ours.key.chmod(0o640)
    (secret,) = _secrets(sender.settings)
    assert not secret.well
    assert secret.remedy == f"run: chmod 0600 {ours.key}"
    ours.key.chmod(0o600)
    collector.stop()
    (unreachable,) = _collector(sender.settings)
    assert not unreachable.well
    assert "Connection refused" in unreachable.text
