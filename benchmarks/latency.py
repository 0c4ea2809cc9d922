"""The whole road: from the last C-STORE response to the SR accepted by the PACS, split by stage, beside a script.

    python -m benchmarks.latency [--runs N] [--short] [--json FILE]

Inputs: the IBSI CT phantom (60 slices of 201x204), and `lung2`, a full 512x512 chest with a 48 mL lesion, as it is (61
slices of 5 mm) and as 300 slices of 1 mm; both written as DICOM first. The node is a child process (`prognode serve`),
the PACS another AE on loopback, the sender a third. Each run is a fresh node on a fresh spool; "first" is the study
after its start, "next" the one after that. The peer (benchmarks/peers/afternoon.py) gets the same files in the same
round. Checked in the same run: each SR has arrived, it has every feature, and where both measure the same thing they
agree.
"""

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydicom import Dataset, dcmread

from benchmarks import table
from benchmarks.family import Family
from benchmarks.peers import run as peer
from benchmarks.studies import SHARED, lung2_as_dicom, named_anew
from config.settings import Node, Peer, Settings
from dicom_node import deliver
from dicom_node.demo_pacs import DemoPacs
from dicom_node.headers import data_set_digest, read
from dicom_node.spool import Spool
from dicom_node.store import Store
from dicom_node.workitem import State
from models.bundle import DEMO, load

SR_CLASS = "1.2.840.10008.5.1.4.1.1.88.34"
PATIENCE_SECONDS = 300
COMPUTING = ("job: features", "job: deep features", "job: ensemble")  # the features and the model: all else is overhead
CPU = "CPU of node and job, all stages"
OVERHEAD = "overhead: all but features and model"
OVERHEAD_SECONDS, OVERHEAD_SHARE = 1.0, 0.15
# By IBSI code and the peer's name, and how far apart the two may be: its mask is interpolated to the nearest voxel.
ALIKE = (
    ("RNU0", "shape_MeshVolume", 0.05, 0.0),
    ("L0JK", "shape_Maximum3DDiameter", 0.05, 0.0),
    ("Q4LE", "firstorder_Mean", 0.0, 20.0),  # HU: of the voxels at the edge some are lung
)


@dataclass
class Run:
    """Seconds by stage of one study, and the numbers of the SR that came."""

    seconds: dict[str, float]
    measured: dict[str, float]


@contextmanager
def node(work: Path, pacs_port: int) -> Iterator[tuple[int, int]]:
    """`prognode serve` on a fresh spool in `work`; gives its port and process."""
    settings = work / "node.toml"
    settings.write_text(
        f'[node]\nport = 0\nspool = "spool"\n[[peers]]\nae_title = "CT"\n'
        f'[[peers]]\nae_title = "PACS"\nport = {pacs_port}\nsends = false\nreceives_results = true\n'
    )
    with (work / "node.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "dicom_node.cli", "serve", "--config", str(settings)],
            stdout=subprocess.PIPE,
            stderr=log,
        )
        try:
            assert process.stdout is not None
            found = re.search(rb":(\d+)$", process.stdout.readline().strip())
            assert found, f"the node did not start: {(work / 'node.log').read_text()}"
            yield int(found[1]), process.pid
        finally:
            process.terminate()
            process.wait()


class Arrivals:
    """When objects were accepted by the PACS."""

    def __init__(self) -> None:
        self.at: list[tuple[str, float]] = []

    def __call__(self, sop_class_uid: str) -> int:
        self.at.append((sop_class_uid, time.time()))
        return 0x0000

    def first_sr(self, after: float) -> float:
        """When the first SR came. Raises where none comes."""

        def found() -> float | None:
            return next((at for uid, at in list(self.at) if uid == SR_CLASS and at > after), None)

        _wait(lambda: found() is not None)
        at = found()
        assert at is not None
        return at


def ours(studies: list[Path], work: Path) -> list[Run]:
    """These studies one after the other through a fresh node."""
    arrivals, runs = Arrivals(), []
    with (
        DemoPacs(work / "pacs", "PACS", status=arrivals, commitment="none") as pacs,
        node(work, pacs.port) as (port, process),
        Family(process) as family,
    ):
        for number, source in enumerate(studies, start=1):
            began = send(source, port)
            used = family.seconds()
            ended = arrivals.first_sr(began)
            _wait(lambda number=number: _completed(work) == number)  # type: ignore[misc]
            stages = {**_stages(work, began, ended), CPU: family.seconds() - used}
            runs.append(Run(stages, _numbers(pacs.folder, source)))
    return runs


