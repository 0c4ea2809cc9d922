"""Volume and mask -> radiomic features; the third step of the job (receive -> plan -> analyse).

Our own preprocessing, discretisation and textures as IBSI has them, pyradiomics' mesh, and a table that every value is
checked against: a feature comes out, or it is listed as failed with its reason.
"""

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.contract import FailedFeature, Measurement, QualityFlag
from analysis.feature_table import MASK_ONLY, Feature, load_features
from analysis.intensity import distribution, energy, histogram, statistics
from analysis.preprocess import (
    Prepared,
    TooManyGreyLevels,
    discretisation_of,
    discretise,
    images,
    name_prefixes,
    prepare,
)
from analysis.roi import bounding_box, flag
from analysis.settings import ExtractionSettings
from analysis.shape import morphology
from analysis.texture import MATRICES, Failed, Found, textures
from analysis.volume import Volume

# More of the ROI than this outside the re-segmentation range is worth a word: the contour holds air or bone.
MUCH_RESEGMENTED = 0.1
THREADS = 4  # at most: beyond that, Python's own lock and memory are what is left


@dataclass(frozen=True)
class FeatureSet:
    """What extraction gave.

    Attributes
    ----------
    measurements, failed : together every feature that the settings ask for, once
    morphological_voxels, intensity_voxels : size of the ROI on the interpolated grid, before and after
        re-segmentation
    extraction : the settings as text, for the radiomics report
    """

    measurements: tuple[Measurement, ...]
    failed: tuple[FailedFeature, ...]
    flags: tuple[QualityFlag, ...]
    morphological_voxels: int
    intensity_voxels: int
    extraction: dict[str, str]

    def values(self) -> dict[str, float]:
        """Value by feature name."""
        return {measurement.name: measurement.value for measurement in self.measurements}


def features(volume: Volume, mask: NDArray[np.bool_], settings: ExtractionSettings) -> FeatureSet:
    """Radiomic features of the ROI (IBSI reference manual, arXiv 1612.07003).

    Parameters
    ----------
    volume : CT in HU
    mask : bool, shape of `volume.array`
    settings : from the bundle's manifest

    Raises
    ------
    NotScorable
        ROI_EMPTY, ROI_TOO_SMALL or TOO_FEW_SLICES: there is nothing to measure at all.
    ValueError
        `mask` is not of the volume's shape.
    """
    if mask.shape != volume.array.shape:
        raise ValueError(f"mask of shape {mask.shape} on a volume of shape {volume.array.shape}")
    table = load_features()
    prepared = prepare(volume, mask, settings)
    measurements: list[Measurement] = []
    failed: list[FailedFeature] = []
    for image_type, prefix, (found, reasons) in _each_image(prepared, settings):
        wanted = [row for row in table if image_type == "original" or row.group != MASK_ONLY]
        for row in wanted:
            _sort_in(row, prefix, found, reasons, measurements, failed)
    before, after = (int(np.count_nonzero(part)) for part in (prepared.morphological, prepared.intensity))
    return FeatureSet(tuple(measurements), tuple(failed), _flags(before, after), before, after, settings.as_text())


def expected_names(settings: ExtractionSettings) -> tuple[str, ...]:
    """Names of all features that these settings give, in order; a bundle's feature list must be among them."""
    return tuple(
        f"{prefix}_{row.name}"
        for image_type in settings.image_types
        for prefix in name_prefixes(image_type)
        for row in load_features()
        if image_type == "original" or row.group != MASK_ONLY
    )


def _each_image(prepared: Prepared, settings: ExtractionSettings) -> Iterator[tuple[str, str, tuple[Found, Failed]]]:
    """(image type, name prefix, features), in the settings' order whatever the number of threads.

    This thread filters, others measure. Each image is measured by one thread alone, so that every sum has its order.
    """
    threads = min(THREADS, len(os.sched_getaffinity(0)))
    if threads == 1 or settings.image_types == ("original",):
        for image_type, prefix, image in images(prepared, settings):
            yield image_type, prefix, _image_features(image_type, image, settings)
        return
    waiting: deque[tuple[str, str, Future[tuple[Found, Failed]]]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="features") as pool:
        for image_type, prefix, image in images(prepared, settings):
            waiting.append((image_type, prefix, pool.submit(_image_features, image_type, image, settings)))
            if len(waiting) > threads:  # no more images in memory than are worked on
                image_type, prefix, measured = waiting.popleft()
                yield image_type, prefix, measured.result()
        for image_type, prefix, measured in waiting:
            yield image_type, prefix, measured.result()


