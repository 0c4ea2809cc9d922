"""Results to a RIS in another process, over real sockets: what each answer means, MLLPS, and that nothing is sent twice
under two numbers."""

import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from config.settings import Deliver, Hl7, Hl7Peer, Node, Settings
from dicom_node import check, check_peers, hl7_out
from dicom_node.answer import Answer, Outgoing, Previous
from dicom_node.mllp import NotReached, reach
from dicom_node.workitem import DeliveryState, State, WorkItem
from tests.certificates import Authority
from tests.hl7.ris import Ris, ris
from tests.hl7_inputs import ANNA, not_scored, observations, scored, segments

NOW = 1_772_442_930.0
ITEM = WorkItem(
    id=1, state=State.REPORTED, study_instance_uid="1.2.840.1", ct_series_instance_uid="1.2.840.3",
    roi_sop_instance_uid="1.2.840.2", key="k" * 64, revision=1, predecessor_key=None, content_key=None,
    inputs_digest=None, plan=None, outcome="SCORED", reason=None, hint=None, replan=0, priority=0, held=0, shadow=0,
    summary=None, identity=None, attempts=0, run_after=0.0, scheduled_at=NOW, created_at=NOW, updated_at=NOW,
)  # fmt: skip


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ris]:
    with ris(tmp_path_factory.mktemp("ris")) as one:
        yield one


def settings_for(*peers: Hl7Peer) -> Settings:
    return Settings(
        node=Node(site="Test site", time_zone="Europe/Berlin"),
        hl7=Hl7(sending_facility="RADIOLOGY"),
        hl7_peers=peers,
        deliver=Deliver(connect_timeout_seconds=30.0),
    )


def send_to(peer: Hl7Peer, item: WorkItem = ITEM, *previous: Previous) -> Answer:
    return hl7_out.send(Outgoing(peer.name, item, scored(), ANNA, settings_for(peer), previous))


def peer_of(running: Ris, **more: object) -> Hl7Peer:
    return replace(Hl7Peer("RIS", port=running.port, receiving_application="RIS", timeout_seconds=30.0), **more)  # type: ignore[arg-type]


def test_a_message_arrives_whole_and_is_acknowledged(running: Ris) -> None:
    running.answers("AA")
    answer = send_to(peer_of(running))
    assert (answer.state, answer.message, answer.dead) == (DeliveryState.ACKNOWLEDGED, "AA by RIS", False)
    text = running.messages[-1]
    assert segments(text, "MSH")[0][9] == answer.identifier
    assert segments(text, "MSH")[0][2:6] == ["PROGNODE", "RADIOLOGY", "RIS", ""]
    assert "Müller^Jörg" in segments(text, "PID")[0][5]
    assert observations(text)["113014"][5] == "1.2.840.1"


@pytest.mark.parametrize(
    ("mode", "state", "words"),
    [
        ("CA", DeliveryState.ACKNOWLEDGED, "CA by RIS"),
        ("AE", DeliveryState.PENDING, "RIS answered AE; it is sent again"),
        ("CE", DeliveryState.PENDING, "RIS answered CE; it is sent again"),
        ("err", DeliveryState.PENDING, "RIS answered AE (204 unknown key identifier); it is sent again"),
        ("odd", DeliveryState.PENDING, "an unknown code"),
        ("AR", DeliveryState.FAILED, "correct the interface, then: prognode retry"),
        ("CR", DeliveryState.FAILED, "rejected the message with CR"),
        ("other", DeliveryState.PENDING, "of another message"),
        ("garbage", DeliveryState.PENDING, "no HL7 message"),
        ("close", DeliveryState.PENDING, "closed before the acknowledgement"),
        ("half", DeliveryState.PENDING, "closed before the acknowledgement"),
        ("silent", DeliveryState.PENDING, "no acknowledgement within 1 s"),
    ],
)
def test_each_answer_means_what_the_standard_says(running: Ris, mode: str, state: DeliveryState, words: str) -> None:
    running.answers(mode)
    before = len(running.messages)
    answer = send_to(peer_of(running, timeout_seconds=1.0 if mode == "silent" else 30.0))
    assert answer.state is state
    assert words in answer.message
    assert "Doe" not in answer.message, "what the RIS says may be PHI"
    assert answer.identifier, "it has left, so it may be there"
    assert answer.dead == (mode in ("close", "half", "silent"))
    end = time.monotonic() + 60
    while len(running.messages) == before and time.monotonic() < end:  # a slow one must not count in the next test
        time.sleep(0.01)
    assert len(running.messages) == before + 1


def test_sent_again_it_is_the_same_message_byte_for_byte(running: Ris) -> None:
    running.answers("AE")
    before = len(running.messages)
    answers = [send_to(peer_of(running)) for _ in range(3)]
    again = running.messages[before:]
    assert len(again) == 3
    assert len(set(again)) == 1
    assert len({answer.identifier for answer in answers}) == 1


def test_a_revision_says_which_message_it_replaces(running: Ris) -> None:
    running.answers("AA")
    first = send_to(peer_of(running))
    previous = Previous(first.identifier, 1, not_scored())
    second = send_to(peer_of(running), replace(ITEM, key="j" * 64, revision=2), previous)
    assert second.identifier != first.identifier
    said = observations(running.messages[-1])
    assert said["REPLACES"][5] == first.identifier
    assert (said["OS_12M_EVENT"][11], said["REASON"][11]) == ("P", "X")
    without = send_to(peer_of(running), replace(ITEM, key="j" * 64, revision=2), replace(previous, result=None))
    assert without.state is DeliveryState.ACKNOWLEDGED
    assert "REASON" not in observations(running.messages[-1])


