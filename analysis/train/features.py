"""Radiomic features of a cohort's images: extracted in parallel, cached by what went in."""

import hashlib
import json
import math
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
from pydicom import dcmread
from pydicom.errors import InvalidDicomError

from analysis import radiomic
from analysis.contract import Combine, NotScorable
from analysis.roi import RoiMask, mask_from_rtstruct
from analysis.segment import mask_from_seg
from analysis.settings import ExtractionSettings, ExtractionSettingsInvalid
from analysis.train.cohort import Cohort, CohortError
from analysis.volume import Volume, read_ct

CACHE_VERSION = "1"


def extract(cohort: Cohort, cache: Path, workers: int, progress: Callable[[int], None] | None = None) -> Cohort:
    """The cohort with a radiomic column for every feature that its settings give; NaN where there are no images.

    Raises
    ------
    CohortError
        An image or contour cannot be used; names the row.
    """
    settings = settings_of(cohort)
    names = radiomic.expected_names(settings)
    rows = [row for row, paths in enumerate(cohort.image_paths) if paths is not None]
    cache.mkdir(parents=True, exist_ok=True)
    pattern = cohort.file.images.roi_name if cohort.file.images else ""
    jobs = [(row + 2, *(cohort.image_paths[row] or ()), pattern, settings, cache) for row in rows]
    matrix = np.full((len(cohort), len(names)), math.nan)
    with ProcessPoolExecutor(max(1, workers)) as pool:
        for done, (row, found) in enumerate(zip(rows, pool.map(_one, jobs), strict=True), start=1):
            matrix[row] = [found.get(name, math.nan) for name in names]
            if progress:
                progress(done)
    return replace(cohort, radiomic_names=names, radiomic=matrix)


def settings_of(cohort: Cohort) -> ExtractionSettings:
    """Extraction settings of the cohort file."""
    try:
        return ExtractionSettings.from_json(cohort.file.extraction)
    except ExtractionSettingsInvalid as error:
        raise CohortError(f"[extraction]: {error}") from None


def _one(job: tuple[int, Path, Path, str, ExtractionSettings, Path]) -> dict[str, float]:
    """Features of one patient, from the cache if its very inputs were seen before."""
    number, ct, roi, pattern, settings, cache = job
    files = sorted(path for path in ct.rglob("*") if path.is_file() and path != roi)
    entry = cache / f"{_digest(files, roi, pattern, settings)}.json"
    if entry.exists():
        cached: dict[str, float] = json.loads(entry.read_text())
        return cached
    try:
        volume = read_ct(files)
        mask = _mask(roi, pattern, number, volume)
        values = radiomic.features(volume, mask.array, settings).values()
    except (NotScorable, InvalidDicomError) as error:
        raise CohortError(
            f"row {number}: {error}; correct the images or leave the patient's image cells empty"
        ) from None
    draft = entry.with_suffix(".part")
    draft.write_text(json.dumps(values))
    draft.replace(entry)
    return values


def _digest(files: list[Path], roi: Path, pattern: str, settings: ExtractionSettings) -> str:
    total = hashlib.sha256(json.dumps([CACHE_VERSION, pattern, settings.to_json()], sort_keys=True).encode())
    for path in [*files, roi]:
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def _mask(path: Path, pattern: str, row: int, volume: Volume) -> RoiMask:
    """Union of the ROIs or segments whose name holds the pattern."""
    dataset = dcmread(path, stop_before_pixels=True)
    if dataset.get("Modality") == "SEG":
        named = [(item.SegmentNumber, item.get("SegmentLabel", "")) for item in dataset.get("SegmentSequence", [])]
    else:
        named = [(item.ROINumber, item.get("ROIName", "")) for item in dataset.get("StructureSetROISequence", [])]
    numbers = tuple(int(number) for number, name in named if pattern.lower() in str(name).lower())
    if not numbers:
        raise CohortError(f"row {row}: no ROI or segment has {pattern!r} in its name; set images.roi_name")
    read = mask_from_seg if dataset.get("Modality") == "SEG" else mask_from_rtstruct
    return read(path, numbers, Combine.UNION, volume)
