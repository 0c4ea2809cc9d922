"""Filtered images around a ROI: Laplacian of Gaussian and wavelet, computed where the ROI is and nowhere else.

The LoG is ITK's recursive one to the last bit of single precision, at a tenth of its time: along one axis a recursive
filter is a matrix, and only its rows inside the ROI's box are needed.
"""

from collections.abc import Iterator

import numpy as np
import pywt
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Steps = tuple[float, float, float]
Window = tuple[slice, slice, slice]

# Fourth-order approximations of the Gaussian and its second derivative: Farneback and Westin, Improving Deriche-style
# recursive Gaussian filters, J Math Imaging Vis 2006;26:293-299. Two damped oscillations of these frequencies and
# decays, with the amplitudes of their cosine and sine for each derivative.
_FREQUENCY, _DECAY = (0.6681, 2.0787), (-1.3932, -1.3732)
_COSINE = {0: (1.3530, -0.3531), 2: (-1.3563, 0.3446)}
_SINE = {0: (1.8151, 0.0902), 2: (5.2318, -2.2355)}
_BACK = np.arange(4)


def laplacian_of_gaussian(image: Floats, spacing: Steps, sigma: float, window: Window) -> Floats:
    """Scale-normalised LoG, sigma^2 (mm^2) times IBSI's, within `window`.

    Parameters
    ----------
    image : (slices, rows, columns), at least 4 along each axis
    spacing, sigma : mm

    Single precision after each pass, as ITK's LaplacianRecursiveGaussianImageFilter has it.
    """
    smooth, second = (
        [
            _recursive(size, sigma / step, order)[cut]
            for size, step, cut in zip(image.shape, spacing, window, strict=True)
        ]
        for order in (0, 2)
    )
    total = np.zeros([len(matrix) for matrix in smooth], dtype=np.float32)
    for axis in (2, 1, 0):
        part = along(second[axis] * sigma**2, image, axis).astype(np.float32)
        for other in (2, 1, 0):
            if other != axis:
                part = along(smooth[other], part.astype(np.float64), other).astype(np.float32)
        total = (total + part.astype(np.float64) / spacing[axis] ** 2).astype(np.float32)
    return total.astype(np.float64)


def wavelet_subbands(image: Floats, window: Window) -> Iterator[tuple[str, Floats]]:
    """(LLH .. HHH, LLL; the column axis first) of one undecimated coif1 level, within `window`."""
    # the transform needs even sizes; what is added wraps round and lies outside the window
    even = np.pad(image, [(0, size % 2) for size in image.shape], "wrap")
    bands = pywt.swtn(even, "coif1", level=1, axes=(2, 1, 0))[0]
    names = sorted(bands, key=lambda name: (name == "aaa", name))
    for name in names:
        yield name.replace("a", "L").replace("d", "H"), np.ascontiguousarray(bands.pop(name)[window])


def along(matrix: Floats, image: Floats, axis: int) -> Floats:
    """`matrix` (new, old) applied to each line of a 3-D image along `axis`."""
    if axis == 0:
        made = matrix @ image.reshape(image.shape[0], -1)
        return made.reshape(len(matrix), *image.shape[1:])
    out: Floats = np.matmul(matrix, image) if axis == 1 else np.matmul(image, matrix.T)
    return out


# Recursive Gaussian -----------------------------------------------------------------------------------------


def _recursive(size: int, sigma: float, order: int) -> Floats:
    """The filter along one axis as a matrix (size, size); `sigma` in voxels, `order` of the derivative 0 or 2.

    Lines go on beyond their ends with the end's value.
    """
    ahead, decay = _coefficients(sigma, order)
    # the same response in the other direction, without the sample itself
    behind = np.append(ahead[1:], 0) - decay * ahead[0]
    line = np.eye(size)
    padded = np.concatenate([np.repeat(line[:1], 4, axis=0), line, np.repeat(line[-1:], 4, axis=0)])
    forward, backward = np.empty((size + 4, size)), np.empty((size + 4, size))
    forward[:4] = padded[:4] * ahead.sum() / (1 + decay.sum())
    for i in range(4, size + 4):
        forward[i] = ahead @ padded[i - _BACK] - decay @ forward[i - 1 - _BACK]
    backward[size:] = padded[size + 4 :] * behind.sum() / (1 + decay.sum())
    for i in range(size - 1, -1, -1):
        backward[i] = behind @ padded[i + 5 + _BACK] - decay @ backward[i + 1 + _BACK]
    both: Floats = forward[4:] + backward[:size]
    return both


def _coefficients(sigma: float, order: int) -> tuple[Floats, Floats]:
    """Of the causal recursion y[n] = sum_k ahead[k] x[n - k] - sum_k decay[k] y[n - 1 - k]; unit gain."""
    (c1, c2), (s1, s2) = (part(np.array(_FREQUENCY) / sigma) for part in (np.cos, np.sin))
    e1, e2 = np.exp(np.array(_DECAY) / sigma)
    decay = np.array(
        [
            -2 * (e2 * c2 + e1 * c1),
            4 * c2 * c1 * e1 * e2 + e1**2 + e2**2,
            -2 * (c1 * e1 * e2**2 + c2 * e2 * e1**2),
            e1**2 * e2**2,
        ]
    )

    def response(of: int) -> Floats:
        (a1, a2), (b1, b2) = _COSINE[of], _SINE[of]
        return np.array(
            [
                a1 + a2,
                e2 * (b2 * s2 - (a2 + 2 * a1) * c2) + e1 * (b1 * s1 - (a1 + 2 * a2) * c1),
                2 * e1 * e2 * ((a1 + a2) * c2 * c1 - b1 * c2 * s1 - b2 * c1 * s2) + a2 * e1**2 + a1 * e2**2,
                e2 * e1**2 * (b2 * s2 - a2 * c2) + e1 * e2**2 * (b1 * s1 - a1 * c1),
            ]
        )

    below = _moments(np.append(1.0, decay))
    flat = response(0)
    sum_flat = flat.sum()
    if order == 0:
        return flat / (2 * sum_flat / below[0] - flat[0]), decay
    # what the second derivative says of a constant is taken off; then a parabola gives 2
    curved = response(2)
    curved -= (2 * curved.sum() - below[0] * curved[0]) / (2 * sum_flat - below[0] * flat[0]) * flat
    above = _moments(curved)
    gain = above[2] / below[0] - (below[2] * above[0] + 2 * above[1] * below[1]) / below[0] ** 2
    gain += 2 * below[1] ** 2 * above[0] / below[0] ** 3
    return curved / gain, decay


def _moments(values: Floats) -> Floats:
    """Sum of the values, of k times and of k^2 times them."""
    k = np.arange(len(values))
    return np.array([values.sum(), (k * values).sum(), (k**2 * values).sum()])
