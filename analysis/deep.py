"""Volume and mask -> deep features, with the encoder of a bundle; beside radiomic in the job.

The encoder is an ONNX file made by `prognode pretrain`; onnxruntime is the only thing that runs it. Its metadata say
how a patch is cut and what the values are called, so that a file and its features cannot drift apart.
"""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from analysis import spline
from analysis.contract import NotScorable, QualityFlag, Reason
from analysis.filters import along
from analysis.roi import Mask, Window, bounding_box, flag
from analysis.volume import Volume
from models.manifest import significant

Image = NDArray[np.float32]
Triple = tuple[float, float, float]

METADATA_KEY = "prognode_encoder"
SCHEMA_VERSION = 1
DIGITS = 6  # the last bits of single precision depend on the processor and must not reach a file
SPLINE_REACH = 16  # voxels that a cubic spline's prefilter looks around, to within 1e-7 HU
_REMEDY = "make it with `prognode pretrain`"


class EncoderError(Exception):
    """The file is no encoder of ours, or does not hold what its metadata say; the text names it and the remedy."""


@dataclass(frozen=True)
class PatchSettings:
    """How the surroundings of a ROI are cut out for the encoder.

    Attributes
    ----------
    spacing_mm : of the isotropic grid, centred on the ROI's box
    margin_voxels : at least this much around the box, on the new grid
    multiple : edges are whole multiples of it, because the encoder halves them three times
    largest_voxels : longest edge; of a larger ROI only the middle is seen
    windows : (level, width) HU, lung and a narrow one of soft tissue (in a wide one the texture of a tumour is too
        faint to learn from); each becomes one channel, 0 at its lower end and 1 at its upper
    """

    spacing_mm: float = 2.0
    margin_voxels: int = 8
    multiple: int = 8
    largest_voxels: int = 112
    windows: tuple[tuple[float, float], ...] = ((-600.0, 1500.0), (40.0, 200.0))

    def __post_init__(self) -> None:
        if not 0.25 <= self.spacing_mm <= 10 or not 0 <= self.margin_voxels <= 64 or not 1 <= self.multiple <= 64:
            raise ValueError("spacing_mm must lie in 0.25..10, margin_voxels in 0..64, multiple in 1..64")
        if not self.multiple <= self.largest_voxels <= 256 or self.largest_voxels % self.multiple:
            raise ValueError("largest_voxels must be a multiple of `multiple` and at most 256")
        if not self.windows or not all(math.isfinite(level) and 0 < width < 1e5 for level, width in self.windows):
            raise ValueError("windows must be pairs of level and positive width")

    def to_json(self) -> dict[str, Any]:
        """Plain types, as they stand in the encoder's metadata."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Settings from the metadata. Raises ValueError, TypeError or KeyError where they make no sense."""
        arguments = {item.name: values[item.name] for item in fields(cls)}
        return cls(**arguments | {"windows": tuple((level, width) for level, width in arguments["windows"])})


@dataclass(frozen=True, eq=False)
class Patch:
    """The ROI and its surroundings on the encoder's grid; arrays (slice, row, column).

    Attributes
    ----------
    hu : float32, Hounsfield units; what lies outside the CT repeats its edge
    mask : float32, share of each voxel inside the ROI, 0 to 1
    cropped : the ROI is larger than `largest_voxels` along an axis and its ends are missing
    """

    hu: Image
    mask: Image
    cropped: bool


@dataclass(frozen=True)
class DeepFeatures:
    """Value by feature name, and what the reader should know."""

    values: dict[str, float]
    flags: tuple[QualityFlag, ...] = ()

    @property
    def cropped(self) -> bool:
        """Only the middle of the ROI was seen."""
        return bool(self.flags)


