"""Texture features (IBSI 3.6 to 3.11) from the counts of `matrices`.

Names and conventions are pyradiomics' (SumSquares is IBSI's joint variance), which is the oracle of the tests; sums run
over the levels that occur. Logarithms are those of p + 2.2e-16, so that values are the same to the last digits.
"""

from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from analysis.matrices import Matrices, matrices

Mask = NDArray[np.bool_]
Levels = NDArray[np.int32]
Floats = NDArray[np.float64]
Found = dict[str, float]
Failed = dict[str, str]

MATRICES = ("glcm", "glrlm", "glszm", "gldm", "ngtdm")
_EPS = float(np.spacing(1))


def textures(
    levels: Levels, mask: Mask, dimension: Literal["3D", "2.5D"], aggregation: Literal["avg", "merged"]
) -> tuple[Found, Failed]:
    """Features as `<matrix>_<name>`, and why a whole matrix gave none.

    Parameters
    ----------
    levels : grey levels from 1 inside `mask`, shape (slices, rows, columns)
    dimension : 3D: 13 directions; 2.5D: 4 directions within slices, matrices summed over slices
    aggregation : GLCM and GLRLM per direction, then the mean (avg), or one matrix of all directions (merged)
    """
    try:
        counts = matrices(levels, mask, flat=dimension == "2.5D")
    except (ValueError, MemoryError) as error:
        return {}, dict.fromkeys(MATRICES, f"{type(error).__name__}: {error}")
    merged = aggregation == "merged"
    of: dict[str, Callable[[], Found]] = {
        "glcm": lambda: cooccurrence(_directions(counts.pairs, merged), counts.grey),
        "glrlm": lambda: run_lengths(_directions(counts.runs, merged), counts.grey),
        "glszm": lambda: zones(counts),
        "gldm": lambda: dependences(counts),
        "ngtdm": lambda: tone_differences(counts),
    }
    found: Found = {}
    failed: Failed = {}
    with np.errstate(invalid="ignore", divide="ignore"):
        for name in MATRICES:
            try:
                found.update({f"{name}_{key}": float(value) for key, value in of[name]().items()})
            except (ValueError, ArithmeticError, MemoryError) as error:
                failed[name] = f"{type(error).__name__}: {error}"
    return found, failed


def _directions(counts: NDArray[np.int32], merged: bool) -> Floats:
    """One matrix per direction in which there is anything, or one of all."""
    made = counts.astype(np.float64)
    kept: Floats = made.sum(axis=0, keepdims=True) if merged else made[made.any(axis=(1, 2))]
    return kept


# Co-occurrence ----------------------------------------------------------------------------------------------


def cooccurrence(pairs: Floats, grey: Levels) -> Found:
    """IBSI 3.6: features of the symmetrical GLCM, mean over its directions; `pairs` (a, g, g)."""
    p = pairs + pairs.transpose(0, 2, 1)
    p /= p.sum(axis=(1, 2), keepdims=True)
    level = grey.astype(np.float64)
    largest = int(grey[-1])
    margin = p.sum(axis=2)
    mean = margin @ level
    centred = level - mean[:, None]
    variance = (margin * centred**2).sum(axis=1)
    covariance = np.einsum("ai,aij,aj->a", centred, p, centred, optimize=True)
    # pairs by the difference of their levels and by its sum
    apart = _by_key(p, np.abs(grey[:, None] - grey), largest)
    difference = np.arange(largest, dtype=np.float64)
    together = _by_key(p, grey[:, None] + grey, 2 * largest + 1)
    total = np.arange(2 * largest + 1, dtype=np.float64) - 2 * mean[:, None]
    mean_difference = apart @ difference
    per_direction = {
        "MaximumProbability": p.max(axis=(1, 2), initial=0),
        "JointAverage": mean,
        "SumSquares": variance,
        "JointEnergy": (p**2).sum(axis=(1, 2)),
        "Autocorrelation": np.einsum("i,aij,j->a", level, p, level, optimize=True),
        "Correlation": np.where(variance == 0, 1.0, covariance / (variance + _EPS)),
        "DifferenceAverage": mean_difference,
        "DifferenceVariance": (apart * (difference - mean_difference[:, None]) ** 2).sum(axis=1),
        "DifferenceEntropy": _entropy(apart, axis=1),
        "Contrast": apart @ difference**2,
        "Id": apart @ (1 / (1 + difference)),
        "Idn": apart @ (1 / (1 + difference / largest)),
        "Idm": apart @ (1 / (1 + difference**2)),
        "Idmn": apart @ (1 / (1 + difference**2 / largest**2)),
        "InverseVariance": apart[:, 1:] @ (1 / difference[1:] ** 2),
        "SumAverage": together @ np.arange(2 * largest + 1, dtype=np.float64),
        "SumEntropy": _entropy(together, axis=1),
        "ClusterTendency": (together * total**2).sum(axis=1),
        "ClusterShade": (together * total**3).sum(axis=1),
        "ClusterProminence": (together * total**4).sum(axis=1),
        "MCC": _maximal_correlation(p, margin),
        **_information(p, margin),
    }
    return {name: _mean(values) for name, values in per_direction.items()}


