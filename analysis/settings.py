"""How radiomic features are extracted: the frozen settings that a model bundle's manifest carries."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

LOG_PREFIX = "log-sigma-"
Triple = tuple[float | None, float | None, float | None]


class ExtractionSettingsInvalid(ValueError):
    """The extraction settings contradict themselves; the text says where and what to change."""


@dataclass(frozen=True)
class Discretisation:
    """Grey levels for texture and histogram features (IBSI 2.7).

    FBS: bins of `bin_width_hu` from `origin_hu` (IBSI, LIFEx); without an origin they start at the ROI's minimum,
    and level numbers then mean another thing in each patient. FBN: `bins` equal bins over the ROI's range.
    """

    method: Literal["FBS", "FBN"] = "FBS"
    bin_width_hu: float | None = 25.0
    origin_hu: float | None = -1000.0
    bins: int | None = None

    def __post_init__(self) -> None:
        if self.method == "FBS" and not (self.bin_width_hu and self.bin_width_hu > 0):
            raise ExtractionSettingsInvalid("discretisation FBS needs bin_width_hu > 0")
        if self.method == "FBN" and not (self.bins and self.bins > 1):
            raise ExtractionSettingsInvalid("discretisation FBN needs bins > 1")
        if self.method not in ("FBS", "FBN"):
            raise ExtractionSettingsInvalid(f"discretisation method {self.method!r} is neither FBS nor FBN")


@dataclass(frozen=True)
class ExtractionSettings:
    """Everything that changes a feature value. The defaults are those of the demo bundle.

    Attributes
    ----------
    spacing_mm : (slice, row, column) to interpolate to; None keeps an axis, or the whole grid, as it is
    image_interpolator : linear or bspline (cubic); masks are always interpolated linearly and cut at 0.5
    round_intensities : round to whole HU after interpolation (IBSI)
    resegment_hu : keep ROI voxels within this closed range; -1000..400 leaves out bone, metal and calcification
    outlier_sigma : then keep those within mean +- this many standard deviations
    image_types : original, log-sigma-<mm>-mm, wavelet (coif1, 8 subbands)
    filtered_bin_width : bin width on filtered images by image type; the first matching prefix counts. Filtered
        images have no fixed origin: with FBS their bin edges are multiples of the width
    dimension : 3D, or 2.5D (textures within slices, one matrix for all slices)
    aggregation : GLCM and GLRLM per direction and averaged (avg), or one merged matrix (merged)
    """

    spacing_mm: Triple | None = (1.0, 1.0, 1.0)
    image_interpolator: Literal["linear", "bspline"] = "bspline"
    round_intensities: bool = True
    resegment_hu: tuple[float, float] | None = (-1000.0, 400.0)
    outlier_sigma: float | None = None
    discretisation: Discretisation = field(default_factory=Discretisation)
    image_types: tuple[str, ...] = ("original",)
    filtered_bin_width: tuple[tuple[str, float], ...] = (("log", 25.0), ("wavelet", 25.0))
    dimension: Literal["3D", "2.5D"] = "3D"
    aggregation: Literal["avg", "merged"] = "avg"

    def __post_init__(self) -> None:
        origin = self.discretisation.origin_hu
        low = None if self.resegment_hu is None else self.resegment_hu[0]
        if self.discretisation.method == "FBS" and origin is not None and (low is None or low < origin):
            raise ExtractionSettingsInvalid(
                "FBS from a fixed origin needs resegment_hu that starts at or above origin_hu"
            )
        if self.resegment_hu is not None and self.resegment_hu[0] >= self.resegment_hu[1]:
            raise ExtractionSettingsInvalid("resegment_hu must rise")
        if self.outlier_sigma is not None and self.outlier_sigma <= 0:
            raise ExtractionSettingsInvalid("outlier_sigma must be positive")
        if self.spacing_mm is not None and any(step is not None and step <= 0 for step in self.spacing_mm):
            raise ExtractionSettingsInvalid("spacing_mm must be positive")
        for name, allowed in (
            ("image_interpolator", ("linear", "bspline")),
            ("dimension", ("3D", "2.5D")),
            ("aggregation", ("avg", "merged")),
        ):
            if getattr(self, name) not in allowed:
                raise ExtractionSettingsInvalid(f"{name} must be one of {', '.join(allowed)}")
        self._check_image_types()

    def _check_image_types(self) -> None:
        if not self.image_types or len(set(self.image_types)) != len(self.image_types):
            raise ExtractionSettingsInvalid("image_types must name each type once")
        for image_type in self.image_types:
            if image_type not in ("original", "wavelet"):
                log_sigma(image_type)
            if image_type != "original" and self.discretisation.method == "FBS":
                self.bin_width(image_type)

    def bin_width(self, image_type: str) -> float:
        """Bin width of a filtered image. Raises ExtractionSettingsInvalid where none is set."""
        for prefix, width in self.filtered_bin_width:
            if image_type.startswith(prefix):
                return width
        raise ExtractionSettingsInvalid(f"filtered_bin_width has no entry for {image_type}")

    def to_json(self) -> dict[str, Any]:
        """Plain types, as they stand in the manifest."""
        return {**asdict(self), "filtered_bin_width": dict(self.filtered_bin_width)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "ExtractionSettings":
        """Settings from the manifest; absent keys take the default.

        Raises
        ------
        ExtractionSettingsInvalid
            An unknown key or a value that makes no sense.
        """
        known = {item.name for item in fields(cls)}
        unknown = set(values) - known
        if unknown:
            raise ExtractionSettingsInvalid(f"unknown extraction settings: {', '.join(sorted(unknown))}")
        arguments: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
        }
        try:
            if "discretisation" in arguments:
                arguments["discretisation"] = Discretisation(**arguments["discretisation"])
            if "filtered_bin_width" in arguments:
                arguments["filtered_bin_width"] = tuple(dict(arguments["filtered_bin_width"]).items())
            return cls(**arguments)
        except TypeError as error:
            raise ExtractionSettingsInvalid(f"extraction settings: {error}") from None

    def as_text(self) -> dict[str, str]:
        """One line per setting, for the radiomics report."""
        bins = self.discretisation
        width = f"{bins.bin_width_hu:g} HU" if bins.bin_width_hu else ""
        start = "ROI minimum" if bins.origin_hu is None else f"{bins.origin_hu:g} HU"
        return {
            "interpolation": f"{self.image_interpolator} to {_steps(self.spacing_mm)}",
            "intensity rounding": "1 HU" if self.round_intensities else "none",
            "re-segmentation": _range(self.resegment_hu),
            "outlier filter": "none" if self.outlier_sigma is None else f"{self.outlier_sigma:g} sigma",
            "discretisation": f"FBS {width} from {start}" if bins.method == "FBS" else f"FBN {bins.bins}",
            "image types": ", ".join(self.image_types),
            "texture": f"{self.dimension}, {self.aggregation}",
        }


def log_sigma(image_type: str) -> float:
    """Sigma, mm, of an image type such as log-sigma-2.0-mm."""
    text = image_type.removeprefix(LOG_PREFIX).removesuffix("-mm")
    try:
        sigma = float(text) if image_type.startswith(LOG_PREFIX) else 0.0
    except ValueError:
        sigma = 0.0
    if not 0 < sigma < 100:
        raise ExtractionSettingsInvalid(f"image type {image_type!r} is none of original, wavelet, log-sigma-<mm>-mm")
    return sigma


def _steps(spacing: Triple | None) -> str:
    if spacing is None:
        return "none (original grid)"
    return " x ".join("kept" if step is None else f"{step:g}" for step in spacing) + " mm"


def _range(limits: tuple[float, float] | None) -> str:
    return "none" if limits is None else f"{limits[0]:g} to {limits[1]:g} HU"
