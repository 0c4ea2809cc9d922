"""Synthetic cohorts: DICOM CT and RTSTRUCT, a clinical table, outcomes, and the truth behind them.

    OUT/patients.csv    clinical values, outcomes, folder of the CT and file of the contour
    OUT/truth.json      latents and oracle risks: for judging a model, never for training one
    OUT/cohort.toml     what `train` reads
    OUT/images/<patient>/ct/*.dcm, rtstruct.dcm

The same seed gives the same bytes. Every patient says SYNTHETIC.
"""

import csv
import hashlib
import json
import logging
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from analysis.train import outcomes
from analysis.train.anatomy import Grid, body, chest
from analysis.train.dicom_files import Study, write_ct, write_rtstruct
from analysis.train.lesion import COVERED_MM, Lesion, insert, place
from analysis.train.synth_text import COHORT_TOML
from models.manifest import significant

log = logging.getLogger(__name__)

GENERATOR = "prognode-synth-1"
FIELD_OF_VIEW_MM = 360.0
# Noise SD in HU and blur in mm (kernel): three scanners, drawn without regard to the outcome.
SCANNERS = (("SYN-CT-A", "SOFT", 9.0, 0.85), ("SYN-CT-B", "STANDARD", 12.0, 0.75), ("SYN-CT-C", "SHARP", 16.0, 0.65))


class SynthError(Exception):
    """The cohort cannot be made; the text says what to change."""


@dataclass(frozen=True)
class SynthConfig:
    """What is to be made. `matrix` is rows and columns; the volume covers `slices` x `slice_mm` of the chest."""

    count: int
    seed: int = 2025
    mode: outcomes.Mode = "planted"
    matrix: int = 192
    slices: int = 48
    slice_mm: float = 3.0
    images: bool = True

    def digest(self) -> str:
        """Of everything that bears on the files."""
        return hashlib.sha256(json.dumps([GENERATOR, asdict(self)], sort_keys=True).encode()).hexdigest()

    def grid(self) -> Grid:
        """Voxels of every patient's CT."""
        in_plane = FIELD_OF_VIEW_MM / self.matrix
        return Grid((self.slices, self.matrix, self.matrix), (self.slice_mm, in_plane, in_plane))


def make_cohort(
    config: SynthConfig, out: Path, workers: int = 2, progress: Callable[[int], None] | None = None
) -> None:
    """Write a cohort into an empty or absent folder.

    Raises
    ------
    SynthError
        The folder holds files already, or a number is out of range.
    """
    _check(config)
    out.mkdir(parents=True, exist_ok=True)
    if any(out.iterdir()):
        raise SynthError(f"{out}: not empty; give a new folder")
    patients = outcomes.draw(config.count, config.seed, config.mode)
    if config.images:
        _images(config, out, workers, progress)
    _write_table(config, patients, out)
    _write_truth(config, patients, out)
    (out / "cohort.toml").write_text(
        COHORT_TOML.format(
            count=config.count,
            seed=config.seed,
            mode=config.mode,
            digest=config.digest(),
            name=f"synthetic-{config.mode}-{config.count}",
        )
    )


def make_patient(config: SynthConfig, number: int, folder: Path) -> None:
    """Write CT and RTSTRUCT of patient `number` (from 1) into `folder`."""
    patients = outcomes.draw(config.count, config.seed, config.mode)
    index = number - 1
    # Anatomy and lesion hang on seed and number alone, so that a patient is the same on every matrix.
    rng = np.random.default_rng([config.seed, 3, number])
    scanner, kernel, noise, blur = SCANNERS[int(rng.integers(len(SCANNERS)))]
    study = Study(
        key=f"{GENERATOR}/{config.digest()}/{number}",
        number=number,
        seed=config.seed,
        age=int(patients.age[index]),
        female=bool(patients.female[index]),
        scanner=scanner,
        kernel=kernel,
    )
    grid = config.grid()
    lesion = Lesion(
        float(outcomes.volume_ml(patients)[index]),
        float(patients.heterogeneity[index]),
        float(patients.roughness[index]),
    )
    build = body(rng)
    centre = place(build, lesion.radius_mm, rng)
    hu = chest(build, grid, rng)
    mask = insert(hu, grid, lesion, centre, rng)
    hu = _scan(hu, grid, noise, blur, rng)
    headers = write_ct(folder / "ct", hu, grid, study)
    write_rtstruct(folder / "rtstruct.dcm", mask, grid, headers, study)


