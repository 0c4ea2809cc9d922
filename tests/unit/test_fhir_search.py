"""Parameters of a FHIR search: whatever comes is understood, or refused with 400."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_node.web.errors import Problem
from dicom_node.web.fhir_search import Position, Search, search_of

TOKENS = st.text(st.sampled_from("ab1.2|,\\$:' %"), max_size=12) | st.text(max_size=12)
DATES = st.from_regex(r"\A(eq|gt|zz)?\d{4}(-\d\d(-\d\d(T\d\d:\d\d(:\d\d(\.\d{1,7})?)?(Z|[+-]\d\d:\d\d)?)?)?)?\Z")
PAIRS = st.lists(
    st.tuples(st.sampled_from(["patient.identifier", "study", "_id", "_count", "page", "_format"]), TOKENS)
    | st.tuples(st.just("_lastUpdated"), DATES | TOKENS),
    max_size=4,
)


def understood(pairs: list[tuple[str, str]]) -> Search | None:
    try:
        return search_of("Observation", pairs, UTC)
    except Problem as problem:
        if problem.status != 400:
            raise
        return None


@given(PAIRS)
def test_whatever_is_asked_is_understood_or_refused(pairs: list[tuple[str, str]]) -> None:
    search = understood(pairs)
    if search is None:
        return
    assert 1 <= search.count <= 100
    limits = (search.query.since, search.query.until)
    assert all(limit is None or isinstance(limit, float) for limit in limits)
    assert search.query.studies is None or all(set(uid) <= set("0123456789.") for uid in search.query.studies)


@given(st.text(min_size=1, max_size=40).filter(lambda text: "\x00" not in text), st.booleans())
def test_any_patient_id_can_be_asked_for_when_it_is_escaped(patient_id: str, with_system: bool) -> None:
    escaped = "".join(f"\\{c}" if c in "\\,|$" else c for c in patient_id)
    value = f"urn:oid:1.2|{escaped}" if with_system else escaped
    search = search_of("DiagnosticReport", [("patient.identifier", value)], UTC)
    assert search.query.patients == [(patient_id, "1.2" if with_system else None)]


@pytest.mark.parametrize(
    ("text", "since", "until"),
    [
        ("2026", (2026, 1, 1), (2027, 1, 1)),
        ("2026-12", (2026, 12, 1), (2027, 1, 1)),
        ("2026-02-28", (2026, 2, 28), (2026, 3, 1)),
        ("2026-03-02T09:15", (2026, 3, 2, 9, 15), (2026, 3, 2, 9, 16)),
        ("2026-03-02T09:15:30Z", (2026, 3, 2, 9, 15, 30), (2026, 3, 2, 9, 15, 31)),
        ("2026-03-02T09:15:30.5-01:00", (2026, 3, 2, 10, 15, 30, 500_000), (2026, 3, 2, 10, 15, 30, 600_000)),
        ("ge2026", (2026, 1, 1), None),
        ("gt2026-03-02", (2026, 3, 3), None),
        ("lt2026-03-02", None, (2026, 3, 2)),
        ("le2026-03-02", None, (2026, 3, 3)),
    ],
)
def test_a_date_means_all_that_it_covers(
    text: str, since: tuple[int, ...] | None, until: tuple[int, ...] | None
) -> None:
    query = search_of("Observation", [("_lastUpdated", text)], UTC).query
    for found, expected in ((query.since, since), (query.until, until)):
        if expected is None:
            assert found is None
        else:
            assert found == pytest.approx(datetime(*expected, tzinfo=UTC).timestamp(), abs=1e-6)  # type: ignore[misc, arg-type]


def test_the_links_keep_what_was_asked_but_the_page() -> None:
    search = search_of("Observation", [("study", "1.2"), ("_format", "json"), ("page", "17.1"), ("_count", "5")], UTC)
    assert search.asked == (("study", "1.2"), ("_count", "5"))
    assert search.begin == Position(17, 1)
