"""The ensemble says at scoring time what training measured, and nothing that cannot be."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from analysis import ensemble
from analysis.contract import ClinicalValue, Endpoint, Modality, NotScorable, RiskGroup, by_modality
from analysis.ensemble import EnsembleResult
from analysis.reasons import Reason
from analysis.train.model.trained import Trained
from models.bundle import Bundle, combinations_of

MONTHS = (12, 36)


def clinical_of(trained: Trained, row: int) -> list[ClinicalValue]:
    values = trained.cohort.clinical[row].items()
    return [ClinicalValue(name=name, value=value, source="test") for name, value in values]


def radiomic_of(trained: Trained, row: int) -> dict[str, float]:
    return dict(zip(trained.cohort.radiomic_names, trained.cohort.radiomic[row].tolist(), strict=True))


def deep_of(trained: Trained, row: int) -> dict[str, float]:
    return dict(zip(trained.cohort.deep_names, trained.cohort.deep[row].tolist(), strict=True))


def scored(bundle: Bundle, trained: Trained, row: int, subset: Sequence[str]) -> EnsembleResult:
    return ensemble.score(
        bundle,
        clinical_of(trained, row) if "clinical" in subset else [],
        radiomic_of(trained, row) if "radiomic" in subset else None,
        deep_of(trained, row) if "deep" in subset else None,
    )


@pytest.mark.parametrize("subset", combinations_of(("clinical", "radiomic", "deep")))
def test_scoring_gives_the_numbers_of_training_on_every_sub_model(bundle: Bundle, trained: Trained, subset) -> None:
    rows = np.arange(len(trained.cohort))
    results = [scored(bundle, trained, row, subset) for row in rows]
    for endpoint in ("OS", "PFS"):
        eta = trained.fitted.linear_predictor(trained.blocks, subset, endpoint, rows)
        found = [next(g.linear_predictor for g in r.groups if g.endpoint == endpoint) for r in results]
        assert np.abs(np.array(found) - eta).max() < 1e-9
        for months in MONTHS:
            expected = trained.fitted.event_probability(subset, endpoint, eta, months)
            found = [next(s for s in r.scores if (s.endpoint, s.horizon_months) == (endpoint, months)) for r in results]
            if endpoint == "PFS":  # whose death is predicted is not predicted to live without progression
                deaths = trained.fitted.linear_predictor(trained.blocks, subset, "OS", rows)
                expected = np.maximum(expected, trained.fitted.event_probability(subset, "OS", deaths, months))
            assert max(abs(s.event_probability - p) for s, p in zip(found, expected, strict=True)) < 1e-9


@pytest.mark.parametrize("subset", combinations_of(("clinical", "radiomic", "deep")))
def test_contributions_sum_to_the_linear_predictor(bundle: Bundle, trained: Trained, subset) -> None:
    for row in range(0, len(trained.cohort), 7):
        result = scored(bundle, trained, row, subset)
        assert {part.modality for part in result.contributions} == set(subset)
        for group in result.groups:
            total = sum(part.contribution for part in result.contributions if part.endpoint == group.endpoint)
            assert abs(total - group.linear_predictor) < 1e-12
            shares = by_modality(result.contributions, group.endpoint)
            assert set(shares) == set(subset)
            assert abs(sum(shares.values()) - group.linear_predictor) < 1e-12


def test_risk_rises_with_time_and_pfs_is_never_above_os(bundle: Bundle, trained: Trained) -> None:
    """Whatever the values, however wild."""
    names = bundle.manifest.radiomic

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        st.floats(18, 110),
        st.floats(0.1, 100),
        st.integers(0, 4),
        st.lists(st.floats(-1e12, 1e12), min_size=len(names), max_size=len(names)),
    )
    def check(age: float, nlr: float, ecog: int, values: list[float]) -> None:
        clinical = [
            ClinicalValue(name=name, value=value, source="t")
            for name, value in (("age", age), ("nlr", nlr), ("ecog", float(ecog)))
        ]
        radiomic = dict(zip(names, values, strict=True))
        risk = {(s.endpoint, s.horizon_months): s for s in ensemble.score(bundle, clinical, radiomic).scores}
        for s in risk.values():
            assert 0 <= s.lower <= s.event_probability <= s.upper <= 1
        for endpoint in ("OS", "PFS"):
            for what in ("lower", "event_probability", "upper"):
                assert getattr(risk[endpoint, 12], what) <= getattr(risk[endpoint, 36], what)
        for months in MONTHS:
            for what in ("lower", "event_probability", "upper"):
                assert getattr(risk[Endpoint.PFS, months], what) >= getattr(risk[Endpoint.OS, months], what)

    check()


def test_a_pfs_risk_below_the_os_risk_is_raised_and_said_to_be(bundle: Bundle, trained: Trained) -> None:
    raised = [
        r.model_copy(update={"cumulative_hazard": tuple(50 * h for h in r.cumulative_hazard)})
        if r.endpoint == "OS"
        else r
        for r in bundle.model.recalibration
    ]
    model = bundle.model.model_copy(update={"recalibration": tuple(raised)})
    wrong = replace(bundle, model=model)
    result = scored(wrong, trained, 0, ("clinical", "radiomic"))
    risk = {(s.endpoint, s.horizon_months): s for s in result.scores}
    assert risk["PFS", 12].clipped
    assert risk["PFS", 12].event_probability == risk["OS", 12].event_probability
    assert not risk["OS", 12].clipped
    assert "PFS_HELD_AT_OS" in {flag.code for flag in result.flags}


def test_without_the_minimum_clinical_set_the_radiomic_sub_model_speaks_and_says_so(
    bundle: Bundle, trained: Trained
) -> None:
    only_age = [ClinicalValue(name="age", value=60.0, unit="a", source="DICOM PatientAge")]
    result = ensemble.score(bundle, only_age, radiomic_of(trained, 0))
    assert result.sub_model.modalities == (Modality.RADIOMIC,)
    assert result.sub_model.missing == (Modality.CLINICAL, Modality.DEEP)
    assert {p.endpoint for p in result.sub_model.performance} == {"OS", "PFS"}
    flag = next(flag for flag in result.flags if flag.code == "CLINICAL_MISSING")
    assert "ECOG performance status, Neutrophil-to-lymphocyte ratio" in flag.text
    expected = next(s for s in bundle.manifest.sub_models if s.modalities == ("radiomic",))
    assert [p.auc for p in result.sub_model.performance] == [p.auc for p in expected.performance]


def test_without_any_modality_there_is_no_score(bundle: Bundle) -> None:
    with pytest.raises(NotScorable) as refusal:
        ensemble.score(bundle, [], None)
    assert refusal.value.reason == Reason.NO_SUB_MODEL


def test_a_needed_feature_that_failed_is_named(bundle: Bundle, trained: Trained) -> None:
    name = bundle.manifest.radiomic[0]
    rest = {key: value for key, value in radiomic_of(trained, 0).items() if key != name}
    with pytest.raises(NotScorable, match=name) as refusal:
        ensemble.score(bundle, clinical_of(trained, 0), rest)
    assert refusal.value.reason == Reason.FEATURES_FAILED


def test_an_absent_clinical_value_takes_the_training_median_and_is_marked(bundle: Bundle, trained: Trained) -> None:
    row = next(r for r in range(len(trained.cohort)) if "pdl1" in trained.cohort.clinical[r])
    without = [value for value in clinical_of(trained, row) if value.name != "pdl1"]
    fill = next(p.fill for p in bundle.manifest.clinical if p.name == "pdl1")
    stated = [*without, ClinicalValue(name="pdl1", value=fill, source="test")]
    absent, present = (ensemble.score(bundle, values, radiomic_of(trained, row)) for values in (without, stated))
    assert absent.scores == present.scores
    assert {p.name for p in absent.contributions if p.imputed} == {"pdl1"}
    assert not any(p.imputed for p in present.contributions)
    assert "CLINICAL_IMPUTED" in {flag.code for flag in absent.flags}


def test_a_value_beyond_the_training_range_is_marked_and_cannot_run_away(bundle: Bundle, trained: Trained) -> None:
    def with_volume(value: float) -> EnsembleResult:
        items = radiomic_of(trained, 0) | {"original_shape_MeshVolume": value}
        return ensemble.score(bundle, clinical_of(trained, 0), items)

    huge, absurd = with_volume(1e9), with_volume(1e15)
    assert "original_shape_MeshVolume" in {p.name for p in huge.contributions if p.out_of_range}
    assert {"OUTSIDE_DEVELOPMENT_RANGE", "OUT_OF_DISTRIBUTION"} <= {flag.code for flag in huge.flags}
    assert huge.scores == absurd.scores


def test_the_group_is_uncertain_exactly_where_the_interval_holds_the_cut_off(bundle: Bundle, trained: Trained) -> None:
    seen = set()
    for row in range(len(trained.cohort)):
        for group in scored(bundle, trained, row, ("clinical", "radiomic")).groups:
            holds = group.lower <= group.cutoff <= group.upper
            assert (group.group == RiskGroup.UNCERTAIN) == holds
            if not holds:
                assert (group.group == RiskGroup.HIGH) == (group.linear_predictor > group.cutoff)
            seen.add(group.group)
    assert seen == set(RiskGroup)


def test_few_of_the_training_patients_are_called_unlike_the_training_cohort(bundle: Bundle, trained: Trained) -> None:
    flagged = 0
    for row in range(len(trained.cohort)):
        result = scored(bundle, trained, row, ("clinical", "radiomic", "deep"))
        flagged += any(flag.code == "OUT_OF_DISTRIBUTION" for flag in result.flags)
    assert flagged <= 0.06 * len(trained.cohort)  # 1 % for each of three modalities, and some luck


def test_a_gross_error_of_unit_is_called_unlike_the_training_cohort(bundle: Bundle, trained: Trained) -> None:
    """Ten times everything that the radiomic model looks at: the blunder that the check is for."""
    caught = 0
    for row in range(0, len(trained.cohort), 4):
        wrong = {name: 10 * value for name, value in radiomic_of(trained, row).items()}
        flags = {flag.code for flag in ensemble.score(bundle, clinical_of(trained, row), wrong).flags}
        caught += "OUT_OF_DISTRIBUTION" in flags
    assert caught >= 0.9 * len(range(0, len(trained.cohort), 4))
