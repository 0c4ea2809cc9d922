"""Who gets in: AE title and address together, how many at once and how fast; and what is said to those who do not."""

import socket
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.settings import Peer, Receive, Settings
from dicom_node import door
from dicom_node.check import check
from dicom_node.limits import Buckets, Caller, Gate, NotARequest, comes_from, plain_address, read_request
from tests import wire
from tests.dicom.test_receive_faults import until
from tests.network import receiving, settings_for

PERMANENT_TITLE, PERMANENT_CALLED = (1, 1, 3), (1, 1, 7)
TRY_AGAIN_RATE, TRY_AGAIN_LIMIT = (2, 3, 1), (2, 3, 2)


def refused(port: int, source: str = "127.0.0.1", **who: str) -> tuple[int, int, int]:
    connection, answer = wire.ask(port, source, **who)
    connection.close()
    return wire.reason(answer)


# -- title and address -------------------------------------------------------------------------------------------


def test_an_ae_title_from_another_address_than_its_own_is_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = settings_for(Peer("CT1", addresses=("127.0.1.0/24", "127.0.0.7")))
    with receiving(tmp_path, settings) as (receiver, _):
        for good in ("127.0.1.9", "127.0.0.7"):
            with wire.associated(receiver.port, good, calling="CT1"):
                pass
        assert refused(receiver.port, "127.0.0.8", calling="CT1") == PERMANENT_TITLE
        with wire.associated(receiver.port, "127.0.0.8"):  # MODALITY may come from anywhere
            pass
    assert '"CT1" at 127.0.0.8 does not come from an address of that peer' in caplog.text


def test_the_address_counts_even_where_strangers_are_let_in(tmp_path: Path) -> None:
    settings = settings_for(Peer("CT1", addresses=("127.0.0.7",)), known_callers_only=False)
    with receiving(tmp_path, settings) as (receiver, _):
        assert refused(receiver.port, calling="CT1") == PERMANENT_TITLE
        with wire.associated(receiver.port, calling="STRANGER"):
            pass


def test_a_refusal_has_the_standard_s_reason(tmp_path: Path) -> None:
    with receiving(tmp_path) as (receiver, _):
        assert refused(receiver.port, calling="STRANGER") == PERMANENT_TITLE
        assert refused(receiver.port, called="OTHER") == PERMANENT_CALLED


@pytest.mark.parametrize(
    ("addresses", "address", "expected"),
    [
        ((), "203.0.113.9", True),
        (("10.1.0.0/16",), "10.1.255.3", True),
        (("10.1.0.0/16",), "10.2.0.1", False),
        (("10.1.2.3/24",), "10.1.2.9", True),
        (("2001:db8::/32",), "2001:db8::7", True),
        (("10.1.0.0/16",), "2001:db8::7", False),
        (("10.1.0.0/16",), "not an address", False),
    ],
)
def test_addresses_are_networks_of_either_family(addresses: tuple[str, ...], address: str, expected: bool) -> None:
    assert comes_from(Peer("X", addresses=addresses), plain_address(address)) is expected


def test_an_ipv4_address_on_an_ipv6_socket_is_an_ipv4_address() -> None:
    assert comes_from(Peer("X", addresses=("10.1.0.0/16",)), plain_address("::ffff:10.1.2.3"))


@pytest.mark.usefixtures("no_golden_case")
def test_check_names_the_peers_that_may_call_from_anywhere(tmp_path: Path) -> None:
    settings = settings_for(Peer("CT1", addresses=("10.0.0.0/8",)), Peer("CT2"))
    settings = replace(settings, node=replace(settings.node, spool=tmp_path / "spool"))
    (finding,) = [one for one in check(settings) if one.name == "callers"]
    assert finding.well
    assert finding.text.startswith("may call from any address: MODALITY, CT2 (restrict it: addresses in [[peers]])")


# -- how many ----------------------------------------------------------------------------------------------------


