"""Two small trained models for all science tests: a table of 160 planted patients, and 60 with every learner."""

from pathlib import Path

import pytest

from analysis.train import pipeline
from analysis.train.data import cohort
from analysis.train.model import learners, resample
from analysis.train.model.trained import Trained
from models.bundle import Bundle, load
from tests import cohorts


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    path = cohorts.write(tmp_path_factory.mktemp("cohort"), cohorts.patients(160), permutations=2, folds=3)
    return pipeline.fit_all(cohort.load(path))


@pytest.fixture(scope="session")
def bundle_folder(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle") / "bundle"
    pipeline.write_bundle(trained, folder)
    return folder


@pytest.fixture(scope="session")
def several(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """The clinical modality by all four learners; forests of a few trees."""
    every = ("cox", "survival-forest", "ipcw-logistic", "ipcw-forest")
    path = cohorts.write(tmp_path_factory.mktemp("several"), cohorts.patients(60), learners=every, folds=3)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(learners, "TREES", 20)
        patched.setattr(resample, "REFIT_TREES", 6)
        return pipeline.fit_all(cohort.load(path))


@pytest.fixture(scope="session")
def several_bundle(several: Trained, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("bundle") / "bundle"
    pipeline.write_bundle(several, folder)
    return load(folder)


@pytest.fixture(scope="session")
def bundle(bundle_folder: Path) -> Bundle:
    return load(bundle_folder)
