"""Intensity statistics (IBSI 3.3) and the intensity histogram (IBSI 3.4) of the ROI."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def statistics(values: Floats, counts: Floats | None = None) -> dict[str, float]:
    """Statistics that intensities and grey levels have in common.

    Parameters
    ----------
    values : one entry per ROI voxel; with `counts`, the values that occur, ascending
    counts : how many voxels have each value

    Kurtosis is excess kurtosis (IPH6); the variance divides by N; percentiles interpolate linearly.
    """
    p10, p25, median, p75, p90 = _percentiles(values, counts)
    mean = _average(values, counts)
    centred = values - mean
    squared = centred * centred  # a general power takes ten times as long
    variance = _average(squared, counts)
    # a flat ROI has neither skew nor tails (IBSI)
    skewness = _average(squared * centred, counts) / variance**1.5 if variance > 0 else 0.0
    kurtosis = _average(squared * squared, counts) / variance**2 - 3 if variance > 0 else 0.0
    inner = (values >= p10) & (values <= p90)
    robust, robust_counts = values[inner], None if counts is None else counts[inner]
    spread = np.abs(robust - _average(robust, robust_counts)) if robust.size else np.array([np.nan])
    return {
        "Mean": mean,
        "Variance": variance,
        "StandardDeviation": float(np.sqrt(variance)),
        "Skewness": skewness,
        "Kurtosis": kurtosis,
        "Median": median,
        "Minimum": float(values.min()),
        "10Percentile": p10,
        "25Percentile": p25,
        "50Percentile": median,
        "75Percentile": p75,
        "90Percentile": p90,
        "Maximum": float(values.max()),
        "InterquartileRange": p75 - p25,
        "Range": float(np.ptp(values)),
        "MeanAbsoluteDeviation": _average(np.abs(centred), counts),
        "RobustMeanAbsoluteDeviation": _average(spread, robust_counts) if robust.size else np.nan,
        "MedianAbsoluteDeviation": _average(np.abs(values - median), counts),
        "CoefficientOfVariation": _ratio(float(np.sqrt(variance)), mean),
        "QuartileCoefficientOfDispersion": _ratio(p75 - p25, p75 + p25),
        "RootMeanSquared": float(np.sqrt(_average(values**2, counts))),
    }


def _average(values: Floats, counts: Floats | None) -> float:
    return float(values.mean()) if counts is None else float(values @ counts / counts.sum())


def _percentiles(values: Floats, counts: Floats | None) -> list[float]:
    shares = (10, 25, 50, 75, 90)
    if counts is None:
        return [float(value) for value in np.percentile(values, shares)]
    # between the two voxels around each place in the sorted ROI
    last = np.cumsum(counts)
    places = np.array(shares) / 100 * (last[-1] - 1)
    low, high = (values[np.searchsorted(last, rank, side="right")] for rank in (np.floor(places), np.ceil(places)))
    return [float(value) for value in low + (high - low) * (places - np.floor(places))]


def energy(values: Floats, voxel_volume: float) -> dict[str, float]:
    """Sum of squares (N8CA), and the same times the voxel volume in mm3."""
    total = float((values**2).sum())
    return {"Energy": total, "TotalEnergy": total * voxel_volume}


def distribution(levels: NDArray[np.int32]) -> dict[str, float]:
    """Entropy (base 2) and uniformity of the grey levels; `levels` has one entry per ROI voxel."""
    share = np.bincount(levels)[1:] / levels.size
    share = share[share > 0]
    return {"Entropy": float(-(share * np.log2(share)).sum()), "Uniformity": float((share**2).sum())}


def histogram(levels: NDArray[np.int32]) -> dict[str, float]:
    """Intensity histogram features; `levels` counts from 1 and has one entry per ROI voxel."""
    counts = np.bincount(levels)[1:].astype(np.float64)
    grey = np.arange(1, counts.size + 1)
    there = counts > 0
    found = statistics(grey[there].astype(np.float64), counts[there])
    modes = grey[counts == counts.max()]
    found["Mode"] = float(modes[np.abs(modes - found["Mean"]).argmin()])
    found["EntropyLog10"] = distribution(levels)["Entropy"] * float(np.log10(2))
    gradient = np.gradient(counts) if counts.size > 1 else np.array([np.nan])
    found["MaximumGradient"] = float(gradient.max())
    found["MaximumGradientLevel"] = float(grey[gradient.argmax()])
    found["MinimumGradient"] = float(gradient.min())
    found["MinimumGradientLevel"] = float(grey[gradient.argmin()])
    return found


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else np.nan
