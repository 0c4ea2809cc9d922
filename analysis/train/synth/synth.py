"""Synthetic cohorts: DICOM CT and contour, a clinical table, outcomes, and the truth behind them.

    OUT/patients.csv    clinical values, outcomes, folder of the CT and file of the contour
    OUT/truth.json      latents and oracle risks: for judging a model, never for training one
    OUT/cohort.toml     what `train` reads
    OUT/images/<patient>/ct/*.dcm, rtstruct.dcm or seg.dcm

The same seed gives the same bytes. Every patient says SYNTHETIC.
"""

import hashlib
import json
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from analysis.train.synth import outcomes, raster
from analysis.train.synth.anatomy import Grid, body, chest
from analysis.train.synth.background import fingerprint, real_chest
from analysis.train.synth.dicom_files import Study, write_ct, write_rtstruct
from analysis.train.synth.lesion import COVERED_MM, Lesion, insert, place
from analysis.train.synth.seg_file import write_seg
from analysis.train.synth.synth_error import SynthError
from analysis.train.synth.synth_tables import write_table, write_truth
from analysis.train.synth.synth_text import cohort_toml

__all__ = ["GENERATOR", "SCANNERS", "SynthConfig", "SynthError", "make_cohort", "make_patient", "patient_id", "scan"]

GENERATOR = "prognode-synth-2"
FIELD_OF_VIEW_MM = 360.0
DUPLICATED_SHARE = 0.05


@dataclass(frozen=True)
class Scanner:
    """Noise SD in HU, blur of the kernel in mm, and slice thickness as a multiple of what was asked for."""

    model: str
    kernel: str
    noise: float
    blur: float
    thickness: float = 1.0


# Drawn without regard to the outcome, except in site-shift mode, where each site has its own.
SCANNERS = (
    Scanner("SYN-CT-A", "SOFT", 9.0, 0.85),
    Scanner("SYN-CT-B", "STANDARD", 12.0, 0.75),
    Scanner("SYN-CT-C", "SHARP", 16.0, 0.65),
)
SITE_SCANNERS = {"A": Scanner("SYN-CT-A", "SOFT", 8.0, 1.0), "B": Scanner("SYN-CT-D", "SHARP", 20.0, 0.5, 1.5)}


@dataclass(frozen=True)
class SynthConfig:
    """What is to be made.

    `matrix` is rows and columns; the volume covers `slices` x `slice_mm` of the chest. `background` is a folder of
    real CTs, `*_image.nrrd`, into whose lungs the lesions are set. `missing_images` is the share of patients with
    a row in the table and nothing else.
    """

    count: int
    seed: int = 2025
    mode: outcomes.Mode = "planted"
    matrix: int = 192
    slices: int = 48
    slice_mm: float = 3.0
    images: bool = True
    roi: Literal["rtstruct", "seg"] = "rtstruct"
    background: Path | None = None
    missing_images: float = 0.0

    def described(self) -> dict[str, Any]:
        """Everything that bears on the files, without the name of any folder."""
        return asdict(self) | {"background": None if self.background is None else fingerprint(self.background)}

    def digest(self) -> str:
        """Of the same."""
        return hashlib.sha256(json.dumps([GENERATOR, self.described()], sort_keys=True).encode()).hexdigest()

    def grid(self, thickness: float = 1.0) -> Grid:
        """Voxels of a patient's CT; slices thicker than 5 mm are not made."""
        in_plane = FIELD_OF_VIEW_MM / self.matrix
        step = max(self.slice_mm, min(thickness * self.slice_mm, 5.0))
        count = int(np.ceil(self.slices * self.slice_mm / step - 1e-6))
        return Grid((count, self.matrix, self.matrix), (step, in_plane, in_plane))

    def sources(self) -> list[int]:
        """For each row of the table, the number (from 1) of the patient it shows: two rows share one if duplicated."""
        numbers = list(range(1, self.count + 1))
        if self.mode != "duplicates":
            return numbers
        twice = max(2, round(DUPLICATED_SHARE * self.count))
        chosen = np.random.default_rng([self.seed, 6]).permutation(self.count)[:twice] + 1
        return numbers + sorted(int(number) for number in chosen)

    def with_images(self) -> list[bool]:
        """For each row of the table, whether the patient has images."""
        _check_limits(self)
        absent = round(self.missing_images * self.count) if self.images else self.count
        without = set(np.random.default_rng([self.seed, 7]).permutation(max(self.count, 0))[:absent] + 1)
        return [number not in without for number in self.sources()]


def make_cohort(
    config: SynthConfig, out: Path, workers: int = 2, progress: Callable[[int], None] | None = None
) -> None:
    """Write a cohort into an empty or absent folder.

    Raises
    ------
    SynthError
        The folder holds files already, a number is out of range, or a background cannot be used.
    """
    _check(config, workers)
    out.mkdir(parents=True, exist_ok=True)
    if any(out.iterdir()):
        raise SynthError(f"{out}: not empty; give a new folder")
    patients = outcomes.draw(config.count, config.seed, config.mode)
    sources, imaged = config.sources(), config.with_images()
    names = [patient_id(config, number) for number in range(1, len(sources) + 1)]
    _images(config, out, workers, progress)
    places = [
        (f"images/{name}/ct", f"images/{name}/{config.roi}.dcm") if seen else ("", "")
        for name, seen in zip(names, imaged, strict=True)
    ]
    write_table(out / "patients.csv", patients, names, [number - 1 for number in sources], places)
    heading = {"generator": GENERATOR, "config": config.described(), "config_digest": config.digest()}
    write_truth(out / "truth.json", patients, names, [number - 1 for number in sources], heading)
    (out / "cohort.toml").write_text(cohort_toml(config.count, config.seed, config.mode, config.digest()))


