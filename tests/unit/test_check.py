"""`prognode check`: what it says of the machine, of certificates, and of the other way; and that its list is whole."""

import contextlib
import os
import re
import socket
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from config.settings import Node, Peer, Settings, Tls, Web
from dicom_node import check_machine, check_peers, keeper, status, vitals
from dicom_node.finding import TITLES, Finding
from dicom_node.spool import Spool
from dicom_node.store import Store
from tests.certificates import Authority
from tests.paths import ROOT
from tests.validators import dciodvfy


def node(folder: Path, *peers: Peer, port: int = 0, **more: object) -> Settings:
    settings = Settings(node=Node(spool=folder / "spool", port=port), peers=peers, web=Web(port=0))
    return replace(settings, **more)  # type: ignore[arg-type]


def test_each_identifier_is_documented_and_given_out_somewhere() -> None:
    manual = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    documented = re.findall(
        r"^\| `([a-z0-9_.]+)` \| [^|]*\|$", manual.partition("## What check looks at")[2], re.MULTILINE
    )
    assert documented == list(TITLES)
    code = "".join(path.read_text("utf-8") for path in (ROOT / "dicom_node").rglob("check*.py"))
    assert not [one for one in TITLES if f'"{one}"' not in code]


def test_an_identifier_that_is_not_listed_is_a_bug() -> None:
    with pytest.raises(KeyError):
        Finding("peer.ecko", True, "")
    assert [Finding("peers", well, "", to_do).level for well, to_do in ((True, ""), (True, "x"), (False, "x"))] == [
        "ok", "note", "failed",
    ]  # fmt: skip


