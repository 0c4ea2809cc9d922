"""Small seeded DICOM objects that every test can build: CT series, Enhanced CT, RTSTRUCT, SEG, and their defects.

Same arguments, same bytes. The scene is a textured soft-tissue ball in lung-like background, so that the analysis has
something to measure; `ct_series(16, 40, 40, seed=1)` with a ball of 10 mm radius is big enough for texture features.

>>> ct = ct_series(12, seed=1)
>>> contour = rtstruct(ct, radius=8.0)
>>> [len(ct), contour.StructureSetROISequence[0].ROIName]
[12, 'GTV-1']
"""

import copy
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, RLELossless

from tests.build_contours import (
    RTSTRUCT,
    ball_contours,
    ball_mask,
    middle,
    planes,
    rtstruct,
    seg,
    voxel_centres,
)
from tests.build_ct import CT, INTERCEPT, LESION_HU, LUNG_HU, ct_series, item_of, scene, uid, with_meta
from tests.build_defects import (
    DEFECTS,
    drop_slice,
    duplicate_position,
    gantry_tilt,
    jitter,
    localizer,
    oblique,
    other_pixel_spacing,
    sagittal,
    two_phases,
    uneven_gap,
    without_rescale,
)
from tests.build_enhanced import ENHANCED_CT, enhanced_ct

__all__ = [
    "CT", "DEFECTS", "ENHANCED_CT", "INTERCEPT", "LESION_HU", "LUNG_HU", "RTSTRUCT", "ball_contours", "ball_mask",
    "ct_series", "drop_slice", "duplicate_position", "enhanced_ct", "gantry_tilt", "item_of", "jitter", "localizer",
    "middle", "oblique", "other_pixel_spacing", "planes", "rtstruct", "sagittal", "save", "save_all", "scene", "seg",
    "shuffled", "two_phases", "uid", "uneven_gap", "voxel_centres", "with_meta", "without_rescale",
]  # fmt: skip

T = TypeVar("T")


def save(dataset: Dataset, folder: Path, transfer_syntax_uid: str = ExplicitVRLittleEndian) -> Path:
    """Write a Part 10 file named by the SOP Instance UID; RLE Lossless compresses on the way. Returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    written = copy.deepcopy(dataset)
    if transfer_syntax_uid == RLELossless:
        with_meta(written)
        written.compress(RLELossless, generate_instance_uid=False)
    else:
        with_meta(written, transfer_syntax_uid)
    path = folder / f"{dataset.SOPInstanceUID}.dcm"
    written.save_as(path, enforce_file_format=True)
    return path


def save_all(datasets: Iterable[Dataset], folder: Path) -> list[Path]:
    """Save each; paths in the order given."""
    return [save(dataset, folder) for dataset in datasets]


def shuffled(items: Sequence[T], seed: int) -> list[T]:
    """The items in an order that depends on the seed alone."""
    return random.Random(seed).sample(list(items), len(items))
