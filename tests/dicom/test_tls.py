"""DICOM over TLS in both directions: who gets through, who does not, and that each failure is said in words."""

import os
import socket
import ssl
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from pynetdicom import build_context
from pynetdicom.sop_class import Verification

from config.settings import Peer, Settings, SettingsError, Tls, parse
from dicom_node import deliver, door
from dicom_node.associate import association_with
from dicom_node.check import check
from dicom_node.instance import CT
from dicom_node.tls import certificates, complaints, server_context
from dicom_node.workitem import ConfigError, Retryable
from tests.certificates import Authority, Issued
from tests.network import association, receiving, rows, settings_for, store_file, storescu
from tests.synthetic import ct_series, save


class Site:
    """One hospital's certificates: the node, a modality, and somebody of another authority."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority(folder / "ours")
        self.node = self.authority.issue("node", hosts=("127.0.0.1", "node.example"))
        self.modality = self.authority.issue("modality")
        self.expired = self.authority.issue("expired", begins_days=-10, ends_days=-1)
        self.stranger = Authority(folder / "theirs", "Another authority").issue("stranger")

    def tls(self, **more: object) -> Tls:
        options = {
            "listen": "beside", "port": 0, "certificate": self.node.certificate, "private_key": self.node.key,
            "client_ca": self.authority.path, "ca": self.authority.path, **more,
        }  # fmt: skip
        return replace(Tls(), **options)  # type: ignore[arg-type]

    def settings(self, *peers: Peer, **more: object) -> Settings:
        return replace(settings_for(*peers), tls=self.tls(**more))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def ct(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(ct_series(1, seed=31)[0], tmp_path_factory.mktemp("ct"))


def echoscu(
    port: int, site: Site, who: Issued | None, *options: str, calling: str = "MODALITY"
) -> "subprocess.CompletedProcess[str]":
    """DCMTK's echoscu over TLS, as `who` or without a certificate."""
    tls = ["+tls", str(who.key), str(who.certificate)] if who else ["+tla"]
    command = ["echoscu", *tls, "+cf", str(site.authority.path), *options, "-aet", calling, "-aec", "PROGNODE"]
    return subprocess.run([*command, "127.0.0.1", str(port)], capture_output=True, text=True, timeout=30, check=False)


# -- the listener ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", ["--profile-bcp195", "--profile-bcp195-nd", "--profile-bcp195-ex"])
def test_dcmtk_s_bcp_195_profiles_get_through_with_a_certificate(
    tmp_path: Path, site: Site, ct: Path, profile: str
) -> None:
    with receiving(tmp_path, site.settings()) as (receiver, spool):
        done = echoscu(receiver.tls_port, site, site.modality, profile)
        assert done.returncode == 0, done.stderr
        options = ["+tls", str(site.modality.key), str(site.modality.certificate), "+cf", str(site.authority.path)]
        done = storescu(receiver.tls_port, [ct], *options, profile)
        assert done.returncode == 0, done.stderr
        assert len(rows(spool)) == 1


def test_the_retired_aes_profile_is_refused(tmp_path: Path, site: Site, caplog: pytest.LogCaptureFixture) -> None:
    with receiving(tmp_path, site.settings()) as (receiver, _):
        assert echoscu(receiver.tls_port, site, site.modality, "--profile-aes").returncode != 0
    assert "tls.refused 127.0.0.1: offered no TLS 1.2 or newer with a suite of BCP 195" in caplog.text


