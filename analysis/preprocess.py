"""Volume and mask -> the images that features are measured on (IBSI 2): crop, interpolate, round, re-segment,
filter, discretise. Between roi and radiomic in the job.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import SimpleITK as sitk  # noqa: N813 (the field writes it so)
from numpy.typing import NDArray

from analysis.contract import NotScorable, Reason
from analysis.filters import along, laplacian_of_gaussian, wavelet_subbands
from analysis.roi import Mask, Window, bounding_box
from analysis.settings import Discretisation, ExtractionSettings, Triple, log_sigma
from analysis.volume import Volume

Floats = NDArray[np.float64]
Levels = NDArray[np.int32]
Steps = tuple[float, float, float]
Span = tuple[int, int]  # first and last index

# The B-spline prefilter reaches far: 16 voxels around leave 8e-8 HU of error, 4 would leave 0.9.
SPLINE_MARGIN = 16
# The recursive LoG reaches farther than its kernel: at 8 sigma features are stable to 1e-6, at 5 voxels (the
# usual default) those of sigma 5 mm move by a third.
LOG_PAD_SIGMAS = 8
WAVELET_PAD = 6  # coif1 has 6 taps
_ALL = slice(0, None)
_NEARLY_HALF = 0.5 - 1e-6  # 3 mm to 2 mm puts every third plane at exactly one half: decide it the same way always


# Texture matrices of more levels cost gigabytes; the bin width is wrong for the image.
MAX_LEVELS = 4096


class TooManyGreyLevels(ValueError):
    """The bin width is so narrow that grey levels cannot be counted; the text says how many there would be."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """One image on the interpolated grid with its masks; arrays (slice, row, column), HU, spacing mm.

    `morphological` is the ROI as interpolated, `intensity` the part of it left by re-segmentation.
    """

    image: Floats
    morphological: Mask
    intensity: Mask
    spacing: Steps


@dataclass(frozen=True)
class _Axis:
    """New grid along one axis: the n centres lie at first + k * step, mm from the first old centre."""

    first: float
    step: float
    count: int
    old_step: float
    old_count: int

    @property
    def kept(self) -> bool:
        return self.step == self.old_step

    def around(self, low: int, high: int, pad: int) -> tuple[int, int]:
        """New indices that cover old voxels low..high, one more for the mask's slope, and `pad`."""
        start = np.floor(((low - 1) * self.old_step - self.first) / self.step) - pad
        stop = np.ceil(((high + 1) * self.old_step - self.first) / self.step) + pad
        return max(int(start), 0), min(int(stop), self.count - 1)

    def needed(self, start: int, stop: int) -> slice:
        """Old voxels that interpolation at new indices start..stop reads."""
        if self.kept:
            return slice(start, stop + 1)
        low = np.floor((self.first + start * self.step) / self.old_step) - SPLINE_MARGIN
        high = np.ceil((self.first + stop * self.step) / self.old_step) + SPLINE_MARGIN
        return slice(max(int(low), 0), min(int(high), self.old_count - 1) + 1)


def prepare(volume: Volume, mask: Mask, settings: ExtractionSettings) -> Prepared:
    """Interpolate the surroundings of the ROI and re-segment it.

    The crop comes first and carries the grid of the whole image with it: the values are those that interpolating
    the whole CT would give.

    Raises
    ------
    NotScorable
        ROI_EMPTY, or ROI_TOO_SMALL when nothing is left after interpolation or re-segmentation.
    """
    axes = _axes(volume.array.shape, volume.spacing, settings.spacing_mm)
    box = bounding_box(mask)
    if box is None:
        raise NotScorable(Reason.ROI_EMPTY)
    pad = np.max(list(_pads(settings, tuple(axis.step for axis in axes))), axis=0)
    spans = [axis.around(edge.start, edge.stop - 1, n) for axis, edge, n in zip(axes, box, pad, strict=True)]
    image = _interpolate(volume.array, axes, spans, settings.image_interpolator)
    inside = _interpolated_mask(mask, axes, spans, box)
    if settings.round_intensities:
        np.rint(image, out=image)
    if not inside.any():
        raise NotScorable(Reason.ROI_TOO_SMALL, "no voxel is left after interpolation")
    intensity = resegment(image, inside, settings)
    if not intensity.any():
        raise NotScorable(Reason.ROI_TOO_SMALL, "no voxel is left after re-segmentation")
    return Prepared(image, inside, intensity, (axes[0].step, axes[1].step, axes[2].step))


def resegment(image: Floats, mask: Mask, settings: ExtractionSettings) -> Mask:
    """Part of the mask within the intensity range and, of that, within the outlier limits (IBSI 2.6)."""
    kept = mask.copy()
    if settings.resegment_hu is not None:
        low, high = settings.resegment_hu
        kept &= (image >= low) & (image <= high)
    if settings.outlier_sigma is not None and kept.any():
        values = image[kept]
        reach = settings.outlier_sigma * values.std()
        kept &= np.abs(image - values.mean()) <= reach
    return kept