def patient_id(config: SynthConfig, number: int) -> str:
    """Identifier of patient `number` (from 1) in table, headers and folder name."""
    return f"SYN-{config.seed}-{number:04d}"


def _check(config: SynthConfig) -> None:
    limits = {"count": (1, 9999), "matrix": (64, 1024), "slices": (24, 400), "slice_mm": (0.5, 5.0), "seed": (0, 2**31)}
    for name, (low, high) in limits.items():
        if not low <= getattr(config, name) <= high:
            raise SynthError(f"{name} must lie between {low} and {high}")
    if config.slices * config.slice_mm < COVERED_MM:
        raise SynthError(f"slices x slice_mm must cover {COVERED_MM:g} mm, or large lesions would be cut off")


def _scan(
    hu: np.typing.NDArray[np.float32], grid: Grid, noise: float, blur: float, rng: np.random.Generator
) -> np.typing.NDArray[np.float32]:
    """Blur of the kernel and correlated noise of a stated SD, whatever the matrix."""
    sigma = [0.0, blur / grid.spacing_mm[1], blur / grid.spacing_mm[2]]
    grain = ndimage.gaussian_filter(rng.standard_normal(hu.shape, np.float32), sigma)
    return np.asarray(ndimage.gaussian_filter(hu, sigma) + grain * (noise / grain.std()), np.float32)


def _images(config: SynthConfig, out: Path, workers: int, progress: Callable[[int], None] | None) -> None:
    numbers = range(1, config.count + 1)
    folders = [out / "images" / patient_id(config, number) for number in numbers]
    if workers <= 1 or config.count == 1:
        for done, (number, folder) in enumerate(zip(numbers, folders, strict=True), start=1):
            make_patient(config, number, folder)
            if progress:
                progress(done)
        return
    with ProcessPoolExecutor(workers) as pool:
        made = pool.map(make_patient, [config] * config.count, numbers, folders)
        for done, _ in enumerate(made, start=1):
            if progress:
                progress(done)


def _write_table(config: SynthConfig, patients: outcomes.Patients, out: Path) -> None:
    rows = outcomes.clinical_rows(patients)
    with (out / "patients.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["patient_id", *rows[0], "ct", "roi"], lineterminator="\n")
        writer.writeheader()
        for number, row in enumerate(rows, start=1):
            name = patient_id(config, number)
            places = {"ct": f"images/{name}/ct", "roi": f"images/{name}/rtstruct.dcm"} if config.images else {}
            writer.writerow({"patient_id": name, **row, **places})


def _write_truth(config: SynthConfig, patients: outcomes.Patients, out: Path) -> None:
    risks = {months: outcomes.oracle_risk(patients, months) for months in outcomes.HORIZONS}
    volumes = outcomes.volume_ml(patients)
    truth = {
        "warning": "SYNTHETIC - NOT FOR CLINICAL USE",
        "generator": GENERATOR,
        "config": asdict(config),
        "config_digest": config.digest(),
        "effects": outcomes.EFFECTS if config.mode == "planted" else {},
        "patients": {
            patient_id(config, index + 1): {
                "log_hazard": significant(float(patients.log_hazard[index])),
                "volume_ml": significant(float(volumes[index])),
                "heterogeneity": significant(float(patients.heterogeneity[index])),
                "roughness": significant(float(patients.roughness[index])),
                "risk": {
                    f"{endpoint}_{months}": significant(float(values[index]))
                    for months, by_endpoint in risks.items()
                    for endpoint, values in by_endpoint.items()
                },
            }
            for index in range(len(patients))
        },
    }
    (out / "truth.json").write_text(json.dumps(truth, indent=1) + "\n")
