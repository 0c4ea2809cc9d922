"""What pretraining shows the network: random crops, turned and flipped, with noise added and cubes hidden.

Every batch is drawn from the seed and its own number, so that a resumed run sees what an uninterrupted one would.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis.deep import Image, PatchSettings, windowed
from analysis.train.encoder.patches import TrainingPatch

SHIFT_HU = 15.0  # SD: calibration and contrast timing differ between scanners
NOISE_HU = 6.0  # largest SD of the noise that is to be removed; more would drown the texture of a tumour
HIDDEN_CUBES = 12
HIDDEN_EDGES = (4, 10)  # voxels
_RIM = 2  # voxels around the lesion that count as its rim


@dataclass(frozen=True, eq=False)
class Batch:
    """float32 arrays: `shown` and `clean` (batch, windows, D, H, W), `mask` (batch, 1, D, H, W)."""

    shown: Image
    clean: Image
    mask: Image


def draw(
    patches: Sequence[TrainingPatch], settings: PatchSettings, size: int, edge: int, seed: int, number: int
) -> Batch:
    """Batch `number` of `size` crops of `edge` voxels; hides cubes in every other one."""
    rng = np.random.default_rng([seed, number])
    shown, clean, masks = [], [], []
    for index in range(size):
        patch = patches[int(rng.integers(len(patches)))]
        hu, mask = _turn(*_crop(patch, edge, rng), rng)
        hu = hu + np.float32(rng.normal(0, SHIFT_HU))
        noisy = hu + rng.standard_normal(hu.shape, np.float32) * np.float32(rng.uniform(0, NOISE_HU))
        image = windowed(noisy, settings)
        if index % 2:
            _hide(image, rng)
        shown.append(image)
        clean.append(windowed(hu, settings))
        masks.append(mask[None])
    return Batch(np.stack(shown), np.stack(clean), np.stack(masks))


def centred(patches: Sequence[TrainingPatch], settings: PatchSettings, edge: int) -> Batch:
    """The middle of each patch as it is, for judging."""
    starts = [[(size - edge) // 2 for size in patch.hu.shape] for patch in patches]
    cuts = [tuple(slice(low, low + edge) for low in start) for start in starts]
    image = np.stack([windowed(patch.hu[cut], settings) for patch, cut in zip(patches, cuts, strict=True)])
    mask = np.stack([patch.mask[cut][None] for patch, cut in zip(patches, cuts, strict=True)])
    return Batch(image, image, mask)


def _crop(patch: TrainingPatch, edge: int, rng: np.random.Generator) -> tuple[Image, Image]:
    """Anywhere, but more often near the middle, where the lesion is."""
    where = (rng.random(3) + rng.random(3)) / 2
    starts = [int(share * (size - edge + 1)) for share, size in zip(where, patch.hu.shape, strict=True)]
    cut = tuple(slice(low, low + edge) for low in starts)
    return patch.hu[cut], patch.mask[cut]


def _turn(hu: Image, mask: Image, rng: np.random.Generator) -> tuple[Image, Image]:
    """One of the 48 ways a cube can lie."""
    axes = tuple(int(axis) for axis in rng.permutation(3))
    steps = tuple(slice(None, None, -1 if flipped else None) for flipped in rng.random(3) < 0.5)
    return hu.transpose(axes)[steps], mask.transpose(axes)[steps]


def _hide(image: Image, rng: np.random.Generator) -> None:
    """Put cubes of the image's mean over it, the same in every window (in place)."""
    fill = image.mean(axis=(1, 2, 3))[:, None, None, None]
    for _ in range(HIDDEN_CUBES):
        edge = int(rng.integers(*HIDDEN_EDGES))
        z, y, x = (int(rng.integers(0, size - min(edge, size) + 1)) for size in image.shape[1:])
        image[:, z : z + edge, y : y + edge, x : x + edge] = fill
