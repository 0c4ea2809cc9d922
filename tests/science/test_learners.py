"""Learners of every kind: plain arrays say what the library says, and scoring says what training measured."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier
from sksurv.ensemble import RandomSurvivalForest
from sksurv.util import Surv

from analysis import ensemble
from analysis.learner import link, say
from analysis.train.data.cohort import Outcome
from analysis.train.judging import metrics
from analysis.train.model import crossval, design, fit, learners, resample
from analysis.train.model.learners import Linear, Trees
from analysis.train.model.trained import Trained
from models.bundle import Bundle, combinations_of
from models.forest import MAXIMUM_DEPTH
from models.manifest import FORESTS, Column, Learner, LearnerKind, LearnerRows
from tests.science.test_ensemble_score import clinical_of, deep_of, radiomic_of, scored

KINDS: tuple[LearnerKind, ...] = ("cox", "survival-forest", "ipcw-logistic", "ipcw-forest")
SUBSETS = combinations_of(("clinical", "radiomic", "deep"))


def patients(count: int = 220, seed: int = 3) -> tuple[np.ndarray, Outcome]:
    """Columns of which two bear on survival; one has few values, so that thresholds and values meet."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, 6))
    x[:, 5] = np.round(x[:, 5])
    time = 14 * (rng.exponential(size=count) * np.exp(-0.9 * x[:, 0] - 0.6 * x[:, 1])) ** 0.9
    censored = rng.uniform(6, 60, count)
    return x, Outcome(np.minimum(time, censored), time <= censored, (12, 36))


def probes(trees: Trees, x: np.ndarray) -> np.ndarray:
    """Rows to predict: as trained on, wild ones, and rows with a value exactly on each of many thresholds."""
    rng = np.random.default_rng(8)
    rows = [x, rng.normal(scale=3, size=(600, x.shape[1]))]
    forest = trees.forest
    inner = np.flatnonzero(forest.left != np.arange(len(forest.left)))
    on = x[rng.integers(0, len(x), 600)].copy()
    picked = rng.choice(inner, 600)
    on[np.arange(600), forest.feature[picked]] = forest.threshold[picked]
    return np.concatenate([*rows, on])


def test_a_survival_forest_says_the_librarys_numbers_to_the_last_bit() -> None:
    x, outcome = patients()
    model = learners.fit_learner("survival-forest", x, outcome, [], 5)
    assert isinstance(model, Trees)
    library = RandomSurvivalForest(
        learners.TREES, min_samples_leaf=15, max_depth=MAXIMUM_DEPTH, random_state=5, low_memory=True
    ).fit(x, Surv.from_arrays(outcome.event, np.ceil(outcome.time)))
    z = probes(model, x)
    assert len(z) >= 1000
    # Its risk is the sum of the cumulative hazard over the event times; ours the mean.
    expected = library.predict(z) / library.is_event_time_.sum()
    assert np.abs(model.forest.means(z, 0)[:, 0] - expected).max() < 1e-9
    assert np.abs(model.predict(z) - np.log(expected)).max() < 1e-9


def test_an_ipcw_forest_says_the_mean_of_the_librarys_probabilities_at_its_horizons() -> None:
    x, outcome = patients()
    model = learners.fit_learner("ipcw-forest", x, outcome, [], 5)
    assert isinstance(model, Trees)
    assert learners.horizons_of(outcome) == [12, 36]
    z = probes(model, x)
    expected = []
    for months in (12, 36):
        case, weight = metrics.weights(outcome.time, outcome.event, months)
        seen = weight > 0
        library = RandomForestClassifier(
            learners.TREES // 2, min_samples_leaf=10, max_depth=MAXIMUM_DEPTH, random_state=5
        ).fit(x[seen], case[seen], sample_weight=weight[seen])
        expected.append(library.predict_proba(z)[:, 1])
    assert np.abs(model.forest.means(z, 0)[:, 0] - np.mean(expected, axis=0)).max() < 1e-9


def test_an_ipcw_logistic_is_the_mean_of_the_librarys_regressions_at_its_horizons() -> None:
    from sklearn.linear_model import LogisticRegression

    x, outcome = patients()
    model = learners.fit_learner("ipcw-logistic", x, outcome, fit.stratified(outcome, np.arange(220), 5, 1), 5)
    assert isinstance(model, Linear)
    found = []
    for months in (12, 36):
        case, weight = metrics.weights(outcome.time, outcome.event, months)
        seen = weight > 0
        library = LogisticRegression(C=model.penalty, tol=1e-8, max_iter=1000)
        found.append(library.fit(x[seen], case[seen], sample_weight=weight[seen]).coef_[0])
    assert np.abs(model.beta - np.mean(found, axis=0)).max() < 1e-6
    assert model.beta[0] > 0.3
    assert np.abs(model.beta[2:]).max() < model.beta[1]


