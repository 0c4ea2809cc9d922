"""From what training found to the contents of a bundle: manifest, model, bootstrap rows."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from analysis.contract import SYNTHETIC_WARNING
from analysis.train import features, judge
from analysis.train.trained import Trained
from analysis.train.validation import cohort_facts
from models.manifest import (
    Bootstrap,
    CoxModel,
    CoxRows,
    Distribution,
    EndpointName,
    Model,
    Recalibration,
    RecalibrationRows,
    SubModelFacts,
    significant,
)

MEANING: dict[EndpointName, str] = {"OS": "death of any cause", "PFS": "progression or death of any cause"}


def model_of(trained: Trained) -> Model:
    """`model.json`."""
    return Model(
        cox=tuple(
            CoxModel(
                modality=block.modality,
                endpoint=endpoint,
                columns=cox.recipe.columns,
                coefficients=tuple(cox.beta.tolist()),
                offset=standard[0],
                scale=standard[1],
            )
            for block in trained.blocks
            for endpoint in trained.cohort.outcomes
            for cox, standard in [
                (trained.fitted.cox[block.modality, endpoint], trained.fitted.standard[block.modality, endpoint])
            ]
        ),
        recalibration=tuple(
            Recalibration(
                modalities=subset, endpoint=endpoint, slope=found.slope, cumulative_hazard=tuple(found.hazard.tolist())
            )
            for (subset, endpoint), found in _ordered(trained, trained.fitted.recalibration)
        ),
    )


def bootstrap_of(trained: Trained) -> Bootstrap:
    """`bootstrap.json`; five digits are plenty for a percentile."""
    refits = trained.refits
    return Bootstrap(
        rows=trained.cohort.file.training.bootstrap,
        cox=tuple(
            CoxRows(
                modality=block.modality,
                endpoint=endpoint,
                coefficients=tuple(_short(row) for row in refits.coefficients[block.modality, endpoint]),
                offset=_short([row[0] for row in refits.standard[block.modality, endpoint]]),
                scale=_short([row[1] for row in refits.standard[block.modality, endpoint]]),
            )
            for block in trained.blocks
            for endpoint in trained.cohort.outcomes
        ),
        recalibration=tuple(
            RecalibrationRows(
                modalities=subset,
                endpoint=endpoint,
                slope=_short([row[0] for row in rows]),
                cumulative_hazard=tuple(_short(row[1]) for row in rows),
            )
            for (subset, endpoint), rows in _ordered(trained, refits.recalibration)
        ),
    )


def _short(values: Any) -> tuple[float, ...]:
    return tuple(significant(float(value), 5) for value in values)


def _ordered(trained: Trained, table: Mapping[Any, Any]) -> list[tuple[Any, Any]]:
    keys = [(subset, endpoint) for subset in trained.subsets for endpoint in trained.cohort.outcomes]
    return [(key, table[key]) for key in keys]


def manifest_facts(trained: Trained) -> dict[str, Any]:
    """The manifest without its file list."""
    file, outcomes = trained.cohort.file, trained.cohort.outcomes
    warning = SYNTHETIC_WARNING if file.cohort.synthetic else "Research use only - not for diagnostic use"
    used = sorted(
        {
            column.feature
            for (modality, _), found in trained.fitted.cox.items()
            if modality == "radiomic"
            for column in found.recipe.columns
        }
    )
    return {
        "name": file.bundle.name or file.cohort.name,
        "version": file.bundle.version,
        "synthetic": file.cohort.synthetic,
        "warning": warning,
        "intended_use": file.bundle.intended_use,
        "endpoints": [
            {"name": name, "meaning": MEANING[name], "horizons_months": outcome.horizons}
            for name, outcome in outcomes.items()
        ],
        "modalities": [block.modality for block in trained.blocks],
        "clinical": _predictors(trained),
        "minimum_clinical": file.clinical.minimum,
        "radiomic": used,
        "extraction": features.settings_of(trained.cohort).to_json() if used else {},
        "interval_level": file.training.interval_level,
        "sub_models": [_sub_model(trained, subset) for subset in trained.subsets],
        "distribution": _distribution(trained, used),
        "cohort": cohort_facts(trained.cohort),
    }


def _predictors(trained: Trained) -> list[dict[str, Any]]:
    found = []
    for block in trained.blocks:
        for index, (name, section) in enumerate(block.predictors.items()):
            present = block.matrix[np.isfinite(block.matrix[:, index]), index]
            if section.type == "number":
                fill: float | str = significant(float(np.median(present)))
            else:
                code = int(np.bincount(present.astype(int)).argmax())
                fill = section.categories[code] if section.type == "category" else float(code)
            found.append(section.predictor(fill).model_dump() | {"name": name})
    return found


def _sub_model(trained: Trained, subset: tuple[Any, ...]) -> SubModelFacts:
    return SubModelFacts(
        modalities=subset,
        cutoffs={
            endpoint: trained.fitted.recalibration[subset, endpoint].cutoff for endpoint in trained.cohort.outcomes
        },
        performance=tuple(
            line
            for endpoint, outcome in trained.cohort.outcomes.items()
            for line in judge.performance(trained.repeats, subset, endpoint, outcome)
        ),
    )


def _distribution(trained: Trained, used: list[str]) -> dict[str, Distribution]:
    found = {}
    for block in trained.blocks:
        for index, name in enumerate(block.names):
            if block.predictors and block.predictors[name].type != "number":
                continue
            if not block.predictors and name not in used:
                continue
            values = block.matrix[np.isfinite(block.matrix[:, index]), index]
            low, high = np.quantile(values, [0.01, 0.99])
            found[name] = Distribution(
                median=significant(float(np.median(values))),
                p01=significant(float(low)),
                p99=significant(float(high)),
                mean=significant(float(values.mean())),
                sd=significant(float(values.std())),
            )
    return found
