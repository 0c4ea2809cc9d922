"""The network behind deep features: a 3-D UNet encoder-decoder, its export to ONNX, and the untrained control.

torch is imported here and in `pretrain` alone; nothing else of the training pipeline needs it.
"""

import io
import json
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import nn

from analysis.deep import METADATA_KEY, SCHEMA_VERSION, Encoder, Image, PatchSettings
from analysis.train.encoder.patches import PretrainError

Tensor = Any  # torch publishes types that mypy is told to skip
Pair = tuple[Image, Image]

TOLERANCE = 1e-5  # largest absolute difference between onnxruntime and torch
OPSET = 17
_TINY = 1e-6
# Pooling looks at the inside of the lesion; each of its two outer layers counts this much less.
RIM_WEIGHT = 0.05


@dataclass(frozen=True)
class Architecture:
    """Shape of the network.

    Attributes
    ----------
    channels : of each level, from full resolution down to the bottleneck; each level halves the edges
    skips : levels whose skip connection is open. An open one at a top level lets the image by-pass the bottleneck
    windows : input channels
    """

    channels: tuple[int, ...] = (8, 16, 32, 48)
    skips: tuple[int, ...] = ()
    windows: int = 2


class UNet(nn.Module):  # type: ignore[misc]  # torch is untyped here
    """Encoder and decoder. Each window comes back with the logarithm of its local SD (see `pretrain.targets`)."""

    def __init__(self, shape: Architecture, seed: int) -> None:
        super().__init__()
        self.shape = shape
        widths = (shape.windows, *shape.channels)
        self.down = nn.ModuleList(
            nn.Sequential(*_layer(before, after), *_layer(after, after)) for before, after in pairwise(widths)
        )
        self.up = nn.ModuleList(
            nn.Sequential(*_layer(below + (here if level in shape.skips else 0), here))
            for level, (here, below) in enumerate(pairwise(shape.channels))
        )
        self.heads = nn.ModuleList(nn.Conv3d(width, 2 * shape.windows, 1) for width in shape.channels)
        self.summaries = nn.ModuleList(nn.Linear(2 * width, shape.windows) for width in shape.channels)
        self.out = nn.Conv3d(shape.channels[0], 2 * shape.windows, 1)
        self.pool = nn.AvgPool3d(2)
        self.enlarge = nn.Upsample(scale_factor=2, mode="nearest")
        _initialise(self, seed)

    def encode(self, image: Tensor) -> list[Tensor]:
        """Maps of each level for images (batch, windows, D, H, W)."""
        maps = []
        for level, block in enumerate(self.down):
            image = block(self.pool(image) if level else image)
            maps.append(image)
        return maps

    def decode(self, maps: list[Tensor], *, without_bottleneck: bool = False) -> Tensor:
        """Reconstruction (batch, 2 x windows, D, H, W); the bottleneck can be zeroed to see what it is worth."""
        image = torch.zeros_like(maps[-1]) if without_bottleneck else maps[-1]
        for level in reversed(range(len(self.up))):
            image = self.enlarge(image)
            if level in self.shape.skips:
                image = torch.cat([image, maps[level]], dim=1)
            image = self.up[level](image)
        return self.out(image)


