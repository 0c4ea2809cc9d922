"""Cases and patches for pretraining: finds CT and contour of each case, cuts the lesion out, caches by content."""

import csv
import hashlib
import json
import os
import tomllib
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError

from analysis.contract import Combine, NotScorable
from analysis.deep import Image, PatchSettings, cut_patch
from analysis.roi import Mask, mask_from_rtstruct
from analysis.segment import mask_from_seg
from analysis.volume import Volume, read_ct

CACHE_VERSION = "1"
DEFAULT_ROI_NAME = "GTV"
_STEPS_OF_MASK = 255


class PretrainError(Exception):
    """Pretraining cannot go on; the text says what to change, and names a case by its place, never a patient."""


@dataclass(frozen=True)
class Case:
    """One CT (files of a folder) with its contour object.

    Attributes
    ----------
    name : for people: the row of a table, or the place in a folder
    roi_name : part of the names of the ROIs or segments that make up the lesion
    """

    name: str
    ct: Path
    roi: Path
    roi_name: str


@dataclass(frozen=True, eq=False)
class TrainingPatch:
    """A lesion and its surroundings, as `deep.cut_patch` gives them, and whether the CT says SYNTHETIC."""

    hu: Image
    mask: Image
    synthetic: bool
    digest: str


# Cases ------------------------------------------------------------------------------------------------------


def find_cases(sources: Sequence[Path]) -> tuple[Case, ...]:
    """Cases of folders (any `ct` folder with one contour file beside it) and of cohort files, in a stable order.

    Raises
    ------
    PretrainError
        A source holds no case, or a case has several contour files, or a table lacks a column.
    FileNotFoundError
        A source is absent.
    """
    found: list[Case] = []
    for source in sources:
        if not source.exists():
            raise FileNotFoundError(f"{source}: not there")
        cases = _from_cohort(source) if source.is_file() else _from_folder(source)
        if not cases:
            raise PretrainError(
                f"{source}: no case in it; a case is a folder `ct` of DICOM files with one RTSTRUCT or SEG file "
                "(*.dcm) beside it"
            )
        found += cases
    return tuple(found)


def _from_folder(source: Path) -> list[Case]:
    cases = []
    folders = sorted(path for path in source.rglob("ct") if path.is_dir())
    for number, ct in enumerate(folders, start=1):
        name = f"{source}: case {number} of {len(folders)}"
        contours = sorted(ct.parent.glob("*.dcm"))
        if len(contours) != 1:
            raise PretrainError(f"{name}: {len(contours)} contour files (*.dcm) beside its `ct` folder; leave one")
        cases.append(Case(name, ct, contours[0], DEFAULT_ROI_NAME))
    return cases


def _from_cohort(source: Path) -> list[Case]:
    """Rows of a cohort's table that have images; outcomes are not even looked at."""
    try:
        file = tomllib.loads(source.read_text(encoding="utf-8"))
        table, images = source.parent / file["cohort"]["table"], file["images"]
        columns = images["ct"], images["roi"]
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise PretrainError(f"{source}: not a cohort file with [cohort] table and [images] ct, roi ({error})") from None
    with table.open(newline="", encoding="utf-8-sig") as stream:
        rows = list(csv.DictReader(stream))
    missing = [column for column in columns if rows and column not in rows[0]]
    if missing:
        raise PretrainError(f"{table}: no column {missing[0]!r}, which [images] of {source.name} names")
    return [
        Case(
            f"{table.name} row {number}",
            source.parent / ct,
            source.parent / roi,
            images.get("roi_name", DEFAULT_ROI_NAME),
        )
        for number, row in enumerate(rows, start=2)
        for ct, roi in [(row[columns[0]], row[columns[1]])]
        if ct and roi
    ]


# Patches ----------------------------------------------------------------------------------------------------


