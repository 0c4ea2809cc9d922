"""Is this patient like those the bundle was trained on? Mahalanobis distance per modality against a stored limit.

It catches blunders (a wrong unit, another kind of lesion), not a subtle shift between scanners: that is measured in
the bundle's training report and said in its model card.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from analysis.learner import Value, design_row
from models.manifest import Outliers

Array = NDArray[np.float64]


def distance(known: Outliers, values: Mapping[str, Value]) -> float:
    """Mahalanobis distance of a patient's values from the training cohort."""
    return float(distances(design_row(known.columns, values)[None, :], np.asarray(known.precision))[0])


def distances(z: Array, precision: Array) -> Array:
    """Mahalanobis distances of standardised rows from the origin, shape (rows,)."""
    return np.asarray(np.sqrt(np.maximum(np.einsum("ij,jk,ik->i", z, precision, z), 0.0)))