def feature_names(channels: tuple[int, ...]) -> tuple[str, ...]:
    """Names in the order of the encoder's output, given its channels at each level.

    >>> feature_names((1, 2))[2:]
    ('deep_level1_mean_00', 'deep_level1_mean_01', 'deep_level1_sd_00', 'deep_level1_sd_01')
    """
    return tuple(
        f"deep_level{level}_{statistic}_{channel:02d}"
        for level, count in enumerate(channels)
        for statistic in ("mean", "sd")
        for channel in range(count)
    )


# Patch ------------------------------------------------------------------------------------------------------


def cut_patch(volume: Volume, mask: Mask, settings: PatchSettings) -> Patch:
    """Resample the ROI and its surroundings (cubic spline; a finer CT is smoothed first, so that noise does not alias).

    The grid hangs on the ROI's box alone: how much of the patient the CT covers does not change a value.

    Raises
    ------
    NotScorable
        ROI_EMPTY, or ROI_TOO_SMALL when less than one voxel of the new grid lies inside.
    """
    if mask.shape != volume.array.shape:
        raise ValueError(f"mask of shape {mask.shape} on a volume of shape {volume.array.shape}")
    box = bounding_box(mask)
    if box is None:
        raise NotScorable(Reason.ROI_EMPTY)
    wanted = [_edge(edge, step, settings) for edge, step in zip(box, volume.spacing, strict=True)]
    shape = tuple(min(count, settings.largest_voxels) for count in wanted)
    hu = _resample(volume.array, volume.spacing, box, shape, settings.spacing_mm, order=3)
    inside = np.clip(_resample(mask, volume.spacing, box, shape, settings.spacing_mm, order=1), 0, 1)
    if inside.sum() < 1:
        raise NotScorable(Reason.ROI_TOO_SMALL, f"less than one voxel of {settings.spacing_mm:g} mm is inside")
    return Patch(hu, inside, any(count > settings.largest_voxels for count in wanted))


def windowed(hu: Image, settings: PatchSettings) -> Image:
    """The encoder's channels, shape (windows, slices, rows, columns), 0 to 1."""
    scaled = [np.clip((hu - (level - width / 2)) / width, 0, 1) for level, width in settings.windows]
    return np.stack(scaled).astype(np.float32)


def _edge(box: slice, step: float, settings: PatchSettings) -> int:
    """Voxels along one axis."""
    needed = np.ceil((box.stop - box.start) * step / settings.spacing_mm - 1e-6) + 2 * settings.margin_voxels
    return int(np.ceil(needed / settings.multiple)) * settings.multiple


def _resample(
    array: NDArray[np.generic], spacing: Triple, box: Window, shape: tuple[int, ...], step: float, order: int
) -> Image:
    """Values on a grid of `shape` and `step` mm around the middle of `box`."""
    cuts, weights = [], []
    for size, edge, old, count in zip(array.shape, box, spacing, shape, strict=True):
        ratio = step / old
        first = (edge.start + edge.stop - 1) / 2 - (count - 1) / 2 * ratio
        low = int(np.clip(np.floor(first) - SPLINE_REACH, 0, size - 1))
        high = int(np.clip(np.ceil(first + (count - 1) * ratio) + SPLINE_REACH, 0, size - 1))
        cuts.append(slice(low, high + 1))
        weights.append(spline.weights(high + 1 - low, ratio, first - low, count, order))
    part = array[tuple(cuts)].astype(np.float64)
    for axis, matrix in enumerate(weights):
        part = along(matrix, part, axis)
    return np.asarray(part, np.float32)


# Encoder ----------------------------------------------------------------------------------------------------


