"""Claims and their leases, in one process with several threads."""

import logging
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from config.settings import Settings
from dicom_node.births import Birth
from dicom_node.loop import LEASE_SECONDS, Loop, Stage
from dicom_node.spool import Spool
from dicom_node.store import Store
from dicom_node.workitem import Retryable, State, StoreBusy, WorkItem
from tests.road import Clock


def test_what_was_put_off_while_the_clock_was_years_ahead_goes_on_at_the_next_start(tmp_path: Path) -> None:
    spool, clock = Spool(tmp_path / "spool"), Clock()
    spool.create()
    loop = Loop(Settings(), spool, clock)
    schedule(loop, clock)
    (item,) = loop.store.items()
    loop.store.deliveries.add(item.id, "risk-sr", "PACS")
    loop.store.deliveries.add(item.id, "page-1", "PACS")
    due = {row.document: row.id for row in loop.store.deliveries.of_item(item.id)}
    in_order = clock() + 600_000.0  # the settings allow so much
    loop.store.deliveries.record(due["risk-sr"], run_after=clock() + 1e8)
    loop.store.deliveries.record(due["page-1"], run_after=in_order)
    clock.now += 1e8

    def fails(item: WorkItem) -> None:
        raise Retryable("not now", "later")

    loop.take(State.SCHEDULED, fails)
    clock.now -= 1e8
    assert loop.store.claim(State.SCHEDULED, "me", 1.0, clock()) is None
    assert loop.store.deliveries.due(clock()) == []

    loop.free((State.SCHEDULED,))
    assert [row.document for row in loop.store.deliveries.due(clock())] == ["risk-sr"]
    assert loop.store.claim(State.SCHEDULED, "me", 1.0, clock()) is not None
    assert {row.run_after for row in loop.store.deliveries.of_item(item.id)} == {clock(), in_order}


def test_a_thread_that_stood_still_for_longer_than_its_lease_does_not_go_on_with_what_its_sibling_has(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spool, clock = Spool(tmp_path / "spool"), Clock()
    spool.create()
    loop = Loop(Settings(), spool, clock)
    schedule(loop, clock)
    claimed, let_go = threading.Event(), threading.Event()
    owners: list[str] = []

    def stands_still(item: WorkItem) -> None:
        claimed.set()
        let_go.wait(60)
        loop.advance(item, State.ANALYSED, "the first")

    def goes_on(item: WorkItem) -> None:
        owners.append(loop._owner)
        let_go.set()
        first.join(60)
        assert loop.store.renew(item.id, loop._owner, clock() + LEASE_SECONDS), "it is still this one's"
        loop.advance(item, State.ANALYSED, "the second")

    first = threading.Thread(target=loop.take, args=[State.SCHEDULED, stands_still])
    with caplog.at_level(logging.WARNING):
        first.start()
        assert claimed.wait(60)
        clock.now += LEASE_SECONDS + 1
        assert loop.take(State.SCHEDULED, goes_on)
    assert "lease.lost" in caplog.text
    (item,) = loop.store.items()
    assert item.state is State.ANALYSED
    analysed = [event["detail"] for event in loop.store.details(item.id)["events"] if event["name"] == "analysed"]
    assert analysed == ["the second"]


def test_a_process_that_starts_frees_what_others_held_and_never_its_own(tmp_path: Path) -> None:
    spool, clock = Spool(tmp_path / "spool"), Clock()
    spool.create()
    loop, after = Loop(Settings(), spool, clock), Loop(Settings(), spool, clock)
    schedule(loop, clock)

    def look(item: WorkItem) -> None:
        loop.free([State.SCHEDULED])
        assert loop.store.renew(item.id, loop._owner, clock() + LEASE_SECONDS)
        after.free([State.SCHEDULED])
        assert not loop.store.renew(item.id, loop._owner, clock() + LEASE_SECONDS)

    assert loop.take(State.SCHEDULED, look)


def test_a_stop_that_cuts_a_job_short_costs_it_no_attempt(tmp_path: Path) -> None:
    spool, let_go = Spool(tmp_path / "spool"), threading.Event()
    spool.create()
    settings = Settings()
    for number in range(settings.job.attempts + 2):
        loop = Loop(settings, spool)
        if number == 0:
            schedule(loop, Clock())
        claimed = threading.Event()

        def outlasts_the_stop(item: WorkItem, loop: Loop = loop, claimed: threading.Event = claimed) -> None:
            claimed.set()
            let_go.wait(60)
            loop.advance(item, State.ANALYSED, "too late")

        def step(loop: Loop = loop, work: Callable[[WorkItem], None] = outlasts_the_stop) -> bool:
            return loop.take(State.SCHEDULED, work)

        loop.start([Stage("analyse", step)])
        assert claimed.wait(60)
        loop.stop(patience=0.01)
        (item,) = loop.store.items()
        assert (item.state, item.attempts) == (State.SCHEDULED, 0)
    let_go.set()
    for thread in threading.enumerate():
        if thread.name == "analyse":
            thread.join(60)
    (item,) = loop.store.items()
    assert item.state is State.SCHEDULED


def test_a_store_that_is_full_or_busy_for_a_moment_costs_no_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool, clock, settings = Spool(tmp_path / "spool"), Clock(), Settings()
    spool.create()
    loop, postpone, turns = Loop(settings, spool, clock), Store.postpone, list[int]()
    schedule(loop, clock)

    def is_full(*arguments: object, **_: object) -> None:
        raise StoreBusy("the store cannot be used: database or disk is full", "check the spool's disk")

    def work(item: WorkItem) -> None:
        turns.append(item.attempts)
        if len(turns) <= settings.job.attempts:
            is_full()
        loop.advance(item, State.ANALYSED, "there is room again")

    for _ in range(settings.job.attempts):
        assert loop.take(State.SCHEDULED, work)
        monkeypatch.setattr(Store, "postpone", is_full)
        with pytest.raises(StoreBusy):  # it is full still
            loop.take(State.SCHEDULED, work)
        monkeypatch.setattr(Store, "postpone", postpone)
        assert not loop.take(State.SCHEDULED, work), "it is given back, for a moment"
        clock.now += LEASE_SECONDS
    assert loop.take(State.SCHEDULED, work)
    (item,) = loop.store.items()
    assert (item.state, turns) == (State.ANALYSED, [1] * (settings.job.attempts + 1))


def schedule(loop: Loop, clock: Clock) -> None:
    assert loop.store.births.schedule("1.5", Birth("1.8", "1.9", "k", "i-k", "{}", None), clock())
