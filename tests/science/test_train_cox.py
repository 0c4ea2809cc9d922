"""Our Cox regression and metrics against scikit-survival."""

import numpy as np
import pytest
from sksurv.linear_model import CoxPHSurvivalAnalysis
from sksurv.metrics import concordance_index_censored, cumulative_dynamic_auc
from sksurv.nonparametric import kaplan_meier_estimator
from sksurv.util import Surv

from analysis.train.judging import metrics
from analysis.train.model import cox


@pytest.fixture(params=[False, True], ids=["distinct times", "tied times"])
def data(request: pytest.FixtureRequest):
    rng = np.random.default_rng(4)
    x = rng.standard_normal((200, 8))
    time = rng.exponential(size=200) * np.exp(-x[:, 0]) * 20 + 0.01
    return x, np.ceil(time) if request.param else time, rng.random(200) < 0.7


@pytest.mark.parametrize("penalty", [1e-3, 20.0, 500.0])
def test_coefficients_and_baseline_are_those_of_scikit_survival(data, penalty: float) -> None:
    x, time, event = data
    reference = CoxPHSurvivalAnalysis(alpha=penalty, ties="breslow", tol=1e-12).fit(x, Surv.from_arrays(event, time))
    beta = cox.fit(x, time, event, penalty)
    assert np.abs(beta - reference.coef_).max() < 1e-8
    baseline = reference.cum_baseline_hazard_
    assert np.abs(cox.breslow(x @ beta, time, event, baseline.x) - baseline.y).max() < 1e-8


def test_a_warm_start_ends_in_the_same_place(data) -> None:
    x, time, event = data
    cold = cox.fit(x, time, event, 5.0)
    warm = cox.fit(x, time, event, 5.0, start=np.full(8, 2.0))
    assert np.abs(cold - warm).max() < 1e-8


def test_the_score_test_is_the_likelihoods_slope_at_zero(data) -> None:
    x, time, event = data
    for column in range(3):
        one = x[:, [column]]
        step = 1e-4
        up, middle, down = (cox.log_likelihood(one[:, 0] * move, time, event) for move in (step, 0.0, -step))
        slope, curvature = (up - down) / (2 * step), -(up - 2 * middle + down) / step**2
        assert cox.score_statistics(one, time, event)[0] == pytest.approx(slope**2 / curvature, rel=1e-3)


def test_auc_kaplan_meier_and_concordance_are_those_of_scikit_survival() -> None:
    rng = np.random.default_rng(4)
    score = rng.standard_normal(300)
    time, event = rng.exponential(size=300) * np.exp(-score) * 20 + 0.01, rng.random(300) < 0.7
    labels = Surv.from_arrays(event, time)
    for horizon in (6.0, 20.0):
        case, weight = metrics.weights(time, event, horizon)
        found = metrics.pairs(score, case, weight, np.arange(300)).auc(np.ones(300))
        assert found == pytest.approx(cumulative_dynamic_auc(labels, labels, score, [horizon])[0][0], abs=1e-9)
    times, survival = kaplan_meier_estimator(event, time)
    assert np.abs(metrics.survival_curve(time, event, times) - survival).max() < 1e-12
    assert metrics.concordance(score, time, event) == pytest.approx(concordance_index_censored(event, time, score)[0])


def test_counting_a_patient_twice_is_the_same_as_listing_them_twice() -> None:
    rng = np.random.default_rng(1)
    score, time, event = rng.standard_normal(60), rng.exponential(size=60) * 20, rng.random(60) < 0.8
    case, weight = metrics.weights(time, event, 10.0)
    copies = rng.integers(0, 3, 60)
    listed = np.repeat(np.arange(60), copies)
    assert metrics.pairs(score, case, weight, np.arange(60)).auc(copies.astype(float)) == pytest.approx(
        metrics.pairs(score, case, weight, listed).auc(np.ones(60))
    )


def test_a_patient_censored_before_the_horizon_is_neither_case_nor_control() -> None:
    time, event = np.array([5.0, 5.0, 20.0, 20.0]), np.array([True, False, True, False])
    case, weight = metrics.weights(time, event, 12.0)
    assert case.tolist() == [True, False, False, False]
    assert weight[1] == 0
    assert (weight[[0, 2, 3]] > 0).all()
