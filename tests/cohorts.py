"""Small cohorts for tests: the planted patients of the generator as a table, with made-up feature columns."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np

from analysis.train.synth import outcomes
from analysis.train.synth.outcomes import Patients
from analysis.train.synth.synth_text import COHORT_TOML

VOLUME = "original_shape_MeshVolume"


def feature_columns(patients: Patients, noise_features: int = 10, seed: int = 5) -> dict[str, np.ndarray]:
    """Columns that look like radiomics: volume, noisy and redundant copies of the latents, and noise."""
    rng = np.random.default_rng(seed)
    columns = {VOLUME: 1000 * outcomes.volume_ml(patients) * np.exp(rng.normal(0, 0.02, len(patients)))}
    for latent in ("volume", "heterogeneity", "roughness"):
        for copy in range(5):
            columns[f"copy_{latent}_{copy}"] = getattr(patients, latent) + rng.normal(0, 0.5, len(patients))
    for number in range(6):
        latent = ("volume", "heterogeneity")[number % 2]
        columns[f"deep_level1_mean_{number:02d}"] = getattr(patients, latent) + rng.normal(0, 0.8, len(patients))
    for number in range(noise_features):
        columns[f"noise_{number}"] = rng.normal(0, 1, len(patients))
    columns["constant"] = np.ones(len(patients))
    return columns


def write(
    folder: Path,
    patients: Patients,
    *,
    noise_features: int = 10,
    repeats: int = 1,
    bootstrap: int = 20,
    permutations: int = 0,
    learners: tuple[str, ...] = ("cox",),
    folds: int = 5,
) -> Path:
    """patients.csv and cohort.toml with ready feature columns; gives the path of the latter."""
    folder.mkdir(parents=True, exist_ok=True)
    columns = feature_columns(patients, noise_features)
    rows = outcomes.clinical_rows(patients)
    with (folder / "patients.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["patient_id", *rows[0], *columns])
        writer.writeheader()
        for index, row in enumerate(rows):
            writer.writerow(
                {
                    "patient_id": f"P{index:03d}",
                    **row,
                    **{name: f"{float(values[index]):.9g}" for name, values in columns.items()},
                }
            )
    text = COHORT_TOML.format(count=len(patients), mode=patients.mode, seed=1, digest="0" * 64, name="table")
    text = text.replace('truth = "truth.json"', "# no truth").replace("repeats = 5", f"repeats = {repeats}")
    text = text.replace("bootstrap = 100", f"bootstrap = {bootstrap}\npermutations = {permutations}")
    text = text.replace("folds = 5", f"folds = {folds}")
    text = text.replace("[clinical]\n", f"[clinical]\nlearners = {list(learners)!r}\n".replace("'", '"'))
    start, end = text.index("[images]"), text.index("[extraction]")
    deep = [name for name in sorted(columns) if name.startswith("deep_")]
    radiomic = [name for name in sorted(columns) if name not in deep]
    sections = f"[radiomic]\ncolumns = {radiomic!r}\n\n[deep]\ncolumns = {deep!r}\n\n".replace("'", '"')
    text = text[:start] + sections + text[end:]
    path = folder / "cohort.toml"
    path.write_text(text)
    return path


def patients(count: int, seed: int = 3, mode: outcomes.Mode = "planted") -> Patients:
    """Planted (or null) patients."""
    return outcomes.draw(count, seed, mode)


def redrawn(given: Patients, seed: int, mode: outcomes.Mode = "planted") -> Patients:
    """The same patients with other outcomes."""
    return replace(outcomes.outcomes(given, seed, mode))
