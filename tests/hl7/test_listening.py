"""The MLLP listener over real sockets: who is answered what, when, and what a caller cannot do."""

import contextlib
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from config.settings import Hl7, Settings
from dicom_node import hl7_in, ledger
from dicom_node.hl7_in import Listener
from dicom_node.identity import Identity
from dicom_node.mllp import Reader, framed
from dicom_node.spool import Spool
from dicom_node.store import Store
from dicom_node.workitem import ConfigError, StoreBusy
from tests.certificates import Authority
from tests.hl7_inputs import adt, msh

ANNA = Identity(patient_id="4711", patient_name="Mueller^Joerg", patient_birth_date="19500102", patient_sex="M")
NOW = 1_700_000_000.0


@contextmanager
def listening(folder: Path, **hl7: Any) -> Iterator[tuple[Listener, Store]]:
    spool = Spool(folder / "spool")
    spool.create()
    store = Store.open(spool.store)
    listener = Listener(Settings(hl7=Hl7(listen=True, port=0, **hl7)), spool)
    listener.start()
    try:
        yield listener, store
    finally:
        listener.stop(grace_seconds=0.5)
        store.close()


class Sender:
    """An integration engine's side of a connection."""

    def __init__(self, port: int, context: ssl.SSLContext | None = None) -> None:
        plain = socket.create_connection(("127.0.0.1", port), 60)
        self.sock = context.wrap_socket(plain, server_hostname="127.0.0.1") if context else plain
        self.sock.settimeout(60)
        self._reader, self._waiting = Reader(1 << 20), list[bytes]()

    def say(self, text: str | bytes, encoding: str = "utf-8") -> list[str]:
        """Send a message; the fields of MSA."""
        self.raw(framed(text if isinstance(text, bytes) else text.encode(encoding)))
        return self.hear()

    def raw(self, data: bytes) -> None:
        self.sock.sendall(data)

    def hear(self) -> list[str]:
        while not self._waiting:
            data = self.sock.recv(65_536)
            if not data:
                return []
            self._waiting += self._reader.feed(data)
        answer = self._waiting.pop(0).decode("utf-8", "replace")
        return next(line for line in answer.split("\r") if line.startswith("MSA")).split("|")

    def closed(self) -> bool:
        try:
            return self.sock.recv(1) == b""
        except ConnectionError:
            return True

    def close(self) -> None:
        self.sock.close()


@pytest.fixture
def sender_to() -> Iterator[Callable[..., Sender]]:
    made: list[Sender] = []

    def make(listener: Listener, context: ssl.SSLContext | None = None) -> Sender:
        made.append(Sender(listener.port, context))
        return made[-1]

    yield make
    for one in made:
        one.close()


To = Callable[..., Sender]


def name_of(store: Store, study: str = "1") -> str:
    identity = store.patients.of_study(study)
    assert identity is not None
    return identity.patient_name


def test_an_update_is_in_the_store_when_it_is_acknowledged(tmp_path: Path, sender_to: To) -> None:
    with listening(tmp_path) as (listener, store):
        store.patients.received("1", ANNA, NOW)
        assert sender_to(listener).say(adt("A08", control_id="M1")) == ["MSA", "AA", "M1", "1 studies changed"]
        assert store.patients.of_study("1") == replace(ANNA, patient_name="Müller^Jörg", patient_birth_date="19500101")
        (change,) = store.patients.changes("1")
        assert (change.source, change.before) == ("HL7 ADT^A08", ANNA)
        (entry,) = store.audit.newest()
        assert (entry.origin, entry.action, entry.actor, entry.address) == (
            "hl7", "identity.changed", "RIS|HOSPITAL", "127.0.0.1",
        )  # fmt: skip
        assert entry.detail == "HL7 ADT^A08: patient_name, patient_birth_date"


@pytest.mark.parametrize("event", ["A40", "A34", "A18", "A47"])
def test_a_merge_moves_the_studies_of_the_prior_id(event: str, tmp_path: Path, sender_to: To) -> None:
    with listening(tmp_path) as (listener, store):
        store.patients.received("1", ANNA, NOW)
        text = adt(event, "1||0815^^^HOSPITAL^MR||Müller^Jörg", mrg="4711^^^HOSPITAL^MR")
        assert sender_to(listener).say(text)[1] == "AA"
        moved = store.patients.of_study("1")
        assert moved is not None
        assert (moved.patient_id, moved.patient_name) == ("0815", "Müller^Jörg")
        assert store.patients.changes("1")[0].source == f"HL7 ADT^{event}"
        store.patients.received("2", ANNA, NOW)
        assert name_of(store, "2") == "Mueller^Joerg", "what comes late has the new ID and its own name"
        late = store.patients.of_study("2")
        assert late is not None
        assert late.patient_id == "0815"


