"""The receiver's store for many threads: who waits at the same time is written in one transaction."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from dicom_node.identity import Identity
from dicom_node.instance import CT, Instance
from dicom_node.ledger import Ledger
from dicom_node.spool import Spool
from dicom_node.store import Store


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    spool = Spool(tmp_path / "spool")
    spool.create()
    made = Ledger(spool)
    yield made
    made.close()


def add(number: int, store: Store) -> bool:
    uid = f"1.2.3.{number}"
    return store.arrivals.add(Instance(uid, CT, "1.2.4", "1.2.5", "1.2", f"{number:064x}"), "CT", 1.0, Identity())


def fail(store: Store) -> bool:
    add(99, store)
    raise LookupError("on purpose")


def together(ledger: Ledger, works: list) -> list:
    """Bring works while another one has the turn; their results or exceptions, and how many commits they took."""
    commits: list[str] = []
    entered, go_on = threading.Event(), threading.Event()

    def hold(store: Store) -> None:
        store._db.connection.set_trace_callback(lambda sql: commits.append(sql) if sql == "COMMIT" else None)
        entered.set()
        go_on.wait(120)

    with ThreadPoolExecutor(len(works) + 1) as threads:
        holding = threads.submit(ledger.call, hold)
        assert entered.wait(60)
        waiting = [threads.submit(ledger.commit, work) for work in works]
        end = time.monotonic() + 60
        while len(ledger._waiting) < len(works) and time.monotonic() < end:
            time.sleep(0.001)
        go_on.set()
        holding.result()
        found = [one.exception() or one.result() for one in waiting]
    return [found, len(commits)]


def test_rows_that_come_together_are_one_commit(ledger: Ledger) -> None:
    works = [lambda store, n=n: add(n, store) for n in range(6)]
    assert together(ledger, works) == [[True] * 6, 1]
    assert ledger.call(lambda store: len(store.arrivals.unplanned())) == 6


def test_a_row_that_fails_takes_no_other_with_it(ledger: Ledger) -> None:
    works = [lambda store: add(1, store), fail, lambda store: add(2, store)]
    found, _ = together(ledger, works)
    assert [found[0], found[2]] == [True, True]
    assert isinstance(found[1], LookupError)
    kept = ledger.call(lambda store: [instance.sop_instance_uid for _, instance in store.arrivals.unplanned()])
    assert sorted(kept)[:2] == ["1.2.3.1", "1.2.3.2"]


def test_the_same_object_from_two_associations_is_new_once(ledger: Ledger) -> None:
    found, _ = together(ledger, [lambda store: add(7, store)] * 2)
    assert sorted(found) == [False, True]


def test_bytes_are_here_only_with_their_row_and_their_file(ledger: Ledger) -> None:
    """A row whose file is gone, as fsck leaves one that it quarantined, must not keep the object out."""
    ledger.commit(lambda store: add(7, store))
    ((_, instance),) = ledger.call(lambda store: store.arrivals.unplanned())
    path = ledger._spool.instance_path(instance.sop_instance_uid, instance.digest)
    assert not ledger.has(instance)
    path.write_bytes(b"here")
    assert ledger.has(instance)
    other = replace(instance, digest="ab" * 32)
    ledger._spool.instance_path(other.sop_instance_uid, other.digest).write_bytes(b"without a row")
    assert not ledger.has(other)
