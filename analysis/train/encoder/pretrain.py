"""Pretrains the encoder without labels: hidden cubes and noise are to be undone, at the lesion above all.

Beside each window the network gives the lesion's local texture (logarithm of the SD in a 5-voxel cube): reconstruction
alone is served by averages, and heterogeneity would be lost on the way. The same seed gives the same bytes on one
machine, whether the run was interrupted or not.
"""

import hashlib
import json
import math
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from analysis.deep import PatchSettings, windowed
from analysis.train.encoder.batches import Batch, centred, draw
from analysis.train.encoder.encoder import (
    RIM_WEIGHT,
    Architecture,
    Pair,
    UNet,
    depth,
    eroded,
    export,
    pooled,
    random_inputs,
)
from analysis.train.encoder.patches import PretrainError, TrainingPatch
from models.manifest import significant

Tensor = Any  # torch publishes types that mypy is told to skip

VERSION = "prognode-pretrain-2"
CHECKPOINT = "pretraining.npz"
HELD_OUT = 10  # every tenth patch is for judging
TEXTURE_CUBE = 5
TEXTURE_FLOOR = 0.02  # of a window's width: below it, differences of SD are the scanner's noise
TEXTURE_MIDDLE = 2.5  # moves the logarithm of a lesion's SD to about zero
TEXTURE_WEIGHT = 0.05
SUMMARY_WEIGHT = 3.0  # of the whole lesion's texture, as the pooled values tell it
ENOUGH_VOXELS = 200.0  # of lesion in a crop
LEVEL_WEIGHT = 0.5  # of the same task asked of each level by itself
LESION, RIM, AROUND = 1.0, 0.5, 0.05  # weights of voxels in the loss
WARM_UP = 0.05
REAL_SHARE = 0.2  # of the comparisons with onnxruntime