class Encoder:
    """A pretrained encoder, ready to run on one core.

    Attributes
    ----------
    names : of the features, in order
    settings : how patches are cut
    training : facts about how it was made: seed, steps, number of patches, `synthetic`, loss, `bypass_ratio`, ...
    """

    def __init__(self, session: Any, settings: PatchSettings, names: tuple[str, ...], facts: dict[str, Any]) -> None:
        self._session = session
        self.settings = settings
        self.names = names
        self.channels: tuple[int, ...] = tuple(facts["channels"])
        self.training: dict[str, Any] = facts["training"]

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read an encoder.

        Raises
        ------
        EncoderError
            The file is none of ours, or its metadata and its graph disagree.
        OSError
            The file cannot be read.
        """
        session = _session(path)
        facts = _metadata(session, path)
        try:
            settings = PatchSettings.from_json(facts["patch"])
            names = feature_names(tuple(facts["channels"]))
            encoder = cls(session, settings, names, facts)
        except (KeyError, TypeError, ValueError) as error:
            raise EncoderError(f"{path.name}: its metadata are incomplete ({error}); {_REMEDY} again") from None
        _check_graph(session, encoder, path)
        return encoder

    def features(self, volume: Volume, mask: Mask) -> DeepFeatures:
        """Deep features of the ROI: mean and SD of each channel inside it, level by level.

        Parameters
        ----------
        volume : CT in HU
        mask : bool, shape of `volume.array`

        Raises
        ------
        NotScorable
            ROI_EMPTY or ROI_TOO_SMALL.
        """
        patch = cut_patch(volume, mask, self.settings)
        values = self.run(windowed(patch.hu, self.settings)[None], patch.mask[None, None])[0]
        found = {name: significant(float(value), DIGITS) for name, value in zip(self.names, values, strict=True)}
        return DeepFeatures(found, _flags(patch, self.settings))

    def run(self, image: Image, mask: Image) -> Image:
        """The bare network: image (1, windows, D, H, W) and mask (1, 1, D, H, W) -> values (1, features)."""
        try:
            out: Image = self._session.run(None, {"image": image, "mask": mask})[0]
        except Exception as error:  # noqa: BLE001 (its exceptions share no base of their own)
            raise EncoderError(f"the encoder cannot be run ({type(error).__name__}); {_REMEDY} again") from None
        if not np.isfinite(out).all():
            raise EncoderError(f"the encoder gives values that are no numbers; {_REMEDY} again")
        return out


def _flags(patch: Patch, settings: PatchSettings) -> tuple[QualityFlag, ...]:
    if not patch.cropped:
        return ()
    longest = settings.largest_voxels * settings.spacing_mm
    return (flag("DEEP_ROI_CROPPED", f"The ROI is longer than {longest:g} mm; deep features describe its middle."),)


def _session(path: Path) -> Any:
    # onnxruntime's wheels send telemetry unless told not to before they are imported; the import costs 0.2 s.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime  # noqa: PLC0415

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.use_deterministic_compute = True
    options.enable_cpu_mem_arena = False  # every patch has its own size: an arena would keep them all
    options.log_severity_level = 4
    content = path.read_bytes()  # not the path: a graph must not name further files
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # noqa: BLE001 (its exceptions share no base of their own)
        raise EncoderError(
            f"{path.name}: not an ONNX file that can be run ({type(error).__name__}); {_REMEDY}"
        ) from None


def _metadata(session: Any, path: Path) -> dict[str, Any]:
    try:
        facts: dict[str, Any] = json.loads(session.get_modelmeta().custom_metadata_map[METADATA_KEY])
        version = facts["schema"]
    except (KeyError, TypeError, ValueError):
        raise EncoderError(f"{path.name}: an ONNX file, but no encoder of ours; {_REMEDY}") from None
    if version != SCHEMA_VERSION:
        raise EncoderError(f"{path.name}: its metadata have version {version}, not {SCHEMA_VERSION}; {_REMEDY} again")
    return facts


def _check_graph(session: Any, encoder: Encoder, path: Path) -> None:
    inputs = {item.name: item.shape[1] for item in session.get_inputs() if len(item.shape) == 5}
    outputs = [item.shape[-1] for item in session.get_outputs()]
    if inputs != {"image": len(encoder.settings.windows), "mask": 1} or outputs != [len(encoder.names)]:
        raise EncoderError(f"{path.name}: its graph is not the one that its metadata describe; {_REMEDY} again")
