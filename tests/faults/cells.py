"""The cells of the matrix: a fault, the point where it strikes, and how the cell is run."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path

from models.bundle import Bundle
from tests.faults import timed
from tests.faults.outcome import Outcome
from tests.faults.points import DISK_ERRORS, Trap
from tests.faults.rig import Power, rig

HOUR, DAY = 3600.0, 86400.0
STATUSES = {"A700": 0xA700, "A900": 0xA900, "B000": 0xB000, "C000": 0xC000, "0110": 0x0110, "0122": 0x0122}


@dataclass(frozen=True)
class Study:
    """What every cell is run with."""

    paths: Sequence[Path]
    answers: Path
    bundle: Bundle


@dataclass(frozen=True)
class Cell:
    """`group` is the row of the table; `name` says where the fault strikes."""

    group: str
    name: str
    run: Callable[[], Outcome]


def points_of(study: Study) -> list[str]:
    """Names of the points of an undisturbed run, in order."""
    with rig(study.paths, study.answers) as (parts, pacs):
        outcome = parts.run(Trap(), pacs)
        if not outcome.well:
            raise AssertionError(f"the undisturbed run: {outcome}")
        return parts.log.read_text().splitlines()


def stopped(study: Study, trap: Trap) -> Outcome:
    with rig(study.paths, study.answers) as (parts, pacs):
        return parts.run(trap, pacs)


def without_power(study: Study, at: int) -> Outcome:
    """A power cut at a point: everything that was not synced is gone."""
    with tempfile.TemporaryDirectory(prefix="prognode-power-") as name:
        power = Power(Path(name))
        try:
            with rig(study.paths, study.answers, power.mount / "spool") as (parts, pacs):
                return parts.run(Trap(at, "freeze"), pacs, power)
        finally:
            power.close()


def at_points(study: Study, names: Sequence[str], power: bool) -> Iterator[Cell]:
    """SIGKILL before and after each point, power cuts, disk errors at each write, SQLite errors at each commit."""
    for number, name in enumerate(names, 1):
        where = f"{number}: {name}"
        yield Cell("SIGKILL before", where, partial(stopped, study, Trap(number, "kill")))
        yield Cell("SIGKILL after", where, partial(stopped, study, Trap(number, "kill after")))
        if power:
            yield Cell("power cut", where, partial(without_power, study, number))
        if name.startswith("sql"):
            for action in ("busy", "full"):
                yield Cell(f"SQLite {action}", where, partial(stopped, study, Trap(number, action)))
        elif name != "send":
            for action in DISK_ERRORS:
                yield Cell(f"disk {action}", where, partial(stopped, study, Trap(number, action)))


def with_time(study: Study) -> Iterator[Cell]:
    """Outages of hours, clock jumps, a PACS that answers badly, sends in any order."""
    given = (study.paths, study.answers, study.bundle)
    for who, boundary, hours in product(("PACS", "job engine"), timed.BOUNDARIES, (1.0, 12.0, 72.0)):
        run = partial(timed.outage, *given, who, boundary, hours)
        yield Cell(f"{who} away for hours", f"from {boundary}, {hours:g} h", run)
    jumps = {"+1 h": HOUR, "-1 h": -HOUR, "+30 d": 30 * DAY, "-1 d": -DAY}
    for boundary, (words, seconds) in product(timed.BOUNDARIES, jumps.items()):
        yield Cell("clock jumps", f"{words} at {boundary}", partial(timed.clock_jump, *given, boundary, seconds))
    for what, (words, status), times in product(timed.SOP_CLASSES, STATUSES.items(), (1, 5)):
        run = partial(timed.bad_status, *given, what, status, times)
        yield Cell("PACS answers badly", f"{words} for {what}, {times} times", run)
    for what, commitment in product(timed.SOP_CLASSES, ("same", "never", "none")):
        run = partial(timed.loses, *given, what, commitment)
        yield Cell("PACS accepts and loses", f"{what}, commitment {commitment}", run)
    for commitment, find in product(("never", "none"), (True, False)):
        run = partial(timed.unproved, *given, commitment, find)
        yield Cell("no proof to be had", f"commitment {commitment}, C-FIND {find}", run)
    for seed in range(100):
        yield Cell("sent again in any order", f"seed {seed}", partial(timed.sent_again, *given, seed))