def test_the_same_message_again_is_answered_again_and_not_applied_again(tmp_path: Path, sender_to: To) -> None:
    with listening(tmp_path) as (listener, store):
        store.patients.received("1", ANNA, NOW)
        text = adt("A08", control_id="M1")
        first = sender_to(listener).say(text)
        store.patients.change("1", ANNA, "C-FIND", NOW)
        later = text.replace("20260301120000", "20260301130000", 1)  # an engine may write MSH-7 anew
        assert sender_to(listener).say(later) == first
        assert name_of(store) == "Mueller^Joerg", "the first answer, and nothing else"
        assert len(store.audit.newest()) == 1


def test_a_number_that_comes_round_again_is_another_message(tmp_path: Path, sender_to: To) -> None:
    with listening(tmp_path) as (listener, store):
        store.patients.received("1", ANNA, NOW)
        sender = sender_to(listener)
        sender.say(adt("A08", control_id="M1"))
        assert sender.say(adt("A08", "1||4711||Neu^Name", control_id="M1"))[3] == "1 studies changed"
        assert name_of(store) == "Neu^Name"
        assert sender.say(adt("A08", control_id="M1").replace("RIS|", "LAB|"))[3] == "1 studies changed"


def test_one_connection_carries_many_messages_also_in_pieces_and_in_a_bunch(tmp_path: Path, sender_to: To) -> None:
    with listening(tmp_path) as (listener, _):
        sender = sender_to(listener)
        for number in range(5):
            assert sender.say(adt("A08", control_id=str(number)))[1:3] == ["AA", str(number)]
        for byte in framed(adt("A08", control_id="slow").encode()):
            sender.raw(bytes([byte]))
        assert sender.hear()[2] == "slow"
        sender.raw(b"noise" + b"".join(framed(adt("A08", control_id=f"b{n}").encode()) for n in range(3)))
        assert [sender.hear()[2] for _ in range(3)] == ["b0", "b1", "b2"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (msh("ADT^A01") + "PID|1||4711\r", "are taken here; filter the rest out"),
        (msh("SIU^S12"), "are taken here"),
        (msh("ADT^A08"), "has no PID segment"),
        (adt("A08", "1||"), "PID-3 holds no patient identifier"),
        (adt("A40", "1||B^^^X", mrg="A^^^Y"), "assigning authority"),
        (adt("A08").replace("|P|2.5.1", "|T|2.5.1"), "MSH-11 must be P"),
        (adt("A08").replace("UTF-8", "KLINGON"), "character set that is not read here"),
    ],
)
def test_what_is_wrong_is_rejected_with_why_and_changes_nothing(
    text: str, words: str, tmp_path: Path, sender_to: To
) -> None:
    with listening(tmp_path) as (listener, store):
        store.patients.received("1", ANNA, NOW)
        msa = sender_to(listener).say(text)
        assert msa[1:3] == ["AR", "1"]
        assert words in msa[3].replace("\\S\\", "^")
        assert name_of(store) == "Mueller^Joerg"
        assert store.audit.newest() == []


def test_a_name_in_latin_1_is_read_as_the_message_says(tmp_path: Path, sender_to: To) -> None:
    with listening(tmp_path) as (listener, store):
        store.patients.received("1", ANNA, NOW)
        text = adt("A08").replace("UNICODE UTF-8", "8859/1")
        assert sender_to(listener).say(text, "latin-1")[1] == "AA"
        assert name_of(store) == "Müller^Jörg"
        undeclared = adt("A08", control_id="2").replace("UNICODE UTF-8", "")
        assert sender_to(listener).say(undeclared, "latin-1")[1] == "AR", "never guessed"


def test_what_may_pass_later_is_an_error_and_is_taken_when_it_comes_again(
    tmp_path: Path, sender_to: To, monkeypatch: pytest.MonkeyPatch
) -> None:
    with listening(tmp_path) as (listener, store):
        store.patients.received("1", ANNA, NOW)
        sender = sender_to(listener)

        def busy(*_: object) -> None:
            raise StoreBusy("the store cannot be used", "wait")

        with monkeypatch.context() as patched:
            patched.setattr(ledger.Ledger, "call", busy)
            assert sender.say(adt("A08"))[1] == "AE"
        assert name_of(store) == "Mueller^Joerg"
        assert sender.say(adt("A08"))[1] == "AA"
        assert name_of(store) == "Müller^Jörg"


