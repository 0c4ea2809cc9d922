"""The cells of the matrix: a fault, the point where it strikes, and how the cell is run."""

import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path

from models.bundle import Bundle
from tests.faults import disks, timed
from tests.faults.engine import FAULTS
from tests.faults.outcome import Outcome
from tests.faults.points import DISK_ERRORS, SQL_ERRORS, Trap
from tests.faults.rig import Rig, rig

HOUR, DAY = 3600.0, 86400.0
STATUSES = {"A700": 0xA700, "A900": 0xA900, "B000": 0xB000, "C000": 0xC000, "0110": 0x0110, "0122": 0x0122}
HITS_OF_A_POINT = 3  # the first, one in the middle, the last: an object in the middle of a series is like its neighbour


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
    """Names of the points of an undisturbed run, in order, with repeats."""
    with rig(study.paths, study.answers) as parts:
        outcome = parts.run(Trap())
        if not outcome.well:
            raise AssertionError(f"the undisturbed run: {outcome}")
        return parts.log.read_text().splitlines()


def chosen_hits(names: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Which hit of which point: few of each, so that many objects of a kind do not crowd out the rest."""
    counts = Counter(names)
    wanted: dict[str, set[int]] = defaultdict(set)
    for name, count in counts.items():
        wanted[name] = {1 + (count - 1) * step // (HITS_OF_A_POINT - 1) for step in range(HITS_OF_A_POINT)}
    seen: Counter[str] = Counter()
    for name in names:
        seen[name] += 1
        if seen[name] in wanted[name]:
            yield name, seen[name]


def stopped(study: Study, trap: Trap, between: Callable[[Rig], None] | None = None) -> Outcome:
    with rig(study.paths, study.answers) as parts:
        parts.between = between
        return parts.run(trap)


def without_power(study: Study, name: str, at: int) -> Outcome:
    """A power cut at a point: everything that was not synced is gone."""
    with (
        tempfile.TemporaryDirectory(prefix="prognode-power-") as folder,
        disks.power(Path(folder)) as disk,
        rig(study.paths, study.answers, disk.mount / "spool") as parts,
    ):
        parts.between = lambda node: disk.cut(node.stop)
        return parts.run(Trap(name, at, "freeze"))


def on_a_small_disk(study: Study, trap: Trap) -> Outcome:
    """A disk that is full from a point on for a while ("freeze"), or read-only when the node comes back ("kill")."""
    with (
        tempfile.TemporaryDirectory(prefix="prognode-small-") as folder,
        disks.small(Path(folder)) as disk,
        rig(study.paths, study.answers, disk.mount / "spool") as parts,
    ):
        full = trap.action == "freeze"
        parts.between = disk.full_for_a_while if full else disk.read_only_at_the_next_start
        return parts.run(trap)


def at_points(study: Study, names: Sequence[str], mounts: bool) -> Iterator[Cell]:
    """Kills around each point, power cuts, disk and SQLite errors at each write. `mounts`: disks of our own, too."""
    for name, at in chosen_hits(names):
        where = f"{name}, hit {at}"
        for action, group in (("kill", "before"), ("kill after", "after"), ("kill soon", "at a moment after")):
            yield Cell(f"SIGKILL {group} a point", where, partial(stopped, study, Trap(name, at, action)))
        if mounts:
            yield Cell("power cut", where, partial(without_power, study, name, at))
            yield Cell("disk full, really", where, partial(on_a_small_disk, study, Trap(name, at, "freeze")))
            yield Cell("read-only spool", where, partial(on_a_small_disk, study, Trap(name, at, "kill")))
        if name.startswith("sql"):
            for action in SQL_ERRORS:
                yield Cell(f"SQLite {action}", where, partial(stopped, study, Trap(name, at, action)))
        elif name not in ("send", "message"):
            for action in DISK_ERRORS:
                yield Cell(f"disk says {action}", where, partial(stopped, study, Trap(name, at, action)))
        if name.startswith("sql COMMIT"):
            yield Cell("SQLite torn WAL", where, partial(stopped, study, Trap(name, at, "torn"), disks.torn))


def with_time(study: Study) -> Iterator[Cell]:
    """Outages of hours, clock jumps, peers that answer badly, sends in any order."""
    given = (study.paths, study.answers, study.bundle)
    for who, boundary, hours in product(("PACS", "RIS"), timed.BOUNDARIES, (1.0, 12.0, 72.0)):
        run = partial(timed.outage, *given, who, boundary, hours)
        yield Cell(f"{who} away for hours", f"{boundary}, {hours:g} h", run)
    for fault, boundary in product(FAULTS, ("arriving", "scheduled")):
        run = partial(timed.engine_away, *given, fault, boundary, 12.0)
        yield Cell("job engine away for hours", f"{boundary}, {fault}", run)
    jumps = {"+1 h": HOUR, "-1 h": -HOUR, "+30 d": 30 * DAY, "-1 d": -DAY}
    for boundary, (words, seconds) in product(timed.BOUNDARIES, jumps.items()):
        yield Cell("clock jumps", f"{words} at {boundary}", partial(timed.clock_jump, *given, boundary, seconds))
    yield from _bad_peers(given)
    for seed in range(100):
        yield Cell("sent again in any order", f"seed {seed}", partial(timed.sent_again, *given, seed))


def _bad_peers(given: tuple[Sequence[Path], Path, Bundle]) -> Iterator[Cell]:
    for what, (words, status), times in product(timed.SOP_CLASSES, STATUSES.items(), (1, 5)):
        run = partial(timed.bad_status, *given, what, status, times)
        yield Cell("PACS answers badly", f"{words} for {what}, {times} times", run)
    for at, files_first in product(range(1, 7), (False, True)):
        words = "has filed it" if files_first else "has not"
        yield Cell("PACS aborts", f"at object {at}, {words}", partial(timed.aborts, *given, at, files_first))
    for what, commitment in product(timed.SOP_CLASSES, ("same", "never", "none")):
        run = partial(timed.loses, *given, what, commitment)
        yield Cell("PACS accepts and loses", f"{what}, commitment {commitment}", run)
    for denials, refusals in ((1, 0), (4, 0), (0, 1), (0, 4), (2, 2)):
        run = partial(timed.denies, *given, denials, refusals)
        yield Cell("commitment fails", f"{denials} reports that deny, {refusals} refusals", run)
    for commitment, find in product(("never", "none"), (True, False)):
        run = partial(timed.unproved, *given, commitment, find)
        yield Cell("commitment never answers", f"commitment {commitment}, C-FIND {find}", run)
    for mode, times in product(("silent", "close", "half", "garbage", "other", "odd", "AE", "CE", "AR", "CR"), (1, 3)):
        run = partial(timed.bad_ris, *given, mode, times)
        yield Cell("RIS answers badly", f"{mode}, {times} times", run)