def test_a_port_is_free_or_of_the_node_or_somebody_else_has_it(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        settings = node(tmp_path, port=port)
        (taken,) = check_machine.ports(settings)
        assert (taken.level, taken.name) == ("failed", "port of DICOM")
        assert "ss -ltnp" in taken.remedy
        Spool(settings.node.spool).create()
        store = Store.open(Spool(settings.node.spool).store)
        store.vitals.beat("receive", "1", 1.0, time.time(), {})
        (ours,) = check_machine.ports(settings)
        assert (ours.level, ours.text) == ("ok", f"127.0.0.1:{port} is open, by this node")
        store.vitals.beat("receive", "1", 1.0, time.time() - 600, {})
        assert not next(check_machine.ports(settings)).well, "it has not been heard of for ten minutes"
        store.close()
    (free,) = check_machine.ports(settings)
    assert free.level == "ok"
    (elsewhere,) = check_machine.ports(replace(settings, node=replace(settings.node, host="192.0.2.1")))
    assert (elsewhere.well, "set [node] host to an address of this machine" in elsewhere.remedy) == (False, True)


def test_what_runs_was_stopped_or_went_without_a_word_is_said_of_each_process(tmp_path: Path) -> None:
    settings = node(tmp_path)

    def said() -> dict[str, tuple[str, str]]:
        found = [one for one in check_machine.running(settings) if one.id == "node.process"]
        return {one.about: (one.level, one.text.split(":")[0].split(" since")[0]) for one in found}

    assert said() == {"": ("ok", "none has run with this spool yet")}
    spool = Spool(settings.node.spool)
    spool.create()
    now = time.time()
    with contextlib.closing(Store.open(spool.store)) as store:
        store.vitals.beat("receive", "1", now, now, {})
        store.vitals.beat("work", "1", now - 900, now - 600, {"jobs": "apart"})
        store.vitals.beat("run", "1", now, now, {})
        gone = {"receive": "ok", "work": "failed", "run": "ok"}
        assert {name: level for name, (level, _) in said().items()} == gone
        assert said()["work"][1] == "is not heard of"
        store.vitals.beat("work", "1", now, now, {"jobs": "apart"})
        with pytest.raises(KeyError), keeper.on_record(settings, spool, "receive"):
            raise KeyError  # another one, which cannot have the port: the first goes on
        assert {level for level, _ in said().values()} == {"ok"}
        with keeper.on_record(settings, spool, "work", clock=lambda: now):
            pass
        assert said()["work"] == ("note", "does not run")
        assert said()["run"][0] == "ok", "it runs apart"
        assert "work does not run: it was stopped" in status.overview(store, False)


def test_a_process_that_was_killed_is_missed_at_once_by_whoever_sees_its_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = node(tmp_path)
    spool = Spool(settings.node.spool)
    spool.create()
    now = time.time()
    with contextlib.closing(Store.open(spool.store)) as store, subprocess.Popen(["sleep", "600"]) as child:

        def alive() -> bool:
            found = store.vitals.component("work")
            return found is not None and found.alive(now)

        with monkeypatch.context() as patch:
            patch.setattr(os, "getpid", lambda: child.pid)
            store.vitals.beat("work", "1", now, now, {})
        assert alive()
        child.kill()
        child.wait()
        assert not alive()
        (_, work, _) = (one for one in check_machine.running(settings) if one.id == "node.process")
        assert (work.level, work.text.partition(",")[0]) == ("failed", "has ended without a word")
        assert "work does not run: it has ended without a word" in status.overview(store, False)
        with monkeypatch.context() as patch:  # a container of its own: the same number is another process there
            patch.setattr(vitals, "_place", lambda: "elsewhere pid:[1]")
            assert alive()


def test_a_refused_reload_is_said_until_the_process_has_read_its_settings_again(tmp_path: Path) -> None:
    settings = node(tmp_path)

    def said() -> list[tuple[str, str, bool]]:
        found = [one for one in check_machine.running(settings) if one.id != "node.process"]
        return [(one.id, one.about, one.well) for one in found]

    assert said() == [], "there is no store yet"
    Spool(settings.node.spool).create()
    store = Store.open(Spool(settings.node.spool).store)
    for process in ("serve", "web"):
        store.vitals.took_settings(process, "1", 1.0, "node.toml: unknown key 'x'")
    assert said() == [("node.settings", "serve", False), ("node.settings", "web", False)]
    assert store.vitals.components() == []
    store.vitals.took_settings("receive", "1", 2.0)  # the node is divided now
    store.vitals.took_settings("web", "1", 2.0)
    assert said() == []
    store.close()


def test_a_page_that_another_program_serves_is_not_taken_for_ours(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        web = Web(port=other.getsockname()[1])
        other.close()
        settings = node(tmp_path, web=web)
        assert next(check_machine.ports(settings)).well


def test_disk_flush_and_clock_are_looked_at_and_nothing_is_left_behind(tmp_path: Path) -> None:
    settings = node(tmp_path)
    Spool(settings.node.spool).create()
    before = sorted(settings.node.spool.rglob("*"))
    found = {one.id: one for one in check_machine.spool(settings)}
    assert set(found) == {"machine.spool", "machine.disk", "machine.file_system", "machine.flush"}
    assert re.match(r"\d+\.\d ms", found["machine.flush"].text)
    assert sorted(settings.node.spool.rglob("*")) == before
    assert check_machine.clock().text.startswith(time.strftime("%Y-"))


def test_a_network_file_system_is_refused_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_machine, "kind_of", lambda path, mounts: "nfs4")
    found = {one.id: one for one in check_machine.spool(node(tmp_path))}
    assert (found["machine.file_system"].well, "local disk" in found["machine.file_system"].remedy) == (False, True)


@pytest.mark.parametrize("name", ["localhost", "localhost.localdomain", "node.hospital.example"])
def test_a_node_that_listens_everywhere_is_never_called_localhost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(socket, "getfqdn", lambda: name)
    found = check_peers.ae_title(replace(node(tmp_path), node=Node(host="0.0.0.0")))
    assert "localhost" not in found.text
    assert "host 127." not in found.text
    assert ("node.hospital.example" in found.text) == (name == "node.hospital.example")


def test_what_to_enter_at_the_pacs_is_said_to_the_letter(tmp_path: Path) -> None:
    tls = Tls(listen="beside", port=2762, certificate=Path("a"), private_key=Path("b"))
    found = check_peers.ae_title(node(tmp_path, port=11112, tls=tls))
    assert "AE title PROGNODE (case counts), host 127.0.0.1, port 11112 or port 2762 for TLS" in found.text
    assert "only this machine can call it" in found.remedy
    assert not check_peers.ae_title(node(tmp_path, Peer("PROGNODE"))).well


def test_a_socket_of_systemd_counts_where_the_receiver_has_one(tmp_path: Path) -> None:
    settings = node(tmp_path, port=11112)
    assert check_peers.as_heard(settings) == settings
    Spool(settings.node.spool).create()
    store = Store.open(Spool(settings.node.spool).store)
    facts = {"host": "10.1.2.3", "port": 104, "tls_port": 2762}
    for age, where in ((600, "host 127.0.0.1, port 11112"), (5, "host 10.1.2.3, port 104")):
        store.vitals.beat("receive", "1", 1.0, time.time() - age, facts)
        assert where in check_peers.ae_title(check_peers.as_heard(settings)).text
    store.close()


def test_whether_a_peer_has_ever_called_is_known_from_the_store(tmp_path: Path) -> None:
    settings = node(tmp_path, Peer("CT"), Peer("MR"))

    def called() -> list[Finding]:
        return [one for one in check_peers.peers(settings) if one.id == "peer.called"]

    assert [(one.name, one.text) for one in called()] == [
        ("calls of CT", "it has not called yet"), ("calls of MR", "it has not called yet"),
    ]  # fmt: skip
    assert "let it send a C-ECHO to AE title PROGNODE" in called()[0].remedy
    Spool(settings.node.spool).create()
    store = Store.open(Spool(settings.node.spool).store)
    store.vitals.beat("receive", "1", 1_700_000_000.0, time.time(), {"peers": {"CT": {"associations": 3}}})
    store.close()
    assert called()[0].text.startswith("3 associations since 2023-11-1")
    assert [one.level for one in called()] == ["ok", "note"]


def test_a_chain_that_does_not_hold_together_is_said(tmp_path: Path) -> None:
    authority, other = Authority(tmp_path / "a"), Authority(tmp_path / "b", "Other authority")
    issued = authority.issue("node")
    tls = Tls(certificate=issued.certificate, private_key=issued.key)

    def chain() -> Finding:
        (found,) = [one for one in check_peers.own_certificates(Settings(tls=tls)) if one.id == "tls.chain"]
        return found

    assert chain().text == "our certificate; a peer has to know the authority CN=Test authority"
    alone = issued.certificate.read_bytes()
    issued.certificate.write_bytes(alone + authority.path.read_bytes())
    assert chain().text.startswith("2 certificates")
    issued.certificate.write_bytes(alone + other.path.read_bytes())
    assert (chain().well, "do not follow each other" in chain().text) == (False, True)


def test_the_test_object_is_valid_says_what_it_is_and_is_the_same_each_time(tmp_path: Path) -> None:
    made = check_peers.test_object(Settings())
    assert made == check_peers.test_object(Settings())
    assert made.SOPInstanceUID != check_peers.test_object(Settings(node=Node(ae_title="OTHER"))).SOPInstanceUID
    assert (made.PatientName, made.PatientID) == ("PROGNODE^TEST", "PROGNODE-TEST")
    made.save_as(tmp_path / "test.dcm", enforce_file_format=True)
    assert dciodvfy(tmp_path / "test.dcm") == []
