"""The study of the matrix, and the real job's answer to it, made once."""

from collections.abc import Sequence
from pathlib import Path

from analysis.contract import RESULT_FILE, JobResult
from tests.road import road
from tests.synthetic import ct_series, rtstruct, save_all


def study_and_answers(folder: Path, measurements: int | None = None) -> tuple[Sequence[Path], Path]:
    """Files to send (CT, then contour), and the folder of the results that the real job gives for them.

    `measurements`: so many of them at most, of each kind; an SR with all of them takes a second to write.
    """
    ct = ct_series(16, 40, 40, seed=1)
    contour = rtstruct(ct, radius=10.0)
    paths = save_all([*ct, contour], folder / "study")
    trip = road(folder / "road")
    trip.take(*ct, contour)
    trip.work()
    (item,) = trip.items
    assert item.outcome == "SCORED", item.reason
    answers = trip.spool.results(item.key or "", "analysis")
    if measurements is not None:
        _shorten(answers / RESULT_FILE, measurements)
    return paths, answers


def _shorten(path: Path, most: int) -> None:
    result = JobResult.model_validate_json(path.read_bytes())
    fewer = {name: getattr(result, name)[:most] for name in ("measurements", "contributions")}
    path.write_text(result.model_copy(update=fewer).model_dump_json(), encoding="utf-8")
