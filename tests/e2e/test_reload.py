"""SIGHUP to running processes: what can change changes at once and whole, and what began before keeps its settings."""

import re
import signal
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from pynetdicom import build_context
from pynetdicom.sop_class import CTImageStorage, Verification

from config.settings import Tls
from dicom_node.receive import Receiver
from dicom_node.spool import Spool
from dicom_node.store import Store
from dicom_node.workitem import ConfigError
from tests import synthetic
from tests.certificates import Authority
from tests.e2e.node import SETTINGS, Node, log_of, peer, serving, store_of, wait_for, write_settings
from tests.network import call, settings_for
from tests.web import site

CT = synthetic.ct_series(8, 16, 16, seed=61)


def associated(port: int, title: str):  # type: ignore[no-untyped-def]  # pynetdicom is not typed
    return call(port, [build_context(Verification), build_context(CTImageStorage)], calling=title)


def answers(port: int, title: str) -> bool:
    association = associated(port, title)
    well = bool(association.is_established) and association.send_c_echo().Status == 0
    association.release()
    return well


def hung_up(folder: Path, node: Node, event: str) -> str:
    """What the log says after a SIGHUP, from then on to the event."""
    begin = len(log_of(folder))
    node.process.send_signal(signal.SIGHUP)
    wait_for(lambda: event in log_of(folder)[begin:], event, folder=folder)
    return log_of(folder)[begin:]


def test_a_node_that_is_told_to_takes_over_its_settings_whole_or_not_at_all(tmp_path: Path) -> None:
    write_settings(tmp_path)
    with serving(tmp_path) as node:
        assert not answers(node.port, "LATE")
        write_settings(tmp_path, peer("LATE"), node={"port": 9, "site": "elsewhere"}, storage={"results_days": 9.0})
        said = hung_up(tmp_path, node, "settings.restart_needed node.site")
        assert "settings.reloaded in force now: peers, storage.results_days" in said
        assert "settings.restart_needed node.port takes a restart: ports are opened at the start" in said
        assert answers(node.port, "LATE")

        begun = associated(node.port, "LATE")
        good = (tmp_path / SETTINGS).read_text()
        (tmp_path / SETTINGS).write_text(good.replace('"LATE"', '"LATER"').replace("results_days", "result_days"))
        said = hung_up(tmp_path, node, "settings.refused")
        assert "unknown key 'storage.result_days' (did you mean 'results_days'?)" in said
        assert answers(node.port, "LATE")
        assert not answers(node.port, "LATER")
        (tmp_path / SETTINGS).write_text(good + '[[rules]]\nname = "x"\nbundle = "nowhere"\n')
        assert "nowhere: no such folder" in hung_up(tmp_path, node, "settings.refused")
        (tmp_path / SETTINGS).write_text(good + '[[rules]]\nname = "x"\nplan = { roi_name_patterns = ["("] }\n')
        assert "'(' is not a regular expression" in hung_up(tmp_path, node, "settings.refused")

        (tmp_path / SETTINGS).write_text(good.replace('"LATE"', '"LATER"') + '[[rules]]\nname = "x"\nshadow = true\n')
        hung_up(tmp_path, node, "settings.reloaded in force now: peers, rules")
        assert answers(node.port, "LATER")
        assert not answers(node.port, "LATE")
        assert begun.send_c_store(CT[0]).Status == 0x0000, "an association in progress keeps its settings"
        begun.release()
        (tmp_path / SETTINGS).write_text(good + '[telemetry]\nlog_level = "ERROR"\n')
        begin = len(log_of(tmp_path))
        node.process.send_signal(signal.SIGHUP)
        wait_for(lambda: answers(node.port, "LATE"), "the settings are in force", folder=tmp_path)
        assert "settings.reloaded" not in log_of(tmp_path)[begin:], "only errors are logged now"
        assert node.stop() == 0
    with store_of(tmp_path) as store:
        assert store.arrivals.calling_ae_title(CT[0].SOPInstanceUID) == "LATE", "rules go by it"
        found = [(one.outcome, one.detail) for one in store.audit.newest() if one.action == "settings.changed"][::-1]
    assert [outcome for outcome, _ in found] == ["done", "failed", "failed", "failed", "done", "done"]
    assert found[0][1] == "reload: peers, storage.results_days; after a restart: node.port, node.site"


def served(port: int) -> int:
    """Serial number of the certificate that is shown on a port."""
    pem = ssl.get_server_certificate(("127.0.0.1", port), timeout=10)
    return x509.load_pem_x509_certificate(pem.encode()).serial_number


def test_a_new_certificate_is_shown_to_whoever_calls_from_then_on(tmp_path: Path) -> None:
    issued = Authority(tmp_path).issue("node")
    tls = Tls(listen="only", port=0, certificate=issued.certificate, private_key=issued.key)
    settings = settings_for()
    settings = type(settings)(node=settings.node, peers=settings.peers, receive=settings.receive, tls=tls)
    receiver = Receiver(settings, Spool(tmp_path / "spool"))
    receiver.start()
    try:
        before = served(receiver.port)
        Authority(tmp_path / "new").issue("node").certificate.replace(issued.certificate)
        with pytest.raises(ConfigError, match="does not belong to certificate"):
            receiver.ready_for(settings)
        assert served(receiver.port) == before
        (tmp_path / "new" / "node.key").replace(issued.key)
        put_in_force: Callable[[], None] = receiver.ready_for(settings)
        assert served(receiver.port) == before, "nothing is in force before all of it can be"
        put_in_force()
        assert served(receiver.port) != before
    finally:
        receiver.stop()


def test_the_page_goes_on_with_a_new_certificate_and_new_peers(tmp_path: Path) -> None:
    issued = Authority(tmp_path).issue("web")
    web = {"port": 0, "certificate": issued.certificate, "private_key": issued.key}
    write_settings(tmp_path, web=web)
    Spool(tmp_path / "spool").create()
    Store.open(Spool(tmp_path / "spool").store).close()
    with site.started(tmp_path, by_command=True) as page:
        port = int(page.url.rpartition(":")[2])
        before = served(port)
        Authority(tmp_path).issue("web")
        write_settings(tmp_path, peer("LATE"), web=web | {"session_hours": 3.0})
        page.process.send_signal(signal.SIGHUP)
        wait_for(lambda: "settings.restart_needed" in page.log, "the settings are in force", folder=tmp_path)
        assert re.search(r"settings.reloaded in force now: peers$", page.log, re.MULTILINE)
        assert "settings.restart_needed web.session_hours takes a restart" in page.log
        assert served(port) != before
        assert page.stop() == 0