def script(source: Path, work: Path, spacing_mm: float) -> Run:
    """The same study through the peer's script."""
    arrivals, folder = Arrivals(), work / "peer"
    with DemoPacs(work / "pacs-of-peer", "PACS", status=arrivals, commitment="none") as pacs:
        with peer.listening(folder, port := free_port(), pacs.port, spacing_mm):
            time.sleep(0.3)
            began = send(source, port, "PEER")
            ended = arrivals.first_sr(began)
            stages = peer.stages(folder)
        seconds = {f"script: {name}": value for name, value in stages.items()}
        whole = ended - began
        waited = whole - sum(stages.values()) + stages["storescu"]
        return Run({"wait for the end of the study": waited, **seconds, "total": whole}, _numbers(pacs.folder, source))


def send(source: Path, port: int, ae_title: str = "PROGNODE") -> float:
    """Store a folder; gives the time of the last response."""
    documents = []
    for path in sorted(source.rglob("*.dcm")):
        instance = read(path, data_set_digest(path))
        variant = deliver.Variant(instance.sop_class_uid, instance.sop_instance_uid, path)
        documents.append(deliver.Document(path.name, (variant,)))
    settings = Settings(node=Node(ae_title="CT"))
    answers = deliver.send(Peer(ae_title, host="127.0.0.1", port=port), documents, settings)
    assert answers, f"no DICOM files in {source}"
    assert all(answer.status == 0 for answer in answers), "an object was refused"
    return time.time()