def test_half_of_a_message_is_no_message_and_a_crash_before_the_commit_leaves_nothing(
    tmp_path: Path, sender_to: To, monkeypatch: pytest.MonkeyPatch
) -> None:
    with listening(tmp_path) as (listener, store):
        store.patients.received("1", ANNA, NOW)
        half = sender_to(listener)
        half.raw(framed(adt("A08").encode())[:-2])
        half.close()
        time.sleep(0.1)
        assert name_of(store) == "Mueller^Joerg"

        def dies(*_: object) -> None:
            raise RuntimeError("in mid-work")

        monkeypatch.setattr("dicom_node.hl7_apply._Clerk._record", dies)
        assert sender_to(listener).say(adt("A08"))[1] == "AE"
        assert name_of(store) == "Mueller^Joerg", "the change was rolled back with its record"
        assert store.patients.changes("1") == []


# -- clinical values -----------------------------------------------------------------------------------------


def results(*observations: str, control_id: str = "R1", order: str = "F1") -> str:
    head = msh("ORU^R01", control_id=control_id) + "PID|1||4711^^^HOSPITAL^MR||Mueller^Joerg\r"
    return head + f"OBR|1|P1|{order}|CHEM^Chemistry^L|||20260228\r" + "".join(f"{one}\r" for one in observations)


def values(store: Store) -> dict[str, tuple[object, str, str, str]]:
    found = store.clinical.current("4711", "HOSPITAL")
    return {one.name: (one.value, one.unit, one.observed_on, one.source) for one in found}


def test_values_of_a_laboratory_go_into_the_clinical_store(tmp_path: Path, sender_to: To) -> None:
    albumin = "OBX|1|NM|1751-7^Albumin^LN||3.9|g/dL^^UCUM|||||F|||20260301101500+0100"
    platelets = "OBX|2|NM|777-3^Platelets^LN||250|10*9/L|||||F"
    with listening(tmp_path) as (listener, store):
        sender = sender_to(listener)
        assert sender.say(results(albumin, platelets))[3] == "2 values recorded"
        assert values(store) == {
            "albumin": (39.0, "g/L", "2026-03-01", "HL7 ORU^R01"),
            "platelets": (250.0, "10*9/L", "2026-02-28", "HL7 ORU^R01"),
        }
        corrected = albumin.replace("|3.9|", "|4.1|").replace("|F|", "|C|")
        assert sender.say(results(corrected, control_id="R2"))[3] == "1 values recorded"
        assert values(store)["albumin"][0] == 41.0
        withdrawn = albumin.replace("|F|", "|W|")
        assert "1 taken back" in sender.say(results(withdrawn, control_id="R3"))[3]
        assert set(values(store)) == {"platelets"}


def test_a_value_that_cannot_be_used_is_named_to_its_sender_and_the_rest_is_taken(
    tmp_path: Path, sender_to: To
) -> None:
    with listening(tmp_path) as (listener, store):
        said = sender_to(listener).say(
            results(
                "OBX|1|NM|1751-7^Albumin^LN||39||||||F",
                "OBX|2|NM|777-3^Platelets^LN||250|10*9/L|||||F",
                "OBX|3|NM|99999-9^Unknown^LN||1|kg|||||F",
                "OBX|4|SN|1988-5^CRP^LN||<^5|mg/L|||||F",
            )
        )[3]
        assert said.startswith("1 values recorded")
        assert "albumin not taken: its unit is not stated" in said
        assert "crp not taken" in said
        assert set(values(store)) == {"platelets"}


def test_an_update_may_carry_values_too(tmp_path: Path, sender_to: To) -> None:
    with listening(tmp_path) as (listener, store):
        store.patients.received("1", ANNA, NOW)
        text = adt("A08") + "OBX|1|NM|39156-5^BMI^LN||24.5|kg/m2|||||F|||20260301\r"
        assert sender_to(listener).say(text)[3] == "1 studies changed; 1 values recorded"
        assert values(store)["bmi"] == (24.5, "kg/m2", "2026-03-01", "HL7 ADT^A08")


def test_values_under_a_merged_id_are_the_surviving_patient_s(tmp_path: Path, sender_to: To) -> None:
    with listening(tmp_path) as (listener, store):
        sender = sender_to(listener)
        sender.say(results("OBX|1|NM|777-3^Platelets^LN||250|10*9/L|||||F"))
        sender.say(adt("A40", "1||0815^^^HOSPITAL^MR", control_id="M1", mrg="4711^^^HOSPITAL^MR"))
        assert [one.name for one in store.clinical.current("0815", "HOSPITAL")] == ["platelets"]


