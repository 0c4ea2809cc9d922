"""The curve says what the scores say: through the same numbers, rising, with a band that holds it."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis import ensemble
from analysis.contract import Curve, Endpoint
from analysis.curve import baseline_by_month, event_probability
from analysis.ensemble import EnsembleResult
from analysis.train.model.trained import Trained
from models.bundle import DEMO, Bundle, BundleError, combinations_of, load, write
from tests.science.test_ensemble_score import clinical_of, radiomic_of, scored

FULL = ("clinical", "radiomic", "deep")


def curve_of(result: EnsembleResult, endpoint: str) -> Curve:
    return next(curve for curve in result.curves if curve.endpoint == endpoint)


@pytest.mark.parametrize("subset", combinations_of(FULL))
def test_the_curve_passes_through_the_very_numbers_of_the_scores(bundle: Bundle, trained: Trained, subset) -> None:
    for row in range(0, len(trained.cohort), 5):
        result = scored(bundle, trained, row, subset)
        for score in result.scores:
            curve, at = curve_of(result, score.endpoint), score.horizon_months
            assert curve.months[at] == at
            point = (curve.event_probability[at], curve.lower[at], curve.upper[at])
            assert point == (score.event_probability, score.lower, score.upper)


@pytest.mark.parametrize("subset", combinations_of(FULL))
def test_the_curve_is_the_model_s_own_and_not_a_line_between_the_scores(
    bundle: Bundle, trained: Trained, subset
) -> None:
    rows = np.arange(0, len(trained.cohort), 5)
    eta = trained.fitted.linear_predictor(trained.blocks, subset, "OS", rows)
    for row, predictor in zip(rows, eta, strict=True):
        curve = curve_of(scored(bundle, trained, row, subset), "OS")
        hazard = trained.fitted.recalibration[subset, "OS"].hazard[: len(curve.months)]
        expected = event_probability(np.asarray(hazard), np.float64(predictor))
        assert np.abs(np.asarray(curve.event_probability) - expected).max() < 1e-9


def test_it_starts_at_nothing_rises_and_stays_within_its_band(bundle: Bundle, trained: Trained) -> None:
    for row in range(0, len(trained.cohort), 3):
        result = scored(bundle, trained, row, ("clinical", "radiomic"))
        for curve in result.curves:
            lower, point, upper = (np.asarray(v) for v in (curve.lower, curve.event_probability, curve.upper))
            assert (lower[0], point[0], upper[0]) == (0, 0, 0)
            assert (lower <= point).all()
            assert (point <= upper).all()
            assert all((np.diff(values) >= 0).all() for values in (lower, point, upper))
            assert curve.months == tuple(range(37))


def test_progression_or_death_is_never_less_likely_than_death(bundle: Bundle, trained: Trained) -> None:
    for row in range(0, len(trained.cohort), 3):
        result = scored(bundle, trained, row, ("radiomic",))
        death, either = curve_of(result, "OS"), curve_of(result, "PFS")
        assert all(a <= b for a, b in zip(death.event_probability, either.event_probability, strict=True))


def test_an_endpoint_with_other_horizons_keeps_to_its_scores(bundle: Bundle, trained: Trained) -> None:
    """OS to 12 months only: it holds PFS up so far, and what comes later is not let above the next score."""
    raised = [
        r.model_copy(update={"cumulative_hazard": tuple(50 * h for h in r.cumulative_hazard[:25])})
        if r.endpoint == "OS"
        else r
        for r in bundle.model.recalibration
    ]
    rows = [
        r.model_copy(update={"cumulative_hazard": tuple(row[:1] for row in r.cumulative_hazard)})
        if r.endpoint == "OS"
        else r
        for r in bundle.bootstrap.recalibration
    ]
    ends = [e.model_copy(update={"horizons_months": (12,)}) if e.name == "OS" else e for e in bundle.manifest.endpoints]
    short = replace(
        bundle,
        model=bundle.model.model_copy(update={"recalibration": tuple(raised)}),
        bootstrap=bundle.bootstrap.model_copy(update={"recalibration": tuple(rows)}),
        manifest=bundle.manifest.model_copy(update={"endpoints": tuple(ends)}),
    )
    result = scored(short, trained, 0, ("clinical", "radiomic"))
    either = curve_of(result, "PFS")
    assert curve_of(result, "OS").months[-1] == 12
    for score in result.scores:
        if score.endpoint == "PFS":
            assert either.event_probability[score.horizon_months] == score.event_probability
    assert (np.diff(either.event_probability) >= 0).all()


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.floats(0, 0.3), min_size=36, max_size=36),
    st.lists(st.tuples(st.floats(0, 2), st.floats(0, 2)), min_size=1, max_size=5),
)
def test_a_refit_s_baseline_goes_through_what_is_known_of_it(rises: list[float], refits: list[tuple]) -> None:
    hazard = np.concatenate([[0.0], np.cumsum(rises)])
    known = np.array([[first, first + more] for first, more in refits])
    filled = baseline_by_month(hazard, (12, 36), known)
    assert np.allclose(filled[:, [12, 36]], known, rtol=0, atol=1e-12)
    assert (np.diff(filled, axis=1) >= -1e-12).all()
    same = baseline_by_month(hazard, (12, 36), hazard[None, [12, 36]])
    assert np.allclose(same[0], hazard, rtol=0, atol=1e-9) or hazard[36] == hazard[12] or hazard[12] == 0


def test_the_population_s_curve_is_what_was_observed(bundle: Bundle, trained: Trained) -> None:
    """1 - Kaplan-Meier, worked out here by hand: product over the months of who was at risk."""
    result = scored(bundle, trained, 0, FULL)
    for endpoint, outcome in trained.cohort.outcomes.items():
        observed = curve_of(result, endpoint).population
        survival, expected = 1.0, [0.0]
        for month in range(1, len(observed)):
            within = (outcome.time > month - 1) & (outcome.time <= month) & outcome.event
            for moment in sorted(set(outcome.time[within])):
                at_risk = (outcome.time >= moment).sum()
                survival *= 1 - ((outcome.time == moment) & outcome.event).sum() / at_risk
            expected.append(1 - survival)
        assert np.abs(np.asarray(observed) - expected).max() < 1e-4
        assert len(observed) > 24


def test_a_bundle_of_before_gives_the_curve_without_the_population_s(bundle: Bundle, trained: Trained) -> None:
    before = replace(bundle, model=bundle.model.model_copy(update={"population": ()}))
    now, then = (scored(one, trained, 0, FULL) for one in (bundle, before))
    assert [c.event_probability for c in now.curves] == [c.event_probability for c in then.curves]
    assert all(curve.population for curve in now.curves)
    assert not any(curve.population for curve in then.curves)


def test_a_bundle_file_that_does_not_know_the_population_loads(bundle: Bundle) -> None:
    text = json.loads((bundle.folder / "model.json").read_text())
    del text["population"]
    assert type(bundle.model).model_validate(text).population == ()
    assert load(DEMO).model.learners


def test_a_population_beyond_the_last_horizon_is_refused(bundle: Bundle, tmp_path) -> None:
    long = tuple(np.linspace(0, 0.9, 50).tolist())
    wrong = tuple(p.model_copy(update={"event_probability": long}) for p in bundle.model.population)
    facts = bundle.manifest.model_dump(exclude={"files"})
    with pytest.raises(BundleError, match="population OS runs beyond the last horizon"):
        write(
            tmp_path / "bundle",
            facts,
            bundle.model.model_copy(update={"population": wrong}),
            bundle.bootstrap,
            {"model_card.md": "card"},
            bundle.forests,
        )


def test_a_curve_of_unlike_lengths_is_refused() -> None:
    with pytest.raises(ValueError, match="differ in number"):
        Curve(endpoint=Endpoint.OS, months=(0, 1), event_probability=(0.0,), lower=(0.0, 0.1), upper=(0.0, 0.1))


def test_without_refits_the_band_is_the_curve(bundle: Bundle, trained: Trained) -> None:
    learners = tuple(
        r.model_copy(update={"coefficients": (), "offset": (), "scale": ()}) for r in bundle.bootstrap.learners
    )
    recalibration = tuple(
        r.model_copy(update={"slope": (), "cumulative_hazard": ()}) for r in bundle.bootstrap.recalibration
    )
    bare = replace(
        bundle,
        bootstrap=bundle.bootstrap.model_copy(update={"rows": 0, "learners": learners, "recalibration": recalibration}),
    )
    result = ensemble.score(bare, clinical_of(trained, 0), radiomic_of(trained, 0))
    for curve in result.curves:
        assert curve.lower == curve.event_probability == curve.upper
