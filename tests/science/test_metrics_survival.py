"""The figures are those of scikit-survival and of textbooks; their intervals hold the truth as often as they say."""

from dataclasses import replace

import numpy as np
import pytest
from sksurv.metrics import brier_score, concordance_index_censored, concordance_index_ipcw
from sksurv.nonparametric import CensoringDistributionEstimator
from sksurv.util import Surv

from analysis.train.judging import curves, judge, km, metrics
from analysis.train.judging.predicted import Predicted
from tests.science import judged

EVERYONE = np.arange(300)


def sample(seed: int, days: bool = False) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Score, time and event of 300; in whole months where `days`, so that times are tied."""
    rng = np.random.default_rng(seed)
    score = rng.standard_normal(300)
    time = rng.exponential(size=300) * np.exp(-score) * 20 + 0.01
    return score, np.ceil(time) if days else time, rng.random(300) < 0.7


@pytest.mark.parametrize("until", [10, 40])
def test_unos_concordance_is_that_of_scikit_survival(until: int) -> None:
    score, time, event = sample(4)
    labels = Surv.from_arrays(event, time)
    weight = metrics.uno_weights(time, event, until)
    found = float(metrics.ordered_pairs(score, time, event, weight, EVERYONE).auc(np.ones(300)))
    assert found == pytest.approx(concordance_index_ipcw(labels, labels, score, tau=until)[0], abs=1e-9)


def test_tied_times_count_as_in_scikit_survival() -> None:
    score, time, event = sample(5, days=True)
    score = np.round(score, 1)
    labels = Surv.from_arrays(event, time)
    assert metrics.concordance(score, time, event) == pytest.approx(concordance_index_censored(event, time, score)[0])
    reference = CensoringDistributionEstimator().fit(labels)
    at = np.unique(time)[:-1]
    assert metrics.still_followed(time, event, at) == pytest.approx(reference.predict_proba(at), abs=1e-12)


@pytest.mark.parametrize("days", [False, True])
def test_brier_score_is_that_of_scikit_survival(days: bool) -> None:
    score, time, event = sample(6, days)
    labels = Surv.from_arrays(event, time)
    risk = judged.risk(score, 12)
    case, weight = metrics.weights(time, event, 12)
    expected = brier_score(labels, labels, 1 - risk[:, None], [12])[1][0]
    # Of patients with the event on a day when others were censored, we count the latter as still followed.
    assert metrics.brier(case, weight, risk) == pytest.approx(expected, abs=5e-3 if days else 1e-9)


def test_ipa_compares_with_the_kaplan_meier_risk_for_everyone() -> None:
    score, time, event = sample(7)
    case, weight = metrics.weights(time, event, 12)
    overall = 1 - metrics.survival_curve(time, event, np.array([12.0]))[0]
    ones = np.ones(300)
    assert metrics.ipa(case, weight, np.full(300, overall), ones) == pytest.approx(0, abs=1e-9)
    risk = judged.risk(score, 12)
    expected = 1 - metrics.brier(case, weight, risk) / metrics.brier(case, weight, np.full(300, overall))
    assert metrics.ipa(case, weight, risk, ones) == pytest.approx(expected, abs=1e-9)


def test_a_row_per_resample_is_each_resample_by_itself() -> None:
    score, time, event = sample(8)
    case, weight = metrics.weights(time, event, 12)
    copies = np.random.default_rng(1).multinomial(300, np.full(300, 1 / 300), 4).astype(float)
    uno = metrics.uno_weights(time, event, 30)
    parts = [EVERYONE[:150], EVERYONE[150:]]
    by_case = [metrics.pairs(score, case, weight, part) for part in parts]
    by_time = [metrics.ordered_pairs(score, time, event, uno, part) for part in parts]
    for statistic in (
        lambda c: metrics.within_folds(by_case, c),
        lambda c: metrics.over_all_pairs(by_case, c),
        lambda c: metrics.within_folds(by_time, c),
        lambda c: metrics.ipa(case, weight, judged.risk(score, 12), c),
    ):
        assert statistic(copies) == pytest.approx([float(statistic(row)) for row in copies], abs=1e-12)


def test_a_fold_without_a_pair_says_nothing_and_spoils_nothing() -> None:
    score, time, event = sample(9)
    case, weight = metrics.weights(time, event, 12)
    full = metrics.pairs(score, case, weight, EVERYONE)
    only_cases = metrics.pairs(score, case, weight, np.flatnonzero(case))
    ones = np.ones(300)
    assert np.isnan(only_cases.auc(ones))
    assert metrics.within_folds([full, only_cases], ones) == full.auc(ones)
    assert np.isnan(metrics.within_folds([only_cases], ones))


def test_the_slopes_standard_error_is_how_much_slopes_vary() -> None:
    found = []
    for seed in range(300):
        given = judged.perfect(120, seed, censoring=40.0)
        found.append(metrics.slope(given.eta[0], given.time, given.event))
    slopes, errors = np.array(found).T
    assert errors.mean() == pytest.approx(slopes.std(), rel=0.12)
    assert slopes.mean() == pytest.approx(1.0, abs=0.05)


def test_kaplan_meier_limits_are_greenwoods_on_the_log_minus_log_scale() -> None:
    """Five patients, worked by hand: S(2) = 4/5 * 3/4, variance of log S = 1/(5*4) + 1/(4*3)."""
    time, event = np.array([1.0, 2.0, 3.0, 4.0, 5.0]), np.array([True, True, False, True, False])
    observed, lower, upper = km.risk_at(time, event, 2.5)
    survival = 0.6
    move = 1.959964 * np.sqrt(1 / 20 + 1 / 12) / abs(np.log(survival))
    assert observed == pytest.approx(0.4)
    assert (lower, upper) == pytest.approx((1 - survival ** np.exp(-move), 1 - survival ** np.exp(move)), abs=1e-6)
    assert km.risk_at(time, event, 5.5) is None  # one is left, and nobody knows


def test_where_nobody_or_everybody_has_the_event_the_limit_is_not_the_estimate() -> None:
    time, event = np.arange(1.0, 21.0), np.ones(20, bool)
    # 20 of 20 in a binomial: at least 83 %; 0 of 20: at most 17 %.
    assert km.risk_at(time, event, 25.0) == pytest.approx((1.0, 0.8316, 1.0), abs=1e-4)
    assert km.risk_at(time, event, 0.5) == pytest.approx((0.0, 0.0, 0.1684), abs=1e-4)


def test_the_log_rank_statistic_is_observed_less_expected_by_hand() -> None:
    rng = np.random.default_rng(3)
    high, time, event = rng.random(60) < 0.4, np.ceil(rng.exponential(10, 60)), rng.random(60) < 0.7
    excess = variance = 0.0
    for moment in np.unique(time[event]):
        at_risk, deaths = time >= moment, int((event & (time == moment)).sum())
        n, n_high = int(at_risk.sum()), int((at_risk & high).sum())
        excess += int((event & high & (time == moment)).sum()) - deaths * n_high / n
        variance += deaths * n_high / n * (1 - n_high / n) * (n - deaths) / max(1, n - 1)
    assert km.log_rank(high, time, event) == pytest.approx(excess**2 / variance, rel=1e-6)
    assert km.log_rank(np.zeros(60, bool), time, event) is None


def test_numbers_at_risk_and_steps_of_a_kaplan_meier_group() -> None:
    time, event = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 13.0]), np.array([True, True, False, True, False, False])
    found = km.group("LOW", time, event, 13.0)
    assert (found["patients"], found["events"]) == (6, 3)
    assert found["times"] == [0.0, 1.0, 2.0, 4.0, 13.0]
    assert found["survival"] == pytest.approx([1, 5 / 6, 4 / 6, 4 / 6 * 2 / 3, 4 / 6 * 2 / 3])
    assert found["at_risk"] == [[0, 6], [3, 4], [6, 1], [9, 1], [12, 1]]


def test_net_benefit_without_censoring_is_true_less_weighted_false_positives() -> None:
    """Ten patients; acting above 0.4 finds three of the four events by 12 months and two who have none."""
    given = judged.perfect(10, 1, horizons=(12,))
    time = np.array([5.0, 6, 7, 8, 20, 20, 20, 20, 20, 20])
    probability = np.array([0.9, 0.8, 0.7, 0.1, 0.6, 0.5, 0.2, 0.2, 0.1, 0.1])
    given = replaced(given, time, np.ones(10, bool), probability)
    assert curves.net_benefit(given, probability >= 0.4, 0.4, 12) == pytest.approx(3 / 10 - 2 / 10 * 0.4 / 0.6)
    found = curves.decision(given, 0)
    at = found["threshold"].index(0.4)
    assert found["model"][at] == pytest.approx(3 / 10 - 2 / 10 * 0.4 / 0.6)
    assert found["all"][at] == pytest.approx(4 / 10 - 6 / 10 * 0.4 / 0.6)
    assert found["model"][-1] == 0.0  # nobody above 0.98


def test_net_benefit_with_censoring_uses_the_kaplan_meier_risk() -> None:
    """Of four acted on one dies at 5, one is censored at 6, one dies at 7, one lives: S(12) = 3/4 * 1/2 = 3/8."""
    given = judged.perfect(8, 1, horizons=(12,))
    time = np.array([5.0, 6, 7, 20, 20, 20, 20, 20])
    event = np.array([True, False, True, True, True, True, True, True])
    probability = np.array([0.9, 0.9, 0.9, 0.9, 0.1, 0.1, 0.1, 0.1])
    given = replaced(given, time, event, probability)
    expected = (5 / 8 - 3 / 8 * 0.25 / 0.75) * 4 / 8
    assert curves.net_benefit(given, probability >= 0.25, 0.25, 12) == pytest.approx(expected)


def replaced(given: Predicted, time: np.ndarray, event: np.ndarray, probability: np.ndarray) -> Predicted:
    return replace(given, time=time, event=event, probability=probability[None, :, None])


def test_the_area_under_the_roc_curve_is_the_auc() -> None:
    for folds in (1, 5):
        given = judged.perfect(300, 2, folds=folds)
        for column, months in enumerate(given.horizons):
            points = np.array(curves.curves(given, column)["roc"])
            assert len(points) <= 101
            assert points[0].tolist() == [0, 0]
            assert points[-1] == pytest.approx([1, 1])
            assert (np.diff(points, axis=0) >= -1e-12).all()
            assert np.trapezoid(points[:, 1], points[:, 0]) == pytest.approx(judge.auc(given, months)["auc"], abs=0.01)


def test_the_calibration_curve_of_the_truth_lies_on_the_diagonal() -> None:
    hit, groups = 0, 0
    for seed in range(6):
        given = judged.perfect(400, seed)
        for column in range(2):
            found = curves.calibration(given, column)
            assert len(found) == 10
            assert sum(group["patients"] for group in found) == 400
            assert [g["predicted"] for g in found] == sorted(g["predicted"] for g in found)
            known = [group for group in found if group["observed"] is not None]
            groups += len(known)
            hit += sum(group["lower"] <= group["predicted"] <= group["upper"] for group in known)
    assert groups >= 110
    assert 0.88 <= hit / groups <= 0.995


@pytest.mark.parametrize(("draws", "least"), [(40, 32), pytest.param(100, 88, marks=pytest.mark.exhaustive)])
def test_intervals_hold_the_truth_about_as_often_as_they_say(draws: int, least: int) -> None:
    """Draws of 150 patients, censored; the truth from 4000 who are not."""
    truth = judged.perfect(4000, 99, censoring=np.inf)
    big = judge.model_figures(truth)
    expected = {
        "auc": big["horizons"][0]["auc"],
        "ipa": big["horizons"][0]["ipa"],
        "observed_expected": 1.0,
        "calibration_slope": 1.0,
        "concordance_uno": big["concordance_uno"],
    }
    held = dict.fromkeys(expected, 0)
    for seed in range(draws):
        model = judge.model_figures(judged.perfect(150, seed))
        for name, value in expected.items():
            line = model if name in model else model["horizons"][0]
            held[name] += line[f"{name}_lower"] <= value <= line[f"{name}_upper"]
    assert all(count >= least for count in held.values()), held
    assert held["ipa"] < draws
