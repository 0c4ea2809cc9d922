"""Training finds what was planted, finds nothing where nothing is, and gives the same bytes again."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from analysis.train import pipeline, place
from analysis.train.data import cohort
from analysis.train.data.cohort import Cohort, Outcome
from analysis.train.judging import judge
from analysis.train.model import crossval, design
from analysis.train.model.predictions import OutOfFold
from analysis.train.model.trained import Trained
from analysis.train.synth.outcomes import Mode, Patients, oracle_risk
from models.bundle import load
from tests import cohorts

BOTH = ("clinical", "radiomic")
EVERY = (*BOTH, "deep")


def judged(loaded: Cohort, patients: Patients, seed: int) -> tuple[list[OutOfFold], Outcome]:
    outcome = Outcome(patients.os_time, patients.os_event)
    return crossval.nested(design.blocks(loaded), {"OS": outcome}, loaded.file.training, seed).repeats, outcome


@pytest.mark.parametrize("draws", [3, pytest.param(8, marks=pytest.mark.exhaustive)])
def test_the_planted_effect_is_recovered_and_calibrated(tmp_path: Path, draws: int) -> None:
    """Mean of some draws at n = 240; `make science` has the images."""
    patients = cohorts.patients(240)
    loaded = cohort.load(cohorts.write(tmp_path, patients, folds=4))
    rows = []
    for seed in range(draws):
        drawn = cohorts.redrawn(patients, seed)
        repeats, outcome = judged(loaded, drawn, seed)
        lines = judge.performance(repeats, EVERY, "OS", outcome)
        gaps = [
            judge.baseline_auc(repeats, oracle_risk(drawn, m)["OS"], outcome, m)["auc"] - line.auc
            for m, line in zip((12, 36), lines, strict=True)
        ]
        rows.append([*gaps, lines[0].calibration_slope, lines[0].observed_expected, lines[0].hazard_ratio])
    gap_12, gap_36, slope, observed_expected, ratio = np.mean(rows, axis=0)
    assert gap_12 <= 0.06
    assert gap_36 <= 0.08
    assert 0.7 <= slope <= 1.4
    assert 0.9 <= observed_expected <= 1.1
    assert ratio >= 1.7


def test_where_nothing_is_planted_nothing_is_found(tmp_path: Path) -> None:
    patients = cohorts.patients(120, mode="null")
    loaded = cohort.load(cohorts.write(tmp_path, patients, noise_features=40, folds=4))
    found = []
    for seed in range(5):
        repeats, outcome = judged(loaded, cohorts.redrawn(patients, seed, "null"), seed)
        found += [judge.separation(repeats, subset, "OS", outcome).concordance for subset in (BOTH, EVERY)]
    assert abs(np.mean(found) - 0.5) <= 0.04


def test_selection_never_sees_the_patients_it_is_judged_on(tmp_path: Path) -> None:
    """300 noise features: choosing on all patients, as is often done, shows a signal; choosing in the fold does not."""
    patients = cohorts.patients(120, mode="null")
    loaded = cohort.load(cohorts.write(tmp_path, patients, noise_features=300, folds=4))
    block = design.blocks(loaded)[1]
    honest, leaking = [], []
    for seed in range(4):
        drawn = cohorts.redrawn(patients, seed, "null")
        outcome = Outcome(drawn.os_time, drawn.os_event)
        everyone = np.arange(len(loaded))
        picked = [index for index, _ in design.select(block, everyone, outcome, loaded.file.training)]
        peeked = design.Block(
            "radiomic", tuple(block.names[i] for i in picked), block.matrix[:, picked], block.available, {}
        )
        for part, into in ((block, honest), (peeked, leaking)):
            repeats = crossval.nested([part], {"OS": outcome}, loaded.file.training, seed).repeats
            into.append(judge.separation(repeats, ("radiomic",), "OS", outcome).concordance)
    assert abs(np.mean(honest) - 0.5) <= 0.04
    assert np.mean(leaking) > 0.58  # the trap is real, so the line above can fail


def test_imputation_and_scaling_are_learned_on_training_rows_alone(tmp_path: Path) -> None:
    """Whatever happens to the other rows, the recipe stays the same."""
    loaded = cohort.load(cohorts.write(tmp_path, cohorts.patients(80)))
    train = np.arange(50)
    for block in design.blocks(loaded):
        spoiled = block.matrix.copy()
        spoiled[50:] = 1e9
        other = replace(block, matrix=spoiled)
        outcome = loaded.outcomes["OS"]
        late = Outcome(np.where(np.arange(80) < 50, outcome.time, 999.0), outcome.event & (np.arange(80) < 50))
        settings = loaded.file.training
        assert design.learn(block, train, outcome, settings) == design.learn(other, train, late, settings)


def test_volume_is_always_kept_and_redundant_and_constant_features_are_not(tmp_path: Path) -> None:
    loaded = cohort.load(cohorts.write(tmp_path, cohorts.patients(160)))
    block = design.blocks(loaded)[1]
    settings = loaded.file.training.model_copy(update={"largest_correlation": 0.7})
    picked = design.select(block, np.arange(160), loaded.outcomes["OS"], settings)
    names = [block.names[index] for index, _ in picked]
    assert names[0] == cohorts.VOLUME
    assert picked[0][1]  # by its logarithm
    assert "constant" not in names
    assert len(names) <= loaded.outcomes["OS"].event.sum() // settings.events_per_variable
    for latent in ("volume", "heterogeneity", "roughness"):
        assert sum(name.startswith(f"copy_{latent}") for name in names) <= 1


def test_refits_of_noise_are_as_humble_as_the_model(tmp_path: Path) -> None:
    """Columns were chosen on all patients: refits that forgot it would give noise a slope of about a half."""
    path = cohorts.write(tmp_path, cohorts.patients(100, mode="null"), noise_features=100, folds=3)
    fitted = pipeline.fit_all(cohort.load(path))
    for key, found in fitted.fitted.recalibration.items():
        slopes = [row[0] for row in fitted.refits.recalibration[key]]
        assert abs(np.median(slopes) - found.slope) < 0.15, key


def test_the_intervals_hold_the_oracles_risk_often_and_are_not_vacuous(trained: Trained, bundle_folder: Path) -> None:
    from tests.science.test_ensemble_score import scored

    bundle = load(bundle_folder)
    truth = oracle_risk(cohorts.patients(160), 12)["OS"]
    held, widths = [], []
    for row in range(160):
        first = scored(bundle, trained, row, bundle.manifest.modalities).scores[0]
        held.append(first.lower <= truth[row] <= first.upper)
        widths.append(first.upper - first.lower)
    assert np.mean(held) > 0.4  # the model does not see all that the oracle knows
    assert 0.05 < np.median(widths) < 0.5


@pytest.mark.parametrize("mode", ["planted", pytest.param("null", marks=pytest.mark.exhaustive)])
def test_the_same_cohort_gives_the_same_bundle_and_a_standing_one_is_replaced_only_on_request(
    tmp_path: Path, mode: Mode
) -> None:
    path, out = cohorts.write(tmp_path / "cohort", cohorts.patients(60, mode=mode), folds=3), tmp_path / "out"
    pipeline.train(path, out)
    first = {file.name: file.read_bytes() for file in out.iterdir()}
    digest = load(out).digest
    with pytest.raises(place.PlaceTaken, match="--replace"):
        pipeline.train(path, out)
    summary = pipeline.train(path, out, replace=True)
    assert "SYNTHETIC - NOT FOR CLINICAL USE" in summary
    assert {file.name: file.read_bytes() for file in out.iterdir()} == first
    assert load(out).digest == digest
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.doc").write_text("years of work")
    with pytest.raises(place.PlaceTaken, match=r"holds no result of this kind, so it is not replaced"):
        pipeline.train(path, tmp_path / "other", replace=True)
    (out / "notes.txt").write_text("years of work")
    with pytest.raises(place.PlaceTaken, match=r"holds 'notes.txt' too, so it is not replaced"):
        pipeline.train(path, out, replace=True)
