"""Pretraining and its export: the same bytes from the same seed, interrupted or not, and ONNX that equals torch."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from analysis.deep import Encoder, EncoderError, PatchSettings, feature_names, windowed
from analysis.train.encoder.patches import PretrainError
from analysis.volume import Volume
from tests import deep
from tests.paths import ROOT


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small encoder."""
    folder = tmp_path_factory.mktemp("trained")
    deep.train_in_folder(folder)
    return folder / "encoder.onnx"


def _ball(shape: tuple[int, int, int], radius: float) -> tuple[Volume, np.ndarray]:
    rng = np.random.default_rng(6)
    grid = np.indices(shape) - (np.array(shape)[:, None, None, None] - 1) / 2
    mask = np.sqrt((grid**2).sum(axis=0)) < radius
    array = np.where(mask, 40, -800) + rng.normal(0, 30, shape)
    uids = tuple(str(number) for number in range(shape[0]))
    return Volume(array.astype(np.float32), (2.0,) * 3, np.zeros(3), np.eye(3), "1", uids, (1,) * shape[0]), mask


def test_a_killed_and_resumed_run_writes_the_bytes_of_an_uninterrupted_one(trained: Path, tmp_path: Path) -> None:
    code = f"from pathlib import Path; from tests import deep; deep.train_in_folder(Path({str(tmp_path)!r}))"
    state = tmp_path / "checkpoint" / "pretraining.npz"
    child = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    started = time.monotonic()
    while not state.exists() and time.monotonic() - started < 120:
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert not (tmp_path / "encoder.onnx").exists()
    with np.load(state) as kept:
        assert 0 < int(kept["step"]) < deep.config().steps
    deep.train_in_folder(tmp_path)
    assert (tmp_path / "encoder.onnx").read_bytes() == trained.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint", "encoder.onnx"]


def test_another_seed_gives_another_encoder_and_a_foreign_checkpoint_is_refused(trained: Path, tmp_path: Path) -> None:
    from analysis.train.encoder.pretrain import pretrain

    other = deep.config(seed=4, steps=2)
    pretrain(deep.patches(5), other, tmp_path / "other.onnx")
    assert (tmp_path / "other.onnx").read_bytes() != trained.read_bytes()
    with pytest.raises(PretrainError, match=r"pretraining\.npz: of a run with other settings or images"):
        pretrain(deep.patches(5), other, tmp_path / "again.onnx", trained.parent / "checkpoint")
    assert not (tmp_path / "again.onnx").exists()


@pytest.mark.parametrize("content", [b"", b"bad", b"PK\x03\x04", b"\x80\x04."])
def test_a_damaged_checkpoint_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    from analysis.train.encoder.pretrain import pretrain

    (tmp_path / "pretraining.npz").write_bytes(content)
    with pytest.raises(PretrainError, match=r"pretraining.npz: a damaged checkpoint; delete it to begin again"):
        pretrain(deep.patches(2), deep.config(), tmp_path / "encoder.onnx", tmp_path)
    assert not (tmp_path / "encoder.onnx").exists()


def test_metadata_say_how_it_was_made(trained: Path) -> None:
    encoder = Encoder.load(trained)
    assert encoder.settings == deep.SMALL_PATCH
    assert encoder.names == feature_names((8, 8, 16, 16))
    facts = encoder.training
    assert facts["steps"] == 30
    assert facts["seed"] == 3
    assert facts["patches"] == facts["synthetic_patches"] == 5
    assert facts["synthetic"] is True
    assert facts["random"] is False
    assert facts["config_digest"] == deep.config().digest()
    assert facts["bypass_ratio"] > 0
    half = [replace(patch, synthetic=False) if number % 2 else patch for number, patch in enumerate(deep.patches(4))]
    assert _facts_of(half)["synthetic"] is False
    assert _facts_of(half)["synthetic_patches"] == 2


def _facts_of(patches: Any) -> dict[str, Any]:
    from analysis.train.encoder.pretrain import Pretraining

    run = Pretraining(deep.config(), "", None)
    return run.facts(patches, patches)


