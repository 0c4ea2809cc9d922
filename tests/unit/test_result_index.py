"""Results in a long store: the few of a patient are found at once, and a poll of what is new looks at no more."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dicom_node.identity import Identity
from dicom_node.result_index import ResultQuery
from dicom_node.store import Store

NUMBER = 30_000


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """100,000 results, a second apart; every tenth has replaced the one before it."""
    store = Store.open(tmp_path_factory.mktemp("crowded") / "store.sqlite")
    db = store._db
    rows = [
        (n, "COMPLETED", f"1.2.{n}", f"key-{n}", f"key-{n - 1}" if n % 10 == 0 else None, float(n), float(n))
        for n in range(1, NUMBER + 1)
    ]
    with db.immediate():
        db.many(
            "INSERT INTO work_item (id, state, study_instance_uid, key, predecessor_key, outcome, created_at,"
            " updated_at) VALUES (?, ?, ?, ?, ?, 'SCORED', ?, ?)",
            rows,
        )
        for n in range(1, NUMBER + 1):
            store.patients.received(f"1.2.{n}", Identity(patient_id=f"P{n}", patient_name="A^B"), float(n))
    yield store
    store.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("query", "count", "seconds"),
    [
        (ResultQuery(), 21, 0.05),
        (ResultQuery(patients=[("P4711", None)]), 1, 0.01),
        (ResultQuery(patients=[("P4711", "")], studies=["1.2.4711"]), 1, 0.01),
        (ResultQuery(patients=[("P4719", None)]), 0, 0.01),
        (ResultQuery(item_ids=[4719]), 1, 0.01),
        (ResultQuery(studies=["1.2.4711"]), 1, 0.01),
        (ResultQuery(since=NUMBER - 9.5), 9, 0.05),
        (ResultQuery(since=NUMBER + 1.0), 0, 0.05),
        (ResultQuery(since=1.0), 21, 0.05),
        (ResultQuery(until=10.0), 8, 1.0),  # it walks through all that are newer
    ],
)
def test_in_thirty_thousand_results_the_few_are_found_at_once(
    crowded: Store, query: ResultQuery, count: int, seconds: float
) -> None:
    taken = []
    for _ in range(3):
        began = time.process_time()
        found = crowded.results.find(query, 21)
        taken.append(time.process_time() - began)
        assert len(found) == count
    assert min(taken) < seconds


def test_what_has_replaced_a_result_is_found_over_revisions_that_came_to_nothing(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store.sqlite")
    columns = "(id, state, study_instance_uid, key, predecessor_key, outcome, revision, created_at, updated_at)"
    store._db.many(
        f"INSERT INTO work_item {columns} VALUES (?, ?, '1.2', ?, ?, ?, ?, 1, 1)",
        [
            (1, "COMPLETED", "a", None, "SCORED", 1),
            (2, "CANCELED", "b", "a", None, 2),
            (3, "REPORTED", "c", "b", "NOT_SCORED", 3),
        ],
    )
    third = store.item(3)
    assert third is not None
    assert store.results.before(third) == ("a", 1)
    first = store.item(1)
    assert first is not None
    assert store.results.before(first) is None
    store.close()
