"""The permutation null: how well the whole procedure does where there is nothing to find.

Outcomes are shuffled over the patients, OS and PFS together, and the nested cross-validation is run again from the
start. A figure that the null reaches often is no evidence (Phipson and Smyth 2010: p is never 0).
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.train.data.cohort import Outcome, TrainingSection
from analysis.train.judging.ranking import within_folds
from analysis.train.model import crossval
from analysis.train.model.design import Block
from analysis.train.model.fit import subsets_of
from analysis.train.model.predictions import Subset
from models.manifest import EndpointName

Array = NDArray[np.float64]
Key = tuple[Subset, EndpointName]


@dataclass(frozen=True)
class Null:
    """Within-fold concordance of every combination and endpoint on shuffled outcomes, one value per permutation."""

    permutations: int
    concordance: Mapping[Key, Array]

    def p_value(self, key: Key, observed: float) -> float:
        """Share of permutations, and the observed run, that do as well or better."""
        reached = int((self.concordance[key] >= observed).sum())
        return (1 + reached) / (1 + len(self.concordance[key]))


def permuted(
    blocks: Sequence[Block],
    outcomes: Mapping[EndpointName, Outcome],
    settings: TrainingSection,
    seed: int,
    progress: Callable[[int], None] | None = None,
    workers: int = 1,
) -> Null:
    """Run `settings.permutations` permutations of one repeat each."""
    once = settings.model_copy(update={"repeats": 1})
    jobs = [(blocks, outcomes, once, seed, number) for number in range(settings.permutations)]
    found = []
    with ProcessPoolExecutor(max(1, workers)) as pool:
        for done, values in enumerate(pool.map(_one, jobs), start=1):
            found.append(values)
            if progress:
                progress(done)
    keys = found[0].keys() if found else ()
    return Null(settings.permutations, {key: np.array([values[key] for values in found]) for key in keys})


def shuffled(outcomes: Mapping[EndpointName, Outcome], rng: np.random.Generator) -> dict[EndpointName, Outcome]:
    """The same outcomes on other patients."""
    order = rng.permutation(len(next(iter(outcomes.values())).time))
    return {
        name: Outcome(outcome.time[order], outcome.event[order], outcome.horizons) for name, outcome in outcomes.items()
    }


def _one(
    job: tuple[Sequence[Block], Mapping[EndpointName, Outcome], TrainingSection, int, int],
) -> dict[Key, float]:
    blocks, outcomes, settings, seed, number = job
    drawn = shuffled(outcomes, np.random.default_rng([seed, 41, number]))
    repeats = crossval.nested(blocks, drawn, settings, seed + number).repeats
    found = {}
    for subset in subsets_of(blocks):
        for endpoint, outcome in drawn.items():
            found[subset, endpoint] = within_folds(repeats, subset, endpoint, outcome)
    return found
