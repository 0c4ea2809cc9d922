"""Days that people name are days of the node's zone: the host of a container has the clock of UTC."""

import time
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from dicom_node import cli_keep, local_time
from dicom_node.cli_common import settings_of
from dicom_node.web import pages

MIDNIGHT = datetime(2026, 3, 1, 15, tzinfo=UTC).timestamp()  # of 2 March in Tokyo


@pytest.fixture(autouse=True)
def tokyo(tmp_path: Path) -> Iterator[None]:
    """The zone that a command's settings name."""
    path = tmp_path / "prognode.toml"
    path.write_text('[node]\ntime_zone = "Asia/Tokyo"\n', encoding="utf-8")
    settings_of(path)
    yield
    local_time.go_by("")


def test_the_worklist_begins_a_day_at_the_midnight_of_the_hospital() -> None:
    asked = dict.fromkeys(("q", "state", "outcome", "held", "all"), "")
    query = pages._query({**asked, "since": "2026-03-02", "until": "2026-03-02", "sort": "received", "order": "asc"}, 1)
    assert (query.since, query.until) == (MIDNIGHT, MIDNIGHT + 86_400)


def test_values_are_entered_for_the_hospital_s_today(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: MIDNIGHT + 1)
    assert local_time.today() == date(2026, 3, 2)


def test_an_audit_export_begins_at_the_hospital_s_midnight() -> None:
    assert cli_keep._moment("2026-03-02", "--from") == "2026-03-01T15:00:00.000Z"
    assert cli_keep._moment("2026-03-02T08:00+01:00", "--from") == "2026-03-02T07:00:00.000Z"
    assert cli_keep._when(MIDNIGHT) == "2026-03-02 00:00:00 JST"


def test_without_a_zone_in_the_settings_the_host_s_counts() -> None:
    local_time.go_by("")
    assert local_time.midnight(date(2026, 3, 2)) == datetime(2026, 3, 2).astimezone().timestamp()