def free_port() -> int:
    import socket

    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def _wait(done: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not done():
        assert time.monotonic() < end, "no SR came in time"
        time.sleep(0.005)


def _completed(work: Path) -> int:
    store = Store.open(Spool(work / "spool").store)
    try:
        return sum(item.state is State.COMPLETED for item in store.items())
    finally:
        store.close()


def _stages(work: Path, start: float, end: float) -> dict[str, float]:
    spool = Spool(work / "spool")
    store = Store.open(spool.store)
    try:
        item = max((item for item in store.items() if item.state is State.COMPLETED), key=lambda item: item.id)
        events = {event["name"]: event["at"] for event in store.details(item.id)["events"]}
    finally:
        store.close()
    steps = json.loads((spool.results(item.key or "", "analysis") / "timing.json").read_text())
    job = events["analysed"] - events["scheduled claimed"]
    stages = {
        "plan": events["scheduled"] - start,
        "wait for a worker": events["scheduled claimed"] - events["scheduled"],
        "job: start, imports, bundle, files": job - sum(steps.values()),
        **{f"job: {name}": seconds for name, seconds in steps.items()},
        "wait for the report stage": events["analysed claimed"] - events["analysed"],
        "report: evidence, SRs, SEG, page": events["reported"] - events["analysed claimed"],
        "deliver: until the SR is accepted": end - events["reported"],
    }
    computing = sum(stages.get(name, 0.0) for name in COMPUTING)
    return {**stages, OVERHEAD: end - start - computing, "total": end - start}


def _numbers(folder: Path, source: Path) -> dict[str, float]:
    """Every measurement of the SRs that the PACS has of this study, by its IBSI code or its meaning."""
    study = dcmread(next(source.rglob("*.dcm")), stop_before_pixels=True).StudyInstanceUID
    found: dict[str, float] = {}
    for path in folder.glob("*.dcm"):
        document = dcmread(path, stop_before_pixels=True)
        if document.Modality == "SR" and document.StudyInstanceUID == study:
            found |= dict(_measurements(document))
    return found


def _measurements(item: Dataset) -> Iterator[tuple[str, float]]:
    if item.get("ValueType") == "NUM":
        name = item.ConceptNameCodeSequence[0]
        key = name.CodeValue if name.CodingSchemeDesignator == "IBSI" else name.CodeMeaning
        yield key, float(item.MeasuredValueSequence[0].NumericValue)
    for child in item.get("ContentSequence", []):
        yield from _measurements(child)


def check(run: Run, beside: Run | None) -> None:
    """Raises AssertionError where an SR is not what it must be."""
    assert len(run.measured) > 90, f"our SRs have {len(run.measured)} measurements"
    assert any("probability" in name for name in run.measured), "our SRs have no score"
    if beside is None:
        return
    assert len(beside.measured) > 90, f"the peer's SR has {len(beside.measured)} measurements"
    for code, name, share, least in ALIKE:
        mine, other = run.measured[code], next(v for k, v in beside.measured.items() if k.endswith(name))
        assert abs(mine - other) <= max(share * abs(other), least), f"{name}: {mine:.6g}, the peer has {other:.6g}"


def inputs(scratch: Path, short: bool) -> Iterator[tuple[str, list[Path]]]:
    """By name two studies with the same images, under other UIDs."""
    if not SHARED.is_dir():
        print("the shared data is not here (set PROGNODE_SHARED)")
        return
    if not short:
        phantom = SHARED / "ibsi_1_ct_phantom" / "dicom"
        yield "phantom", [phantom, named_anew(phantom, scratch / "phantom2")]
        yield "lung2, 61 slices", [lung2_as_dicom(scratch / f"lung2-{n}", number=n) for n in (2, 3)]
    yield "lung2, 300 slices", [lung2_as_dicom(scratch / f"thin-{n}", thin=True, number=n) for n in (2, 3)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=0, help="default 5, short 2")
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    rounds = given.runs or (2 if given.short else 5)
    rows: list[table.Row] = []
    spacing_mm = float(load(DEMO).manifest.extraction["spacing_mm"][0])
    for name, studies in _kept(lambda scratch: inputs(scratch, given.short)):
        first, following, beside = [], [], []
        for number in range(rounds):
            with tempfile.TemporaryDirectory(prefix="prognode-latency-") as work:
                runs = ours(studies, Path(work))
                theirs = None if name == "phantom" else script(studies[0], Path(work), spacing_mm)
                check(runs[0], theirs)
                assert runs[0].measured == runs[1].measured, "the same images have other numbers"
                first.append(runs[0].seconds)
                following.append(runs[1].seconds)
                beside += [theirs.seconds] if theirs else []
            print(f"{name}: round {number + 1} of {rounds}", flush=True)
        _print(name, first, following, beside)
        rows += _rows(name, first, following, beside)
    table.write(given.json, rows)
    print()
    table.show(rows)
    return 0


def _kept(make: Callable[[Path], Iterator[tuple[str, list[Path]]]]) -> Iterator[tuple[str, list[Path]]]:
    with tempfile.TemporaryDirectory(prefix="prognode-latency-in-") as scratch:
        for found in make(Path(scratch)):
            yield found
            for folder in Path(scratch).iterdir():
                shutil.rmtree(folder)


def _median(runs: list[dict[str, float]], stage: str) -> float:
    return statistics.median(run.get(stage, 0.0) for run in runs)


def _print(
    name: str, first: list[dict[str, float]], following: list[dict[str, float]], beside: list[dict[str, float]]
) -> None:
    load_average = os.getloadavg()[0]
    print(f"\n{name}: medians of {len(first)} runs, load average {load_average:.1f}; seconds")
    print(f"{'stage':<42}{'first':>8}{'next':>8}{'least':>8}{'share':>8}")
    whole = _median(following, "total")
    for stage in following[0]:
        middle, least = _median(following, stage), min(run[stage] for run in following)
        print(f"{stage:<42}{_median(first, stage):>8.2f}{middle:>8.2f}{least:>8.2f}{middle / whole:>8.0%}")
    for stage in beside[0] if beside else ():
        print(f"{'peer: ' + stage:<42}{_median(beside, stage):>8.2f}")


def _rows(
    name: str, first: list[dict[str, float]], following: list[dict[str, float]], beside: list[dict[str, float]]
) -> list[table.Row]:
    overhead, whole = _median(following, OVERHEAD), _median(following, "total")
    rows = [
        table.Row(f"road, {name}: total, next study", whole, "s"),
        table.Row(f"road, {name}: total, first study", _median(first, "total"), "s"),
        table.Row(f"road, {name}: {CPU}", _median(following, CPU), "s"),
        table.Row(f"road, {name}: {OVERHEAD}", overhead, "s", at_most=OVERHEAD_SECONDS),
        table.Row(f"road, {name}: share of overhead", overhead / whole, "", at_most=OVERHEAD_SHARE),
    ]
    if beside:
        script_total = _median(beside, "total")
        waited = _median(beside, "wait for the end of the study")
        ratios = [theirs["total"] / mine["total"] for theirs, mine in zip(beside, following, strict=True)]
        rows += [
            table.Row(f"road, {name}: a script of storescp, pyradiomics, highdicom", script_total, "s"),
            table.Row(f"road, {name}: the same without its wait", script_total - waited, "s"),
            table.Row(f"road, {name}: script / ours", statistics.median(ratios), "x", at_least=1.0),
        ]
    return rows


if __name__ == "__main__":
    sys.exit(main())
