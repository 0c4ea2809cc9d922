"""Small patches and networks for the tests of deep features."""

from pathlib import Path

import numpy as np
from scipy import ndimage

from analysis.deep import PatchSettings
from analysis.train.encoder.patches import TrainingPatch

SMALL_PATCH = PatchSettings(margin_voxels=4)


def patches(count: int, edge: int = 24, seed: int = 0) -> list[TrainingPatch]:
    """Balls of soft tissue with a texture of their own in noisy lung."""
    made = []
    grid = np.indices((edge,) * 3) - (edge - 1) / 2
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        radius = rng.uniform(4, edge / 3)
        inside = ndimage.gaussian_filter((np.sqrt((grid**2).sum(axis=0)) < radius).astype(np.float32), 0.6)
        texture = ndimage.gaussian_filter(rng.standard_normal((edge,) * 3), 1.5)
        tissue = 40 + rng.uniform(10, 60) * texture / texture.std()
        lung = -850 + 150 * ndimage.gaussian_filter(rng.standard_normal((edge,) * 3), 1.0)
        hu = (inside * tissue + (1 - inside) * lung + rng.normal(0, 10, lung.shape)).astype(np.float32)
        made.append(TrainingPatch(hu, inside, synthetic=True, digest=f"{seed}-{number}"))
    return made


def config(**changes: object):
    """A network of a few thousand weights, trained in seconds."""
    from analysis.train.encoder.encoder import Architecture
    from analysis.train.encoder.pretrain import PretrainConfig

    skips = changes.pop("skips", ())
    small = {"seed": 3, "steps": 30, "batch": 2, "edge": 16, "minimum_bypass": 0.0, "patch": SMALL_PATCH}
    small |= {"checkpoint_steps": 10, "comparisons": 40}
    return PretrainConfig(**small | {"architecture": Architecture((8, 8, 16, 16), skips)} | changes)  # type: ignore[arg-type]


def train_in_folder(folder: Path) -> None:
    """What the child process of the test of interruption does: checkpoints in `folder`, the encoder beside them."""
    from analysis.train.encoder.pretrain import pretrain

    pretrain(patches(5), config(), folder / "encoder.onnx", folder / "checkpoint")
