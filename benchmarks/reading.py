"""Reading a CT (headers, pixels, HU, stack) beside numpy reading the same bytes and the usual ways, interleaved.

    python -m benchmarks.reading [--slices N] [--rounds N]

A series of 512x512 files, uncompressed and in the page cache, written first. `numpy, files` is `numpy.fromfile` of
every file, header included; `numpy, stack` copies the pixels of each into one int16 array. Voxels are compared, too.
"""

import argparse
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import SimpleITK
from pydicom import dcmread

from analysis.train.synth.anatomy import Grid
from analysis.train.synth.dicom_files import Study, write_ct
from analysis.volume import read_ct

SIDE = 512


def write(folder: Path, slices: int) -> list[Path]:
    random = np.random.default_rng(0)
    hu = random.integers(-1000, 1500, (slices, SIDE, SIDE)).astype(np.float32)
    study = Study(key="reading", number=3, seed=3, age=60, female=False, scanner="BENCH", kernel="B30f")
    write_ct(folder, hu, Grid(hu.shape, (1.0, 0.7, 0.7)), study)
    return sorted(folder.iterdir())


def measure(slices: int, rounds: int) -> tuple[dict[str, float], bool]:
    """Median CPU seconds by way, and whether ours are the voxels that SimpleITK reads."""
    with tempfile.TemporaryDirectory() as made:
        paths = write(Path(made) / "ct", slices)

        def numpy_files() -> object:
            return [np.fromfile(path, np.uint8) for path in paths]

        def numpy_stack() -> object:
            stack = np.empty((len(paths), SIDE, SIDE), np.int16)
            for plane, path in zip(stack, paths, strict=True):
                plane[:] = np.fromfile(path, np.uint8)[-plane.nbytes :].view(np.int16).reshape(SIDE, SIDE)
            return stack

        def pydicom() -> object:
            return np.stack([dcmread(path).pixel_array for path in paths])

        def itk() -> object:
            names = SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(paths[0].parent))
            return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(names))

        ways: dict[str, Callable[[], object]] = {
            "numpy, files": numpy_files,
            "numpy, stack": numpy_stack,
            "read_ct": lambda: read_ct(paths),
            "SimpleITK": itk,
            "pydicom, pixels alone": pydicom,
        }
        times: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(rounds):
            for name, way in ways.items():
                began = sum(resource.getrusage(resource.RUSAGE_SELF)[:2]), time.perf_counter()
                way()
                times[name].append(sum(resource.getrusage(resource.RUSAGE_SELF)[:2]) - began[0])
        same = np.array_equal(read_ct(paths).array, np.asarray(itk()))
    return {name: statistics.median(taken) for name, taken in times.items()}, same


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--slices", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    times, same = measure(arguments.slices, arguments.rounds)
    print(f"{arguments.slices} files of {SIDE}x{SIDE}; load average {os.getloadavg()[0]:.1f}")
    for name, taken in times.items():
        print(f"| {name} | {taken:.3f} CPU s | {taken / times['numpy, stack']:.2f} x |")
    print(f"voxels are {'those' if same else 'NOT those'} that SimpleITK reads")
    return 0 if same else 1


if __name__ == "__main__":
    raise SystemExit(main())
