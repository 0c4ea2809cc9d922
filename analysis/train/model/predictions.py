"""What judging needs of a prediction, however it came about: in cross-validation, or on patients of elsewhere."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.manifest import EndpointName

Array = NDArray[np.float64]
Bools = NDArray[np.bool_]
Rows = NDArray[np.intp]
Subset = tuple[str, ...]  # a combination of modalities, or the one name of a baseline


@dataclass(frozen=True)
class OutOfFold:
    """Predictions for every patient by models that had not seen them; NaN where not available.

    Keys are (combination, endpoint). `probability` has a column per horizon of the endpoint; `high` is the side of
    the cut-off, which comes from the data that the model was trained on. Scores are comparable within a fold; an
    external validation is one fold of everybody.
    """

    folds: tuple[Rows, ...]
    linear_predictor: Mapping[tuple[Subset, EndpointName], Array]
    probability: Mapping[tuple[Subset, EndpointName], Array]
    high: Mapping[tuple[Subset, EndpointName], Bools]