def _information(p: Floats, margin: Floats) -> dict[str, Floats]:
    """Joint entropy and the two information correlations."""
    joint = _entropy(p, axis=(1, 2))
    alone = _entropy(margin, axis=1)
    product = margin[:, :, None] * margin[:, None, :]
    bits = np.log2(product + _EPS)
    first, second = -(p * bits).sum(axis=(1, 2)), -(product * bits).sum(axis=(1, 2))
    return {
        "JointEntropy": joint,
        "Imc1": np.where(alone == 0, 0.0, (joint - first) / alone),
        "Imc2": np.where(second == joint, 0.0, np.sqrt(1 - np.exp(-2 * (second - joint)))),
    }


def _maximal_correlation(p: Floats, margin: Floats) -> Floats:
    """Square root of the second largest eigenvalue of Q(i, j) = sum_k p(i, k) p(j, k) / (p(i) p(k)).

    With the addend in the denominator, as values have always had it: of rare levels it is a share that shows.
    """
    if np.isnan(margin).any():
        return np.full(len(p), np.nan)
    if p.shape[1] < 2:
        return np.ones(1)
    q = (p / (margin[:, :, None] * margin[:, None, :] + _EPS)) @ p
    found = np.linalg.eigvals(q)
    found.sort(axis=1)
    second: Floats = np.sqrt(found[:, -2]).real
    return second


def _by_key(p: Floats, keys: NDArray[np.integer], count: int) -> Floats:
    """Sum of p (a, g, g) over the cells of each key; shape (a, count)."""
    offset = np.arange(len(p))[:, None] * count
    where = (offset + keys.ravel()).ravel()
    made: Floats = _weighed(where, p.ravel(), len(p) * count).reshape(len(p), count)
    return made


# Runs, zones, dependences -----------------------------------------------------------------------------------


def run_lengths(runs: Floats, grey: Levels) -> Found:
    """IBSI 3.7: features of the GLRLM, mean over its directions; `runs` (a, g, run length from 1)."""
    level, length = grey.astype(np.float64), np.arange(1, runs.shape[2] + 1, dtype=np.float64)
    by_level, by_length = runs.sum(axis=2), runs.sum(axis=1)
    number = by_level.sum(axis=1)
    direction, i, j = np.nonzero(runs)
    count = runs[direction, i, j]

    def mean_of(weight: Floats) -> Floats:
        mean: Floats = _weighed(direction, count * weight, len(runs)) / number
        return mean

    p = count / number[direction]
    entropy = -_weighed(direction, p * np.log2(p + _EPS), len(runs))
    per_direction = {
        "ShortRunEmphasis": by_length @ length**-2 / number,
        "LongRunEmphasis": by_length @ length**2 / number,
        "LowGrayLevelRunEmphasis": by_level @ level**-2 / number,
        "HighGrayLevelRunEmphasis": by_level @ level**2 / number,
        "ShortRunLowGrayLevelEmphasis": mean_of(1 / (level[i] * length[j]) ** 2),
        "ShortRunHighGrayLevelEmphasis": mean_of((level[i] / length[j]) ** 2),
        "LongRunLowGrayLevelEmphasis": mean_of((length[j] / level[i]) ** 2),
        "LongRunHighGrayLevelEmphasis": mean_of((level[i] * length[j]) ** 2),
        "GrayLevelNonUniformity": (by_level**2).sum(axis=1) / number,
        "GrayLevelNonUniformityNormalized": (by_level**2).sum(axis=1) / number**2,
        "RunLengthNonUniformity": (by_length**2).sum(axis=1) / number,
        "RunLengthNonUniformityNormalized": (by_length**2).sum(axis=1) / number**2,
        "RunPercentage": number / (by_length @ length),
        "GrayLevelVariance": _variance(by_level, level),
        "RunVariance": _variance(by_length, length),
        "RunEntropy": entropy,
    }
    return {name: _mean(values) for name, values in per_direction.items()}


def zones(counts: Matrices) -> Found:
    """IBSI 3.8: features of the GLSZM."""
    level, size = counts.grey[counts.zones[:, 0]].astype(np.float64), counts.zones[:, 1].astype(np.float64)
    count = counts.zones[:, 2].astype(np.float64)
    of = _joint(level, size, count)
    return {
        "SmallAreaEmphasis": of["small"],
        "LargeAreaEmphasis": of["large"],
        "LowGrayLevelZoneEmphasis": of["low"],
        "HighGrayLevelZoneEmphasis": of["high"],
        "SmallAreaLowGrayLevelEmphasis": of["small low"],
        "SmallAreaHighGrayLevelEmphasis": of["small high"],
        "LargeAreaLowGrayLevelEmphasis": of["large low"],
        "LargeAreaHighGrayLevelEmphasis": of["large high"],
        "GrayLevelNonUniformity": of["level uneven"],
        "GrayLevelNonUniformityNormalized": of["level uneven"] / count.sum(),
        "SizeZoneNonUniformity": of["size uneven"],
        "SizeZoneNonUniformityNormalized": of["size uneven"] / count.sum(),
        "ZonePercentage": float(count.sum()) / counts.voxels,
        "GrayLevelVariance": of["level variance"],
        "ZoneVariance": of["size variance"],
        "ZoneEntropy": of["entropy"],
    }


