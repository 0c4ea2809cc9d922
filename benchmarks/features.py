"""Radiomic features: CPU seconds, wall clock and peak memory beside stock pyradiomics and three peers, interleaved.

    python -m benchmarks.features [--short] [--json FILE] [--rounds N] [--only chest|phantom] [--without ENGINE ...]

Two inputs at 1 mm, with bins of 25 HU: a drawn chest of 512x512x300 with a lesion of 40 mm, and the IBSI CT phantom
(360,000 ROI voxels). Two sets: original only, and original + LoG 1 to 5 mm + wavelet (14 images). Each engine is a
process of its own, warmed up, and they take turns. The same run checks the numbers: our textures on each filtered image
against stock pyradiomics given the same image and mask, the peers' values against ours where they share an IBSI code,
and everybody's against the IBSI-1 reference values of configuration C. `make feature-peers` installs the peers.
"""

import argparse
import contextlib
import csv
import json
import math
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from analysis.feature_table import load_features
from benchmarks import reading, table

HERE = Path(__file__).resolve().parent
SHARED = Path(os.environ.get("PROGNODE_SHARED", HERE.parents[1] / "shared")) / "data"
PEERS = HERE.parent / "build" / "feature-peers" / "bin" / "python"
OURS, STOCK = "prognode", "pyradiomics"
SLOW_SECONDS = 20.0
CLOSE = 0.01  # of a value: another grid or rule shows, another last digit does not
Values = dict[str, float]


@dataclass
class Worker:
    """One engine with one input in one process."""

    engine: str
    process: "subprocess.Popen[str]"
    answers: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    failed: str = ""

    def ask(self, task: str) -> None:
        if self.failed:
            return
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(f"{task}\n")
            self.process.stdin.flush()
        line = self.process.stdout.readline()
        answer = json.loads(line) if line else {"error": "the process ended"}
        self.failed = str(answer.get("error", ""))
        if not self.failed:
            self.answers.setdefault(task, []).append(answer)

    def has_time_for(self, task: str, number: int) -> bool:
        """A peer that takes minutes is asked once, and for all filters only where the original takes it seconds."""
        if self.engine == STOCK:
            return True
        if task == "full" and "original" in self.answers and self.median("original", "cpu") > SLOW_SECONDS:
            return False
        return number == 0 or (task in self.answers and self.median(task, "cpu") <= SLOW_SECONDS)

    def median(self, task: str, what: str) -> float:
        return statistics.median(answer[what] for answer in self.answers[task])

    def values(self, task: str) -> Values:
        return dict(self.answers[task][-1]["values"])