def test_an_export_that_differs_from_torch_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    import onnx

    from analysis.train.encoder.encoder import Architecture, UNet, random_inputs, to_onnx, write_checked

    net = UNet(Architecture((8, 8, 16, 16)), 1)
    model = to_onnx(net, deep.SMALL_PATCH, {})
    out = tmp_path / "encoder.onnx"
    assert write_checked(model, net, out, random_inputs(2, 20, 0)) < 1e-5
    out.unlink()
    weights = next(item for item in model.graph.initializer if len(item.dims) == 5)
    values = onnx.numpy_helper.to_array(weights).copy()
    values.flat[0] += 1e-3
    weights.CopyFrom(onnx.numpy_helper.from_array(values, weights.name))
    with pytest.raises(PretrainError, match=r"encoder\.onnx was not written: onnxruntime and torch differ"):
        write_checked(model, net, out, random_inputs(2, 20, 0))
    assert list(tmp_path.iterdir()) == []


def test_a_network_that_ignores_its_bottleneck_is_refused() -> None:
    """The trap is real: with open skips the bottleneck can be zeroed at no cost."""
    from analysis.train.encoder.pretrain import pretrain

    with pytest.raises(PretrainError, match="without its bottleneck the network reconstructs nearly as well"):
        pretrain(deep.patches(8), deep.config(steps=60, skips=(0, 1, 2), minimum_bypass=1.25), Path("never.onnx"))
    assert not Path("never.onnx").exists()


def test_without_skips_the_reconstruction_hangs_on_the_bottleneck(tmp_path: Path) -> None:
    from analysis.train.encoder.pretrain import pretrain

    facts = pretrain(deep.patches(8), deep.config(steps=60, minimum_bypass=1.25), tmp_path / "encoder.onnx")
    assert facts["bypass_ratio"] > 1.25


def test_the_untrained_control_has_the_shape_but_not_the_weights(trained: Path, tmp_path: Path) -> None:
    from analysis.train.encoder.encoder import write_random_encoder

    for name, seed in (("one", 1), ("same", 1), ("two", 2)):
        write_random_encoder(trained, tmp_path / name, seed)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "same").read_bytes()
    assert (tmp_path / "one").read_bytes() != (tmp_path / "two").read_bytes()
    control, encoder = Encoder.load(tmp_path / "one"), Encoder.load(trained)
    assert control.names == encoder.names
    assert control.settings == encoder.settings
    assert control.training["random"] is True
    volume, mask = _ball((40, 40, 40), 8)
    ours, theirs = encoder.features(volume, mask).values, control.features(volume, mask).values
    assert max(abs(ours[name] - theirs[name]) for name in ours) > 0.01


def test_features_hang_on_the_lesion_and_not_on_the_ct_around_it(trained: Path) -> None:
    encoder = Encoder.load(trained)
    volume, mask = _ball((60, 64, 64), 9)
    whole = encoder.features(volume, mask)
    assert tuple(whole.values) == encoder.names
    assert np.isfinite(list(whole.values.values())).all()
    assert not whole.flags
    cut = (slice(8, 54), slice(6, 60), slice(10, 62))
    assert encoder.features(replace(volume, array=volume.array[cut]), mask[cut]).values == whole.values
    rolled = replace(volume, array=np.roll(volume.array, (2, -3, 4), axis=(0, 1, 2)))
    assert encoder.features(rolled, np.roll(mask, (2, -3, 4), axis=(0, 1, 2))).values == whole.values
    assert Encoder.load(trained).features(volume, mask) == whole