def _image_features(image_type: str, image: Prepared, settings: ExtractionSettings) -> tuple[Found, Failed]:
    """Values by the table's name, and reasons by the name's group for what could not be computed at all."""
    values = image.image[image.intensity]
    first_order = statistics(values) | energy(values, float(np.prod(image.spacing)))
    found = {f"firstorder_{name}": value for name, value in first_order.items()}
    if image_type == "original":
        found |= _morphology(image, values)
    try:
        levels = discretise(image.image, image.intensity, discretisation_of(image_type, settings, image))
    except TooManyGreyLevels as error:
        return found, dict.fromkeys(("firstorder", "histogram", *MATRICES), str(error))
    within = levels[image.intensity]
    found |= {f"firstorder_{name}": value for name, value in distribution(within).items()}
    found |= {f"histogram_{name}": value for name, value in histogram(within).items()}
    texture, failed = textures(*_tight(levels, image.intensity), settings.dimension, settings.aggregation)
    return found | texture | _other_names(texture), failed


def _morphology(image: Prepared, values: NDArray[np.float64]) -> Found:
    shape = morphology(image.morphological, image.spacing)
    steps = np.asarray(image.spacing)
    centre = np.argwhere(image.morphological).mean(axis=0) * steps
    total = float(values.sum())
    weighted = values @ np.argwhere(image.intensity) / total * steps if total else np.full(3, np.nan)
    shape["CentreOfMassShift"] = float(np.linalg.norm(centre - weighted))
    shape["IntegratedIntensity"] = float(values.mean()) * shape["MeshVolume"]
    return {f"{MASK_ONLY}_{name}": value for name, value in shape.items()}


def _tight(levels: NDArray[np.int32], mask: NDArray[np.bool_]) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """Textures never look outside the mask, so neither does the copy that is handed over."""
    box = bounding_box(mask)
    if box is None:
        return levels, mask
    return np.ascontiguousarray(levels[box]), np.ascontiguousarray(mask[box])


def _other_names(texture: Found) -> Found:
    """Features that IBSI or LIFEx list although they equal another one, or differ by a constant factor."""
    same = {
        "glcm_Dissimilarity": ("glcm_DifferenceAverage", 1.0),
        "glcm_SumVariance": ("glcm_ClusterTendency", 1.0),
        "glcm_JointEntropyLog10": ("glcm_JointEntropy", float(np.log10(2))),
    }
    return {name: factor * texture[source] for name, (source, factor) in same.items() if source in texture}


def _sort_in(
    row: Feature, prefix: str, found: Found, reasons: Failed, good: list[Measurement], bad: list[FailedFeature]
) -> None:
    name = f"{prefix}_{row.name}"
    value = found.get(row.name)
    if value is None:
        bad.append(FailedFeature(name=name, why=reasons.get(row.group, "not computed")))
    elif not np.isfinite(value):
        bad.append(FailedFeature(name=name, why="not a finite number for this ROI"))
    else:
        ours = prefix == "original"  # on filtered images the feature is another one: no IBSI or LIFEx identity
        good.append(
            Measurement(
                name=name,
                family=row.family,
                ibsi_id=(row.ibsi_id or None) if ours else None,
                ibsi_name=(row.ibsi_name or None) if ours else None,
                lifex_name=(row.lifex_name or None) if ours else None,
                value=float(value),
                unit=row.unit,
            )
        )


def _flags(before: int, after: int) -> tuple[QualityFlag, ...]:
    share = 1 - after / before
    if share <= MUCH_RESEGMENTED:
        return ()
    return (
        flag(
            "ROI_RESEGMENTED",
            f"{share:.0%} of the ROI lies outside the intensity range of the model and "
            "was left out of intensity and texture features.",
        ),
    )
