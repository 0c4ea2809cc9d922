"""Settings with which a node would start and then do nothing are refused, with the key and its bound."""

from pathlib import Path
from typing import Any

import pytest

from config.settings import SettingsError, parse


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"deliver": {"delay_factor": 0.5}}, "'deliver.delay_factor' must be at least 1, not 0.5"),
        ({"receive": {"maximum_pdu_bytes": 1}}, "'receive.maximum_pdu_bytes' must be 0 (no limit) or at least 4096"),
        ({"receive": {"dimse_timeout_seconds": 1e-9}}, "'receive.dimse_timeout_seconds' must be at least 0.1"),
        ({"job": {"memory_bytes": 1}}, "'job.memory_bytes' must be at least"),
        (
            {"receive": {"dimse_timeout_seconds": 1e7}},
            "'receive.dimse_timeout_seconds' must be at most 604800 (a week)",
        ),
        ({"deliver": {"connect_timeout_seconds": 1e10}}, "'deliver.connect_timeout_seconds' must be at most 604800"),
        ({"report": {"series_number": -7}}, "'report.series_number' must be from 0 to 2147483000, not -7"),
        ({"report": {"series_number": 3_000_000_000}}, "'report.series_number' must be from 0 to 2147483000"),
        ({"node": {"site": "x" * 65}}, "'node.site' must be at most 64 characters"),
        ({"node": {"site": "A\\B"}}, "'node.site' must be at most 64 characters without backslash"),
        (
            {"node": {"site": "A\nB"}},
            "without backslash and control characters",
        ),
        ({"peers": [{"ae_title": "PACS"}, {"ae_title": "PACS "}]}, "[[peers]] names PACS more than once"),
        ({"plan": {"minimum_slice_spacing_mm": 9.0}}, "'plan.minimum_slice_spacing_mm' 9 is above maximum_slice"),
        (
            {"rules": [{"name": "a", "plan": {"minimum_pixel_spacing_mm": 9.0}}]},
            "'rules a plan.minimum_pixel_spacing_mm' 9 is above",
        ),
    ],
    ids=str,
)
def test_a_value_that_would_stop_everything_is_refused(data: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse(data, Path())
    assert said in str(caught.value)


def test_the_bounds_themselves_are_taken() -> None:
    parse({"node": {"site": "東京病院\u3000放射線部"}}, Path())
    parse({"deliver": {"delay_factor": 1.0}, "receive": {"maximum_pdu_bytes": 0}}, Path())
    parse({"plan": {"minimum_slice_spacing_mm": 5.0, "maximum_slice_spacing_mm": 5.0}}, Path())