def test_pooling_equals_its_definition_in_double_precision(trained: Path) -> None:
    """Mean and SD of the first level, from the maps of a network run in torch."""
    import torch

    from analysis.train.encoder.encoder import RIM_WEIGHT

    net = _network_of(trained)
    patch = deep.patches(1, seed=7)[0]
    image = windowed(patch.hu, deep.SMALL_PATCH)[None]
    with torch.no_grad():
        maps = net.eval().encode(torch.from_numpy(image))[0][0].numpy().astype(np.float64)
    core = _eroded(patch.mask)
    weight = _eroded(core) + RIM_WEIGHT * core + RIM_WEIGHT**2 * patch.mask.astype(np.float64)
    weight = weight / weight.sum()
    mean = (maps * weight).sum(axis=(1, 2, 3))
    sd = np.sqrt(((maps - mean[:, None, None, None]) ** 2 * weight).sum(axis=(1, 2, 3)))
    found = Encoder.load(trained).run(image, patch.mask[None, None])[0]
    assert np.allclose(found[:8], mean, atol=1e-5)
    assert np.allclose(found[8:16], sd, atol=1e-5)


def _eroded(mask: np.ndarray) -> np.ndarray:
    return ndimage.grey_erosion(mask.astype(np.float64), (3, 3, 3), mode="nearest")


def _network_of(trained: Path) -> Any:
    """The network in the state that training left in its checkpoint."""
    from analysis.train.encoder.pretrain import Pretraining, identity_of

    config = deep.config()
    return Pretraining(config, identity_of(config, deep.patches(5)), trained.parent / "checkpoint").net


def test_a_large_roi_is_cropped_with_a_flag(trained: Path, tmp_path: Path) -> None:
    from analysis.train.encoder.encoder import Architecture, UNet, export, random_inputs

    small = PatchSettings(margin_voxels=4, largest_voxels=24)
    export(UNet(Architecture((8, 8, 16, 16)), 1), small, {}, tmp_path / "small.onnx", random_inputs(2, 5, 0))
    volume, mask = _ball((60, 60, 60), 20)
    found = Encoder.load(tmp_path / "small.onnx").features(volume, mask)
    assert found.cropped
    assert [flag.code for flag in found.flags] == ["DEEP_ROI_CROPPED"]
    assert "48 mm" in found.flags[0].text
    assert not Encoder.load(trained).features(volume, mask).cropped


def test_a_file_that_is_no_encoder_is_refused_by_name_with_the_remedy(trained: Path, tmp_path: Path) -> None:
    import onnx

    def refusal(name: str, content: bytes) -> str:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(EncoderError) as error:
            Encoder.load(tmp_path / name)
        return str(error.value)

    good = trained.read_bytes()
    assert refusal("text.onnx", b"not a model").startswith("text.onnx: not an ONNX file that can be run")
    assert "half.onnx" in refusal("half.onnx", good[: len(good) // 2])
    model = onnx.load_from_string(good)
    properties = model.metadata_props[0].value
    model.metadata_props[0].value = properties.replace('"schema": 1', '"schema": 2')
    assert "version 2" in refusal("later.onnx", model.SerializeToString())
    model.metadata_props[0].value = properties.replace("[8, 8, 16, 16]", "[8, 8, 16]")
    assert "its graph is not the one" in refusal("other.onnx", model.SerializeToString())
    model.metadata_props[0].value = properties.replace("spacing_mm", "spacing")
    assert "metadata are incomplete" in refusal("lacking.onnx", model.SerializeToString())
    del model.metadata_props[:]
    assert refusal("foreign.onnx", model.SerializeToString()).endswith("make it with `prognode pretrain`")


def test_the_encoder_runs_without_torch_and_leaves_no_file_behind(trained: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; import numpy as np; from analysis.deep import Encoder;"
        f"e = Encoder.load(Path({str(trained)!r}));"
        "e.run(np.ones((1, 2, 16, 16, 24), np.float32), np.ones((1, 1, 16, 16, 24), np.float32));"
        "import os; print(sorted({'torch', 'onnx', 'sklearn'} & set(sys.modules)), os.environ['ORT_DISABLE_TELEMETRY'])"
    )
    homes = {name: str(tmp_path / name.lower()) for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME")}
    for home in homes.values():
        Path(home).mkdir()
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", **homes}
    work = tmp_path / "work"
    work.mkdir()
    done = subprocess.run([sys.executable, "-c", code], cwd=work, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[] 1"
    assert done.stderr == ""
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