def discretise(image: Floats, mask: Mask, how: Discretisation) -> Levels:
    """Grey levels from 1 within the mask, 0 outside (IBSI 2.7).

    Raises
    ------
    TooManyGreyLevels
        More than MAX_LEVELS.
    """
    values = image[mask]
    if how.method == "FBN":
        levels = _equal_bins(values, how.bins or 1)
    else:
        origin = float(values.min()) if how.origin_hu is None else how.origin_hu
        steps = np.floor((values - origin) / (how.bin_width_hu or 1.0))
        if steps.max() >= MAX_LEVELS:
            raise TooManyGreyLevels(f"{steps.max() + 1:.0f} grey levels; use wider bins")
        levels = steps.astype(np.int32) + 1
    out = np.zeros(image.shape, dtype=np.int32)
    out[mask] = levels
    return out


def discretisation_of(image_type: str, settings: ExtractionSettings, prepared: Prepared) -> Discretisation:
    """The settings' discretisation; a filtered image gets its own width and the multiple of it below the ROI."""
    how = settings.discretisation
    if image_type == "original" or how.method == "FBN":
        return how
    width = settings.bin_width(image_type)
    low = float(prepared.image[prepared.intensity].min())
    return Discretisation("FBS", width, float(np.floor(low / width) * width), None)


def name_prefixes(image_type: str) -> tuple[str, ...]:
    """What feature names of an image type start with, as pyradiomics names them; the wavelet has 8 subbands."""
    if image_type == "original":
        return ("original",)
    if image_type == "wavelet":
        return tuple(f"wavelet-{band}" for band in ("LLH", "LHL", "LHH", "HLL", "HLH", "HHL", "HHH", "LLL"))
    return (f"log-sigma-{str(log_sigma(image_type)).replace('.', '-')}-mm-3D",)


def images(prepared: Prepared, settings: ExtractionSettings) -> Iterator[tuple[str, str, Prepared]]:
    """(image type, name prefix, image) for each image that the settings ask for, cropped to the ROI."""
    roi = _crop(prepared, (0, 0, 0))[0]
    for image_type in settings.image_types:
        if image_type == "original":
            yield image_type, "original", roi
        elif image_type == "wavelet":
            around, window = _crop(prepared, (WAVELET_PAD,) * 3)
            for band, response in wavelet_subbands(around.image, window):
                yield image_type, f"wavelet-{band}", replace(roi, image=response)
        else:
            sigma = log_sigma(image_type)
            around, window = _crop(prepared, _log_pad(sigma, prepared.spacing))
            if min(around.image.shape) < 4:
                raise NotScorable(Reason.TOO_FEW_SLICES, "the LoG filter needs 4 slices")
            response = laplacian_of_gaussian(around.image, prepared.spacing, sigma, window)
            yield image_type, name_prefixes(image_type)[0], replace(roi, image=response)


# Grid -------------------------------------------------------------------------------------------------------


def _axes(shape: tuple[int, ...], spacing: Steps, wanted: Triple | None) -> tuple[_Axis, _Axis, _Axis]:
    """IBSI 2.4.3: ceil(n s / s') voxels, both grids with the same centre."""
    made = []
    for count, old, new in zip(shape, spacing, wanted or (None, None, None), strict=True):
        if new is None or abs(new - old) < 1e-9:
            made.append(_Axis(0.0, old, count, old, count))
            continue
        # a billionth too much must not add a voxel: that would move the whole grid by half a step
        size = int(np.ceil(count * old / new - 1e-6))
        made.append(_Axis(((count - 1) * old - (size - 1) * new) / 2, float(new), size, old, count))
    return made[0], made[1], made[2]


def _interpolated_mask(mask: Mask, axes: tuple[_Axis, ...], spans: list[Span], box: Window) -> Mask:
    """Share of each new voxel in the ROI by linear interpolation, cut at one half; computed around the ROI alone."""
    inside = np.zeros([stop - start + 1 for start, stop in spans], dtype=np.bool_)
    near = [axis.around(edge.start, edge.stop - 1, 0) for axis, edge in zip(axes, box, strict=True)]
    here = tuple(slice(low - start, high + 1 - start) for (low, high), (start, _) in zip(near, spans, strict=True))
    inside[here] = _interpolate(mask, axes, near, "linear") >= _NEARLY_HALF
    return inside


