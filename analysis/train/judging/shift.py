"""How far a cohort differs from the one a bundle was trained on: values outside its range, patients unlike its own."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.train.data.cohort import Cohort
from analysis.train.judging.external import Scored
from analysis.train.judging.subgroups import numbers
from models.bundle import Bundle
from models.manifest import Distribution

Array = NDArray[np.float64]
OUT_OF_DISTRIBUTION = "OUT_OF_DISTRIBUTION"  # flag of the job
MOST_FEATURES = 10


def shift(bundle: Bundle, cohort: Cohort, scored: Scored) -> dict[str, Any]:
    """`range` and `out_of_distribution` of `metrics.json`, over the patients who were scored.

    By its definition about 2 % of patients like those of the training cohort lie outside the range of one feature.
    """
    there = np.array([result is not None for result in scored.results])
    outside = np.zeros(len(cohort), bool)
    lines = []
    for name, known in sorted(bundle.manifest.distribution.items()):
        values = numbers(cohort, name)
        present = np.isfinite(values) & there
        if present.any():
            beyond = present & ((values < known.p01) | (values > known.p99))
            outside |= beyond
            lines.append(_line(name, known, values[present]))
    lines.sort(key=lambda line: (-line["share"], line["name"]))
    flags = [{flag.code for flag in result.flags} for result in scored.results if result is not None]
    return {
        "range": {
            "patients_outside": float(outside[there].mean()),
            "features_compared": len(lines),
            "features": lines[:MOST_FEATURES],
        },
        "out_of_distribution": float(np.mean([OUT_OF_DISTRIBUTION in codes for codes in flags])),
    }


def _line(name: str, known: Distribution, values: Array) -> dict[str, Any]:
    below, above = values < known.p01, values > known.p99
    return {
        "name": name,
        "patients": len(values),
        "share": float((below | above).mean()),
        "below": float(below.mean()),
        "above": float(above.mean()),
        "median": float(np.median(values)),
        "training_median": known.median,
    }
