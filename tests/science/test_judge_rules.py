"""Judging avoids the traps that make published figures look better, or worse, than they are."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from analysis.train.data import cohort
from analysis.train.data.cohort import Outcome
from analysis.train.judging import judge, metrics, subgroups, validation
from analysis.train.judging.curves import curves
from analysis.train.judging.figures import Material, figures
from analysis.train.judging.predicted import predicted
from analysis.train.model import crossval, design
from analysis.train.model.trained import Trained
from tests import cohorts
from tests.science import judged


def test_pooled_out_of_fold_probabilities_of_noise_rank_below_a_half_and_ours_do_not(tmp_path: Path) -> None:
    """Where a fold held more events the model of the rest predicts fewer: pooling compares folds, and errs."""
    patients = cohorts.patients(94, mode="null")
    loaded = cohort.load(cohorts.write(tmp_path, patients, folds=4))
    clinical = design.blocks(loaded)[:1]
    pooled, within, concordance = [], [], []
    for seed in range(12):
        drawn = cohorts.redrawn(patients, seed, "null")
        outcome = Outcome(drawn.os_time, drawn.os_event, (30,))
        repeats = crossval.nested(clinical, {"OS": outcome}, loaded.file.training, seed).repeats
        given = predicted(repeats, ("clinical",), "OS", outcome)
        case, weight = metrics.weights(given.time, given.event, 30)
        everyone = np.arange(len(given))
        found = metrics.pairs(given.probability[0, :, 0], case, weight, everyone).auc(np.ones(len(given)))
        pooled.append(float(found))
        within.append(judge.auc(given, 30)["auc"])
        concordance.append(judge.model_figures(given)["concordance_uno"])
    assert np.mean(pooled) < 0.46, pooled
    assert abs(np.mean([value for value in within if value is not None]) - 0.5) <= 0.04
    assert abs(np.mean(concordance) - 0.5) <= 0.04


def test_counting_the_censored_as_event_free_spoils_calibration_and_ours_does_not() -> None:
    """A perfectly calibrated risk with half the patients censored before the horizon."""
    naive, ours, dropped = [], [], []
    for seed in range(8):
        given = judged.perfect(400, seed, censoring=40.0)
        case, weight = metrics.weights(given.time, given.event, 36)
        expected = given.probability[0, :, 1].mean()
        naive.append(case.mean() / expected)
        dropped.append(case[weight > 0].mean() / given.probability[0, weight > 0, 1].mean())
        ours.append(judge.observed_expected(given, 1)["observed_expected"])
    assert np.mean(naive) < 0.85
    assert abs(np.mean(dropped) - 1) > 0.03
    assert abs(np.mean(ours) - 1) < 0.03


def test_counting_the_censored_as_event_free_spoils_the_auc_where_censoring_follows_risk_and_ours_does_not() -> None:
    truth = judged.perfect(3000, 5, censoring=np.inf)
    expected = judge.model_figures(truth)["horizons"][1]["auc"]
    naive, ours = [], []
    for seed in range(8):
        given = judged.perfect(400, seed, censoring=30.0)
        ours.append(judge.auc(given, 36)["auc"])
        case, _ = metrics.weights(given.time, given.event, 36)
        everyone = np.arange(len(given))
        naive.append(float(metrics.pairs(given.eta[0], case, np.ones(400), everyone).auc(np.ones(400))))
    assert np.mean(naive) < expected - 0.05
    assert abs(np.mean(ours) - expected) < 0.03


@pytest.mark.parametrize(("events", "free", "enough"), [(8, 8, True), (7, 60, False), (60, 7, False)])
def test_a_horizon_with_too_few_patients_prints_counts_and_no_figure(events: int, free: int, enough: bool) -> None:
    count = events + free + 5
    rng = np.random.default_rng(1)
    eta = rng.standard_normal(count)
    time = np.concatenate([rng.uniform(1, 11, events), rng.uniform(40, 60, free), rng.uniform(1, 11, 5)])
    event = np.arange(count) < events
    outcome = Outcome(time, event, (12,))
    given = predicted(judged.out_of_fold(eta, (12,)), ("clinical",), "OS", outcome)
    (line,) = judge.model_figures(given)["horizons"]
    counts = {"patients": count, "events": events, "event_free": free, "censored_before": 5, "enough": enough}
    assert {name: line.pop(name) for name in counts} == counts
    assert line.pop("horizon_months") == 12
    assert all((value is not None) == enough for value in line.values()), line
    assert (curves(given, 0) is not None) == enough
    (facts,) = judge.performance(judged.out_of_fold(eta, (12,)), ("clinical",), "OS", outcome)
    assert (facts.auc is not None) == (facts.observed_expected is not None) == enough


def test_a_horizon_beyond_the_follow_up_says_so() -> None:
    given = judged.perfect(200, 1, horizons=(12, 600))
    first, last = judge.model_figures(given)["horizons"]
    assert first["enough"]
    assert not last["enough"]
    assert last["event_free"] == 0
    assert last["auc"] is last["brier"] is last["observed_expected"] is None


def test_repeats_do_not_narrow_the_interval_as_more_patients_would() -> None:
    """The same patients judged five times over are still as many patients; only the luck of the folds goes."""
    once, often = (judge.model_figures(judged.perfect(150, 1, folds=5, repeats=n)) for n in (1, 5))
    for name, least in (("hazard_ratio", 0.99), ("calibration_slope", 0.99), ("concordance_uno", 0.75)):
        widths = [model[f"{name}_upper"] - model[f"{name}_lower"] for model in (once, often)]
        assert widths[1] > least * widths[0]


def test_separation_names_direction_and_chance() -> None:
    given = judged.perfect(200, 2)
    found = judge.model_figures(given)
    assert found["hazard_ratio_lower"] > 1
    assert found["logrank_p"] < 0.001
    turned = judge.model_figures(replace(given, high=~given.high))
    assert turned["hazard_ratio"] == pytest.approx(1 / found["hazard_ratio"], rel=1e-3)
    rng = np.random.default_rng(1)
    chance = [judge.hazard_ratio(replace(given, high=rng.random((1, 200)) < 0.5))["logrank_p"] for _ in range(200)]
    assert 0.01 <= np.mean(np.array(chance) < 0.05) <= 0.1
    lonely = judge.model_figures(replace(given, high=np.zeros((1, 200), bool)))
    assert lonely["hazard_ratio"] is None
    assert lonely["logrank_p"] is None


def test_parts_of_a_cohort_are_judged_within_folds_and_by_their_own_patients(tmp_path: Path) -> None:
    loaded = cohort.load(cohorts.write(tmp_path, cohorts.patients(160)))
    named = dict(subgroups.parts(loaded))
    assert {"sex = F", "sex = M", "ecog = 0", "ecog = 1", "ecog = 2", "liver_metastases = yes"} <= set(named)
    halves = [name for name in named if name.startswith("age ")]
    assert [name[:6] for name in halves] == ["age < ", "age >="]
    assert (named[halves[0]] ^ named[halves[1]]).all()
    present = np.array(["pdl1" in row for row in loaded.clinical])
    assert np.array_equal(np.any([mask for name, mask in named.items() if name.startswith("pdl1")], axis=0), present)
    given = judged.perfect(160, 3, folds=5)
    lines = subgroups.lines(given, "OS", list(named.items()))
    women = next(line for line in lines if line["subgroup"] == "sex = F" and line["horizon_months"] == 12)
    assert women["patients"] == named["sex = F"].sum()
    case, weight = metrics.weights(given.time[named["sex = F"]], given.event[named["sex = F"]], 12)
    right = total = 0.0
    rows = np.flatnonzero(named["sex = F"])
    for fold in given.folds[0]:
        for i in np.flatnonzero(np.isin(rows, fold) & case):
            for j in np.flatnonzero(np.isin(rows, fold) & ~case & (weight > 0)):
                right += weight[i] * (given.eta[0, rows[i]] > given.eta[0, rows[j]])
                total += weight[i]
    assert women["auc"] == pytest.approx(right / total, abs=1e-4)
    assert women["auc_lower"] <= women["auc"] <= women["auc_upper"]


def test_sites_are_judged_apart_and_a_small_one_prints_no_figure() -> None:
    given = judged.perfect(200, 4)
    labels = ["north"] * 150 + ["south"] * 10 + [""] * 40
    lines = subgroups.site_lines(given, "OS", labels)
    assert [(line["site"], line["patients"]) for line in lines] == [("north", 150)] * 2 + [("south", 10)] * 2
    assert [line["auc"] is None for line in lines] == [False, False, True, True]


def test_every_key_of_the_predictions_gets_a_line_and_a_baseline_is_called_one(trained: Trained) -> None:
    """A Cox model on size alone, a random encoder: judged like any combination and named as what they are."""
    added = {("size",): ("radiomic",), ("clinical", "random encoder"): ("clinical",)}

    def with_baselines(table):
        return dict(table) | {(new, e): table[old, e] for new, old in added.items() for e in ("OS", "PFS")}

    repeats = [
        replace(
            repeat,
            linear_predictor=with_baselines(repeat.linear_predictor),
            probability=with_baselines(repeat.probability),
            high=with_baselines(repeat.high),
        )
        for repeat in trained.repeats
    ]
    found = figures(Material(repeats, trained.cohort.outcomes, trained.subsets[-1]))
    by_name = {line["name"]: line for line in found["models"] if line["endpoint"] == "OS"}
    kinds = {name: line["kind"] for name, line in by_name.items()}
    models = {" + ".join(subset): "model" for subset in trained.subsets}
    assert kinds == models | {"size": "baseline", "clinical + random encoder": "baseline"}
    assert by_name["size"]["modalities"] == []
    assert by_name["size"]["horizons"] == by_name["radiomic"]["horizons"]
    assert {curve["name"] for curve in found["curves"]} == {"clinical + radiomic + deep", "clinical", "size"}


def test_the_document_is_whole_json_without_nan_and_the_same_again(trained: Trained) -> None:
    extra = {"procedure": {"note": "x"}, "features": [{"name": "age", "share": 0.123456}]}
    found = validation.metrics_of(trained, extra)
    text = json.dumps(found, allow_nan=False)
    assert text == json.dumps(validation.metrics_of(trained, extra), allow_nan=False)
    assert found["kind"] == "cross-validation"
    assert found["synthetic"] is True
    assert "SYNTHETIC" in found["warning"]
    assert found["features"] == [{"name": "age", "share": 0.1235}]
    assert (found["procedure"]["note"], found["procedure"]["outer_folds"]) == ("x", 3)
    (first, second) = found["kaplan_meier"]
    assert (first["endpoint"], second["endpoint"]) == ("OS", "PFS")
    assert [group["group"] for group in first["groups"]] == ["LOW", "HIGH"]
    assert sum(group["patients"] for group in first["groups"]) == 160
    assert {line["kind"] for line in found["models"]} >= {"model"}
    full = next(m for m in found["models"] if m["name"] == "clinical + radiomic + deep" and m["endpoint"] == "OS")
    assert first["hazard_ratio"] == full["hazard_ratio"]
    facts = judge.performance(trained.repeats, trained.subsets[-1], "OS", trained.cohort.outcomes["OS"])
    assert [line.auc for line in facts] == [line["auc"] for line in full["horizons"]]
    assert full["concordance_uno_lower"] < full["concordance_uno"] < full["concordance_uno_upper"]