def test_the_number_is_known_before_the_message_leaves(running: Ris) -> None:
    running.answers("AA")
    before = len(running.messages)
    noted: list[tuple[str, int]] = []
    going = Outgoing("RIS", ITEM, scored(), ANNA, settings_for(peer_of(running)))
    answer = hl7_out.send(replace(going, leaving=lambda one: noted.append((one, len(running.messages) - before))))
    assert noted == [(answer.identifier, 0)]


def test_a_peer_that_is_not_there_has_got_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    answer = send_to(Hl7Peer("RIS", port=port))
    assert (answer.state, answer.identifier, answer.dead) == (DeliveryState.PENDING, "", True)
    assert "refused the connection; start the receiver" in answer.message
    unknown = send_to(Hl7Peer("RIS", host="no-such-host.invalid"))
    assert "'no-such-host.invalid', cannot be resolved; correct host in the [[hl7_peers]] entry RIS" in unknown.message


def test_a_peer_that_reads_nothing_costs_no_more_than_its_time_out() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=1) as deaf:
        answer = send_to(Hl7Peer("RIS", port=deaf.getsockname()[1], timeout_seconds=0.5))
    assert (answer.state, answer.dead) == (DeliveryState.PENDING, True)
    assert answer.identifier


def test_without_a_patient_id_an_operator_is_asked(running: Ris) -> None:
    before = len(running.messages)
    peer = peer_of(running)
    answer = hl7_out.send(Outgoing("RIS", ITEM, scored(), replace(ANNA, patient_id=""), settings_for(peer)))
    assert answer.state is DeliveryState.FAILED
    assert "no Patient ID" in answer.message
    assert len(running.messages) == before


def test_a_destination_that_left_the_settings_is_named() -> None:
    answer = hl7_out.send(Outgoing("GONE", ITEM, scored(), ANNA, Settings()))
    assert (answer.state, "no [[hl7_peers]] entry GONE" in answer.message) == (DeliveryState.FAILED, True)


# -- MLLPS ---------------------------------------------------------------------------------------------------


def test_over_tls_the_name_in_the_certificate_must_be_the_host_s(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("ris", hosts=("localhost",))
    with ris(tmp_path / "ris", certificate, key) as running:
        right = peer_of(running, host="localhost", tls=True, ca=authority.path)
        assert send_to(right).state is DeliveryState.ACKNOWLEDGED
        wrong = send_to(replace(right, host="127.0.0.1"))
        assert (wrong.state, wrong.identifier) == (DeliveryState.PENDING, "")
        assert "the certificate of RIS at 127.0.0.1" in wrong.message
        stranger = send_to(replace(right, ca=Authority(tmp_path / "other").path))
        assert "see ca of the [[hl7_peers]] entry RIS" in stranger.message
        plain = send_to(replace(right, tls=False, ca=None))
        assert plain.state is DeliveryState.PENDING
        assert len(running.messages) == 1


def test_a_ris_that_asks_for_a_certificate_gets_ours(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with ris(tmp_path / "ris", *authority.issue("ris", hosts=("localhost",)), authority.path) as running:
        certificate, key = authority.issue("prognode")
        bare = peer_of(running, host="localhost", tls=True, ca=authority.path)
        assert send_to(bare).state is DeliveryState.PENDING
        ours = replace(bare, certificate=certificate, private_key=key)
        assert send_to(ours).state is DeliveryState.ACKNOWLEDGED
        reach(ours, 30.0)


def test_a_file_that_is_not_there_is_named_with_its_entry(tmp_path: Path) -> None:
    peer = Hl7Peer("RIS", tls=True, ca=tmp_path / "gone.pem")
    answer = send_to(peer)
    assert answer.state is DeliveryState.PENDING
    assert "[[hl7_peers]] RIS: ca" in answer.message
    with pytest.raises(NotReached, match=r"gone\.pem"):
        reach(peer, 1.0)


def test_the_check_says_how_far_a_message_would_get(running: Ris, tmp_path: Path) -> None:
    settings = settings_for(peer_of(running), Hl7Peer("GONE", port=1), Hl7Peer("TLS", port=running.port, tls=True))
    settings = replace(settings, deliver=Deliver(connect_timeout_seconds=1.0))  # so long it waits for the last one
    listener = replace(settings.hl7, listen=True, certificate=tmp_path / "gone.pem", private_key=tmp_path / "gone.key")
    found = {
        one.about: one for one in (*check_peers.hl7(settings), *check._hl7_listener(replace(settings, hl7=listener)))
    }
    ris, gone, tls = (found[name] for name in ("RIS", "GONE", "TLS"))
    assert (ris.well, ris.text) == (True, f"127.0.0.1:{running.port} can be reached (MLLP, in clear)")
    assert (gone.well, gone.text) == (False, "GONE at 127.0.0.1:1 refused the connection")
    assert "correct the [[hl7_peers]] entry GONE" in gone.remedy
    assert "no TLS with TLS at" in tls.text
    assert "gone.key" in found[""].text
    (well,) = list(check._hl7_listener(Settings(hl7=Hl7(listen=True))))
    assert well.text == "MLLP, in clear on 127.0.0.1:2575"
