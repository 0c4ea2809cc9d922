"""`prognode check` on peers that speak TLS: whether their certificate is accepted here, and until when it is good."""

import socket
import ssl
import threading
from dataclasses import replace
from pathlib import Path

from config.settings import Hl7Peer, Peer, Settings, Tls
from dicom_node import check_peers
from dicom_node.finding import Finding
from tests.certificates import Authority, Issued
from tests.network import NODE, receiving, settings_for


def ours(folder: Path, *peers: Peer, hl7_peers: tuple[Hl7Peer, ...] = (), ca: Path) -> Settings:
    settings = settings_for(*peers)
    return replace(settings, node=replace(settings.node, spool=folder / "none"), hl7_peers=hl7_peers, tls=Tls(ca=ca))


def test_a_pacs_whose_certificate_runs_out_soon_is_told_of(tmp_path: Path) -> None:
    authority, stranger = Authority(tmp_path / "a"), Authority(tmp_path / "b", "Other authority")
    issued = authority.issue("pacs", ends_days=10.5)
    theirs = replace(
        settings_for(Peer(NODE)),
        tls=Tls(listen="only", port=0, certificate=issued.certificate, private_key=issued.key),
    )
    with receiving(tmp_path, theirs) as (pacs, _):
        peer = Peer("PROGNODE", port=pacs.port, tls=True, sends=False, receives_results=True)
        settings = ours(tmp_path, peer, ca=authority.path)
        found = {one.id: one for one in check_peers.peers(settings)}
        assert found["peer.echo"].well
        soon = found["peer.certificate"]
        assert (soon.well, soon.name, "in 10 days" in soon.text) == (False, "certificate of PROGNODE", True)
        assert "nothing can be sent there" in soon.remedy
        calm = replace(settings, tls=replace(settings.tls, expiry_warning_days=5.0))
        assert {one.id: one.level for one in check_peers.peers(calm)}["peer.certificate"] == "ok"

        unknown = [one for one in check_peers.peers(ours(tmp_path, peer, ca=stranger.path)) if one.id == "peer.echo"]
        assert not unknown[0].well
        assert "shows a certificate that is not accepted" in unknown[0].text


def shaking_hands(listener: socket.socket, issued: Issued, times: int) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(issued.certificate, issued.key)
    for _ in range(times):
        connection, _ = listener.accept()
        with connection, context.wrap_socket(connection, server_side=True) as secure:
            secure.recv(1)


def test_a_ris_that_speaks_mllps_is_looked_at_in_the_same_way(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "a")
    issued = authority.issue("ris", ends_days=100.5)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=shaking_hands, args=(listener, issued, 2), daemon=True)
        thread.start()
        ris = Hl7Peer("RIS", port=listener.getsockname()[1], tls=True, ca=authority.path)
        gone = Hl7Peer("GONE", port=9)
        found = list(check_peers.hl7(ours(tmp_path, hl7_peers=(ris, gone), ca=authority.path)))
        thread.join(10)
    assert [(one.id, one.about, one.well) for one in found] == [
        ("hl7.peer", "RIS", True), ("hl7.peer_certificate", "RIS", True), ("hl7.peer", "GONE", False),
    ]  # fmt: skip
    assert "in 100 days" in found[1].text
    assert isinstance(found[0], Finding)
