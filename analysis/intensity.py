"""Intensity statistics (IBSI 3.3) and the intensity histogram (IBSI 3.4) of the ROI."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def statistics(values: Floats) -> dict[str, float]:
    """Statistics that intensities and grey levels have in common; `values` has one entry per ROI voxel.

    Kurtosis is excess kurtosis (IPH6); the variance divides by N; percentiles interpolate linearly.
    """
    p10, p25, median, p75, p90 = (float(p) for p in np.percentile(values, (10, 25, 50, 75, 90)))
    mean, variance = float(values.mean()), float(values.var())
    centred = values - mean
    squared = centred * centred  # a general power takes ten times as long
    # a flat ROI has neither skew nor tails (IBSI)
    skewness = float((squared * centred).mean()) / variance**1.5 if variance > 0 else 0.0
    kurtosis = float((squared * squared).mean()) / variance**2 - 3 if variance > 0 else 0.0
    robust = values[(values >= p10) & (values <= p90)]
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
        "MeanAbsoluteDeviation": float(np.abs(centred).mean()),
        "RobustMeanAbsoluteDeviation": float(np.abs(robust - robust.mean()).mean()) if robust.size else np.nan,
        "MedianAbsoluteDeviation": float(np.abs(values - median).mean()),
        "CoefficientOfVariation": _ratio(float(np.sqrt(variance)), mean),
        "QuartileCoefficientOfDispersion": _ratio(p75 - p25, p75 + p25),
        "RootMeanSquared": float(np.sqrt((values**2).mean())),
    }


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
    found = statistics(levels.astype(np.float64))
    grey = np.arange(1, counts.size + 1)
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
