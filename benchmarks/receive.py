"""How fast objects are received: this node beside DCMTK, Orthanc and pynetdicom, in rounds, on one machine.

    python -m benchmarks.receive [--short] [--rounds N] [--json FILE]

All receivers run side by side; in each round every one gets the same short transfer, in random order, so other work on
the machine hits neighbours alike, and ratios are taken within a round. The sender (`benchmarks/blaster.py`) has whole
messages of 512x512 CT slices ready. After each transfer, what was acknowledged is looked for: each object must be
there, with its pixels. Then one Enhanced CT of 629 MB, for the memory that it takes.
"""

import argparse
import hashlib
import itertools
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from pydicom import dcmread
from pydicom.errors import InvalidDicomError

from benchmarks import table
from benchmarks.receive_big import ENHANCED_BYTES, send_enhanced
from benchmarks.receive_servers import (
    DURABLE,
    FORK,
    ORTHANC_NAME,
    OURS_TLS,
    STORESCP,
    STORESCP_TLS,
    UNSAFE,
    UNSAFE_TLS,
    Server,
    servers,
)
from benchmarks.table import Row
from tests.network import NODE
from tests.paths import ROOT

OBJECTS = {1: 100, 4: 30, 8: 16}  # of an association, by how many there are at once
SHORT_OBJECTS = {1: 50, 4: 16}
SHORT = (DURABLE, UNSAFE, STORESCP, FORK, ORTHANC_NAME, OURS_TLS, UNSAFE_TLS, STORESCP_TLS)
MEMORY_MB = 60
_salts = itertools.count(random.randrange(100_000, 800_000))


class Rate(NamedTuple):
    """Of one transfer: images a second."""

    server: str
    associations: int
    round: int
    rate: float
    cpu: float  # milliseconds of the receiver's CPU time for an image


class Target(NamedTuple):
    """Ours must be `least` times a peer's rate in the same round."""

    ours: str
    peer: str
    associations: int
    least: float


TARGETS = (
    Target(UNSAFE, STORESCP, 1, 1.1),
    Target(UNSAFE, FORK, 4, 1.3),
    Target(DURABLE, ORTHANC_NAME, 1, 3.0),
    Target(DURABLE, ORTHANC_NAME, 4, 3.0),
    Target(DURABLE, FORK, 4, 1.2),
    Target(UNSAFE_TLS, STORESCP_TLS, 1, 0.9),
    Target(UNSAFE_TLS, STORESCP_TLS, 4, 0.9),
)


@contextmanager
def running(names: Sequence[str]) -> Iterator[dict[str, Server]]:
    """These receivers, started; on the disk of the working folder, for memory is no disk."""
    with tempfile.TemporaryDirectory(prefix="receive-", dir=os.environ.get("BENCHMARK_FOLDER")) as folder:
        known = servers()
        chosen = {name: known[name] for name in names}
        try:
            for number, server in enumerate(chosen.values()):
                server.start(Path(folder) / str(number))
            yield chosen
        finally:
            for server in chosen.values():
                server.stop()


def transfer(server: Server, associations: int, objects: int) -> tuple[float, float]:
    """Images a second, and milliseconds of CPU time for one.

    Raises AssertionError when something that this node acknowledged is not there.
    """
    senders = [_sender(server, objects) for _ in range(associations)]
    for sender in senders:
        assert sender.stdout is not None
        if sender.stdout.readline() != "ready\n":
            log = (server.folder / "server.log").read_text(errors="replace")[-1500:]
            raise AssertionError(f"{server.name}: {sender.communicate()[1][-1500:]}\n{log}")
    spent = server.cpu_seconds()
    for sender in senders:
        assert sender.stdin is not None
        sender.stdin.write("go\n")
        sender.stdin.flush()
    said: list[dict[str, Any]] = []
    for sender in senders:
        out, error = sender.communicate(timeout=300)
        if sender.returncode:
            raise AssertionError(f"{server.name}: {error[-1500:]}")
        said.append(json.loads(out))
    spent = server.cpu_seconds() - spent
    acknowledged = {uid: pixels for one in said for uid, pixels in zip(one["stored"], one["pixels"], strict=True)}
    refused = associations * objects - len(acknowledged)
    kept = _kept(server.folder)
    missing = [uid for uid, pixels in acknowledged.items() if kept.get(uid) != pixels]
    if missing or refused:
        words = f"{server.name}: {len(missing)} acknowledged objects are not there as they were sent, {refused} refused"
        assert not server.name.startswith(DURABLE), words
        print(f"{words} ({associations} associations)")  # what a peer loses is said, and stops nothing
    seconds = max(one["ended"] for one in said) - min(one["began"] for one in said)
    return len(acknowledged) / seconds, spent / max(1, len(acknowledged)) * 1000