def _interpolate(array: NDArray[np.generic], axes: tuple[_Axis, ...], spans: list[Span], how: str) -> Floats:
    """Values at the new centres, without the whole image: axis by axis where nothing lies outside it.

    A new centre more than half a voxel outside the image takes the nearest voxel's value, which is ITK's to do.
    """
    cut = tuple(axis.needed(*span) for axis, span in zip(axes, spans, strict=True))
    part = array[cut].astype(np.float64)
    if all(axis.kept for axis in axes):
        return part
    # Values that lie half-way between two grey levels are exact in linear interpolation, and rounding follows its
    # last bit: for images it stays ITK's.
    if (how == "linear" and array.dtype != np.bool_) or not all(map(_within, axes, spans, cut)):
        return _by_itk(part, axes, spans, cut, how)
    for number, (axis, span, edge) in enumerate(zip(axes, spans, cut, strict=True)):
        if not axis.kept:
            part = along(_weights(axis, span, edge, how), part, number)
    return part


def _within(axis: _Axis, span: Span, edge: slice) -> bool:
    """Whether all new centres lie on old voxels, with some room for rounding."""
    first, last = ((axis.first + index * axis.step) / axis.old_step for index in span)
    return axis.kept or (edge.start - 0.499 <= first and last <= edge.stop - 0.501)


def _weights(axis: _Axis, span: Span, edge: slice, how: str) -> Floats:
    """What each old voxel of a line adds to each new one (new, old): ITK's interpolation of unit vectors."""
    size = edge.stop - edge.start
    lines = _Axis(0.0, 1.0, size, 1.0, size)
    made = _by_itk(np.eye(size)[None], (lines, lines, axis), [(0, 0), (0, size - 1), span], (_ALL, _ALL, edge), how)
    return np.ascontiguousarray(made[0].T)


def _by_itk(part: Floats, axes: tuple[_Axis, ...], spans: list[Span], cut: tuple[slice, ...], how: str) -> Floats:
    """Axis-aligned, so in the array's own frame with the first old centre as origin; `part` begins at `cut`."""
    image = sitk.GetImageFromArray(part)
    image.SetSpacing([axis.old_step for axis in reversed(axes)])
    image.SetOrigin([edge.start * axis.old_step for axis, edge in reversed(list(zip(axes, cut, strict=True)))])
    resample = sitk.ResampleImageFilter()
    resample.SetInterpolator(sitk.sitkBSpline3 if how == "bspline" else sitk.sitkLinear)
    resample.SetUseNearestNeighborExtrapolator(True)
    resample.SetOutputPixelType(sitk.sitkFloat64)
    resample.SetSize([stop - start + 1 for start, stop in reversed(spans)])
    resample.SetOutputSpacing([axis.step for axis in reversed(axes)])
    resample.SetOutputOrigin(
        [axis.first + start * axis.step for axis, (start, _) in reversed(list(zip(axes, spans, strict=True)))]
    )
    out: Floats = sitk.GetArrayFromImage(resample.Execute(image))
    return out


def _equal_bins(values: Floats, bins: int) -> Levels:
    low, high = values.min(), values.max()
    if high == low:
        return np.ones(values.shape, dtype=np.int32)
    levels = np.floor(bins * (values - low) / (high - low)).astype(np.int32) + 1
    capped: Levels = np.minimum(levels, bins).astype(np.int32)
    return capped


# Filters ----------------------------------------------------------------------------------------------------


def _pads(settings: ExtractionSettings, spacing: tuple[float, ...]) -> Iterator[tuple[int, ...]]:
    for image_type in settings.image_types:
        if image_type == "original":
            yield (0, 0, 0)
        elif image_type == "wavelet":
            yield (WAVELET_PAD,) * 3
        else:
            yield _log_pad(log_sigma(image_type), spacing)


def _log_pad(sigma: float, spacing: tuple[float, ...]) -> tuple[int, ...]:
    return tuple(int(np.ceil(LOG_PAD_SIGMAS * sigma / step)) for step in spacing)


def _crop(prepared: Prepared, pad: tuple[int, ...]) -> tuple[Prepared, Window]:
    """The same padding around the ROI whatever else was asked for, so that no image type moves another's values.

    Gives the padded ROI and where in it the ROI lies.
    """
    box = bounding_box(prepared.morphological)
    if box is None:
        raise NotScorable(Reason.ROI_EMPTY)
    cut = tuple(slice(max(edge.start - n, 0), edge.stop + n) for edge, n in zip(box, pad, strict=True))
    within = [slice(edge.start - out.start, edge.stop - out.start) for edge, out in zip(box, cut, strict=True)]
    image = np.ascontiguousarray(prepared.image[cut])
    masks = [np.ascontiguousarray(mask[cut]) for mask in (prepared.morphological, prepared.intensity)]
    return Prepared(image, masks[0], masks[1], prepared.spacing), (within[0], within[1], within[2])
