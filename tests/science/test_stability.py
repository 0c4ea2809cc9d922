"""Features that do not repeat are left out, judged by the patients of the training part alone."""

import numpy as np
import pytest

from analysis.train.data.cohort import Outcome, TrainingSection
from analysis.train.model import design
from analysis.train.model.design import LEAST_REPEATED, Block
from analysis.train.model.fit import fit

# Shrout and Fleiss 1979, table 2: six targets rated by four judges; table 4 gives ICC(1,1) = .17.
SHROUT_FLEISS = np.array([[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], float)
SETTINGS = TrainingSection(repeats=1, bootstrap=20, permutations=0)


def block_of(values: np.ndarray, names: tuple[str, ...]) -> Block:
    """`values` has shape (patients, measurements, features); the first measurement is the one that is used."""
    there = np.ones(len(values), bool)
    return Block("radiomic", names, values[:, 0], there, {}, repeats=values[:, 1:])


def anova_icc(values: np.ndarray) -> float:
    """ICC(1,1) of (patients, measurements) from the sums of squares, as a textbook has it."""
    patients, times = values.shape
    between = times * sum((row.mean() - values.mean()) ** 2 for row in values) / (patients - 1)
    within = sum(((row - row.mean()) ** 2).sum() for row in values) / (patients * (times - 1))
    return float((between - within) / (between + (times - 1) * within))


def measured(count: int = 100, seed: int = 2) -> tuple[Block, Outcome]:
    """A feature that is strong in the scan that counts and different in each repeat, a weaker one that lasts, noise."""
    rng = np.random.default_rng(seed)
    risk = rng.normal(size=count)
    fleeting = np.column_stack([risk + rng.normal(0, 0.1, count), rng.normal(size=(count, 2))])
    lasting = risk[:, None] + rng.normal(0, 1, count)[:, None] + rng.normal(0, 0.1, (count, 3))
    noise = rng.normal(size=count)[:, None] + rng.normal(0, 0.1, (count, 3))
    time = 15 * rng.exponential(size=count) * np.exp(-risk)
    outcome = Outcome(np.minimum(time, 60.0), time < 60.0)
    return block_of(np.stack([fleeting, lasting, noise], axis=2), ("fleeting", "lasting", "noise")), outcome


def test_the_icc_is_that_of_the_published_example() -> None:
    """Six targets are fewer than the least number on which an ICC is believed, so each stands three times."""
    once = anova_icc(SHROUT_FLEISS)
    assert once == pytest.approx(0.17, abs=0.005)
    thrice = np.concatenate([SHROUT_FLEISS] * 3)
    found = design.stability(block_of(thrice[:, :, None], ("rating",)), np.arange(18))
    assert found[0] == pytest.approx(anova_icc(thrice), abs=1e-12)


def test_the_icc_of_many_features_is_that_of_the_analysis_of_variance() -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(size=(30, 1, 8)) * np.arange(8) + rng.normal(size=(30, 4, 8))
    found = design.stability(block_of(values, tuple("abcdefgh")), np.arange(30))
    assert found == pytest.approx([anova_icc(values[:, :, k]) for k in range(8)], abs=1e-12)
    assert found[0] < 0.2
    assert found[7] > 0.95


def test_a_feature_that_is_strong_but_does_not_repeat_is_never_chosen() -> None:
    block, outcome = measured()
    rows = np.arange(100)
    names = [block.names[index] for index, _ in design.select(block, rows, outcome, SETTINGS)]
    assert "fleeting" not in names
    assert "lasting" in names
    # Without the repeats it would have come first.
    blind = Block("radiomic", block.names, block.matrix, block.available, {})
    assert block.names[design.select(blind, rows, outcome, SETTINGS)[0][0]] == "fleeting"


def test_no_fold_of_a_fit_uses_it_either() -> None:
    block, outcome = measured()
    fitted = fit([block], {"OS": outcome}, np.arange(100), SETTINGS, 1)
    columns = [c.feature for part in fitted.learners["radiomic", "OS"] for c in part.recipe.columns]
    assert "fleeting" not in columns
    assert columns


def test_what_is_always_kept_stays_whether_it_repeats_or_not() -> None:
    block, outcome = measured()
    kept = Block("radiomic", block.names, block.matrix, block.available, {}, ("fleeting",), repeats=block.repeats)
    picked = design.select(kept, np.arange(100), outcome, SETTINGS)
    assert block.names[picked[0][0]] == "fleeting"


def test_repeats_of_patients_outside_the_fold_change_nothing() -> None:
    block, outcome = measured()
    assert block.repeats is not None
    train = np.arange(70)
    spoiled = block.repeats.copy()
    spoiled[70:] = np.random.default_rng(9).normal(0, 1e6, spoiled[70:].shape)
    other = Block("radiomic", block.names, block.matrix, block.available, {}, repeats=spoiled)
    assert np.array_equal(design.stability(block, train), design.stability(other, train))
    assert design.select(block, train, outcome, SETTINGS) == design.select(other, train, outcome, SETTINGS)
    assert not np.allclose(design.stability(block, np.arange(100)), design.stability(other, np.arange(100)))


def test_patients_not_measured_again_do_not_count_and_too_few_say_nothing() -> None:
    block, _ = measured()
    assert block.repeats is not None
    some = block.repeats.copy()
    some[40:] = np.nan
    partly = Block("radiomic", block.names, block.matrix, block.available, {}, repeats=some)
    everyone = np.arange(100)
    assert np.array_equal(design.stability(partly, everyone), design.stability(block, np.arange(40)))
    some[LEAST_REPEATED - 1 :] = np.nan
    assert (design.stability(partly, everyone) == 1).all()
    never = Block("radiomic", block.names, block.matrix, block.available, {})
    assert (design.stability(never, everyone) == 1).all()
