"""A cohort of images is measured as the bundle says, whatever its own file says, and scored as the node would."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from analysis import radiomic
from analysis.contract import Combine
from analysis.roi import mask_from_rtstruct
from analysis.settings import ExtractionSettings
from analysis.train import evaluate
from analysis.train.data import cohort
from analysis.train.judging import external
from analysis.train.synth.synth import SynthConfig, make_cohort
from analysis.volume import read_ct
from models.bundle import Bundle, BundleError

SPACING = (2.0, 2.0, 3.0)
WANTED = ("original_shape_MeshVolume", "original_shape_Sphericity")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three patients, the last without images."""
    folder = tmp_path_factory.mktemp("elsewhere") / "cohort"
    make_cohort(SynthConfig(count=3, seed=22, matrix=96, slices=36, slice_mm=4.0), folder, workers=2)
    return folder / "cohort.toml"


def measuring(bundle: Bundle) -> Bundle:
    """The bundle as if its radiomic features came from images, on a grid of its own."""
    settings = ExtractionSettings(spacing_mm=SPACING).to_json()
    manifest = bundle.manifest.model_copy(update={"extraction": settings, "radiomic": WANTED})
    return replace(bundle, manifest=manifest)


def test_features_are_measured_with_the_bundles_settings(bundle: Bundle, images: Path, tmp_path: Path) -> None:
    loaded = cohort.load(images, training=False)
    assert tuple(loaded.file.extraction.get("spacing_mm", ())) != SPACING
    loaded = replace(loaded, image_paths=(*loaded.image_paths[:2], None))
    measured = evaluate.with_features(measuring(bundle), loaded, tmp_path / "cache")
    patients = external.patients_of(measuring(bundle), measured)
    assert patients[2].radiomic is None
    for patient, (ct, contour) in zip(patients, loaded.image_paths[:2], strict=False):
        volume = read_ct(sorted(ct.iterdir()))
        mask = mask_from_rtstruct(contour, (1,), Combine.SINGLE, volume).array
        expected = radiomic.features(volume, mask, ExtractionSettings(spacing_mm=SPACING)).values()
        assert patient.radiomic == {name: expected[name] for name in WANTED}


def test_ready_columns_are_not_measured_again(bundle: Bundle, images: Path, tmp_path: Path) -> None:
    loaded = cohort.load(images, training=False)
    ready = replace(loaded, radiomic_names=WANTED, radiomic=np.ones((3, 2)))
    assert evaluate.with_features(measuring(bundle), ready, tmp_path / "cache") is ready
    assert not (tmp_path / "cache").exists()


def test_a_bundle_whose_settings_make_no_sense_is_refused(bundle: Bundle, images: Path, tmp_path: Path) -> None:
    loaded = cohort.load(images, training=False)
    wrong = replace(bundle, manifest=bundle.manifest.model_copy(update={"extraction": {"binwidth": 3}}))
    with pytest.raises(BundleError, match="unknown extraction settings: binwidth"):
        evaluate.with_features(wrong, loaded, tmp_path / "cache")
