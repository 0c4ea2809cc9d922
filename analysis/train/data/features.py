"""Image features of a cohort: extracted in parallel, cached by what went in.

Radiomic and deep features come from the very functions that the job runs. Some patients are measured again under
perturbations, so that training can leave out what does not repeat.
"""

import hashlib
import importlib.metadata
import json
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.errors import InvalidDicomError

from analysis import radiomic
from analysis.contract import Combine, NotScorable, Reason
from analysis.deep import Encoder, EncoderError
from analysis.roi import RoiMask, mask_from_rtstruct
from analysis.segment import mask_from_seg
from analysis.settings import ExtractionSettings, ExtractionSettingsInvalid
from analysis.train.data.cohort import Cohort, CohortError
from analysis.train.data.perturb import perturbed
from analysis.volume import Volume, read_ct
from models.manifest import ModalityName

Array = NDArray[np.float64]
Progress = Callable[[int], None]
CACHE_VERSION = "3"
_SOFTWARE = ("prognode", "pyradiomics", "simpleitk", "numpy", "scipy", "onnxruntime")


@dataclass(frozen=True)
class Extraction:
    """What is measured on every patient: radiomic features, and with an encoder deep ones.

    `control` is an encoder that has learned nothing; `again` the rows measured again under `perturbations`.
    """

    settings: ExtractionSettings | None
    encoder: Path | None = None
    control: Path | None = None
    again: frozenset[int] = frozenset()
    perturbations: int = 0
    refuse: bool = True  # False: a patient whose images cannot be measured is set aside with the reason

    def digest(self, row: int) -> str:
        """Of everything but the patient's own files."""
        encoders = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (self.encoder, self.control) if path]
        settings = None if self.settings is None else self.settings.to_json()
        versions = [importlib.metadata.version(name) for name in _SOFTWARE]
        parts = [CACHE_VERSION, versions, settings, encoders, self.perturbations if row in self.again else 0]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class _Patient:
    row: int
    number: int
    ct: Path
    roi: Path
    pattern: str
    what: Extraction
    cache: Path


def of_cohort_file(cohort: Cohort, control: Path | None = None) -> Extraction:
    """What the cohort file asks for. Raises CohortError where its settings or its encoder cannot be used."""
    training = cohort.file.training
    with_images = [row for row, paths in enumerate(cohort.image_paths) if paths is not None]
    rng = np.random.default_rng([cohort.file.cohort.seed, 31])
    again = [int(row) for row in rng.permutation(np.array(with_images, int))[: training.stability_patients]]
    return Extraction(
        settings_of(cohort),
        encoder_of(cohort),
        control,
        frozenset(again),
        training.stability_perturbations if again else 0,
    )


def settings_of(cohort: Cohort) -> ExtractionSettings:
    """Radiomic extraction settings of the cohort file. Raises CohortError where they make no sense."""
    try:
        return ExtractionSettings.from_json(cohort.file.extraction)
    except ExtractionSettingsInvalid as error:
        raise CohortError(f"[extraction]: {error}") from None


def encoder_of(cohort: Cohort) -> Path | None:
    """The cohort's encoder, checked."""
    if cohort.file.deep.encoder is None:
        return None
    path = cohort.folder / cohort.file.deep.encoder
    try:
        Encoder.load(path)
    except (EncoderError, OSError) as error:
        raise CohortError(f"deep.encoder: {getattr(error, 'strerror', None) or error}; correct the path") from None
    return path


def extract(
    cohort: Cohort, what: Extraction, cache: Path, workers: int = 1, progress: Progress | None = None
) -> Cohort:
    """The cohort with a column for every feature; NaN where there are no images.

    Raises
    ------
    CohortError
        An image or contour cannot be used; names the row. With `what.refuse` off the patient is among `refused`.
    """
    cache.mkdir(parents=True, exist_ok=True)
    pattern = cohort.file.images.roi_name if cohort.file.images else ""
    patients = [
        _Patient(row, cohort.row_numbers[row], *paths, pattern, what, cache)
        for row, paths in enumerate(cohort.image_paths)
        if paths is not None
    ]
    found: dict[int, Mapping[str, Any]] = {}
    refused: dict[int, Reason] = {}
    with ProcessPoolExecutor(max(1, workers)) as pool:
        for done, (patient, values) in enumerate(zip(patients, pool.map(_one, patients), strict=True), start=1):
            if isinstance(values, Reason):
                refused[patient.row] = values
            else:
                found[patient.row] = values
            if progress:
                progress(done)
    return replace(_filled(cohort, what, found), refused=refused)


def _filled(cohort: Cohort, what: Extraction, found: Mapping[int, Mapping[str, Any]]) -> Cohort:
    count = len(cohort)
    radiomic_names = radiomic.expected_names(what.settings) if what.settings else cohort.radiomic_names
    deep_names = Encoder.load(what.encoder).names if what.encoder else cohort.deep_names
    repeats: dict[ModalityName, Array] = {}
    if what.perturbations:
        for modality, names in (("radiomic", radiomic_names), ("deep", deep_names)):
            repeats[modality] = np.full((count, what.perturbations, len(names)), np.nan)  # type: ignore[index]
            for row in what.again & found.keys():
                repeats[modality][row] = [_row(part[modality], names) for part in found[row]["repeats"]]  # type: ignore[index]
    return replace(
        cohort,
        radiomic_names=radiomic_names,
        radiomic=_or_ready(
            _table(count, found, "radiomic", radiomic_names), radiomic_names, cohort.radiomic_names, cohort.radiomic
        ),
        deep_names=deep_names,
        deep=_or_ready(_table(count, found, "deep", deep_names), deep_names, cohort.deep_names, cohort.deep),
        control=_table(count, found, "control", deep_names if what.control else ()),
        repeats=repeats,
    )


