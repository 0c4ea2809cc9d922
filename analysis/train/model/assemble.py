"""From what training found to the contents of a bundle: manifest, model, bootstrap rows."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from analysis.contract import SYNTHETIC_WARNING
from analysis.train.data.cohort import Outcome
from analysis.train.data.features import settings_of
from analysis.train.judging import judge, km
from analysis.train.judging.validation import cohort_facts
from analysis.train.model.fit import LearnerFit
from analysis.train.model.learners import Linear
from analysis.train.model.resample import forest_of
from analysis.train.model.trained import Trained
from models.bundle import ENCODER
from models.forest import Forest
from models.manifest import (
    FORESTS,
    Bootstrap,
    Distribution,
    EndpointName,
    Learner,
    LearnerRows,
    Model,
    Population,
    Recalibration,
    RecalibrationRows,
    SubModelFacts,
    significant,
)

MEANING: dict[EndpointName, str] = {"OS": "death of any cause", "PFS": "progression or death of any cause"}


def model_of(trained: Trained) -> Model:
    """`model.json`."""
    return Model(
        learners=tuple(_learner(key, part) for key, part in _parts(trained)),
        recalibration=tuple(
            Recalibration(
                modalities=subset, endpoint=endpoint, slope=found.slope, cumulative_hazard=tuple(found.hazard.tolist())
            )
            for (subset, endpoint), found in _ordered(trained, trained.fitted.recalibration)
        ),
        outliers=trained.outliers,
        population=tuple(_population(endpoint, outcome) for endpoint, outcome in trained.cohort.outcomes.items()),
    )


def _population(endpoint: EndpointName, outcome: Outcome) -> Population:
    """1 - Kaplan-Meier by whole month, up to the last horizon or the last patient."""
    times, survival, _, _ = km.curve(outcome.time, outcome.event)
    followed = max(outcome.horizons) if survival[-1] == 0 else min(max(outcome.horizons), int(times[-1]))
    at = np.searchsorted(times, np.arange(followed + 1), side="right") - 1
    surviving = np.where(at < 0, 1.0, survival[np.maximum(at, 0)])
    return Population(endpoint=endpoint, event_probability=_short(1 - surviving))


def bootstrap_of(trained: Trained) -> Bootstrap:
    """`bootstrap.json`; five digits are plenty for a percentile."""
    refits = trained.refits
    return Bootstrap(
        rows=trained.cohort.file.training.bootstrap,
        learners=tuple(
            LearnerRows(
                modality=key[0],
                endpoint=key[1],
                kind=part.kind,
                coefficients=tuple(_short(row) for row in refits.coefficients.get(key, [])),
                offset=_short([row[0] for row in refits.standard[key]]),
                scale=_short([row[1] for row in refits.standard[key]]),
            )
            for key, part in _parts(trained)
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


def forests_of(trained: Trained) -> dict[str, Forest]:
    """`forests.npz`: the trees of the model and of its refits."""
    return {
        _forest_name(key, part): forest_of(part, trained.refits, key)
        for key, part in _parts(trained)
        if part.kind in FORESTS
    }


def _parts(trained: Trained) -> list[tuple[tuple[Any, EndpointName, int], LearnerFit]]:
    return [
        ((block.modality, endpoint, position), part)
        for block in trained.blocks
        for endpoint in trained.cohort.outcomes
        for position, part in enumerate(trained.fitted.learners[block.modality, endpoint])
    ]


def _learner(key: tuple[Any, EndpointName, int], part: LearnerFit) -> Learner:
    linear = isinstance(part.model, Linear)
    return Learner(
        modality=key[0],
        endpoint=key[1],
        kind=part.kind,
        columns=part.recipe.columns,
        coefficients=tuple(part.model.beta.tolist()) if isinstance(part.model, Linear) else (),
        forest=None if linear else _forest_name(key, part),
        offset=part.offset,
        scale=part.scale,
    )


def _forest_name(key: tuple[Any, EndpointName, int], part: LearnerFit) -> str:
    return f"{key[0]}-{key[1]}-{part.kind}"


def _short(values: Any) -> tuple[float, ...]:
    return tuple(significant(float(value), 5) for value in values)


def _ordered(trained: Trained, table: Mapping[Any, Any]) -> list[tuple[Any, Any]]:
    keys = [(subset, endpoint) for subset in trained.subsets for endpoint in trained.cohort.outcomes]
    return [(key, table[key]) for key in keys]


def manifest_facts(trained: Trained) -> dict[str, Any]:
    """The manifest without its file list."""
    file, outcomes = trained.cohort.file, trained.cohort.outcomes
    warning = SYNTHETIC_WARNING if file.cohort.synthetic else "Research use only - not for diagnostic use"
    used = {block.modality: used_features(trained, block.modality) for block in trained.blocks}
    radiomic = used.get("radiomic", ())
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
        "radiomic": radiomic,
        "deep": used.get("deep", ()),
        "encoder": ENCODER if trained.encoder else None,
        "extraction": settings_of(trained.cohort).to_json() if radiomic and _ours(trained) else {},
        "interval_level": file.training.interval_level,
        "sub_models": [_sub_model(trained, subset) for subset in trained.subsets],
        "distribution": _distribution(trained, {name for names in used.values() for name in names}),
        "cohort": cohort_facts(trained.cohort),
    }


def _ours(trained: Trained) -> bool:
    """Whether the node can measure the radiomic features: they came from images, or [extraction] says how they were."""
    return trained.cohort.file.images is not None or bool(trained.cohort.file.extraction)


def used_features(trained: Trained, modality: str) -> tuple[str, ...]:
    """Features of a modality that any learner of any endpoint uses."""
    return tuple(
        sorted(
            {
                column.feature
                for (name, _), parts in trained.fitted.learners.items()
                if name == modality
                for part in parts
                for column in part.recipe.columns
            }
        )
    )


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


def _distribution(trained: Trained, used: set[str]) -> dict[str, Distribution]:
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