def make_patient(config: SynthConfig, number: int, folder: Path) -> None:
    """Write CT and contour of row `number` (from 1) of the table into `folder`."""
    patients = outcomes.draw(config.count, config.seed, config.mode)
    source = config.sources()[number - 1]
    index = source - 1
    # Anatomy and lesion hang on seed and number alone, so that a patient is the same on every matrix.
    rng = np.random.default_rng([config.seed, 3, source])
    scanner = SCANNERS[int(rng.integers(len(SCANNERS)))]
    if config.mode == "site-shift":
        scanner = SITE_SCANNERS[outcomes.site(patients, index)]
    study = Study(
        key=f"{GENERATOR}/{config.digest()}/{number}",
        number=number,
        seed=config.seed,
        age=int(patients.age[index]),
        female=bool(patients.female[index]),
        scanner=scanner.model,
        kernel=scanner.kernel,
        real_chest=config.background is not None,
    )
    lesion = Lesion(
        float(outcomes.volume_ml(patients)[index]),
        float(patients.heterogeneity[index]),
        float(patients.roughness[index]),
    )
    grid = config.grid(scanner.thickness)
    hu, mask = _draw(config, grid, lesion, study.female, rng)
    hu = scan(hu, grid, scanner, rng)
    headers = write_ct(folder / "ct", hu, grid, study)
    write = write_seg if config.roi == "seg" else write_rtstruct
    write(folder / f"{config.roi}.dcm", mask, grid, headers, study)


def patient_id(config: SynthConfig, number: int) -> str:
    """Identifier of row `number` (from 1) in table, headers and folder name."""
    return f"SYN-{config.seed}-{number:04d}"


def _check_limits(config: SynthConfig) -> None:
    limits = {
        "count": (1, 9000),  # identifiers have four digits, and duplicates come on top
        "matrix": (64, 1024),
        "slices": (24, 400),
        "slice_mm": (0.5, 5.0),
        "seed": (0, 10**9),
        "missing_images": (0.0, 1.0),
    }
    for name, (low, high) in limits.items():
        if not low <= getattr(config, name) <= high:
            raise SynthError(f"{name} must lie between {low:g} and {high:g}")


def _check(config: SynthConfig, workers: int) -> None:
    _check_limits(config)
    if workers < 1:
        raise SynthError("workers must be 1 or more")
    if config.mode == "duplicates" and config.count < 2:
        raise SynthError("count must be 2 or more in mode duplicates: two patients at least stand in the table twice")
    if config.slices * config.slice_mm < COVERED_MM:
        raise SynthError(f"slices x slice_mm must cover {COVERED_MM:g} mm, or large lesions would be cut off")
    if config.background is not None:
        real_chest(config.background, config.grid(), 20.0, np.random.default_rng(0), every=True)


def _draw(
    config: SynthConfig, grid: Grid, lesion: Lesion, female: bool, rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """HU before the scanner's blur and noise, and the lesion's mask; both of the grid's shape."""
    if config.background is not None:
        hu, centre = real_chest(config.background, grid, lesion.radius_mm, rng)
        return hu, insert(hu, grid, lesion, centre, rng)
    build = body(rng, female)
    centre = place(build, lesion.radius_mm, rng)
    hu = chest(build, grid, rng)
    return hu, insert(hu, grid, lesion, centre, rng)


def scan(hu: NDArray[np.float32], grid: Grid, scanner: Scanner, rng: np.random.Generator) -> NDArray[np.float32]:
    """Blur of the kernel and correlated noise of a stated SD, whatever the matrix."""
    sigma = [0.0, scanner.blur / grid.spacing_mm[1], scanner.blur / grid.spacing_mm[2]]
    grain = raster.blurred(rng.standard_normal(hu.shape, np.float32), sigma)
    return np.asarray(raster.blurred(hu, sigma) + grain * (scanner.noise / grain.std()), np.float32)


def _images(config: SynthConfig, out: Path, workers: int, progress: Callable[[int], None] | None) -> None:
    numbers = [number for number, seen in enumerate(config.with_images(), start=1) if seen]
    folders = [out / "images" / patient_id(config, number) for number in numbers]
    if workers <= 1 or len(numbers) <= 1:
        for done, (number, folder) in enumerate(zip(numbers, folders, strict=True), start=1):
            make_patient(config, number, folder)
            if progress:
                progress(done)
        return
    with ProcessPoolExecutor(workers) as pool:
        made = pool.map(make_patient, [config] * len(numbers), numbers, folders)
        for done, _ in enumerate(made, start=1):
            if progress:
                progress(done)