def test_many_patients_at_once_get_what_each_gets_alone() -> None:
    x, outcome = patients()
    parts = [learners.plant("survival-forest", x, outcome, 9, seed, row) for row, seed in enumerate((1, 2, 3))]
    forest = learners.joined(parts)
    together = forest.means(x, 2)
    assert together.shape == (len(x), 3)
    assert np.array_equal(together, np.array([forest.means(row, 2) for row in x]))
    alone = learners.plant("survival-forest", x, outcome, 9, 2)
    assert np.array_equal(together[:, 1], alone.means(x, 0)[:, 0])  # a row's trees answer for that row alone
    assert forest.means(x[:0], 2).shape == (0, 3)


@pytest.mark.parametrize("kind", sorted(FORESTS))
def test_the_same_seed_plants_the_same_forest_and_another_seed_another(kind: LearnerKind) -> None:
    x, outcome = patients()
    first, again, other = (learners.plant(kind, x, outcome, 20, seed) for seed in (4, 4, 5))
    for name in ("feature", "threshold", "left", "right", "value"):
        assert np.array_equal(getattr(first, name), getattr(again, name))
    assert not np.array_equal(first.threshold, other.threshold)


@pytest.mark.parametrize("kind", sorted(FORESTS))
def test_a_nodes_value_is_the_mean_of_its_leaves(kind: LearnerKind) -> None:
    """For the probability forest that is the share of cases which the library itself keeps in the node."""
    x, outcome = patients()
    forest = learners.plant(kind, x, outcome, 10, 4)
    inner = np.flatnonzero(forest.left != np.arange(len(forest.left)))
    low = np.minimum(forest.value[forest.left[inner]], forest.value[forest.right[inner]])
    high = np.maximum(forest.value[forest.left[inner]], forest.value[forest.right[inner]])
    assert inner.size > 20
    assert (low <= forest.value[inner]).all()
    assert (forest.value[inner] <= high).all()
    if kind == "ipcw-forest":
        case, weight = metrics.weights(outcome.time, outcome.event, 12)
        seen = weight > 0
        library = RandomForestClassifier(5, min_samples_leaf=10, max_depth=MAXIMUM_DEPTH, random_state=4)
        library.fit(x[seen], case[seen], sample_weight=weight[seen])
        roots = [estimator.tree_.value[0, 0, 1] for estimator in library]
        assert np.abs(forest.value[forest.roots[:5]] - roots).max() < 1e-12


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_finds_the_planted_effect_in_new_patients(kind: LearnerKind) -> None:
    x, outcome = patients()
    model = learners.fit_learner(kind, x, outcome, fit.stratified(outcome, np.arange(220), 5, 1), 5)
    z, later = patients(300, seed=77)
    assert metrics.concordance(model.predict(z), later.time, later.event) > 0.65


@pytest.mark.parametrize("kind", KINDS)
def test_where_one_class_alone_is_seen_nothing_breaks_and_nothing_is_told_apart(kind: LearnerKind) -> None:
    """All die before the first horizon: no classifier can learn there; survival models still can."""
    x, outcome = patients()
    early = Outcome(np.minimum(outcome.time, 5.0), np.ones(220, bool), (12, 36))
    model = learners.fit_learner(kind, x, early, fit.stratified(early, np.arange(220), 5, 1), 5)
    scores = model.predict(x)
    assert np.isfinite(scores).all()
    assert (np.ptp(scores) == 0) == kind.startswith("ipcw")


@pytest.mark.parametrize("kind", KINDS)
def test_without_any_event_nothing_breaks(kind: LearnerKind) -> None:
    """As a small inner fold may have it."""
    x, outcome = patients(60)
    nobody = Outcome(outcome.time, np.zeros(60, bool), (12, 36))
    if kind in FORESTS:
        scores = Trees(kind, learners.plant(kind, x, nobody, 10, 1)).predict(x)
    else:
        scores = x @ learners.refit_linear(kind, x, nobody, 1.0, None)
    assert np.ptp(scores) < 1e-9


def test_a_cohort_whose_last_horizon_hardly_anyone_passes_goes_through_nested_cross_validation(
    several: Trained,
) -> None:
    """Three patients outlive the last horizon, so most folds hold one class there."""
    outcome = several.cohort.outcomes["OS"]
    late = np.argsort(outcome.time)[-3:]
    time = np.minimum(outcome.time, 20.0)
    time[late] = 40.0
    few = {"OS": Outcome(time, outcome.event | (outcome.time > 20), (12, 36))}
    block = design.blocks(several.cohort)[0]
    settings = several.cohort.file.training.model_copy(update={"repeats": 1, "folds": 3})
    repeats = crossval.nested([block], few, settings, 1).repeats
    assert np.isfinite(repeats[0].linear_predictor[("clinical",), "OS"]).all()
    assert np.isfinite(repeats[0].probability[("clinical",), "OS"]).all()