@contextlib.contextmanager
def started(engine: str, case: Path, cores: int, folder: Path) -> Iterator[Worker]:
    """The engine's process on so many cores, in an empty working directory."""
    python = sys.executable if engine in (OURS, STOCK) else str(PEERS)
    environment = dict(os.environ, OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", NUMBA_NUM_THREADS=str(cores))
    environment["PYTHONPATH"] = str(HERE.parent) if engine == OURS else ""
    used = sorted(os.sched_getaffinity(0))[:cores]
    command = ["taskset", "-c", ",".join(map(str, used)), python, "-P", str(HERE / "feature_engines.py"), engine]
    process = subprocess.Popen(
        [*command, str(case)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        env=environment, cwd=folder,
    )  # fmt: skip
    try:
        yield Worker(engine, process)
    finally:
        process.kill()
        process.wait()


# Inputs -----------------------------------------------------------------------------------------------------


def chest(path: Path, shape: tuple[int, int, int] = (300, 512, 512)) -> None:
    """A textured lesion of 40 mm in lung with noise, 1 x 0.7 x 0.7 mm."""
    spacing = (1.0, 0.7, 0.7)
    random = np.random.default_rng(1612)
    places = zip(shape, spacing, (0.5, 0.45, 0.4), strict=True)
    z, y, x = (((np.arange(n) - n * share) * step).astype(np.float32) for n, step, share in places)
    radius = np.sqrt(z[:, None, None] ** 2 + y[:, None] ** 2 + x**2)
    tissue = 40 + 30 * np.sin(0.5 * x) * np.cos(0.4 * z)[:, None, None]
    hu = np.where(radius < 20, tissue, np.float32(-820)) + random.standard_normal(shape, dtype=np.float32) * 25
    np.savez(path, hu=np.rint(hu).astype(np.int16), mask=radius < 20, spacing=spacing)


def phantom(path: Path) -> None:
    """The IBSI CT phantom (not shipped: CC BY-NC)."""
    from analysis.roi import mask_from_rtstruct
    from analysis.volume import read_ct

    folder = SHARED / "ibsi_1_ct_phantom" / "dicom"
    volume = read_ct(sorted((folder / "image").iterdir()))
    mask = mask_from_rtstruct(next((folder / "mask").iterdir()), [1], "single", volume).array
    np.savez(path, hu=volume.array.astype(np.int16), mask=mask, spacing=volume.spacing)


# Correctness ------------------------------------------------------------------------------------------------


def by_tag(values: Mapping[str, float]) -> Values:
    """The original image's values by the key of the IBSI tables, whatever the engine calls them."""
    ours = {f"original_{row.name}": row.ibsi_tag for row in load_features() if row.ibsi_tag}
    if any(name in values for name in ours):
        return {tag: values[name] for name, tag in ours.items() if name in values}
    found: Values = {}
    for row in load_features():
        if not row.ibsi_tag:
            continue
        named = re.compile(rf"(original_)?{row.ibsi_tag}(_d1)?(_3[dD])?(_v_mrg|_avg|_comb|_merg)?(_fbs_w25\.0)?")
        coded = f"_{row.ibsi_id}"
        for name, value in values.items():
            if named.fullmatch(name) or (name.startswith("original_") and name.endswith(coded)):
                found[row.ibsi_tag] = value
                break
    return found


def shared_with_ours(theirs: Values, ours: Values) -> str:
    common = [tag for tag in theirs if tag in ours]
    close = sum(abs(theirs[tag] - ours[tag]) <= CLOSE * max(abs(ours[tag]), 1e-9) for tag in common)
    return f"{close} of {len(common)}"


def ibsi_score(values: Values) -> str:
    """Reference values of configuration C (3D, merged) that are reached, of those that the engine has."""
    with (SHARED / "ibsi_reference" / "ibsi_1_c.csv").open(encoding="utf-8-sig", newline="") as stream:
        rows = {row["tag"]: row for row in csv.DictReader(stream) if row["reference value"]}
    reached = compared = 0
    for tag, value in values.items():
        row = next((rows[key] for key in (tag, f"{tag}_3D", f"{tag}_3D_comb") if key in rows), None)
        if row is None:
            continue
        wanted, tolerance = float(row["reference value"]), float(row["tolerance"] or 0)
        digits = max(3, len(f"{abs(wanted):.10g}".replace(".", "").strip("0")))
        rounded = round(value, digits - 1 - math.floor(math.log10(abs(value)))) if value else 0.0
        compared += 1
        reached += abs(rounded - wanted) <= tolerance * (1 + 1e-9) + 1e-12
    return f"{reached} of {compared}"


def against_stock(case: Path, *, full: bool) -> tuple[int, float, str]:
    """Textures of stock pyradiomics on our own filtered images: values compared, worst relative difference, of what."""
    from analysis.preprocess import discretisation_of, discretise, images, prepare
    from analysis.settings import ExtractionSettings
    from analysis.texture import textures
    from tests.pyradiomics import oracle
    from tests.volumes import volume_of

    kinds = ("original", *(f"log-sigma-{sigma}.0-mm" for sigma in range(1, 6)), "wavelet") if full else ("original",)
    settings = ExtractionSettings(image_types=kinds)
    with np.load(case) as stored:
        volume = volume_of(stored["hu"], tuple(float(step) for step in stored["spacing"]))
        prepared = prepare(volume, stored["mask"], settings)
    count, worst, name_of_worst = 0, 0.0, ""
    for kind, prefix, image in images(prepared, settings):
        levels = discretise(image.image, image.intensity, discretisation_of(kind, settings, image))
        ours, _ = textures(levels, image.intensity, "3D", "avg")
        theirs = oracle(levels, image.intensity, "3D", "avg")
        for name, value in theirs.items():
            count += 1
            off = abs(ours[name] - value) / max(abs(value), 1e-12)
            if off > worst:
                worst, name_of_worst = off, f"{prefix}_{name}"
    return count, worst, name_of_worst


# What was to be reached (input, images, two cores): times stock's seconds.
TARGETS = {
    ("chest", "original", False): 60.0,
    ("chest", "full", False): 15.0,
    ("phantom", "original", False): 5.0,
    ("phantom", "full", False): 4.0,
    ("phantom", "full", True): 7.0,
}
PEAK_MB, READING = 500.0, 1.5


# The run ----------------------------------------------------------------------------------------------------


def compare(
    name: str, case: Path, tasks: tuple[str, ...], engines: list[str], rounds: int, folder: Path
) -> tuple[bool, list[table.Row]]:
    """One input: everybody in turn; prints its rows. False where a check fails."""
    with contextlib.ExitStack() as stack:
        workers = [stack.enter_context(started(engine, case, 1, folder)) for engine in engines]
        two = stack.enter_context(started(OURS, case, 2, folder))
        for worker in (*workers, two):
            worker.ask("small")
        for task in tasks:
            for number in range(rounds):
                for worker in (*workers, two):
                    if worker.has_time_for(task, number):
                        worker.ask(task)
        if name == "phantom":
            for worker in workers:
                worker.ask("ibsi")
        stock = next(worker for worker in workers if worker.engine == STOCK)
        ours = workers[0]
        for task in tasks:
            for worker in (*workers, two):
                row(name, task, worker, stock, ours, cores=2 if worker is two else 1)
        same = ours.values(tasks[-1]) == two.values(tasks[-1])
        print(f"{name}: values on one core and on two are {'the same bits' if same else 'DIFFERENT'}")
        found = [_target(name, task, worker, stock, worker is two) for task in tasks for worker in (ours, two)]
        peak = ours.median(tasks[-1], "peak_mb")
        found.append(table.Row(f"features, {name}, {tasks[-1]}: peak memory", peak, "MB", at_most=PEAK_MB))
    return same, found


def _target(name: str, task: str, worker: Worker, stock: Worker, two: bool) -> table.Row:
    """How many times stock's seconds: of CPU on one core, of the clock on two."""
    what = "wall" if two else "cpu"
    ratio = stock.median(task, what) / worker.median(task, what)
    label = f"features, {name}, {task}: stock pyradiomics / ours, {'wall on two cores' if two else 'CPU'}"
    return table.Row(label, ratio, "x", at_least=TARGETS.get((name, task, two)))


def row(name: str, task: str, worker: Worker, stock: Worker, ours: Worker, *, cores: int) -> None:
    label = f"| {name}, {task} | {worker.engine}, {cores} core{'s' if cores > 1 else ''} |"
    if task not in worker.answers:
        print(f"{label} left out: {worker.failed or f'original alone took more than {SLOW_SECONDS:.0f} s'} |")
        return
    cpu, wall, peak = (worker.median(task, what) for what in ("cpu", "wall", "peak_mb"))
    of_stock = [stock.median(task, what) for what in ("cpu", "wall")]
    values = by_tag(worker.values(task))
    score = ibsi_score(by_tag(worker.values("ibsi"))) if "ibsi" in worker.answers else ""
    times = [f"{own:.2f} ({of:.1f} x)" for own, of in ((cpu, of_stock[0] / cpu), (wall, of_stock[1] / wall))]
    close = shared_with_ours(values, by_tag(ours.values(task)))
    cells = [*times, f"{peak:.0f}", str(len(worker.values(task))), close, score]
    print(f"{label} {' | '.join(cells)} |", flush=True)


def engines_of(*, short: bool, without: list[str]) -> list[str]:
    engines = [OURS, STOCK]
    if not short:
        if PEERS.exists():
            engines += ["pictologics", "zrad", "mirp"]
        else:
            print(f"pictologics, Z-Rad and MIRP are left out: no {PEERS.relative_to(HERE.parent)}; make feature-peers")
    return [engine for engine in engines if engine not in without]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--short", action="store_true", help="under a minute: a smaller chest, no peers")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=("chest", "phantom"))
    parser.add_argument("--without", nargs="*", default=[], help="engines to leave out")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rounds = 1 if arguments.short else arguments.rounds
    began, good = time.monotonic(), True
    found: list[table.Row] = []
    print(f"load average {os.getloadavg()[0]:.1f} at the start")
    engines = engines_of(short=arguments.short, without=arguments.without)
    columns = ("input, images", "engine", "CPU s (stock / this)", "wall s (stock / this)", "peak MB", "values")
    print(f"| {' | '.join((*columns, 'IBSI values of ours within 1 %', 'IBSI C'))} |")
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        for name in ("chest", "phantom"):
            if arguments.only not in (None, name):
                continue
            if name == "phantom" and not SHARED.exists():
                print("phantom: left out, no shared data (PROGNODE_SHARED)")
                continue
            case = folder / f"{name}.npz"
            if name == "phantom":
                phantom(case)
            else:
                chest(case, (150, 256, 256) if arguments.short else (300, 512, 512))
            tasks = ("original",) if arguments.short and name == "phantom" else ("original", "full")
            same, rows = compare(name, case, tasks, engines, rounds, folder)
            good &= same
            smaller = arguments.short and name == "chest"  # the targets are the large one's
            found += [replace(row, at_least=None) for row in rows] if smaller else rows
            count, worst, where = against_stock(case, full=not arguments.short)
            print(
                f"{name}: {count} texture values of stock pyradiomics, worst relative difference {worst:.1e} ({where})"
            )
            good &= worst <= 1e-9
    taken, same = reading.measure(100 if arguments.short else 300, 3)
    good &= same
    ratio = taken["read_ct"] / taken["numpy, stack"]
    found.append(table.Row("reading the CT: ours / numpy stacking the same bytes", ratio, "x", at_most=READING))
    print(f"load average {os.getloadavg()[0]:.1f} at the end; {time.monotonic() - began:.0f} s")
    table.write(arguments.json, found)
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