def test_one_peer_cannot_take_every_place(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = settings_for(Peer("OTHER"), maximum_associations=10, maximum_associations_per_peer=4)
    with receiving(tmp_path, settings) as (receiver, _), ExitStack() as open_:
        for _ in range(4):
            open_.enter_context(wire.associated(receiver.port))
        assert refused(receiver.port) == TRY_AGAIN_LIMIT
        assert refused(receiver.port, "127.0.0.9") == TRY_AGAIN_LIMIT  # the same title from elsewhere
        assert refused(receiver.port, calling="OTHER") == TRY_AGAIN_LIMIT  # another title from the same address
        open_.enter_context(wire.associated(receiver.port, "127.0.0.9", calling="OTHER"))
    assert "raise [receive] maximum_associations_per_peer" in caplog.text


def test_a_place_is_free_again_when_its_association_has_ended(tmp_path: Path) -> None:
    settings = settings_for(maximum_associations=2, maximum_associations_per_peer=2)
    with receiving(tmp_path, settings) as (receiver, _):
        for _ in range(3):
            with ExitStack() as open_:
                for _ in range(2):
                    open_.enter_context(_place(receiver.port))
                assert refused(receiver.port) == TRY_AGAIN_LIMIT


def _place(port: int) -> socket.socket:
    """An association, as soon as there is room for it: one that has ended leaves its place a moment later."""
    taken: list[socket.socket] = []

    def gets_in() -> bool:
        connection, answer = wire.ask(port)
        if answer[:1] == b"\x02":
            taken.append(connection)
        else:
            connection.close()
        return bool(taken)

    assert until(gets_in)
    return taken[0]


def test_strangers_cannot_keep_the_known_out(tmp_path: Path) -> None:
    settings = settings_for(known_callers_only=False, maximum_associations=4)
    with receiving(tmp_path, settings) as (receiver, _), ExitStack() as open_:
        for number in range(2):
            open_.enter_context(wire.associated(receiver.port, f"127.0.0.{number + 5}", calling=f"S{number}"))
        assert refused(receiver.port, "127.0.0.9", calling="S9") == TRY_AGAIN_LIMIT
        open_.enter_context(wire.associated(receiver.port))


# -- how fast ----------------------------------------------------------------------------------------------------


def test_a_caller_that_is_too_fast_is_told_to_try_again_and_then_gets_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    passed = [0.0]
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + passed[0], sleep=time.sleep)
    monkeypatch.setattr(door, "time", clock)
    settings = settings_for(associations_per_second=0.01, association_burst=5)
    with receiving(tmp_path, settings) as (receiver, _):
        answers = []
        for _ in range(9):
            connection, answer = wire.ask(receiver.port)
            connection.close()
            answers.append(answer[0])
        assert answers == [2] * 5 + [3] * 4
        assert refused(receiver.port) == TRY_AGAIN_RATE
        with wire.associated(receiver.port, "127.0.0.9"):  # it is the address that is too fast
            pass
        passed[0] = 200.0
        with wire.associated(receiver.port):
            pass
    assert "raise [receive] associations_per_second" in caplog.text


def test_an_honest_sender_of_one_object_per_association_is_not_slowed_down() -> None:
    gate = Gate(Settings(peers=(Peer("CT1"),)))
    caller = Caller("CT1", "PROGNODE", "10.0.0.1")
    times = [k / 40 for k in range(4000)]  # 40 a second, for 100 seconds
    assert [gate.judge(caller, [], now) for now in times] == [None] * 4000


@given(st.lists(st.floats(0, 5), min_size=1, max_size=200), st.floats(0.1, 50), st.integers(1, 20))
def test_a_bucket_never_gives_more_than_its_burst_and_its_rate(gaps: list[float], rate: float, burst: int) -> None:
    buckets, now, given_out = Buckets(rate, burst), 0.0, 0
    for gap in gaps:
        now += gap
        given_out += buckets.take("x", now)
    assert given_out <= burst + now * rate + 1e-6
    assert given_out >= 1


def test_buckets_remember_a_bounded_number_of_callers() -> None:
    buckets = Buckets(1.0, 1.0)
    for number in range(20_000):
        assert buckets.take(number, 0.0)
    assert len(buckets._known) == 4096


def test_a_host_with_a_whole_ipv6_network_is_one_caller() -> None:
    limits = replace(Receive(), associations_per_second=1.0, association_burst=3)
    gate = Gate(Settings(peers=(Peer("CT1"),), receive=limits))
    answers = [gate.judge(Caller("CT1", "PROGNODE", f"2001:db8::{k:x}"), [], 0.0) for k in range(1, 9)]
    assert [answer is None for answer in answers] == [True] * 3 + [False] * 5


# -- the request -------------------------------------------------------------------------------------------------


def test_a_request_says_who_calls() -> None:
    caller = read_request(wire.request(calling="CT 1", called="NODE"), "::ffff:10.0.0.1", tls=True)
    assert caller == Caller("CT 1", "NODE", "10.0.0.1", tls=True)


def test_the_largest_request_that_the_standard_allows_is_taken() -> None:
    contexts = [wire.context(2 * k + 1, "1.2.840.10008.5.1.4.1.1." + "1." * 15 + "1", ["1.2.840.10008.1.2.4.100"] * 40)
                for k in range(128)]  # fmt: skip
    assert read_request(wire.request(contexts=contexts), "10.0.0.1").calling == "MODALITY"


@given(st.binary(max_size=300), st.integers(0, 400), st.integers(0, 60))
def test_any_bytes_are_a_request_or_none(noise: bytes, position: int, removed: int) -> None:
    good = wire.request(contexts=[wire.context(1), wire.context(3)])
    start = position % len(good)
    for sent in (noise, good[:start] + noise + good[start + removed :]):
        try:
            caller = read_request(sent, "10.0.0.1")
        except NotARequest:
            continue
        assert len(caller.calling) <= 16
