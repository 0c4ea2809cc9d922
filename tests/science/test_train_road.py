"""From DICOM to a bundle and back: what training measured is what the job measures, on every sub-model."""

import json
from pathlib import Path

import numpy as np
import pytest

from analysis import ensemble, golden
from analysis.contract import ClinicalValue, CtInput, JobRequest, Outcome, RoiInput
from analysis.run import Clock, analyse, main
from analysis.train import pipeline
from analysis.train.data import cohort, features
from analysis.train.model.trained import Trained
from analysis.train.synth.synth import SynthConfig, make_cohort
from models.bundle import DEMO, Bundle, combinations_of, load

pytestmark = pytest.mark.timeout(900)  # the cohort is drawn, measured and trained on before the first test
PATIENTS = 40


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("road") / "cohort"
    make_cohort(SynthConfig(count=PATIENTS, seed=4, matrix=96, slices=36, slice_mm=4.0), folder, workers=2)
    (folder / "encoder.onnx").write_bytes((DEMO / "encoder.onnx").read_bytes())
    path = folder / "cohort.toml"
    text = path.read_text().replace(
        "repeats = 5", "repeats = 1\npermutations = 1\nstability_patients = 10\nstability_perturbations = 1"
    )
    text = text.replace("bootstrap = 100", "bootstrap = 20").replace("[2.0, 2.0, 2.0]", "[4.0, 4.0, 4.0]")
    text = text.replace("folds = 5", "folds = 3")
    path.write_text(text + '\n[deep]\nencoder = "encoder.onnx"\n')
    return path


@pytest.fixture(scope="module")
def trained(path: Path) -> Trained:
    loaded = pipeline.with_features(cohort.load(path), path.parent / "cache", workers=2)
    return pipeline.fit_all(loaded, workers=2)


@pytest.fixture(scope="module")
def bundle(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("road-bundle") / "bundle"
    pipeline.write_bundle(trained, folder)
    return load(folder)


def request(path: Path, bundle: Bundle, trained: Trained, row: int, folder: Path) -> JobRequest:
    """A job folder for one patient of the cohort."""
    ct, roi = trained.cohort.image_paths[row] or (path, path)
    (folder / "ct").mkdir(parents=True)
    names = [f"{number:05d}.dcm" for number in range(len(list(ct.iterdir())))]
    for name, file in zip(names, sorted(ct.iterdir()), strict=True):
        (folder / "ct" / name).symlink_to(file)
    (folder / "roi").mkdir()
    (folder / "roi" / "roi.dcm").symlink_to(roi)
    (folder / "bundle").symlink_to(bundle.folder)
    values = [ClinicalValue(name=n, value=v, source="test") for n, v in trained.cohort.clinical[row].items()]
    made = JobRequest(
        key="k",
        ct=CtInput(files=tuple(names)),
        roi=RoiInput(kind="RTSTRUCT", file="roi.dcm", numbers=(1,), combine="single"),
        clinical=tuple(values),
        bundle_digest=bundle.digest,
    )
    (folder / "job.json").write_text(made.model_dump_json())
    return made


def test_the_job_says_of_a_patient_what_training_said_on_every_sub_model(
    path: Path, trained: Trained, bundle: Bundle, tmp_path: Path
) -> None:
    there = [row for row, paths in enumerate(trained.cohort.image_paths) if paths]
    for row in (there[0], there[-1]):
        folder = tmp_path / str(row)
        made = request(path, bundle, trained, row, folder)
        (folder / "out").mkdir()
        result = analyse(made, bundle, folder, folder / "out", Clock())
        measured = {item.name: item.value for item in result.measurements}
        radiomic = {name: measured[name] for name in bundle.manifest.radiomic}
        deep = {name: measured[name] for name in bundle.manifest.deep}
        for subset in combinations_of(bundle.manifest.modalities):
            said = ensemble.score(
                bundle,
                made.clinical if "clinical" in subset else (),
                radiomic if "radiomic" in subset else None,
                deep if "deep" in subset else None,
            )
            for group in said.groups:
                eta = trained.fitted.linear_predictor(trained.blocks, subset, group.endpoint, np.array([row]))[0]
                assert abs(group.linear_predictor - eta) < 1e-9
        whole = {group.endpoint: group.linear_predictor for group in said.groups}
        assert {group.endpoint: group.linear_predictor for group in result.groups} == whole


def test_the_job_runs_the_bundle_as_a_program(path: Path, trained: Trained, bundle: Bundle, tmp_path: Path) -> None:
    request(path, bundle, trained, 5, tmp_path)
    (tmp_path / "out").mkdir()
    assert main(tmp_path, tmp_path / "out") == 0
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["outcome"] == Outcome.SCORED
    assert result["sub_model"]["modalities"] == ["clinical", "radiomic", "deep"]
    families = {item["family"] for item in result["measurements"]}
    assert "Deep radiomics" in families
    assert "onnxruntime" in result["software"]


def test_some_patients_are_measured_again_and_the_control_encoder_stands_beside(trained: Trained) -> None:
    for block in trained.blocks[1:]:
        there = np.isfinite(block.repeats).any(axis=2).all(axis=1)
        assert there.sum() == 10
        again, once = block.repeats[there][:, 0], block.matrix[there]
        assert not np.array_equal(again, once)
    assert [block.modality for block in trained.baselines] == ["size", "random encoder"]
    assert trained.cohort.control.shape == trained.cohort.deep.shape
    assert not np.allclose(trained.cohort.control, trained.cohort.deep)


def test_everything_that_a_reader_needs_is_in_the_bundle(bundle: Bundle) -> None:
    assert set(bundle.manifest.files) >= {
        "encoder.onnx", "golden.json", "golden.npz", "metrics.json", "report.html", "model_card.md", "model_card.json",
        "tripod_ai.md",
    }  # fmt: skip
    assert golden.verify(bundle) > 50
    metrics = json.loads((bundle.folder / "metrics.json").read_text())
    names = {line["name"] for line in metrics["models"]}
    assert {"clinical + radiomic + deep", "deep", "size", "random encoder", "oracle"} <= names
    assert {line["endpoint"] for line in metrics["null"]["models"]} == {"OS", "PFS"}
    assert metrics["stability"]["patients"] == 10


def test_extraction_is_cached_by_encoder_too(path: Path, trained: Trained, tmp_path: Path) -> None:
    what = features.of_cohort_file(trained.cohort)
    other = tmp_path / "other.onnx"
    other.write_bytes(what.encoder.read_bytes() + b"")
    assert what.digest(0) == features.Extraction(what.settings, other, None, what.again, what.perturbations).digest(0)
    assert what.digest(0) != features.Extraction(what.settings, None, None, what.again, what.perturbations).digest(0)


def test_an_encoder_that_is_none_is_refused_by_its_key(path: Path, tmp_path: Path) -> None:
    (tmp_path / "encoder.onnx").write_bytes(b"not an encoder")
    loaded = cohort.load(path)
    section = loaded.file.deep.model_copy(update={"encoder": tmp_path / "encoder.onnx"})
    wrong = loaded.file.model_copy(update={"deep": section})
    from dataclasses import replace

    with pytest.raises(cohort.CohortError, match=r"deep.encoder: encoder.onnx: not an ONNX file"):
        features.of_cohort_file(replace(loaded, file=wrong))
