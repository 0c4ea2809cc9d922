"""External validation: each patient scored as the node scores, judged as cross-validation is, and told plainly."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis import ensemble
from analysis.contract import ClinicalValue
from analysis.train import evaluate
from analysis.train.__main__ import main
from analysis.train.data import cohort
from analysis.train.data.cohort import CohortError
from analysis.train.judging import external
from analysis.train.model.trained import Trained
from analysis.train.place import PlaceTaken
from models.bundle import Bundle, combinations_of
from tests import cohorts

Rows = list[dict[str, str]]
FEATURES = ("deep_", "copy_", "noise_", "original_", "constant")


def elsewhere(folder: Path, count: int) -> Path:
    """A cohort of elsewhere: other patients of the same making."""
    return cohorts.write(folder / "cohort", cohorts.patients(count, seed=9))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return elsewhere(tmp_path, 120)


@pytest.fixture(scope="module")
def evaluated(bundle_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cohort file of 200 patients, evaluated: files and report and all stand beside it."""
    path = elsewhere(tmp_path_factory.mktemp("elsewhere"), 200)
    evaluate.evaluate(bundle_folder, path, path.parent / "evaluation")
    return path


def metrics_of(evaluated: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((evaluated.parent / "evaluation" / "metrics.json").read_text())
    return found


def change(path: Path, edit: Callable[[Rows], object]) -> None:
    table = path.parent / "patients.csv"
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    edit(rows)
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


def without_features(row: dict[str, str]) -> None:
    row.update({name: "" for name in row if name.startswith(FEATURES)})


def line(found: dict[str, Any], name: str, endpoint: str = "OS") -> dict[str, Any]:
    return next(m for m in found["models"] if (m["name"], m["endpoint"]) == (name, endpoint))


def table(text: str) -> Rows:
    return list(csv.DictReader(io.StringIO(text)))


def test_patients_of_elsewhere_are_judged_as_the_cross_validation_promised(evaluated: Path) -> None:
    """The same making, so discrimination holds and calibration too."""
    found = metrics_of(evaluated)
    assert found["kind"] == "external"
    assert found["synthetic"] is True
    assert found["same_cohort"] is False
    used = line(found, "as used")
    assert found["models"][0] == used
    assert used["horizons"][0]["auc"] > 0.65
    assert 0.85 < used["horizons"][0]["observed_expected"] < 1.2
    assert 0.6 < used["calibration_slope"] < 2.2
    assert used["hazard_ratio_lower"] > 1
    # Nobody lacks anything, so as used is the full model.
    assert used["horizons"] == line(found, "clinical + radiomic + deep")["horizons"]
    kinds = {" + ".join(subset): "model" for subset in combinations_of(("clinical", "radiomic", "deep"))}
    assert {m["name"]: m["kind"] for m in found["models"]} == {"as used": "model", "size": "baseline"} | kinds
    assert found["sub_models_used"] == [{"modalities": ["clinical", "radiomic", "deep"], "patients": 200}]
    assert found["not_scored"] == []
    assert {group["group"] for group in found["kaplan_meier"][0]["groups"]} <= {"LOW", "UNCERTAIN", "HIGH"}
    assert sum(group["patients"] for group in found["kaplan_meier"][0]["groups"]) == 200
    assert {curve["name"] for curve in found["curves"]} == {"as used", "clinical"}


def test_every_prediction_is_the_nodes_own_and_no_line_says_whose_it_is(bundle: Bundle, evaluated: Path) -> None:
    loaded = cohort.load(evaluated, training=False)
    rows = table((evaluated.parent / "evaluation" / "predictions.csv").read_text())
    assert [row["row"] for row in rows] == [str(number) for number in range(2, 202)]
    for index in range(0, 200, 9):
        clinical = [ClinicalValue(name=n, value=v, source="t") for n, v in loaded.clinical[index].items()]
        radiomic = dict(zip(loaded.radiomic_names, loaded.radiomic[index].tolist(), strict=True))
        deep = dict(zip(loaded.deep_names, loaded.deep[index].tolist(), strict=True))
        result = ensemble.score(bundle, clinical, radiomic, deep)
        for score in result.scores:
            assert float(rows[index][f"{score.endpoint}_risk_{score.horizon_months}"]) == pytest.approx(
                score.event_probability, abs=1e-6
            )
        for group in result.groups:
            assert rows[index][f"{group.endpoint}_group"] == group.group
        assert float(rows[index]["OS_time_months"]) == pytest.approx(loaded.outcomes["OS"].time[index], abs=1e-4)
    everything = "".join(file.read_text() for file in sorted((evaluated.parent / "evaluation").iterdir()))
    assert not any(name in everything for name in loaded.patient_ids)


def test_the_training_cohort_itself_gives_the_numbers_of_training_and_is_called_what_it_is(
    trained: Trained, bundle: Bundle
) -> None:
    loaded = trained.cohort
    outcomes = external.outcomes_of(bundle, loaded)
    scored = external.score_cohort(bundle, external.patients_of(bundle, loaded), outcomes)
    rows = np.arange(len(loaded))
    for subset in trained.subsets:
        for endpoint in outcomes:
            eta = trained.fitted.linear_predictor(trained.blocks, subset, endpoint, rows)
            assert np.abs(scored.predictions.linear_predictor[subset, endpoint] - eta).max() < 1e-9
            cutoff = trained.fitted.recalibration[subset, endpoint].cutoff
            assert np.array_equal(scored.predictions.high[subset, endpoint], eta > cutoff)
    found = evaluate.metrics_of(bundle, loaded, outcomes, scored)
    assert found["same_cohort"] is True
    assert "no external validation" in found["warning"]


def test_each_patient_is_scored_with_what_they_have_and_each_sub_model_on_those_who_have_it(
    bundle: Bundle, path: Path
) -> None:
    def edit(rows: Rows) -> None:
        for row in rows[:30]:
            without_features(row)
        for row in rows[20:60]:  # below the minimum clinical set
            row["ecog"] = ""
        rows[100]["noise_0"] = rows[100]["original_shape_MeshVolume"] = ""

    change(path, edit)
    found, text = evaluate.validate(bundle, path)
    wanted = {tuple(used["modalities"]): used["patients"] for used in found["sub_models_used"]}
    assert wanted == {("clinical", "radiomic", "deep"): 59, ("radiomic", "deep"): 30, ("clinical",): 20}
    counts = {name: line(found, name)["patients"] for name in ("as used", "clinical", "radiomic")}
    assert counts == {"as used": 109, "clinical": 79, "radiomic": 89}
    assert line(found, "clinical + radiomic + deep")["patients"] == 59
    reasons = {refused["reason"]: refused["patients"] for refused in found["not_scored"]}
    assert reasons == {"NO_SUB_MODEL": 10, "FEATURES_FAILED": 1}
    assert all(refused["sentence"] for refused in found["not_scored"])
    rows = table(text)
    assert (rows[25]["sub_model"], rows[25]["not_scored"], rows[25]["OS_risk_12"]) == ("", "NO_SUB_MODEL", "")
    assert rows[100]["not_scored"] == "FEATURES_FAILED"
    assert rows[40]["sub_model"] == "radiomic+deep"
    assert found["cohort"]["patients"] == 120
    assert found["cohort"]["scored"] == 109


def test_patients_of_different_sub_models_are_ranked_by_risk_and_not_by_scores_of_different_scales(
    bundle: Bundle, path: Path
) -> None:
    change(path, lambda rows: [without_features(row) for row in rows[::2]])
    loaded = cohort.load(path, training=False)
    outcomes = external.outcomes_of(bundle, loaded)
    scored = external.score_cohort(bundle, external.patients_of(bundle, loaded), outcomes)
    eta = scored.predictions.linear_predictor[("as used",), "OS"]
    risk = scored.predictions.probability[("as used",), "OS"][:, -1]
    assert np.array_equal(np.argsort(eta), np.argsort(risk))


def test_a_cohort_without_a_modality_falls_back_and_says_what_is_absent(bundle: Bundle, path: Path) -> None:
    text = path.read_text()
    start, end = text.index("[radiomic]"), text.index("[extraction]")
    path.write_text(text[:start] + text[end:])
    found, _ = evaluate.validate(bundle, path)
    assert found["sub_models_used"] == [{"modalities": ["clinical"], "patients": 120}]
    assert "original_shape_MeshVolume" in found["predictors_absent"]
    assert {m["name"] for m in found["models"]} == {"as used", "clinical"}


def test_another_unit_is_refused_before_anyone_is_scored(bundle: Bundle, path: Path) -> None:
    text = path.read_text()
    assert 'unit = "g/L"' in text
    path.write_text(text.replace('unit = "g/L"', 'unit = "g/dL"').replace("minimum = 10\n", "").replace("maximum", "#"))
    with pytest.raises(CohortError, match=r"albumin: unit is 'g/dL', the bundle wants 'g/L'; convert the column"):
        evaluate.validate(bundle, path)
    assert sorted(file.name for file in path.parent.iterdir()) == ["cohort.toml", "patients.csv"]


def test_a_value_the_bundle_does_not_know_leaves_that_patient_out_with_the_reason(bundle: Bundle, path: Path) -> None:
    text = path.read_text()
    assert 'categories = ["F", "M"]' in text
    path.write_text(text.replace('categories = ["F", "M"]', 'categories = ["F", "M", "X"]'))
    change(path, lambda rows: [row.update(sex="X") for row in rows[:7]])
    found, _ = evaluate.validate(bundle, path)
    assert [(r["reason"], r["patients"]) for r in found["not_scored"]] == [("CLINICAL_VALUES_INVALID", 7)]


def test_a_dozen_patients_give_counts_and_no_figure(bundle: Bundle, path: Path) -> None:
    change(path, lambda rows: rows.__delitem__(slice(12, None)))
    found, _ = evaluate.validate(bundle, path)
    for model in found["models"]:
        for horizon in model["horizons"]:
            assert not horizon["enough"]
            assert horizon["patients"] == 12
            assert horizon["auc"] is horizon["ipa"] is horizon["observed_expected"] is None
    assert found["curves"] == []
    assert all(part["auc"] is None for part in found["subgroups"])


def test_values_outside_the_training_range_are_counted_by_feature(bundle: Bundle, path: Path, evaluated: Path) -> None:
    def edit(rows: Rows) -> None:
        for row in rows[:90]:
            row["original_shape_MeshVolume"] = str(1e6 * float(row["original_shape_MeshVolume"]))

    before = metrics_of(evaluated)["range"]
    change(path, edit)
    after = evaluate.validate(bundle, path)[0]
    worst = after["range"]["features"][0]
    assert worst["name"] == "original_shape_MeshVolume"
    assert worst["share"] >= 0.75
    assert worst["above"] >= 0.75
    assert before["patients_outside"] < after["range"]["patients_outside"] >= 0.75
    assert max(feature["share"] for feature in before["features"]) < 0.2
    assert after["out_of_distribution"] >= 0.75


def test_hospitals_are_judged_apart_where_the_cohort_names_them(bundle: Bundle, path: Path) -> None:
    def edit(rows: Rows) -> None:
        for index, row in enumerate(rows):
            row["hospital"] = "north" if index % 2 else "south"

    change(path, edit)
    path.write_text(path.read_text().replace("[cohort]\n", '[cohort]\nsite = "hospital"\n', 1))
    found, _ = evaluate.validate(bundle, path)
    sites = {site["site"]: site for site in found["sites"] if (site["endpoint"], site["horizon_months"]) == ("OS", 12)}
    assert {name: site["patients"] for name, site in sites.items()} == {"north": 60, "south": 60}
    assert all(site["auc"] is not None for site in sites.values())


def test_the_same_evaluation_gives_the_same_bytes_and_replaces_only_its_like(
    bundle_folder: Path, evaluated: Path, tmp_path: Path
) -> None:
    path, out = tmp_path / "cohort" / evaluated.name, tmp_path / "cohort" / "evaluation"
    shutil.copytree(evaluated.parent, path.parent)
    first = {file.name: file.read_bytes() for file in out.iterdir()}
    assert {"metrics.json", "predictions.csv", "report.html", "tripod_ai.md"} <= set(first)
    with pytest.raises(PlaceTaken, match="--replace"):
        evaluate.evaluate(bundle_folder, path, out)
    (out / "metrics.json").write_text("{}")
    evaluate.evaluate(bundle_folder, path, out, replace=True)
    assert {file.name: file.read_bytes() for file in out.iterdir()} == first
    with pytest.raises(PlaceTaken, match="holds no result of this kind"):
        evaluate.evaluate(bundle_folder, path, bundle_folder, replace=True)
    assert sorted(file.name for file in path.parent.iterdir()) == ["cohort.toml", "evaluation", "patients.csv"]


def test_an_endpoint_that_the_bundle_does_not_predict_is_no_validation(bundle: Bundle, path: Path) -> None:
    loaded = cohort.load(path, training=False)
    only_pfs = bundle.manifest.model_copy(update={"endpoints": bundle.manifest.endpoints[1:]})
    other = Bundle(**{**vars(bundle), "manifest": only_pfs})
    assert list(external.outcomes_of(other, loaded)) == ["PFS"]
    text = path.read_text()
    start, end = text.index("[outcomes.PFS]"), text.index("[", text.index("[outcomes.PFS]") + 1)
    path.write_text(text[:start] + text[end:])
    with pytest.raises(CohortError, match="no outcome that the bundle predicts"):
        external.outcomes_of(other, cohort.load(path, training=False))


def test_the_command_refuses_with_a_line_and_a_sysexit_and_prints_the_figures(
    bundle_folder: Path, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def words(bundle: Path, cohort_file: Path) -> list[str]:
        return ["evaluate", str(bundle), str(cohort_file), "--out", str(path.parent / "evaluation")]

    assert main(words(path.parent, path)) == os.EX_CONFIG
    assert "manifest.json: missing" in capsys.readouterr().err
    assert main(words(bundle_folder, path.parent / "absent.toml")) == os.EX_NOINPUT
    assert "absent.toml: no such file; give the COHORT.toml" in capsys.readouterr().err
    assert main(words(path.parent / "absent", path)) == os.EX_CONFIG
    assert "absent: no such folder; give the folder that holds manifest.json" in capsys.readouterr().err
    change(path, lambda rows: rows[3].update(os_event="2"))
    capsys.readouterr()
    assert main(words(bundle_folder, path)) == os.EX_DATAERR
    expected = "row 5: column 'os_event' must be 0 (censored) or 1 (event); recode it"
    assert capsys.readouterr().err.strip() == expected
    assert not (path.parent / "evaluation").exists()
    change(path, lambda rows: rows[3].update(os_event="1"))
    command = [sys.executable, "-m", "analysis.train", *words(bundle_folder, path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == os.EX_OK, done.stderr
    assert "120 of 120 patients scored" in done.stdout
    assert "SYNTHETIC - NOT FOR CLINICAL USE" in done.stdout
    assert "hazard ratio high v low" in done.stdout