def _table(count: int, found: Mapping[int, Mapping[str, Any]], key: str, names: Sequence[str]) -> Array:
    table = np.full((count, len(names)), np.nan)
    for row, values in found.items():
        table[row] = _row(values[key], names)
    return table


def _or_ready(table: Array, names: Sequence[str], ready_names: Sequence[str], ready: Array) -> Array:
    """A patient without images keeps the ready columns of the table; those with images have been measured here."""
    stray = [name for name in ready_names if name not in names]
    if stray:
        raise CohortError(
            f"column {stray[0]!r} is no feature of these settings, so patients with images cannot have it; take the "
            "ready columns out, or the images"
        )
    for column, name in enumerate(ready_names):
        at = list(names).index(name)
        table[:, at] = np.where(np.isnan(table[:, at]), ready[:, column], table[:, at])
    return table


def _row(values: Mapping[str, float], names: Sequence[str]) -> list[float]:
    return [values.get(name, np.nan) for name in names]


def _one(patient: _Patient) -> dict[str, Any] | Reason:
    """Features of one patient, from the cache if its very inputs were seen before; or why there are none."""
    try:
        return _measure(patient)
    except OSError as error:  # a path may hold an identifier: it is not told
        raise CohortError(
            f"row {patient.number}: an image or the contour cannot be read ({error.strerror}); correct its permissions"
        ) from None


def _measure(patient: _Patient) -> dict[str, Any] | Reason:
    files = sorted(path for path in patient.ct.rglob("*") if path.is_file() and path != patient.roi)
    entry = patient.cache / f"{_digest(patient, files)}.json"
    cached = _cached(entry)
    if cached is not None:
        return cached
    try:
        volume = read_ct(files)
        mask = _mask(patient, volume).array
        values = _measured(volume, mask, patient.what) | {"repeats": _again(patient, volume, mask)}
    except (NotScorable, InvalidDicomError) as error:
        if not patient.what.refuse:
            return error.reason if isinstance(error, NotScorable) else Reason.ROI_UNREADABLE
        raise CohortError(
            f"row {patient.number}: {error}; correct the images or leave the patient's image cells empty"
        ) from None
    draft = entry.with_suffix(f".{os.getpid()}.part")  # two patients may hold the same files
    draft.write_text(json.dumps({"values": values, "sha256": _sealed(values)}))
    draft.replace(entry)
    return values


def _cached(entry: Path) -> dict[str, Any] | None:
    """What was measured before; None where nothing was, or the entry is damaged and has to be measured again."""
    try:
        found = json.loads(entry.read_bytes())
    except (OSError, ValueError):
        return None
    if not isinstance(found, dict) or found.keys() != {"values", "sha256"}:
        return None
    values: dict[str, Any] = found["values"]
    return values if found["sha256"] == _sealed(values) else None


def _sealed(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _measured(volume: Volume, mask: NDArray[np.bool_], what: Extraction, control: bool = True) -> dict[str, Any]:
    found: dict[str, Any] = {"radiomic": {}, "deep": {}, "control": {}}
    if what.settings:
        found["radiomic"] = radiomic.features(volume, mask, what.settings).values()
    for key, path in (("deep", what.encoder), ("control", what.control if control else None)):
        if path:
            found[key] = _encoder(path).features(volume, mask).values
    return found


def _again(patient: _Patient, volume: Volume, mask: NDArray[np.bool_]) -> list[dict[str, Any]]:
    if patient.row not in patient.what.again:
        return []
    # From the mask, not the row: the same lesion is perturbed the same way wherever it stands in the table.
    seed = int.from_bytes(hashlib.sha256(np.packbits(mask).tobytes()).digest()[:8], "big")
    draws = [np.random.default_rng([seed, number]) for number in range(patient.what.perturbations)]
    return [_measured(*perturbed(volume, mask, rng), patient.what, control=False) for rng in draws]


@cache
def _encoder(path: Path) -> Encoder:
    return Encoder.load(path)


def _digest(patient: _Patient, files: list[Path]) -> str:
    total = hashlib.sha256(json.dumps([patient.what.digest(patient.row), patient.pattern]).encode())
    for path in [*files, patient.roi]:
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def _mask(patient: _Patient, volume: Volume) -> RoiMask:
    """Union of the ROIs or segments whose name holds the pattern."""
    dataset = dcmread(patient.roi, stop_before_pixels=True)
    if dataset.get("Modality") == "SEG":
        named = [(item.SegmentNumber, item.get("SegmentLabel", "")) for item in dataset.get("SegmentSequence", [])]
    else:
        named = [(item.ROINumber, item.get("ROIName", "")) for item in dataset.get("StructureSetROISequence", [])]
    numbers = tuple(int(number) for number, name in named if patient.pattern.lower() in str(name).lower())
    if not numbers:
        raise CohortError(
            f"row {patient.number}: no ROI or segment has {patient.pattern!r} in its name; set images.roi_name"
        )
    read = mask_from_seg if dataset.get("Modality") == "SEG" else mask_from_rtstruct
    return read(patient.roi, numbers, Combine.UNION, volume)