def dependences(counts: Matrices) -> Found:
    """IBSI 3.11 (NGLDM, alpha 0): features of the GLDM; a dependence counts the voxel itself."""
    i, j = np.nonzero(counts.dependence)
    count = counts.dependence[i, j].astype(np.float64)
    of = _joint(counts.grey[i].astype(np.float64), j.astype(np.float64) + 1, count)
    return {
        "SmallDependenceEmphasis": of["small"],
        "LargeDependenceEmphasis": of["large"],
        "LowGrayLevelEmphasis": of["low"],
        "HighGrayLevelEmphasis": of["high"],
        "SmallDependenceLowGrayLevelEmphasis": of["small low"],
        "SmallDependenceHighGrayLevelEmphasis": of["small high"],
        "LargeDependenceLowGrayLevelEmphasis": of["large low"],
        "LargeDependenceHighGrayLevelEmphasis": of["large high"],
        "GrayLevelNonUniformity": of["level uneven"],
        "DependenceNonUniformity": of["size uneven"],
        "DependenceNonUniformityNormalized": of["size uneven"] / count.sum(),
        "GrayLevelVariance": of["level variance"],
        "DependenceVariance": of["size variance"],
        "DependenceEntropy": of["entropy"],
    }


def _joint(level: Floats, size: Floats, count: Floats) -> Found:
    """What the size zone and the dependence matrix have in common; the three arrays are its cells that are not 0."""
    number = count.sum()
    p = count / number
    (levels, by_level), (sizes, by_size) = _sums(level, count), _sums(size, count)
    return {
        "small": p @ size**-2,
        "large": p @ size**2,
        "low": p @ level**-2,
        "high": p @ level**2,
        "small low": p @ (1 / (level * size) ** 2),
        "small high": p @ (level / size) ** 2,
        "large low": p @ (size / level) ** 2,
        "large high": p @ (level * size) ** 2,
        "level uneven": (by_level**2).sum() / number,
        "size uneven": (by_size**2).sum() / number,
        "level variance": float(_variance(by_level[None], levels)[0]),
        "size variance": float(_variance(by_size[None], sizes)[0]),
        "entropy": -(p @ np.log2(p + _EPS)),
    }


def _sums(keys: Floats, count: Floats) -> tuple[Floats, Floats]:
    """The values among `keys`, and the count of each."""
    values, where = np.unique(keys, return_inverse=True)
    return values, _weighed(where, count, len(values))


def _variance(counts: Floats, values: Floats) -> Floats:
    p = counts / counts.sum(axis=1, keepdims=True)
    spread: Floats = (p * (values - (p @ values)[:, None]) ** 2).sum(axis=1)
    return spread


# Tone differences -------------------------------------------------------------------------------------------


def tone_differences(counts: Matrices) -> Found:
    """IBSI 3.10: features of the NGTDM."""
    number, difference = counts.tones.T
    level = counts.grey.astype(np.float64)
    p = number / number.sum()
    weighted = p * difference
    apart = level[:, None] - level
    uneven = float(np.abs((level * p)[:, None] - level * p).sum())
    pairs = level.size * (level.size - 1)
    complexity = (np.abs(apart) * (weighted[:, None] + weighted) / (p[:, None] + p)).sum() / number.sum()
    strength = ((p[:, None] + p) * apart**2).sum()
    return {
        "Coarseness": 1 / weighted.sum() if weighted.sum() else 1e6,
        "Contrast": (p @ apart**2 @ p) * difference.sum() / number.sum() / pairs if pairs > 0 else 0.0,
        "Busyness": weighted.sum() / uneven if uneven else 0.0,
        "Complexity": complexity,
        "Strength": strength / difference.sum() if difference.sum() else 0.0,
    }


# Both -------------------------------------------------------------------------------------------------------


def _weighed(keys: NDArray[np.integer], weights: Floats, count: int) -> Floats:
    """Sum of the weights of each key below `count`."""
    return np.bincount(keys, weights=weights, minlength=count).astype(np.float64)


def _entropy(p: Floats, axis: int | tuple[int, int]) -> Floats:
    """Bits."""
    bits: Floats = -(p * np.log2(p + _EPS)).sum(axis=axis)
    return bits


def _mean(values: Floats) -> float:
    """Over the directions that have a value."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")
