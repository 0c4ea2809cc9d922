"""`python -m tests.fuzz [--target X ...] [--inputs N] [--seconds S] [--seed S]`: a campaign, printed as a table."""

import argparse
import logging
import resource
import sys
import tempfile
import time
import warnings
from pathlib import Path

from tests.fuzz.engine import Campaign, Tally
from tests.fuzz.targets import TARGETS

ADDRESS_SPACE = 12 << 30  # a header may claim any size: as the job has it, with room for this process
ROUND = 1000  # inputs of a target before the next one has its turn, where there is no end to them


def main() -> int:
    options = _options()
    logging.disable(logging.INFO)
    logging.getLogger().addHandler(logging.NullHandler())
    warnings.simplefilter("ignore")
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, hard))
    names = options.target or list(TARGETS)
    until = time.monotonic() + options.seconds if options.seconds else float("inf")
    corpus = Path(options.corpus or tempfile.mkdtemp(prefix="prognode-fuzz-"))
    tallies: list[Tally] = []
    seed = options.seed
    try:
        while not tallies or (options.inputs is None and time.monotonic() < until):
            for name in names:
                tallies.append(_tried(name, seed, _share(options.inputs, name, names), until, corpus))
                print(row(tallies[-1]), flush=True)
            seed += 1
    except KeyboardInterrupt:
        print("ended by hand")
    print(f"\nseed {options.seed}\n{table(tallies)}")
    findings = sum(tally.findings for tally in tallies)
    if findings:
        print(f"{findings} findings; the inputs are in {corpus}")
    return int(findings > 0)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--target", action="append", choices=list(TARGETS), help="one of the targets; may be repeated")
    parser.add_argument("--inputs", type=int, help="in all, shared out by what an input costs; default: without end")
    parser.add_argument("--seconds", type=float, help="stop after so long")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--corpus", help="folder for the inputs that break something; default: a new one in /tmp")
    return parser.parse_args()


def _share(inputs: int | None, name: str, names: list[str]) -> int:
    if inputs is None:
        return ROUND
    return max(1, round(inputs * TARGETS[name].weight / sum(TARGETS[one].weight for one in names)))


def _tried(name: str, seed: int, inputs: int, until: float, corpus: Path) -> Tally:
    shared = Path("/dev/shm")  # what is written there is written to memory: speed is all that matters
    with tempfile.TemporaryDirectory(prefix="prognode-fuzz-", dir=shared if shared.is_dir() else None) as folder:
        target = TARGETS[name].make(Path(folder))
        try:
            return Campaign(target, seed, corpus).run(inputs, until)
        finally:
            target.close()


def row(tally: Tally) -> str:
    rate = tally.inputs / max(tally.seconds, 0.001)
    return (
        f"| {tally.target} | {tally.inputs} | {tally.crashes} | {tally.hangs} | {tally.memory} | {tally.lost} "
        f"| {rate:.0f} |"
    )


def table(tallies: list[Tally]) -> str:
    """Markdown, one row per target."""
    sums: dict[str, Tally] = {}
    for tally in tallies:
        for name in (tally.target, "all"):
            total = sums.setdefault(name, Tally(name))
            for part in ("inputs", "crashes", "hangs", "memory", "lost", "seconds"):
                setattr(total, part, getattr(total, part) + getattr(tally, part))
    total = sums.pop("all")
    head = "| target | inputs | crashes | hangs | memory | lost | inputs/s |\n|---|---|---|---|---|---|---|"
    return "\n".join([head, *(row(tally) for tally in sums.values()), row(total)])


if __name__ == "__main__":
    sys.exit(main())