# -- limits --------------------------------------------------------------------------------------------------


def test_a_message_that_is_too_long_is_rejected_by_its_number_and_not_kept_in_memory(
    tmp_path: Path, sender_to: To
) -> None:
    with listening(tmp_path, maximum_message_bytes=10_000) as (listener, _):
        sender = sender_to(listener)
        sender.raw(b"\x0b" + adt("A08", control_id="BIG").encode() + b"OBX|" + b"x" * 20_000)
        msa = sender.hear()
        assert msa[1:3] == ["AR", "BIG"]
        assert "longer than 10000 bytes" in msa[3]
        assert sender.closed()


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n\r\n", framed(b"hello"), framed(b""), b"\x16\x03\x01\x02"])
def test_who_speaks_no_hl7_gets_no_answer_and_harms_nobody(data: bytes, tmp_path: Path, sender_to: To) -> None:
    with listening(tmp_path, message_timeout_seconds=0.5, idle_timeout_seconds=0.5) as (listener, _):
        stranger = sender_to(listener)
        stranger.raw(data)
        assert stranger.closed()
        # One that was slow to speak would be closed too; so it may have a second go.
        assert any(_served(sender_to(listener)) for _ in range(5))


def _served(sender: Sender) -> bool:
    with contextlib.suppress(ConnectionError):
        return sender.say(adt("A08"))[1:2] == ["AA"]
    return False


def test_who_stops_in_mid_message_is_dropped_and_who_idles_is_not(tmp_path: Path, sender_to: To) -> None:
    with listening(tmp_path, message_timeout_seconds=0.3) as (listener, _):
        idle, stalled = sender_to(listener), sender_to(listener)
        stalled.raw(b"\x0bMSH|")
        drip = threading.Thread(target=lambda: _drip(stalled), daemon=True)
        drip.start()
        begun = time.monotonic()
        assert stalled.closed()
        assert time.monotonic() - begun < 40.0, "byte by byte does not buy more time"
        assert idle.say(adt("A08"))[1] == "AA"


def _drip(sender: Sender) -> None:
    with contextlib.suppress(OSError):
        for _ in range(1200):
            sender.raw(b"x")
            time.sleep(0.05)


def test_idle_connections_never_lock_a_sender_out(tmp_path: Path, sender_to: To) -> None:
    with listening(tmp_path, maximum_connections=3) as (listener, _):
        crowd = [sender_to(listener) for _ in range(10)]
        assert sender_to(listener).say(adt("A08"))[1] == "AA"
        assert crowd[0].closed()


def test_when_all_connections_are_at_work_the_next_one_is_turned_away(
    tmp_path: Path, sender_to: To, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING), listening(tmp_path, maximum_connections=2) as (listener, _):
        busy = [sender_to(listener) for _ in range(2)]
        for one in busy:
            one.raw(b"\x0bMSH|")
        deadline = time.monotonic() + 60
        while sum(c.busy for c in listener._connections) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert sender_to(listener).closed()
        assert "hl7.busy 127.0.0.1: all 2 connections are at work" in caplog.text


