"""CT files -> one volume in Hounsfield units; the first step of the job (receive -> plan -> analyse)."""

import math
import mmap
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.utils import iter_pixels
from pydicom.uid import (
    UID,
    CTImageStorage,
    EnhancedCTImageStorage,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLSNearLossless,
    LegacyConvertedEnhancedCTImageStorage,
    RLELossless,
)

from analysis.contract import NotScorable, Reason
from analysis.geometry import LOSSY, Geometry, Plane, regular_geometry
from analysis.native import Stored, read_header, read_pixels

_CT_CLASSES = (CTImageStorage, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage)
_ALWAYS_LOSSY = (JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless)  # of JPEG 2000, the attribute says it
_LARGEST = 32767
ROOM_BYTES = 168_000_000  # that a chest of 320 slices of 512x512 needs
_PIECE_BYTES = 8_388_608  # of it, touched at once
_room_kept: list[NDArray[np.uint8]] = []  # one at most, until the first volume takes it
# What pydicom and its decoders raise on a file that is cut, damaged or lies about itself.
UNREADABLE = (
    InvalidDicomError,
    BytesLengthException,
    OSError,
    EOFError,
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    IndexError,
    RuntimeError,
    NotImplementedError,
    OverflowError,
    struct.error,
    zlib.error,
)


