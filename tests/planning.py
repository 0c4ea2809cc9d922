"""Asking the planner about the synthetic series: shared by the tests of planning."""

import math
from collections.abc import Iterable

from config.settings import Planning
from dicom_node.decision import Decision
from dicom_node.instance import Instance
from dicom_node.plan import decide
from tests.synthetic import ct_series

SETTINGS = Planning()
DAY = 24 * 3600.0
CT_FILES = ct_series(seed=1)


def now(
    roi: Instance,
    on_hand: Iterable[Instance],
    waited: float | None = 1.0,
    quiet: bool = False,
    settings: Planning = SETTINGS,
    still: bool = False,
) -> Decision:
    return decide(roi, list(on_hand), settings, waited_seconds=waited, quiet=quiet, still=still)


def at_last(roi: Instance, on_hand: Iterable[Instance]) -> Decision:
    """Nothing else will come, as in `prognode score`."""
    return now(roi, on_hand, math.inf, True)


def uids(images: Iterable[Instance]) -> tuple[str, ...]:
    return tuple(image.sop_instance_uid for image in images)