def test_a_host_without_a_thread_to_spare_turns_one_away_and_goes_on_listening(
    tmp_path: Path, sender_to: To, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with caplog.at_level(logging.WARNING), listening(tmp_path) as (listener, _):
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", _no_thread)
            assert sender_to(listener).closed()
        assert "hl7.busy 127.0.0.1: the host has no thread for it" in caplog.text
        assert listener._connections == set()
        assert sender_to(listener).say(adt("A08"))[1] == "AA"


def _no_thread(_: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def test_only_the_allowed_hosts_may_send(tmp_path: Path, sender_to: To, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), listening(tmp_path, allowed_hosts=("10.0.0.0/8",)) as (listener, _):
        assert sender_to(listener).closed()
        assert sender_to(listener).closed()
        assert caplog.text.count("hl7.connection_refused 127.0.0.1") == 1, "said once"
    with listening(tmp_path, allowed_hosts=("10.0.0.1", "127.0.0.0/8")) as (listener, _):
        assert sender_to(listener).say(adt("A08"))[1] == "AA"


def test_a_stop_answers_what_is_at_work_and_closes_what_idles(tmp_path: Path, sender_to: To) -> None:
    with listening(tmp_path) as (listener, _):
        idle = sender_to(listener)
        begun = time.monotonic()
        listener.stop()
        assert time.monotonic() - begun < 40.0
        assert idle.closed()
        with pytest.raises(ConnectionRefusedError):
            Sender(listener.port)


# -- MLLPS ---------------------------------------------------------------------------------------------------


def client(authority: Authority, *pair: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(authority.path))
    if pair:
        context.load_cert_chain(*pair)
    return context


def test_over_tls_with_a_certificate_on_both_sides(tmp_path: Path, sender_to: To) -> None:
    authority, other = Authority(tmp_path), Authority(tmp_path / "other")
    certificate, key = authority.issue("node")
    tls = {"certificate": certificate, "private_key": key, "client_ca": authority.path}
    with listening(tmp_path, **tls) as (listener, store):
        store.patients.received("1", ANNA, NOW)
        ours = client(authority, *authority.issue("engine"))
        assert sender_to(listener, ours).say(adt("A08"))[1] == "AA"
        assert name_of(store) == "Müller^Jörg"
        assert _turned_away(listener, client(authority)), "no certificate"
        assert _turned_away(listener, client(authority, *other.issue("stranger")))
        old = client(authority, *authority.issue("old"))
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        old.minimum_version = ssl.TLSVersion.TLSv1_2
        assert sender_to(listener, old).say(adt("A08", control_id="2"))[1] == "AA"
        assert name_of(store) == "Müller^Jörg"


def _turned_away(listener: Listener, context: ssl.SSLContext) -> bool:
    """With TLS 1.3 a client hears it only when it waits for an answer."""
    try:
        sender = Sender(listener.port, context)
        answer = sender.say(adt("A08", "1||4711||Evil^Eve"))
        sender.close()
    except OSError:
        return True
    return answer == []


def test_a_caller_that_says_nothing_does_not_keep_tls_from_the_others(tmp_path: Path, sender_to: To) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("node")
    with listening(tmp_path, certificate=certificate, private_key=key) as (listener, _):
        for _ in range(12):
            sender_to(listener)
        assert sender_to(listener, client(authority)).say(adt("A08"))[1] == "AA"


def test_a_caller_that_has_to_make_room_in_the_middle_of_the_handshake_is_really_closed(
    tmp_path: Path, sender_to: To
) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("node")
    with listening(tmp_path, certificate=certificate, private_key=key, maximum_connections=2) as (listener, _):
        before = set(threading.enumerate())  # those of a test before may still be ending
        crowd = [sender_to(listener) for _ in range(40)]
        for evicted in crowd[:38]:
            evicted.sock.settimeout(25)  # far less than message_timeout_seconds, which ends a handshake in any case
            assert evicted.closed()
        deadline = time.monotonic() + 60
        while _threads(before) != 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert _threads(before) == 2
        for staying in crowd[38:]:  # a descriptor closed too early would be one of theirs
            staying.sock.settimeout(0.05)
            with pytest.raises(TimeoutError):
                staying.closed()


def _threads(before: set[threading.Thread]) -> int:
    return sum(thread.name == "hl7-sender" for thread in set(threading.enumerate()) - before)


def test_a_certificate_that_cannot_be_used_stops_the_start_and_is_named(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, _ = authority.issue("node")
    _, other = authority.issue("other")
    with (
        pytest.raises(ConfigError, match=r"\[hl7\] private_key .* does not belong"),
        listening(tmp_path, certificate=certificate, private_key=other),
    ):
        pass


# -- what is logged ------------------------------------------------------------------------------------------


def test_no_name_or_identifier_is_logged_whatever_happens(
    tmp_path: Path, sender_to: To, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    marked = "1||QZX4711^^^QZXISSUER||Qzxname^Qzxgiven||19470813|M"
    with caplog.at_level(logging.DEBUG), listening(tmp_path) as (listener, store):
        store.patients.received("1", Identity(patient_id="QZX4711"), NOW)
        sender = sender_to(listener)
        for text in (
            adt("A08", marked),
            adt("A40", marked.replace("4711", "4712"), mrg="QZX4711^^^QZXISSUER"),
            adt("A01", marked),
            adt("A40", marked, mrg="QZX1^^^QZXOTHER"),
            msh("ORU^R01") + f"PID|{marked}\rOBX|1|NM|1751-7^Qzxname^LN||Qzxvalue|QZX|||||F\r",
        ):
            sender.say(text)
        monkeypatch.setattr(hl7_in, "apply", lambda *_: 1 / 0)
        assert sender.say(adt("A08", marked))[1] == "AE"
        assert "hl7.taken" in caplog.text
        assert "hl7.refused" in caplog.text
        assert "qzx" not in caplog.text.lower()
        assert "19470813" not in caplog.text