@dataclass(frozen=True, eq=False)
class Volume:
    """A CT on a regular grid; arrays and tuples in (slice, row, column) order.

    Attributes
    ----------
    array : shape (slices, rows, columns), Hounsfield units; int16 where all are whole numbers that fit and
        the files are uncompressed, else float32
    spacing : mm between voxel centres
    origin : LPS mm of the centre of the first voxel
    direction : 3x3, its columns are the unit vectors (LPS) of the slice, row and column axes;
        slices ascend along the normal (row direction x column direction), so the grid is right-handed
    sop_instance_uids, frame_numbers, files : per slice; frame numbers count from 1 and are 1 for single-frame files;
        file names without their folder
    slice_thickness : mm, of the first slice; None if absent
    lossy : whether any image has been compressed with loss, here or earlier
    """

    array: NDArray[np.int16] | NDArray[np.float32]
    spacing: tuple[float, float, float]
    origin: NDArray[np.float64]
    direction: NDArray[np.float64]
    frame_of_reference_uid: str
    sop_instance_uids: tuple[str, ...]
    frame_numbers: tuple[int, ...]
    slice_thickness: float | None = None
    convolution_kernel: str = ""
    contrast: bool = False
    lossy: bool = False
    files: tuple[str, ...] = ()

    @property
    def affine(self) -> NDArray[np.float64]:
        """4x4 matrix from (slice, row, column) index to LPS mm."""
        matrix = np.eye(4)
        matrix[:3, :3] = self.direction * np.asarray(self.spacing)
        matrix[:3, 3] = self.origin
        return matrix

    def to_index(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """LPS mm, shape (n, 3) -> continuous (slice, row, column) index, shape (n, 3)."""
        index: NDArray[np.float64] = (points - self.origin) @ self.direction / np.asarray(self.spacing)
        return index


def keep_room(most: int, is_wanted: Callable[[], bool] = lambda: False) -> None:
    """Have the memory of a usual CT, but `most` bytes, at hand before there is one, or until it `is_wanted`.

    Memory that is touched for the first time has to be found and zeroed, by the host too where the machine is a virtual
    one: that can take longer than reading the files into it. Raises MemoryError.
    """
    room = np.empty(min(ROOM_BYTES, most), dtype=np.uint8)
    _room_kept[:] = [room]
    for begin in range(0, room.size, _PIECE_BYTES):
        if is_wanted():
            return
        room[begin : begin + _PIECE_BYTES : mmap.PAGESIZE] = 0


def read_ct(paths: Sequence[Path]) -> Volume:
    """Read one CT: a single-frame series, or one Enhanced or Legacy Converted Enhanced CT file.

    The order of `paths` is not trusted; each file is decoded once, straight into the array.

    Raises
    ------
    NotScorable
        A reason of `geometry.regular_geometry`, ROI_REFERENCES_NOT_CT, PIXEL_DATA_UNDECODABLE or
        PIXEL_DATA_TRUNCATED.
    """
    planes: list[Plane] = []
    native: dict[Path, Stored] = {}
    for path in paths:
        header = _native_header(path)
        if header is None:
            planes += _planes_of(path)
        else:
            planes.append(header[0])
            native[path] = header[1]
    geometry = regular_geometry(planes)
    first = geometry.planes[0]
    return Volume(
        array=_read_pixels(geometry, native),
        spacing=geometry.spacing,
        origin=geometry.origin,
        direction=geometry.direction,
        frame_of_reference_uid=first.frame_of_reference_uid,
        sop_instance_uids=tuple(plane.sop_instance_uid for plane in geometry.planes),
        frame_numbers=tuple(plane.frame + 1 for plane in geometry.planes),
        slice_thickness=first.slice_thickness,
        convolution_kernel=first.convolution_kernel,
        contrast=any(plane.contrast for plane in geometry.planes),
        lossy=any(plane.lossy for plane in geometry.planes),
        files=tuple(plane.path.name for plane in geometry.planes),
    )


# Headers ----------------------------------------------------------------------------------------------------


def _native_header(path: Path) -> tuple[Plane, Stored] | None:
    try:
        return read_header(path)
    except OSError:
        return None  # pydicom says what it is


def _planes_of(path: Path) -> Iterator[Plane]:
    try:
        dataset = dcmread(path, stop_before_pixels=True)
    except UNREADABLE as error:
        raise NotScorable(
            Reason.PIXEL_DATA_UNDECODABLE, f"a file is not readable DICOM ({type(error).__name__})"
        ) from None
    if dataset.get("SOPClassUID") not in _CT_CLASSES:
        raise NotScorable(Reason.ROI_REFERENCES_NOT_CT, "an image of the series is not a CT")
    try:
        _check_bits(dataset)
        if dataset.SOPClassUID == CTImageStorage:
            yield _plane(path, dataset, 0, (dataset,))
            return
        shared = _group(dataset, "SharedFunctionalGroupsSequence")
        for frame, group in enumerate(dataset.PerFrameFunctionalGroupsSequence):
            yield _plane(path, dataset, frame, (group, shared, dataset))
    except UNREADABLE as error:
        raise NotScorable(Reason.GEOMETRY_INVALID, f"a header is not readable ({type(error).__name__})") from None


def _check_bits(dataset: Dataset) -> None:
    """Stored values begin at the lowest bit (PS3.5 8.1.1); of others, pydicom would cut off the upper part."""
    stored, high = dataset.get("BitsStored"), dataset.get("HighBit")
    syntax = dataset.file_meta.get("TransferSyntaxUID", "")
    known = isinstance(syntax, UID) and syntax.is_transfer_syntax  # else pydicom cannot say how it is stored
    as_stored = syntax == RLELossless or not (known and syntax.is_encapsulated)
    if as_stored and stored is not None and high not in (None, stored - 1):
        raise NotScorable(Reason.PIXEL_DATA_UNDECODABLE, f"{stored} bits are stored up to bit {high}")


def _plane(path: Path, dataset: Dataset, frame: int, places: tuple[Dataset, ...]) -> Plane:
    def find(macro: str, keyword: str) -> Any:
        """Value from the frame's functional group, the shared one, or the dataset itself, in that order."""
        for place in places:
            holder = place if place is dataset else _group(place, macro)
            value = holder.get(keyword)
            if value not in (None, "") and (macro or place is dataset):
                return value
        return None

    return Plane(
        path=path,
        frame=frame,
        sop_instance_uid=str(dataset.SOPInstanceUID),
        series_instance_uid=str(dataset.get("SeriesInstanceUID", "")),
        frame_of_reference_uid=str(dataset.get("FrameOfReferenceUID") or ""),
        position=_floats(find("PlanePositionSequence", "ImagePositionPatient")),
        orientation=_floats(find("PlaneOrientationSequence", "ImageOrientationPatient")),
        pixel_spacing=_floats(find("PixelMeasuresSequence", "PixelSpacing")),
        rows=int(dataset.Rows),
        columns=int(dataset.Columns),
        rescale_slope=_number(find("PixelValueTransformationSequence", "RescaleSlope")),
        rescale_intercept=_number(find("PixelValueTransformationSequence", "RescaleIntercept")),
        rescale_type=str(find("PixelValueTransformationSequence", "RescaleType") or "").strip(),
        image_type=_words(find("", "ImageType")) + _words(find("CTImageFrameTypeSequence", "FrameType")),
        acquisition_number=str(_acquisition(places, dataset)),
        convolution_kernel="/".join(_words(find("CTReconstructionSequence", "ConvolutionKernel"))),
        slice_thickness=_number(find("PixelMeasuresSequence", "SliceThickness")),
        contrast=bool(dataset.get("ContrastBolusAgent") or dataset.get("ContrastBolusAgentSequence")),
        lossy=_words(dataset.get("LossyImageCompression")) == LOSSY
        or dataset.file_meta.get("TransferSyntaxUID") in _ALWAYS_LOSSY,
    )


def _group(dataset: Dataset, keyword: str) -> Dataset:
    sequence = dataset.get(keyword) if keyword else None
    return sequence[0] if sequence else Dataset()


def _acquisition(places: tuple[Dataset, ...], dataset: Dataset) -> object:
    frame_number = _group(places[0], "FrameContentSequence").get("FrameAcquisitionNumber")
    value = frame_number if frame_number is not None else dataset.get("AcquisitionNumber")
    return "" if value is None else value


def _floats(value: Any) -> tuple[float, ...]:
    return () if value is None else tuple(float(item) for item in np.atleast_1d(value))


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def _words(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else tuple(str(item) for item in value)


# Pixels -----------------------------------------------------------------------------------------------------


def _read_pixels(geometry: Geometry, native: dict[Path, Stored]) -> NDArray[np.int16] | NDArray[np.float32]:
    if all(plane.path in native and _is_whole(plane) for plane in geometry.planes):
        whole = _read_whole(geometry, native)
        if whole is not None:
            return whole
    array = _room(geometry, np.float32)
    numbered = sorted(enumerate(geometry.planes), key=lambda item: (str(item[1].path), item[1].frame))
    for path, group in groupby(numbered, key=lambda item: item[1].path):
        slices = list(group)
        for (index, plane), frame in zip(slices, _frames(path, slices), strict=True):
            if plane.rescale_slope is None or plane.rescale_intercept is None:
                raise NotScorable(Reason.RESCALE_MISSING)
            if frame.shape != array.shape[1:]:
                raise NotScorable(Reason.PIXEL_DATA_UNDECODABLE, "more than one sample per pixel")
            # float32 holds every 16-bit stored value and its HU exactly for the slopes scanners write
            np.multiply(frame, np.float32(plane.rescale_slope), out=array[index], casting="unsafe")
            array[index] += np.float32(plane.rescale_intercept)
    return array


def _room(geometry: Geometry, kind: type[Any]) -> NDArray[Any]:
    shape = (len(geometry.planes), geometry.planes[0].rows, geometry.planes[0].columns)
    kept = _room_kept.pop() if _room_kept else None
    size = math.prod(shape) * np.dtype(kind).itemsize
    if kept is not None and size <= kept.size:
        room: NDArray[Any] = kept[:size].view(kind).reshape(shape)
        return room
    del kept
    try:
        return np.empty(shape, dtype=kind)
    except MemoryError:  # a header may claim 65,535 rows
        raise NotScorable(Reason.PIXEL_DATA_UNDECODABLE, f"{shape} voxels do not fit into memory") from None


def _is_whole(plane: Plane) -> bool:
    """Whether HU are whole numbers: in half the memory, and read in a fraction of the time."""
    intercept = plane.rescale_intercept
    return plane.rescale_slope == 1 and intercept is not None and intercept.is_integer() and abs(intercept) <= _LARGEST


def _read_whole(geometry: Geometry, native: dict[Path, Stored]) -> NDArray[np.int16] | None:
    """Stored values from the files into their place; None where a file has changed or a value does not fit."""
    array: NDArray[np.int16] = _room(geometry, np.int16)
    for plane, pixels in zip(geometry.planes, array, strict=True):
        stored = native[plane.path]
        intercept = int(plane.rescale_intercept or 0)
        if not read_pixels(plane.path, stored, pixels):
            return None
        values = pixels if stored.signed else pixels.view(np.uint16)
        low, high = int(values.min()) if stored.signed else 0, int(values.max())
        if low < max(stored.range[0], -_LARGEST - 1 - intercept) or high > min(stored.range[1], _LARGEST - intercept):
            return None
        pixels += np.int16(intercept)  # modulo 2^16, which makes no difference to a sum that fits
    return array


def _frames(path: Path, slices: Sequence[tuple[int, Plane]]) -> Iterator[NDArray[Any]]:
    try:
        yield from iter_pixels(path, indices=[plane.frame for _, plane in slices], raw=True)
    except UNREADABLE as error:
        _refuse_pixels(path, error)


def _refuse_pixels(path: Path, error: Exception) -> None:
    syntax = dcmread(path, stop_before_pixels=True, specific_tags=["Rows"]).file_meta.get("TransferSyntaxUID")
    if not isinstance(syntax, UID) or not syntax.is_transfer_syntax:
        raise NotScorable(Reason.PIXEL_DATA_UNDECODABLE, "no known transfer syntax") from None
    try:
        decodable = not syntax.is_compressed or get_decoder(syntax).is_available
    except NotImplementedError:
        decodable = False
    if not decodable:
        raise NotScorable(Reason.PIXEL_DATA_UNDECODABLE, f"no decoder for {syntax.name}") from None
    if not syntax.is_encapsulated and isinstance(error, (ValueError, EOFError)):
        raise NotScorable(Reason.PIXEL_DATA_TRUNCATED) from None
    raise NotScorable(Reason.PIXEL_DATA_UNDECODABLE, f"{syntax.name} ({type(error).__name__})") from None
