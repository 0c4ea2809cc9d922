"""The study of the matrix, and the real job's answer to it, made once."""

from collections.abc import Sequence
from pathlib import Path

from tests.road import road
from tests.synthetic import ct_series, rtstruct, save_all


def study_and_answers(folder: Path) -> tuple[Sequence[Path], Path]:
    """Files to send (CT, then contour), and the folder of the results that the real job gives for them."""
    ct = ct_series(16, 40, 40, seed=1)
    contour = rtstruct(ct, radius=10.0)
    paths = save_all([*ct, contour], folder / "study")
    trip = road(folder / "road")
    trip.take(*ct, contour)
    trip.work()
    (item,) = trip.items
    assert item.outcome == "SCORED", item.reason
    return paths, trip.spool.results(item.key or "", "analysis")