@dataclass(frozen=True)
class PretrainConfig:
    """What is to be trained. `edge`: of the crops, voxels; `comparisons`: inputs that the export is tried on.

    `minimum_bypass`: how many times larger the error must be at least with the bottleneck zeroed."""

    seed: int = 0
    steps: int = 1500
    batch: int = 8
    edge: int = 24
    learning_rate: float = 3e-3
    threads: int = 1
    minimum_bypass: float = 1.5
    checkpoint_steps: int = 50
    comparisons: int = 1000
    architecture: Architecture = field(default_factory=Architecture)
    patch: PatchSettings = field(default_factory=PatchSettings)

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1 or self.threads < 1:
            raise PretrainError("steps, batch and threads must be at least 1")
        if self.edge % self.patch.multiple or not self.patch.multiple <= self.edge <= self.patch.largest_voxels:
            raise PretrainError(f"edge must be a multiple of {self.patch.multiple} up to {self.patch.largest_voxels}")

    def training_patch(self) -> PatchSettings:
        """With room for random crops around the lesion."""
        return replace(self.patch, margin_voxels=max(self.patch.margin_voxels, self.edge // 2))

    def digest(self) -> str:
        """Of everything that bears on the encoder."""
        return hashlib.sha256(json.dumps([VERSION, asdict(self)], sort_keys=True).encode()).hexdigest()


def pretrain(
    patches: Sequence[TrainingPatch],
    config: PretrainConfig,
    out: Path,
    checkpoint: Path | None = None,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Train and write the encoder to `out`; gives the facts of its metadata and what the export differs by.

    With a `checkpoint` folder the state is kept there every `checkpoint_steps` steps and taken up again.

    Raises
    ------
    PretrainError
        No patches, a checkpoint of another run, a bottleneck that does nothing, or an export that differs.
    """
    if not patches:
        raise PretrainError("there are no patches to train on")
    with _deterministic(config.threads):
        kept = [patch for index, patch in enumerate(patches) if index % HELD_OUT != HELD_OUT - 1]
        judged = [patch for index, patch in enumerate(patches) if index % HELD_OUT == HELD_OUT - 1] or kept
        run = Pretraining(config, identity_of(config, patches), checkpoint)
        run.train(kept, progress)
        facts = run.facts(patches, judged)
        if facts["bypass_ratio"] < config.minimum_bypass:
            raise PretrainError(
                f"{out.name} was not written: without its bottleneck the network reconstructs nearly as well (error "
                f"times {facts['bypass_ratio']:.2f}, at least {config.minimum_bypass:g} is asked), so its features "
                "mean little; close the skips of the top levels, or train for more steps"
            )
        inputs = chain(
            _real_inputs(judged, config), random_inputs(len(config.patch.windows), config.comparisons, config.seed)
        )
        difference = export(run.net, config.patch, facts, out, islice(inputs, config.comparisons))
    return facts | {"difference_from_onnx": difference}


class Pretraining:
    """Network, optimiser and step: all that a checkpoint holds."""

    def __init__(self, config: PretrainConfig, identity: str, folder: Path | None) -> None:
        self.config = config
        self.identity = identity
        self.net = UNet(config.architecture, config.seed)
        self.optimiser = torch.optim.AdamW(self.net.parameters(), lr=config.learning_rate, weight_decay=1e-4)
        self.step = 0
        self.loss = math.nan
        self._file = None if folder is None else folder / CHECKPOINT
        if self._file is not None:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            if self._file.exists():
                try:
                    self._resume(self._file)
                except (OSError, EOFError, KeyError, ValueError, RuntimeError, zipfile.BadZipFile):
                    raise PretrainError(f"{self._file}: a damaged checkpoint; delete it to begin again") from None

    def train(self, patches: Sequence[TrainingPatch], progress: Callable[[int], None] | None) -> None:
        """Go on from the present step to the last."""
        config = self.config
        self.net.train()
        while self.step < config.steps:
            for group in self.optimiser.param_groups:
                group["lr"] = config.learning_rate * _rate(self.step / config.steps)
            batch = draw(patches, config.patch, config.batch, config.edge, config.seed, self.step)
            loss = objective(self.net, batch)
            self.optimiser.zero_grad()
            loss.backward()
            self.optimiser.step()
            value = float(loss.detach())
            self.loss = value if self.step == 0 else 0.99 * self.loss + 0.01 * value
            self.step += 1
            if self.step % config.checkpoint_steps == 0 or self.step == config.steps:
                self._keep()
            if progress:
                progress(self.step)
        if not math.isfinite(self.loss):
            raise PretrainError("training diverged; give another seed")

    def facts(self, patches: Sequence[TrainingPatch], judged: Sequence[TrainingPatch]) -> dict[str, Any]:
        """What the metadata say of the training."""
        batch = centred(judged, self.config.patch, self.config.edge)
        whole, without = reconstruction_errors(self.net, batch)
        return {
            "random": False,
            "seed": self.config.seed,
            "steps": self.step,
            "patches": len(patches),
            "synthetic": all(patch.synthetic for patch in patches),
            "synthetic_patches": sum(patch.synthetic for patch in patches),
            "skips": self.config.architecture.skips,
            "config_digest": self.config.digest(),
            "data_digest": self.identity,
            "torch": str(torch.__version__),
            "loss": significant(self.loss, 4),
            "reconstruction_error": significant(whole, 4),
            "bypass_ratio": significant(without / whole, 4),
        }

    def _keep(self) -> None:
        if self._file is None:
            return
        arrays = {f"net/{name}": tensor.numpy() for name, tensor in self.net.state_dict().items()}
        for number, state in self.optimiser.state_dict()["state"].items():
            arrays |= {f"adam/{number}/{name}": tensor.numpy() for name, tensor in state.items()}
        draft = self._file.with_suffix(".part")
        with draft.open("wb") as stream:
            np.savez(stream, identity=np.array(self.identity), step=self.step, loss=self.loss, **arrays)
        draft.replace(self._file)

    def _resume(self, file: Path) -> None:
        with np.load(file, allow_pickle=False) as arrays:
            if str(arrays["identity"]) != self.identity:
                raise PretrainError(f"{file}: of a run with other settings or images; give another --checkpoint folder")
            tensors = {name: torch.from_numpy(arrays[name]) for name in arrays.files if "/" in name}
            self.step, self.loss = int(arrays["step"]), float(arrays["loss"])
        self.net.load_state_dict({name[4:]: value for name, value in tensors.items() if name.startswith("net/")})
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith("adam/"):
                _, number, key = name.split("/")
                state.setdefault(int(number), {})[key] = value
        self.optimiser.load_state_dict(self.optimiser.state_dict() | {"state": state})


# Task -------------------------------------------------------------------------------------------------------


def textures(clean: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Logarithm of the lesion's SD in a cube around each voxel, for each window, and the voxels' weights.

    Only voxels well inside the lesion count, or its edge would drown its texture. Shapes (batch, windows, D, H, W) and
    (batch, 1, D, H, W).
    """
    inside = eroded(mask) + RIM_WEIGHT * mask + 1e-6
    pool = nn.AvgPool3d(TEXTURE_CUBE, stride=1, padding=TEXTURE_CUBE // 2)
    share = pool(inside)
    mean = pool(clean * inside) / share
    variance = (pool(clean.square() * inside) / share - mean.square()).clamp(min=0)
    return _log(variance.sqrt()), inside * mask


def objective(net: UNet, batch: Batch) -> Tensor:
    """Loss of the reconstruction, and of the same task asked of each level through one linear map."""
    clean, mask = torch.from_numpy(batch.clean), torch.from_numpy(batch.mask)
    weight = _weight(mask)
    texture, inside = textures(clean, mask)
    maps = net.encode(torch.from_numpy(batch.shown))
    loss = _error(net.decode(maps), clean, weight, texture, inside)
    for level, (head, values) in enumerate(zip(net.heads, maps, strict=True)):
        if level:
            # Textures outside the lesion mean nothing and must not leak into the coarser voxels of its edge.
            texture = net.pool(texture * inside) / net.pool(inside).clamp(min=1e-12)
            clean, weight, inside = net.pool(clean), net.pool(weight), net.pool(inside)
        loss = loss + LEVEL_WEIGHT / len(maps) * _error(head(values), clean, weight, texture, inside)
    return loss + SUMMARY_WEIGHT * _summary_error(net, maps, batch)


def _summary_error(net: UNet, maps: list[Tensor], batch: Batch) -> Tensor:
    """Of the whole lesion's texture as each level's pooled values tell it; crops with little lesion count little."""
    mask = torch.from_numpy(batch.mask)
    (summary,) = pooled([torch.from_numpy(batch.clean)], mask)
    wanted = _log(summary[:, net.shape.windows :])
    seen = depth(mask).sum(dim=(1, 2, 3, 4)).clamp(max=ENOUGH_VOXELS)[:, None]
    values = zip(net.summaries, pooled(maps, mask), strict=True)
    squares = sum((linear(level) - wanted).square() for linear, level in values)
    return (squares * seen).sum() / (seen.sum().clamp(min=1) * wanted.shape[1] * len(maps))


def _log(sd: Tensor) -> Tensor:
    return (sd + TEXTURE_FLOOR).log() + TEXTURE_MIDDLE


def reconstruction_errors(net: UNet, batch: Batch) -> tuple[float, float]:
    """Weighted squared error of the windows, with the bottleneck and with zeros in its place."""
    net.eval()
    clean, weight = torch.from_numpy(batch.clean), _weight(torch.from_numpy(batch.mask))
    windows = clean.shape[1]
    with torch.no_grad():
        maps = net.encode(torch.from_numpy(batch.shown))
        both = [net.decode(maps, without_bottleneck=absent)[:, :windows] for absent in (False, True)]
        whole, without = (float(((found - clean).square() * weight).sum() / weight.sum() / windows) for found in both)
    return whole, without


def _error(found: Tensor, clean: Tensor, weight: Tensor, texture: Tensor, inside: Tensor) -> Tensor:
    """Of the windows everywhere, of the texture within the lesion."""
    windows = clean.shape[1]
    image = ((found[:, :windows] - clean).square() * weight).sum() / (windows * weight.sum())
    grain = ((found[:, windows:] - texture).square() * inside).sum() / (windows * inside.sum().clamp(min=1e-3))
    return image + TEXTURE_WEIGHT * grain


def _weight(mask: Tensor) -> Tensor:
    near = nn.functional.max_pool3d(mask, 5, stride=1, padding=2)
    return AROUND + LESION * mask + RIM * (near - mask)


def _rate(done: float) -> float:
    """Warm-up, then half a cosine."""
    return done / WARM_UP + 0.01 if done < WARM_UP else 0.5 * (1 + math.cos(math.pi * (done - WARM_UP) / (1 - WARM_UP)))


# Run --------------------------------------------------------------------------------------------------------


@contextmanager
def _deterministic(threads: int) -> Iterator[None]:
    """Sums are taken in an order that hangs on the number of threads, so that number is part of the settings."""
    before, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        torch.use_deterministic_algorithms(strict)


def identity_of(config: PretrainConfig, patches: Sequence[TrainingPatch]) -> str:
    """Digest of settings and images: a checkpoint belongs to exactly one."""
    digests = [patch.digest for patch in patches]
    return hashlib.sha256(json.dumps([config.digest(), digests]).encode()).hexdigest()


def _real_inputs(patches: Sequence[TrainingPatch], config: PretrainConfig) -> Iterator[Pair]:
    """Pieces of real patches of varied sizes, for comparing the export."""
    rng = np.random.default_rng([config.seed, config.comparisons])
    for _ in range(round(REAL_SHARE * config.comparisons)):
        patch = patches[int(rng.integers(len(patches)))]
        shape = [config.patch.multiple * int(edge) for edge in rng.integers(1, 4, 3)]
        cut = tuple(
            slice((size - edge) // 2, (size + edge) // 2) for size, edge in zip(patch.hu.shape, shape, strict=True)
        )
        yield windowed(patch.hu[cut], config.patch)[None], patch.mask[cut][None, None]