@pytest.mark.parametrize("subset", SUBSETS)
def test_a_bundle_of_several_learners_scores_as_training_does(
    several: Trained, several_bundle: Bundle, subset: Sequence[str]
) -> None:
    rows = np.arange(len(several.cohort))
    results = [scored(several_bundle, several, row, subset) for row in rows]
    for endpoint in ("OS", "PFS"):
        eta = several.fitted.linear_predictor(several.blocks, tuple(subset), endpoint, rows)
        found = [next(g.linear_predictor for g in r.groups if g.endpoint == endpoint) for r in results]
        assert np.abs(np.array(found) - eta).max() < 1e-9
        for group_rows in results:
            group = next(g for g in group_rows.groups if g.endpoint == endpoint)
            shares = [part for part in group_rows.contributions if part.endpoint == endpoint]
            assert abs(sum(part.contribution for part in shares) - group.linear_predictor) < 1e-9
            assert {part.modality for part in shares} == set(subset)


def test_every_kind_is_in_the_bundle_and_its_shares_sum_to_its_score(several: Trained, several_bundle: Bundle) -> None:
    assert [item.kind for item in several_bundle.model.learners[:4]] == list(KINDS)
    for row in range(0, len(several.cohort), 5):
        inputs = ensemble._inputs(
            several_bundle.manifest,
            ensemble.clinical.read(clinical_of(several, row), several_bundle.manifest.clinical, ()),
            radiomic_of(several, row),
            deep_of(several, row),
        )
        for learner, said in ensemble._said(several_bundle, "OS", "clinical", inputs.values["clinical"]):
            assert abs(said.shares.sum() - said.score) < 1e-9, learner.kind
            assert np.abs(said.shares).max() < 20, learner.kind


def test_shares_of_a_forest_stay_sane_where_steps_up_and_down_cancel() -> None:
    """What the root says is nearly what the leaf says: the quotient of two near-zeros must not blow up the shares."""
    from models.forest import Forest

    forest = Forest(
        roots=np.zeros(1, np.int32),
        rows=np.zeros(1, np.int32),
        feature=np.array([0, 1, 0, 0, 0], np.int16),
        threshold=np.zeros(5),
        left=np.array([1, 3, 2, 3, 4], np.int32),
        right=np.array([2, 4, 2, 3, 4], np.int32),
        value=np.array([0.3, 0.5, 0.1, 0.3 + 1e-17, 0.7]),
    )
    columns = tuple(Column(feature=name, mean=0.0, sd=1.0) for name in ("a", "b"))
    learner = Learner(
        modality="clinical", endpoint="OS", kind="ipcw-forest", columns=columns, forest="f", offset=-0.8, scale=0.5
    )
    rows = LearnerRows(modality="clinical", endpoint="OS", kind="ipcw-forest", offset=(), scale=())
    said = say(learner, rows, forest, {"a": -1.0, "b": -1.0}, 0)
    slope = 1 / (0.3 * 0.7) / 0.5  # of the logit at the root, on the learner's scale
    assert said.shares[0] - said.shares[1] == pytest.approx(2 * 0.2 * slope, rel=1e-4)
    assert said.shares.sum() == pytest.approx(said.score, abs=1e-12)
    assert said.score == pytest.approx((float(link("ipcw-forest", 0.3)) + 0.8) / 0.5)


def test_refits_of_several_learners_give_intervals_that_hold_the_point_and_are_not_vacuous(
    several: Trained, several_bundle: Bundle
) -> None:
    widths = []
    for row in range(len(several.cohort)):
        for score in scored(several_bundle, several, row, ("clinical",)).scores:
            assert 0 <= score.lower <= score.event_probability <= score.upper <= 1
            widths.append(score.upper - score.lower)
    assert 0.02 < np.median(widths) < 0.7
    limits = resample.intervals(
        several.fitted, several.refits, several.blocks, ("clinical",), "OS", several.cohort.file.training
    )
    first = [scored(several_bundle, several, row, ("clinical",)).scores[0] for row in range(20)]
    # The bundle keeps five digits of the refits.
    assert [s.lower for s in first] == pytest.approx(
        np.minimum(limits[0, :20, 0], [s.event_probability for s in first]), abs=1e-3
    )


def test_of_several_learners_the_best_alone_is_kept_on_request(several: Trained) -> None:
    block = several.blocks[0]
    settings = several.cohort.file.training
    rows = np.arange(len(several.cohort))
    outcome = several.cohort.outcomes["OS"]
    folds = fit.stratified(outcome, rows, settings.folds, 1)
    every = fit.fit_block(block, outcome, rows, folds, settings, 1)
    best = fit.chosen(every, outcome, rows, settings.model_copy(update={"choose": "best"}))
    assert len(every) == 4
    assert len(best) == 1
    gains = [fit._gain(part.out_of_fold, outcome, rows) for part in every]
    assert best[0] is every[int(np.argmax(gains))]
    # A learner whose scores nearly know the truth would be it.
    noise = np.random.default_rng(1).normal(0, 0.5, len(rows))
    knowing = replace(every[2], out_of_fold=noise - np.log(outcome.time))
    picked = fit.chosen((*every[:2], knowing, every[3]), outcome, rows, settings.model_copy(update={"choose": "best"}))
    assert picked == (knowing,)
