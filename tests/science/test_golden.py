"""A bundle that says other numbers here than where it was trained is not used; nobody has to notice it alone."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from analysis import golden
from config.settings import Job
from dicom_node.executors import process
from dicom_node.executors.contract import GOLDEN_SECONDS
from dicom_node.job import executor_of, verify_golden
from dicom_node.workitem import EngineDown, Permanent
from models.bundle import DEMO, Bundle, digest_of, load
from tests.e2e.node import PROGNODE


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(DEMO, tmp_path / "copy"))


def resealed(folder: Path, name: str, content: bytes) -> Bundle:
    """The bundle with another file, every digest right again: what a careless hand or another release would make."""
    import hashlib

    (folder / name).write_bytes(content)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][name] = hashlib.sha256(content).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return load(folder)


def with_other_slope(folder: Path, factor: float) -> Bundle:
    model = json.loads((folder / "model.json").read_text())
    for item in model["recalibration"]:
        item["slope"] *= factor
    return resealed(folder, "model.json", json.dumps(model).encode())


def test_the_demo_bundle_says_here_what_it_said_where_it_was_trained() -> None:
    assert golden.verify(load(DEMO)) > 100
    assert verify_golden(load(DEMO), executor_of(Job())).endswith("numbers agree")


def test_a_changed_coefficient_is_found_though_every_digest_is_right(copy: Path) -> None:
    with pytest.raises(golden.GoldenMismatch, match=r"golden case: .+ is .+, expected .+; do not use this bundle here"):
        golden.verify(with_other_slope(copy, 1.01))


def test_the_last_bits_of_another_machine_are_not_a_difference(copy: Path) -> None:
    assert golden.verify(with_other_slope(copy, 1 + 1e-7)) > 100


def test_another_image_is_found(copy: Path) -> None:
    with np.load(copy / "golden.npz") as stored:
        hu, mask = stored["hu"] + 20, stored["mask"]
    np.savez_compressed(copy / "golden.npz", hu=hu, mask=mask)
    with pytest.raises(golden.GoldenMismatch):
        golden.verify(resealed(copy, "golden.npz", (copy / "golden.npz").read_bytes()))


@pytest.mark.parametrize("content", [b"", b"PK", b"\x80\x04."])
def test_an_image_that_is_none_is_named(copy: Path, content: bytes) -> None:
    bundle = resealed(copy, "golden.npz", content)
    with pytest.raises(golden.GoldenMismatch, match=r"golden.npz: cannot be read"):
        golden.verify(bundle)


def test_a_bundle_without_a_golden_case_is_refused(copy: Path) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    for name in ("golden.json", "golden.npz"):
        del manifest["files"][name]
        (copy / name).unlink()
    (copy / "manifest.json").write_text(json.dumps(manifest))
    bundle = load(copy)
    assert bundle.digest == digest_of(manifest)
    with pytest.raises(golden.GoldenMismatch, match=r"golden.json: missing"):
        golden.verify(bundle)
    with pytest.raises(Permanent, match="golden case failed"):
        verify_golden(bundle, executor_of(Job()))


@pytest.mark.parametrize(
    ("code", "said"), [(None, "within 900 s"), (-9, "-9"), (137, "137"), (75, "75"), (1, "1: Bug")]
)
def test_a_golden_case_without_an_answer_says_nothing_of_the_bundle(
    code: int | None, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[float] = []
    answer = (code, "Traceback\nBug" if code == 1 else "")
    monkeypatch.setattr(process, "ask_module", lambda *asked: (given.append(asked[2]), answer)[1])
    for seconds in (900.0, 5.0):
        with pytest.raises(EngineDown, match=said if seconds > 5 else "the golden case waits"):
            verify_golden(load(DEMO), executor_of(Job(wall_clock_seconds=seconds)))
    assert given == [900.0, GOLDEN_SECONDS]


def test_the_service_does_not_start_with_a_bundle_that_differs(copy: Path, tmp_path: Path) -> None:
    with_other_slope(copy, 1.5)
    config = tmp_path / "node.toml"
    config.write_text(f'bundle = "{copy}"\n[node]\nspool = "{tmp_path / "spool"}"\nport = 0\n')
    for command in ("serve", "check"):
        done = subprocess.run(
            [str(PROGNODE), command, "--config", str(config)], capture_output=True, text=True, check=False
        )
        assert done.returncode == os.EX_CONFIG
        assert "golden case" in done.stdout + done.stderr


def test_the_check_runs_as_a_program_of_its_own(copy: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "analysis.golden", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    assert golden.main(copy) == os.EX_OK
    with_other_slope(copy, 1.5)
    wrong = run(str(copy))
    assert wrong.returncode == os.EX_CONFIG
    assert "do not use this bundle here" in wrong.stdout
    assert run().returncode == os.EX_USAGE


def test_the_golden_case_is_drawn_and_small() -> None:
    volume, mask = golden.draw()
    again, _ = golden.draw()
    assert np.array_equal(volume.array, again.array)
    assert 4 < mask.sum() * np.prod(volume.spacing) / 1000 < 9
    assert (DEMO / "golden.npz").stat().st_size < 100_000