def load_patches(
    cases: Sequence[Case],
    settings: PatchSettings,
    cache: Path,
    workers: int,
    progress: Callable[[int], None] | None = None,
) -> tuple[TrainingPatch, ...]:
    """A patch of every case, cut anew only where its very inputs were not seen before.

    Raises
    ------
    PretrainError
        A case cannot be used; names it.
    """
    cache.mkdir(parents=True, exist_ok=True)
    jobs = [(case, settings, cache) for case in cases]
    patches = []
    with ProcessPoolExecutor(max(1, workers)) as pool:
        for done, patch in enumerate(pool.map(_one, jobs), start=1):
            patches.append(patch)
            if progress:
                progress(done)
    return tuple(patches)


def _one(job: tuple[Case, PatchSettings, Path]) -> TrainingPatch:
    case, settings, cache = job
    files = sorted(path for path in case.ct.rglob("*") if path.is_file())
    try:
        digest = _digest(files, case, settings)
        entry = cache / f"{digest}.npz"
        if not _whole(entry):
            _make(entry, files, case, settings)
    except (NotScorable, InvalidDicomError, OSError) as error:
        text = error.strerror if isinstance(error, OSError) else error
        raise PretrainError(f"{case.name}: {text}; correct its images or leave it out") from None
    return _read(entry, digest)


def _make(entry: Path, files: list[Path], case: Case, settings: PatchSettings) -> None:
    """Write the cache's entry; under a name of this process first, since two cases may hold the same images."""
    volume = read_ct(files)
    patch = cut_patch(volume, _mask(case, volume), settings)
    hu = np.clip(np.rint(patch.hu), -32768, 32767).astype(np.int16)
    mask = np.rint(patch.mask * _STEPS_OF_MASK).astype(np.uint8)
    synthetic = says_synthetic(dcmread(files[0], stop_before_pixels=True))
    draft = entry.with_suffix(f".{os.getpid()}.part")
    with draft.open("wb") as stream:
        np.savez_compressed(stream, hu=hu, mask=mask, synthetic=np.array(synthetic))
    draft.replace(entry)


def says_synthetic(header: Dataset) -> bool:
    """Whether a header names its patient or its series as made by a generator."""
    return any("SYNTHETIC" in str(header.get(word, "")).upper() for word in ("PatientName", "SeriesDescription"))


def _whole(entry: Path) -> bool:
    """Whether the cache holds the patch; a damaged entry is cut again."""
    try:
        _read(entry, "")
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile):
        return False
    return True


def _read(entry: Path, digest: str) -> TrainingPatch:
    with np.load(entry, allow_pickle=False) as arrays:
        mask = arrays["mask"].astype(np.float32) / _STEPS_OF_MASK
        return TrainingPatch(arrays["hu"].astype(np.float32), mask, bool(arrays["synthetic"]), digest)


def _digest(files: list[Path], case: Case, settings: PatchSettings) -> str:
    total = hashlib.sha256(json.dumps([CACHE_VERSION, case.roi_name, settings.to_json()], sort_keys=True).encode())
    for path in [*files, case.roi]:
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def _mask(case: Case, volume: Volume) -> Mask:
    """The only ROI or segment, or the union of those whose name holds the case's `roi_name`."""
    dataset = dcmread(case.roi, stop_before_pixels=True)
    seg = dataset.get("Modality") == "SEG"
    named = (
        [(int(item.SegmentNumber), str(item.get("SegmentLabel", ""))) for item in dataset.get("SegmentSequence", [])]
        if seg
        else [
            (int(item.ROINumber), str(item.get("ROIName", ""))) for item in dataset.get("StructureSetROISequence", [])
        ]
    )
    wanted = [number for number, name in named if len(named) == 1 or case.roi_name.lower() in name.lower()]
    if not wanted:
        raise PretrainError(f"{case.name}: none of {len(named)} ROIs or segments has {case.roi_name!r} in its name")
    read = mask_from_seg if seg else mask_from_rtstruct
    return read(case.roi, tuple(wanted), Combine.UNION, volume).array