class Features(nn.Module):  # type: ignore[misc]  # torch is untyped here
    """What is exported: image and mask -> mean and SD of every channel inside the mask, level by level."""

    def __init__(self, net: UNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        """Shapes (1, windows, D, H, W) and (1, 1, D, H, W) -> (1, features)."""
        return torch.cat(pooled(self.net.encode(image), mask), dim=1)


def pooled(maps: list[Tensor], mask: Tensor) -> list[Tensor]:
    """Mean, then SD, of each channel inside the mask: shape (batch, 2 x channels) for each level."""
    found = []
    weight = depth(mask)
    for level, values in enumerate(maps):
        weight = nn.functional.avg_pool3d(weight, 2) if level else weight
        share = weight / (_total(weight) + _TINY * 8.0**-level)
        mean = _total(values * share)
        variance = _total((values - mean).square() * share)
        found.append(torch.cat([mean.flatten(1), (variance + _TINY**2).sqrt().flatten(1)], dim=1))
    return found


def depth(mask: Tensor) -> Tensor:
    """Weight of each voxel: away from the edge, which would drown everything else, unless there is no such depth."""
    core = eroded(mask)
    return eroded(core) + RIM_WEIGHT * core + RIM_WEIGHT**2 * mask


def eroded(mask: Tensor) -> Tensor:
    """The mask without its outermost voxels."""
    return -nn.functional.max_pool3d(-mask, 3, stride=1, padding=1)


def _total(values: Tensor) -> Tensor:
    """Sum over space, axis by axis: one long sum in single precision would lose the last digits."""
    for axis in (4, 3, 2):
        values = values.sum(dim=axis, keepdim=True)
    return values


def _layer(before: int, after: int) -> tuple[nn.Module, ...]:
    return nn.Conv3d(before, after, 3, padding=1, bias=False), nn.BatchNorm3d(after), nn.ReLU()


def _initialise(net: UNet, seed: int) -> None:
    """From a generator of its own: the same seed gives the same weights whatever else drew numbers before."""
    generator = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, nn.Conv3d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


# Export -----------------------------------------------------------------------------------------------------


def export(net: UNet, patch: PatchSettings, training: Mapping[str, Any], out: Path, inputs: Iterable[Pair]) -> float:
    """Write the encoder as ONNX; gives the largest difference from torch on `inputs` (image, mask).

    Raises
    ------
    PretrainError
        onnxruntime and torch differ by more than TOLERANCE; nothing is written.
    """
    model = to_onnx(net, patch, training)
    return write_checked(model, net, out, inputs)


def to_onnx(net: UNet, patch: PatchSettings, training: Mapping[str, Any]) -> onnx.ModelProto:
    """The encoder half with pooling, any size, and the metadata that `analysis.deep` reads."""
    stream = io.BytesIO()
    example = (torch.zeros(1, net.shape.windows, 16, 16, 16), torch.ones(1, 1, 16, 16, 16))
    axes = {name: {2: "slices", 3: "rows", 4: "columns"} for name in ("image", "mask")}
    with warnings.catch_warnings():
        # The newer exporter needs onnxscript and writes graphs with its own version's names; this one is exact.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            Features(net).eval(),
            example,
            stream,
            dynamo=False,
            opset_version=OPSET,
            input_names=["image", "mask"],
            output_names=["features"],
            dynamic_axes=axes,
        )
    model = onnx.load_from_string(stream.getvalue())
    facts = {
        "schema": SCHEMA_VERSION,
        "patch": patch.to_json(),
        "channels": net.shape.channels,
        "training": dict(training),
    }
    onnx.helper.set_model_props(model, {METADATA_KEY: json.dumps(facts, sort_keys=True)})
    return model


def write_checked(model: onnx.ModelProto, net: UNet, out: Path, inputs: Iterable[Pair]) -> float:
    """Write `model` if onnxruntime agrees with `net`; under another name first. As `export`."""
    draft = out.with_name(f".{out.name}.part")
    try:
        draft.write_bytes(model.SerializeToString(deterministic=True))
        difference = largest_difference(Encoder.load(draft), net, inputs)
        if not difference <= TOLERANCE:
            raise PretrainError(
                f"{out.name} was not written: onnxruntime and torch differ by {difference:.1e}, more than "
                f"{TOLERANCE:g}; install the versions of torch and onnxruntime that Prognode is locked to"
            )
        draft.replace(out)
    finally:
        draft.unlink(missing_ok=True)
    return difference


def largest_difference(encoder: Encoder, net: UNet, inputs: Iterable[Pair]) -> float:
    """Largest absolute difference of any feature on any input; NaN where one of them is not a number."""
    network = Features(net).eval()
    worst = 0.0
    with torch.no_grad():
        for image, mask in inputs:
            ours = network(torch.from_numpy(image), torch.from_numpy(mask)).numpy()
            worst = float(np.maximum(worst, np.abs(ours - encoder.run(image, mask)).max()))
    return worst


def random_inputs(windows: int, count: int, seed: int) -> Iterable[Pair]:
    """Smoothed noise of varied size with boxes as masks, some of one voxel."""
    rng = np.random.default_rng([seed, count])
    for _ in range(count):
        shape = tuple(int(8 * edge) for edge in rng.integers(1, 3, 3))
        image = rng.random((1, windows, *shape), np.float32) * np.float32(rng.random() + 0.1)
        mask = np.zeros((1, 1, *shape), np.float32)
        mask[0, 0][_box(shape, rng)] = 1
        yield image, mask


def _box(shape: tuple[int, ...], rng: np.random.Generator) -> tuple[slice, ...]:
    edges: list[NDArray[np.int64]] = [np.sort(rng.integers(0, size, 2)) for size in shape]
    return tuple(slice(int(low), int(high) + 1) for low, high in edges)


# Control ----------------------------------------------------------------------------------------------------


def write_random_encoder(like: Path, out: Path, seed: int) -> None:
    """Write an untrained encoder of the same shape and patch settings: the control of every evaluation.

    Raises
    ------
    EncoderError
        `like` is no encoder.
    PretrainError
        As `export`.
    """
    given = Encoder.load(like)
    windows = len(given.settings.windows)
    net = UNet(Architecture(given.channels, (), windows), seed)
    facts = {"random": True, "seed": seed, "steps": 0, "synthetic": False}
    export(net, given.settings, facts, out, random_inputs(windows, 50, seed))
