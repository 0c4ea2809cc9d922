"""What the encoder knows: linear probes for planted properties, beside an untrained encoder and radiomics.

    python -m benchmarks.probes COHORT_DIR ENCODER.onnx [--random-seeds N] [--workers N] [--json FILE]

COHORT_DIR is one of `prognode cohort synth`, of another seed than the encoder was trained on. R^2 is out of fold; the
untrained control is the mean (and range) over several seeds. One patient's time is printed as well.
"""

import argparse
import json
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from analysis import radiomic
from analysis.contract import Combine
from analysis.deep import Encoder
from analysis.roi import mask_from_rtstruct
from analysis.settings import ExtractionSettings
from analysis.train.encoder import probes
from analysis.volume import read_ct

SETTINGS = ExtractionSettings(spacing_mm=(2.0, 2.0, 2.0))
Array = NDArray[np.float64]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cohort", type=Path)
    parser.add_argument("encoder", type=Path)
    parser.add_argument("--random-seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the figures there as well")
    options = parser.parse_args()
    patients, targets = probes.planted(options.cohort / "truth.json")
    with tempfile.TemporaryDirectory() as scratch:
        encoders = [options.encoder, *controls(options.encoder, Path(scratch), options.random_seeds)]
        jobs = [(options.cohort / "images" / name, encoders) for name in patients]
        with ProcessPoolExecutor(options.workers) as pool:
            rows, seconds = zip(*pool.map(measure, jobs), strict=True)
    found = matrices(list(rows))
    figures = probes.table(found, targets)
    show(figures, found, options.encoder, float(np.median(seconds)))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


def controls(like: Path, folder: Path, count: int) -> list[Path]:
    """Untrained encoders of the same shape."""
    from analysis.train.encoder.encoder import write_random_encoder

    paths = [folder / f"random{seed}.onnx" for seed in range(count)]
    for seed, path in enumerate(paths):
        write_random_encoder(like, path, seed)
    return paths


def measure(job: tuple[Path, list[Path]]) -> tuple[dict[str, dict[str, float]], float]:
    """Features of one patient by set, and the seconds that the deep ones took."""
    folder, encoders = job
    volume = read_ct(sorted((folder / "ct").iterdir()))
    mask = mask_from_rtstruct(folder / "rtstruct.dcm", (1,), Combine.SINGLE, volume).array
    row = {"radiomics": radiomic.features(volume, mask, SETTINGS).values()}
    seconds = []
    for number, path in enumerate(encoders):
        encoder = Encoder.load(path)
        start = time.perf_counter()
        row[f"untrained {number}" if number else "trained"] = encoder.features(volume, mask).values
        seconds.append(time.perf_counter() - start)
    return row, seconds[0]


def matrices(rows: list[dict[str, dict[str, float]]]) -> dict[str, Array]:
    """Shape (patients, columns) by set, deep ones whole and by level; what failed in any patient is left out."""
    found = {}
    for name, first in rows[0].items():
        columns = [column for column in first if all(column in row[name] for row in rows)]
        levels = sorted({column.split("_")[1] for column in columns}) if name != "radiomics" else []
        for level in ["", *levels]:
            chosen = [column for column in columns if f"_{level}" in column]
            found[f"{name} {level}".strip()] = np.array([[row[name][column] for column in chosen] for row in rows])
    return found


def show(figures: dict[str, dict[str, float]], found: dict[str, Array], encoder: Path, seconds: float) -> None:
    facts = Encoder.load(encoder).training
    print(f"encoder: {facts['steps']} steps on {facts['patches']} patches, bypass ratio {facts['bypass_ratio']}")
    print(f"{len(found['trained'])} patients; deep features of one take {seconds:.3f} s\n")
    print(f"{'R^2 out of fold':<24}{'columns':>8}" + "".join(f"{target:>20}" for target in probes.TARGETS))
    for name in figures:
        if not name.startswith("untrained"):
            line = "".join(f"{figures[name][target]:>20.2f}" for target in probes.TARGETS)
            print(f"{name:<24}{found[name].shape[1]:>8}{line}")
    controls = sorted({name.split(" ", 2)[1] for name in figures if name.startswith("untrained")})
    for level in [name.removeprefix("trained") for name in figures if name.startswith("trained")] if controls else []:
        line = ""
        for target in probes.TARGETS:
            values = [figures[f"untrained {number}{level}"][target] for number in controls]
            line += f"{np.mean(values):.2f} ({min(values):.2f}-{max(values):.2f})".rjust(20)
        print(f"{f'untrained{level}':<24}{found[f'trained{level}'].shape[1]:>8}{line}")
    print(f"untrained: mean and range of {len(controls)} encoders with random weights")


if __name__ == "__main__":
    main()
