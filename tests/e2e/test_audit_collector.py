"""Audit messages to a collector that others have made: rsyslog, with mutual TLS by GnuTLS, as a process of its own."""

import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from config.keeping import AuditTrail as AuditSettings
from config.keeping import Syslog
from config.settings import Settings
from dicom_node.audit import AuditEntry
from dicom_node.audit_trail import AuditTrail
from dicom_node.spool import Spool
from dicom_node.store import Store
from dicom_node.syslog_out import Forwarder
from tests.audit_schema import check
from tests.certificates import Authority, Issued

RSYSLOG = shutil.which("rsyslogd", path=f"{os.environ['PATH']}:/usr/sbin")
TLS = [path for folder in ("lib", "lib64") for path in Path("/usr", folder).glob("**/rsyslog/lmnsd_gtls.so")]
WITH_RSYSLOG = pytest.mark.skipif(not (RSYSLOG and TLS), reason="needs Debian's rsyslog and rsyslog-gnutls")
SETTINGS = """
global(workDirectory="{folder}" maxMessageSize="64k" defaultNetstreamDriverCAFile="{ca}"
       defaultNetstreamDriverCertFile="{ours.certificate}" defaultNetstreamDriverKeyFile="{ours.key}")
module(load="imtcp" streamDriver.name="gtls" streamDriver.mode="1" streamDriver.authMode="x509/certvalid")
input(type="imtcp" address="127.0.0.1" port="{port}" listenPortFileName="{folder}/port")
template(name="parts" type="string" string="%pri% %app-name% %msgid% %structured-data% %msg%\\n")
action(type="omfile" file="{folder}/messages" template="parts")
"""


def until(true: Callable[[], object]) -> None:
    end = time.monotonic() + 60.0
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def chosen(folder: Path) -> int:
    """The port that rsyslog has chosen; 0: none yet."""
    return int((folder / "port").read_text() or 0) if (folder / "port").is_file() else 0


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def rsyslog(folder: Path, authority: Authority, ours: Issued, port: int = 0) -> Iterator[int]:
    """The collector on a port of loopback, which is given; ended at the end."""
    (folder / "port").unlink(missing_ok=True)
    settings = folder / "rsyslog.conf"
    settings.write_text(SETTINGS.format(folder=folder, ca=authority.path, ours=ours, port=port))
    with (folder / "log").open("ab") as log:
        command = [str(RSYSLOG), "-n", "-f", str(settings), "-i", str(folder / "pid")]
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        until(lambda: process.poll() is not None or (listens(port) if port else chosen(folder)))
        assert process.poll() is None, (folder / "log").read_text()
        yield port or chosen(folder)
    finally:
        process.terminate()
        process.wait(timeout=60)


def arrived(folder: Path) -> dict[int, str]:
    """Messages by their number."""
    lines = (folder / "messages").read_text("utf-8").splitlines() if (folder / "messages").is_file() else []
    return {int(found[1]): line for line in lines if (found := re.search(r'sequenceId="(\d+)"', line))}


@WITH_RSYSLOG
def test_a_foreign_collector_has_every_message_also_after_it_was_away(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "authority")
    theirs, ours = authority.issue("collector"), authority.issue("prognode")
    spool = Spool(tmp_path / "spool")
    spool.create()
    store = Store.open(spool.store)
    now = [1_790_000_000.0]

    def write(count: int) -> None:
        for number in range(count):
            store.audit.add(AuditEntry(now[0], f"Jörg <{number}>", "web", "signin", address="10.0.0.1"))
        assert AuditTrail(store, spool, settings, lambda: now[0]).write()

    def send_until_they_have(count: int) -> None:
        def turn() -> bool:
            now[0] += 3.0
            forwarder.step()
            return set(arrived(tmp_path)) == set(range(1, count + 1)) and store.audit.sent(forwarder.name) == count

        until(turn)

    with rsyslog(tmp_path, authority, theirs) as port:
        to = Syslog(host="127.0.0.1", port=port, ca=authority.path, certificate=ours.certificate, private_key=ours.key)
        settings = replace(Settings(), audit=AuditSettings(syslog=to))
        forwarder = Forwarder(store, spool, settings, lambda: now[0])
        write(20)
        send_until_they_have(20)
    write(5)
    forwarder.step()  # finds that the connection has ended
    with rsyslog(tmp_path, authority, theirs, port):
        send_until_they_have(25)
    forwarder.close()
    for line in arrived(tmp_path).values():
        head, _, xml = line.partition('<?xml version="1.0" encoding="UTF-8"?>')
        assert head.split()[:3] == ["85", "prognode", "DICOM+RFC3881"]
        check(xml)
    assert "Jörg &lt;4&gt;" in arrived(tmp_path)[5]
