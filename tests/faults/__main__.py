"""`python -m tests.faults [--part 1/2] [--only WORDS] [--every N]`: run the matrix and print it as a table."""

import argparse
import logging
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from models.bundle import DEMO, load
from tests.faults.cells import Cell, Study, at_points, points_of, with_time
from tests.faults.outcome import Outcome
from tests.faults.prepare import study_and_answers

MEASUREMENTS = 12  # of the SRs: what is written matters here, not how much


def main() -> int:
    options = _options()
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory(prefix="prognode-faults-") as name:
        study = Study(*study_and_answers(Path(name), MEASUREMENTS), load(DEMO))
        names = points_of(study)
        print(f"{len(names)} moments of an undisturbed run make something durable or leave the machine")
        mounts = os.geteuid() == 0 and not options.no_mounts
        if not mounts:
            print("power cuts, full and read-only disks are left out: they need root, to mount disks of their own")
        cells = chosen([*at_points(study, names, mounts), *with_time(study)], options)
        print(f"{len(cells)} cells", flush=True)
        return _report(run(cells))


def chosen(cells: Sequence[Cell], options: argparse.Namespace) -> list[Cell]:
    """The cells asked for; `every` takes that share of each group, spread evenly, and one at least."""
    part, parts = map(int, options.part.split("/"))
    groups: dict[str, list[Cell]] = defaultdict(list)
    for cell in cells:
        if options.only in f"{cell.group} | {cell.name}":
            groups[cell.group].append(cell)
    taken = [
        cell for group in groups.values() for cell in group[min(options.every // 2, len(group) - 1) :: options.every]
    ]
    random.Random(1).shuffle(taken)  # so that both halves take as long
    return taken[part - 1 :: parts]


def run(cells: Sequence[Cell]) -> list[tuple[Cell, Outcome]]:
    """SIGTERM or Ctrl-C ends it early, with the table of what was run."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    outcomes = []
    began = time.monotonic()
    for number, cell in enumerate(cells, 1):
        try:
            outcome = cell.run()
        except KeyboardInterrupt:
            print(f"ended after {len(outcomes)} of {len(cells)} cells")
            break
        except Exception as error:  # noqa: BLE001 - a cell that cannot be judged is a cell that failed
            traceback.print_exc()
            outcome = Outcome(1, 0, "not judged", type(error).__name__)
        outcomes.append((cell, outcome))
        if not outcome.well or not outcome.struck:
            words = "FAILED" if not outcome.well else "did not strike"
            print(f"{words}: {cell.group} | {cell.name}: {outcome}", flush=True)
        if number % 25 == 0:
            print(f"... {number} of {len(cells)} cells, {time.monotonic() - began:.0f} s", flush=True)
    return outcomes


def _report(outcomes: Sequence[tuple[Cell, Outcome]]) -> int:
    """The table. A fault that did not strike has shown nothing: it is no cell, and has a column of its own."""
    groups: dict[str, list[Outcome]] = defaultdict(list)
    for cell, outcome in outcomes:
        groups[cell.group].append(outcome)
    print("\n| fault | cells | losses | doubles | wrong state | did not strike |\n|---|---|---|---|---|---|")
    for group, found in sorted(groups.items()):
        print(_line(group, found))
    everything = [outcome for _, outcome in outcomes]
    print(_line("all", everything))
    return int(not all(outcome.well for outcome in everything))


def _line(group: str, found: Sequence[Outcome]) -> str:
    lost, doubled = sum(one.lost for one in found), sum(one.doubled for one in found)
    wrong = sum(one.state != "COMPLETED" for one in found)
    struck = sum(one.struck for one in found)
    return f"| {group} | {struck} | {lost} | {doubled} | {wrong} | {len(found) - struck} |"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--part", default="1/1", metavar="I/N", help="one of N shares of the cells")
    parser.add_argument("--only", default="", metavar="WORDS", help="only cells whose name holds these words")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="every N-th cell of each group")
    parser.add_argument("--no-mounts", action="store_true", help="leave out what needs a disk of its own")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
