"""The parts of `metrics.json` that cross-validation and external validation have in common."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.train.data.cohort import Outcome
from analysis.train.judging import judge, km, subgroups
from analysis.train.judging.curves import curves
from analysis.train.judging.predicted import Predicted, predicted, scored
from analysis.train.model.predictions import OutOfFold, Subset
from models.manifest import EndpointName

Array = NDArray[np.float64]
Bools = NDArray[np.bool_]
MODALITIES = ("clinical", "radiomic", "deep")
AS_USED: Subset = ("as used",)  # external validation: each patient by the sub-model of what they have
SIZE: Subset = ("size",)


@dataclass(frozen=True)
class Material:
    """What is judged: predictions, outcomes, and the parts of the cohort.

    `groups[endpoint]` holds LOW, UNCERTAIN, HIGH or nothing, a label per patient; without it the two sides of the
    cut-off are the groups. `parts` are the subgroups, `sites` a label per patient.
    """

    repeats: Sequence[OutOfFold]
    outcomes: Mapping[EndpointName, Outcome]
    main: Subset
    parts: Sequence[tuple[str, Bools]] = ()
    sites: Sequence[str] = ()
    groups: Mapping[EndpointName, Sequence[str]] = field(default_factory=dict)

    def of(self, subset: Subset, endpoint: EndpointName) -> Predicted:
        """One combination's view of one endpoint."""
        return predicted(self.repeats, subset, endpoint, self.outcomes[endpoint])


def figures(material: Material) -> dict[str, Any]:
    """`models`, `curves`, `kaplan_meier`, `subgroups` and `sites`."""
    keys = list(material.repeats[0].linear_predictor)
    main = [(endpoint, material.of(material.main, endpoint)) for endpoint in material.outcomes]
    found = {
        "models": [_model(material, subset, endpoint) for subset, endpoint in keys],
        "curves": list(_curves(material)),
        "kaplan_meier": [_kaplan_meier(material, given, endpoint) for endpoint, given in main if len(given)],
        "subgroups": [line for endpoint, given in main for line in subgroups.lines(given, endpoint, material.parts)],
        "sites": [
            line
            for endpoint, given in main
            if len(material.sites)
            for line in subgroups.site_lines(given, endpoint, material.sites)
        ],
    }
    rounding: dict[str, Any] = judge.rounded(found)
    return rounding


def kind_of(subset: Subset) -> str:
    """A combination of modalities is a model, anything else a baseline to compare with."""
    return "model" if set(subset) <= set(MODALITIES) or subset == AS_USED else "baseline"


def name_of(subset: Subset) -> str:
    """As the tables name it.

    >>> name_of(("clinical", "deep"))
    'clinical + deep'
    """
    return " + ".join(subset)


def _model(material: Material, subset: Subset, endpoint: EndpointName) -> dict[str, Any]:
    head = {
        "name": name_of(subset),
        "kind": kind_of(subset),
        "modalities": [part for part in subset if part in MODALITIES],
        "endpoint": endpoint,
    }
    return head | judge.model_figures(material.of(subset, endpoint))


def score_line(
    material: Material, name: str, kind: str, endpoint: EndpointName, scores: Mapping[int, Array]
) -> dict[str, Any]:
    """The line of a score that needs no fit: discrimination alone, on the same folds.

    Parameters
    ----------
    scores : mapping
        By horizon, months; shape (patients,); NaN where a patient has none. C is that of the last horizon's.
    """
    outcome = material.outcomes[endpoint]
    views = [scored(material.repeats, scores[months], outcome) for months in outcome.horizons]
    line = judge.model_figures(views[-1])
    horizons = [judge.horizon_figures(view, column) for column, view in enumerate(views)]
    head = {"name": name, "kind": kind, "modalities": [], "endpoint": endpoint}
    found: dict[str, Any] = judge.rounded(head | line | {"horizons": horizons})
    return found


def _curves(material: Material) -> Iterator[dict[str, Any]]:
    wanted = dict.fromkeys((material.main, ("clinical",), SIZE))
    for subset in wanted:
        for endpoint, outcome in material.outcomes.items():
            if (subset, endpoint) not in material.repeats[0].linear_predictor:
                continue
            given = material.of(subset, endpoint)
            for column in range(len(outcome.horizons)):
                found = curves(given, column)
                if found is not None:
                    yield {"name": name_of(subset), "endpoint": endpoint, **found}


def _kaplan_meier(material: Material, given: Predicted, endpoint: EndpointName) -> dict[str, Any]:
    """The curves of the first repeat's groups; the hazard ratio is that of the two sides of the cut-off."""
    separation = judge.hazard_ratio(given)
    labels = np.where(given.high[0], "HIGH", "LOW")
    if endpoint in material.groups:
        labels = np.array(material.groups[endpoint])[given.rows]
    last = float(given.time.max())
    groups = [
        km.group(name, given.time[inside], given.event[inside], last)
        for name in ("LOW", "UNCERTAIN", "HIGH")
        if (inside := labels == name).any()
    ]
    return {"name": name_of(material.main), "endpoint": endpoint, **separation, "groups": groups}