@pytest.mark.parametrize("version", ["TLSv1", "TLSv1_1"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_older_versions_than_tls_1_2_are_refused(tmp_path: Path, site: Site, version: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
    with receiving(tmp_path, site.settings()) as (receiver, _):
        bare = socket.create_connection(("127.0.0.1", receiver.tls_port))
        with bare, pytest.raises(ssl.SSLError):
            context.wrap_socket(bare)


@pytest.mark.parametrize(
    ("who", "said"), [(None, "showed no certificate"), ("stranger", "failed"), ("expired", "failed")]
)
def test_a_caller_without_a_good_certificate_is_refused_and_the_log_says_why(
    tmp_path: Path, site: Site, who: str | None, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    with receiving(tmp_path, site.settings()) as (receiver, _):
        assert echoscu(receiver.tls_port, site, getattr(site, who) if who else None, "-ic").returncode != 0
        assert echoscu(receiver.tls_port, site, site.modality).returncode == 0
    (line,) = [record.getMessage() for record in caplog.records if "tls.refused" in record.getMessage()]
    assert said in line


def test_without_a_client_authority_any_caller_gets_through(tmp_path: Path, site: Site) -> None:
    with receiving(tmp_path, site.settings(client_ca=None)) as (receiver, _):
        assert echoscu(receiver.tls_port, site, None).returncode == 0


def test_the_tls_port_takes_no_plain_caller_and_the_plain_port_no_tls(
    tmp_path: Path, site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    with receiving(tmp_path, site.settings()) as (receiver, _):
        with association(receiver.tls_port, [CT]) as made:
            assert not made.is_established
        assert "spoke no TLS on the TLS port" in caplog.text
        assert echoscu(receiver.port, site, site.modality).returncode != 0
        with association(receiver.port, [CT]) as made:
            assert made.is_established


def test_with_tls_only_the_plain_port_is_not_opened(tmp_path: Path, site: Site) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        settings = replace(
            site.settings(listen="only"), node=replace(site.settings().node, port=other.getsockname()[1])
        )
        with receiving(tmp_path, settings) as (receiver, _):  # the plain port is somebody else's: it would not start
            assert receiver.port == receiver.tls_port
            assert echoscu(receiver.tls_port, site, site.modality).returncode == 0


def test_a_peer_with_tls_in_its_entry_may_not_call_without(
    tmp_path: Path, site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    settings = site.settings(Peer("SECURE", tls=True))
    with receiving(tmp_path, settings) as (receiver, _):
        with association(receiver.port, [CT], calling="SECURE") as made:
            assert made.is_rejected
        assert echoscu(receiver.tls_port, site, site.modality, calling="SECURE").returncode == 0
    assert "called without TLS, but its [[peers]] entry has tls = true" in caplog.text


def test_half_a_handshake_ends_at_the_time_out_and_stops_nobody(
    tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    passed = [0.0]
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + passed[0], sleep=time.sleep)
    monkeypatch.setattr(door, "time", clock)
    settings = site.settings()
    settings = replace(settings, receive=replace(settings.receive, acse_timeout_seconds=1000.0))
    with receiving(tmp_path, settings) as (receiver, _):
        silent = [socket.create_connection(("127.0.0.1", receiver.tls_port)) for _ in range(12)]
        for each in silent[::2]:
            each.sendall(b"\x16\x03\x01\x02\x00\x01")  # the head of a record, and a byte of it
        assert echoscu(receiver.tls_port, site, site.modality).returncode == 0
        passed[0] = 1001.0
        for each in silent:
            each.settimeout(60.0)
            assert each.recv(1) == b""
            each.close()


# -- the caller --------------------------------------------------------------------------------------------------


def test_a_delivery_goes_over_tls_with_our_certificate_and_the_peer_s_name_checked(
    tmp_path: Path, site: Site, ct: Path
) -> None:
    with receiving(tmp_path, site.settings()) as (receiver, spool):
        peer = Peer("PROGNODE", port=receiver.tls_port, tls=True)
        ours = replace(site.settings(listen="off"), node=replace(site.settings().node, ae_title="MODALITY"))
        assert deliver.echo(peer, ours).ok
        with association_with(peer, ours, [build_context(CT)]) as made:
            assert store_file(made, ct)[0] == 0x0000
        assert len(rows(spool)) == 1
        by_name = replace(peer, tls_name="node.example")
        assert deliver.echo(by_name, ours).ok


@pytest.mark.parametrize(
    ("peer", "tls", "said", "hint"),
    [
        ({"tls_name": "other.example"}, {}, "Hostname mismatch", "tls_name"),
        ({}, {"ca": "stranger"}, "certificate that is not accepted", "[tls] ca"),
        ({}, {"certificate": None, "private_key": None}, "", "certificate of ours"),
        ({"tls": False}, {}, "did not answer the association request", "(without TLS)"),
    ],
)
def test_why_there_is_no_tls_with_a_peer_is_said_in_words(
    tmp_path: Path, site: Site, peer: dict[str, object], tls: dict[str, object], said: str, hint: str
) -> None:
    if tls.get("ca") == "stranger":
        tls = {"ca": site.stranger.certificate.with_name("ca.pem")}
    with receiving(tmp_path, site.settings()) as (receiver, _):
        called = replace(Peer("PROGNODE", port=receiver.tls_port, tls=True), **peer)  # type: ignore[arg-type]
        ours = replace(site.settings(listen="off", **tls), node=replace(site.settings().node, ae_title="MODALITY"))
        with pytest.raises(Retryable) as caught, association_with(called, ours, [build_context(Verification)]):
            pass
    assert said in str(caught.value)
    assert hint in caught.value.hint


def test_an_expired_certificate_of_a_peer_is_refused(tmp_path: Path, site: Site) -> None:
    settings = site.settings(certificate=site.expired.certificate, private_key=site.expired.key)
    with receiving(tmp_path, settings) as (receiver, _):
        ours = replace(site.settings(listen="off"), node=replace(settings.node, ae_title="MODALITY"))
        answer = deliver.echo(Peer("PROGNODE", port=receiver.tls_port, tls=True), ours)
    assert not answer.ok
    assert "certificate has expired" in answer.message


def test_a_peer_without_tls_is_said_to_have_none(tmp_path: Path, site: Site) -> None:
    with receiving(tmp_path, site.settings()) as (receiver, _):
        answer = deliver.echo(Peer("PROGNODE", port=receiver.port, tls=True), site.settings(listen="off"))
    assert not answer.ok
    assert "found no common TLS" in answer.message


# -- files -------------------------------------------------------------------------------------------------------


def test_a_private_key_that_others_can_read_is_refused_with_a_sentence(tmp_path: Path, site: Site) -> None:
    key = tmp_path / "node.key"
    key.write_bytes(site.node.key.read_bytes())
    key.chmod(0o644)
    with pytest.raises(ConfigError, match=r"node\.key: others can read or write it \(0644\); run: chmod 0600"):
        server_context(site.tls(private_key=key))


def test_files_that_do_not_fit_are_named(tmp_path: Path, site: Site) -> None:
    junk = tmp_path / "junk.pem"
    junk.write_text("-----BEGIN NOTHING-----\n")
    junk.chmod(0o600)
    encrypted = tmp_path / "encrypted.key"
    command = ["openssl", "pkey", "-in", str(site.node.key), "-aes256", "-passout", "pass:x", "-out", str(encrypted)]
    subprocess.run(command, check=True, capture_output=True)
    encrypted.chmod(0o600)
    for more, said in (
        ({"certificate": junk}, "certificate .* holds no certificate in PEM"),
        ({"certificate": tmp_path / "absent.pem"}, r"certificate .*absent\.pem: cannot be read"),
        ({"private_key": site.modality.key}, "does not belong to certificate"),
        ({"private_key": junk}, "is no private key in PEM without a passphrase"),
        ({"private_key": encrypted}, "is no private key in PEM without a passphrase"),
        ({"client_ca": junk}, "client_ca .* holds no certificate in PEM"),
    ):
        with pytest.raises(ConfigError, match=said):
            server_context(site.tls(**more))


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"tls": {"listen": "only"}}, "needs certificate and private_key"),
        ({"tls": {"certificate": "a.pem"}}, "certificate and private_key go together"),
        ({"tls": {"port": 70000}}, "'tls.port' must be from 0 to 65535"),
        ({"peers": [{"ae_title": "CT1", "addresses": ["10.1.2.300"]}]}, "CT1: '10.1.2.300' in addresses is no network"),
    ],
)
def test_settings_that_cannot_work_are_refused(document: dict[str, object], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        parse(document, Path("/"))


# -- expiry ------------------------------------------------------------------------------------------------------


def test_days_left_are_counted_and_warned_of_at_start(
    tmp_path: Path, site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    soon = site.authority.issue("soon", ends_days=10.5)
    tls = site.tls(certificate=soon.certificate, private_key=soon.key)
    (ours, *_) = certificates(tls)
    assert 10 < ours.days_left(time.time()) < 11
    assert complaints(site.tls(), time.time()) == []
    with receiving(tmp_path, replace(site.settings(), tls=tls)):
        pass
    assert "tls.certificate [tls] certificate" in caplog.text
    assert "in 10 days; install a new one" in caplog.text


@pytest.mark.parametrize(
    ("name", "days", "well", "said"),
    [("fresh", (-1, 365), True, "364 days left"), ("stale", (-10, -1), False, "ran out on"),
     ("late", (-10, 5), False, "in 4 days"), ("early", (3, 30), False, "is not valid before")],
)  # fmt: skip
@pytest.mark.usefixtures("no_golden_case")
def test_check_says_how_long_the_certificate_is_good(
    tmp_path: Path, site: Site, name: str, days: tuple[float, float], well: bool, said: str
) -> None:
    issued = site.authority.issue(name, begins_days=days[0], ends_days=days[1])
    settings = site.settings(certificate=issued.certificate, private_key=issued.key)
    settings = replace(settings, node=replace(settings.node, spool=tmp_path / "spool"))
    findings = [one for one in check(settings) if one.name == "TLS certificate"]
    assert [one.well for one in findings] == [well]
    assert said in findings[0].text
    assert well != bool(findings[0].remedy)


@pytest.mark.usefixtures("no_golden_case")
def test_check_names_a_key_that_others_can_read(tmp_path: Path, site: Site) -> None:
    key = tmp_path / "node.key"
    key.write_bytes(site.node.key.read_bytes())
    os.chmod(key, 0o640)
    settings = site.settings(private_key=key)
    settings = replace(settings, node=replace(settings.node, spool=tmp_path / "spool"))
    (finding,) = [one for one in check(settings) if one.name == "TLS"]
    assert not finding.well
    assert "chmod 0600" in finding.text