def _sender(server: Server, objects: int) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "benchmarks.blaster", str(server.port), NODE, str(objects), str(next(_salts))]
    return subprocess.Popen(
        command + ["--tls"] * server.tls, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def _kept(folder: Path) -> dict[str, str]:
    """SOP Instance UID -> SHA-256 of the pixels, of what lies in a receiver's folder; the files are emptied.

    They stay: without a journal, ext4 passes over every number of a file that was removed a short while ago, one by
    one, when it looks for one for the next file: a quarter of a millisecond for each that arrives, after some hundred.
    """
    found = {}
    ours = folder / "spool" / "instances"  # beside it jobs make and remove folders, and results lie
    for path in (ours if ours.is_dir() else folder).rglob("*"):
        if path.is_file() and path.stat().st_size > 500_000 and "sqlite" not in path.name and "index" not in path.name:
            try:
                dataset = dcmread(path)
                found[str(dataset.SOPInstanceUID)] = hashlib.sha256(dataset.PixelData).hexdigest()
            except (InvalidDicomError, AttributeError):
                continue
            os.truncate(path, 0)
    return found


def measure(chosen: dict[str, Server], objects: dict[int, int], rounds: int) -> list[Rate]:
    """`rounds` rounds, after one to warm up."""
    rates = []
    for number in range(-1, rounds):
        for associations, count in objects.items():
            if number < 0 and associations > 1:
                continue
            order = [one for one in chosen.values() if associations == 1 or not one.one_at_a_time]
            random.shuffle(order)
            for server in order:
                rate, cpu = transfer(server, associations, count)
                if number >= 0:
                    rates.append(Rate(server.name, associations, number, rate, cpu))
    return rates


def ratio(rates: Sequence[Rate], ours: str, peer: str, associations: int) -> tuple[float, float, float]:
    """Median, least and greatest of ours / peer's over the rounds."""
    by = {(rate.server, rate.round): rate.rate for rate in rates if rate.associations == associations}
    found = [by[ours, number] / by[peer, number] for name, number in by if name == ours and (peer, number) in by]
    return (statistics.median(found), min(found), max(found)) if found else (0.0, 0.0, 0.0)


def show(rates: Sequence[Rate]) -> None:
    """Every receiver: images a second, and the ratio to storescp."""
    for associations in sorted({rate.associations for rate in rates}):
        base = STORESCP if associations == 1 else FORK
        print(f"\n{associations} association(s); ratio to {base} in the same round\n")
        print("| receiver | median images/s | best | ratio (least to greatest) | CPU ms/image |\n|---|---|---|---|---|")
        here = [rate for rate in rates if rate.associations == associations]
        of = {name: [rate for rate in here if rate.server == name] for name in {rate.server for rate in here}}
        for name, ours in sorted(of.items(), key=lambda one: -statistics.median(rate.rate for rate in one[1])):
            middle, least, most = ratio(rates, name, base, associations)
            speed, cpu = (statistics.median(values) for values in ([r.rate for r in ours], [r.cpu for r in ours]))
            best = max(rate.rate for rate in ours)
            print(f"| {name} | {speed:.0f} | {best:.0f} | {middle:.2f} ({least:.2f} to {most:.2f}) | {cpu:.2f} |")


def compared(rates: Sequence[Rate], idle: float, peak: float) -> list[Row]:
    """The targets, and how they stand."""
    found = []
    for target in TARGETS:
        middle = ratio(rates, target.ours, target.peer, target.associations)[0]
        if middle:
            what = f"receive: {target.ours} / {target.peer}, {target.associations} association(s)"
            found.append(Row(what, middle, "x", at_least=target.least))
    big = f"an Enhanced CT of {ENHANCED_BYTES / 1e6:.0f} MB"
    found.append(Row(f"receive: memory of the process, {big} received", peak, "MB", MEMORY_MB))
    found.append(Row("receive: memory of the process before it", idle, "MB"))
    return found


def memory() -> tuple[float, float]:
    """The most MB that the receiver's process has had, before and after a 629 MB Enhanced CT."""
    with running([DURABLE]) as chosen:
        server = chosen[DURABLE]
        before = server.peak_bytes() / 1e6
        status, digest = send_enhanced(server.port, next(_salts))
        assert status == 0, f"the Enhanced CT was answered {status:04X}H"
        kept = [path for path in (server.folder / "spool" / "instances").rglob("*.dcm") if digest[:32] in path.name]
        assert len(kept) == 1
        assert kept[0].stat().st_size > ENHANCED_BYTES
        return before, server.peak_bytes() / 1e6


def rows(*, short: bool, rounds: int = 0) -> list[Row]:
    """Measure, print what each receiver did, and give the rows for the table."""
    missing = [name for name in ("storescp", "dcmqrscp", "Orthanc") if shutil.which(name) is None]
    if missing:
        print(f"not installed, so not compared: {', '.join(missing)} (make deps)")
    known = [name for name in (SHORT if short else servers()) if not any(name.startswith(one) for one in missing)]
    with running(known) as chosen:
        rates = measure(chosen, SHORT_OBJECTS if short else OBJECTS, rounds or (2 if short else 7))
    show(rates)
    return compared(rates, *memory())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--rounds", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found = rows(short=options.short, rounds=options.rounds)
    print(f"\nload average {os.getloadavg()[0]:.1f}; ratios are medians over rounds\n")
    table.show(found)
    table.write(options.json, found)


if __name__ == "__main__":
    main()
