"""`prognode audit verify`: holds the audit trail's files against their chain and against what the store remembers.

Whoever can write the files alone cannot change a line, take one out, put one in, move one or cut the end off without
being found, and where. Whoever can write the store too can; against that one stands the collector, to which the end of
the chain is sent every hour (`anchors`).
"""

import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from dicom_node.audit import GENESIS, Audit, TrailFile
from dicom_node.audit_trail import digest_of, trail_path

Kind = Literal[
    "altered", "removed", "inserted", "reordered", "cut", "missing file", "unknown file", "unfinished", "unverifiable"
]


@dataclass(frozen=True)
class TrailFinding:
    """What is wrong, and where. Two are no tampering: "unfinished", the node ended while it wrote and will write it
    again; "unverifiable", an anchor of a line that retention has removed."""

    kind: Kind
    file: str
    text: str

    @property
    def is_tampering(self) -> bool:
        return self.kind not in ("unfinished", "unverifiable")


class _Line(NamedTuple):
    """A line as it stands in a file; `number` 0: it cannot be read."""

    place: int  # from 1
    number: int
    previous: str
    digest: str
    whole: bool  # ends with a line feed


def verify(folder: Path, audit: Audit, anchors: Mapping[int, str] | None = None) -> Iterator[TrailFinding]:
    """Everything that is wrong with the trail; nothing when it is whole.

    `anchors` are digests by line number that someone else kept, such as the collector.
    """
    found = {path.name for path in folder.glob("audit-*")} if folder.is_dir() else set()  # before the store is asked
    files, anchors = audit.files(), anchors or {}
    for name in sorted(found - {trail_path(folder, file.first).name for file in files}):
        yield TrailFinding("unknown file", name, "the node has not written this file")
    previous = files[0].previous if files else GENESIS
    for file in files:
        path = trail_path(folder, file.first)
        if file.previous != previous:
            yield TrailFinding("removed", path.name, f"the lines before line {file.first} are missing, with their file")
        previous = file.digest
        if file.removed or file.last < file.first:
            continue
        digests = audit.digests(file.first, file.last) | {file.last: file.digest}
        digests |= {line: digest for line, digest in anchors.items() if file.first <= line <= file.last}
        if path.is_file():
            yield from _settled(list(_check(path, file, digests)), path, file, audit, anchors)
        else:
            yield TrailFinding("missing file", path.name, f"lines {file.first} to {file.last} are missing with it")
    yield from _outside(folder, files, anchors)


def _outside(folder: Path, files: list[TrailFile], anchors: Mapping[int, str]) -> Iterator[TrailFinding]:
    """Anchors of lines that are in no file that is kept: cut off behind the end, or removed before the beginning."""
    last = files[-1].last if files else 0
    kept = [file for file in files if not file.removed and file.first <= file.last]
    begin = kept[0].first if kept else last + 1
    name = trail_path(folder, files[-1].first if files else 1).name
    for line in sorted(anchors):
        if line > last:
            yield TrailFinding(
                "cut", name, f"cut off before line {line}: it was written, and the trail has {last} lines"
            )
        elif line < begin:
            text = (
                f"line {line} cannot be held against its anchor: it went with the lines that [audit] keep_days removed"
            )
            yield TrailFinding("unverifiable", name, text)


def _settled(
    found: list[TrailFinding], path: Path, file: TrailFile, audit: Audit, anchors: Mapping[int, str]
) -> list[TrailFinding]:
    """The findings, but that something is unfinished only where it stays so: a node may be writing just now."""
    for _ in range(4):
        if not any(finding.kind == "unfinished" for finding in found):
            break
        time.sleep(0.25)
        now = next((each for each in audit.files() if each.first == file.first), file)
        digests = audit.digests(now.first, now.last) | {now.last: now.digest} | {**anchors}
        found = list(_check(path, now, digests))
    return found


def lines_of(folder: Path, audit: Audit) -> int:
    """How many lines the trail has."""
    return sum(file.last - file.first + 1 for file in audit.files() if trail_path(folder, file.first).is_file())


def _check(path: Path, file: TrailFile, digests: Mapping[int, str]) -> Iterator[TrailFinding]:
    lines = list(_read(path))
    after = _after_the_end(lines, file)
    inside = lines[: len(lines) - len(after)]
    numbers = [line.number for line in inside]
    expected = range(file.first, file.last + 1)
    unreadable = [line for line in inside if line.number not in expected]
    absent = sorted(set(expected) - set(numbers))
    if len(unreadable) >= len(absent):  # something stands in the place of each line that is missing
        for line in unreadable[: len(absent)]:
            yield TrailFinding("altered", path.name, f"what stands in place {line.place} is no line of the trail")
        for line in unreadable[len(absent) :]:
            yield TrailFinding("inserted", path.name, f"what stands in place {line.place} is no line of the trail")
    else:
        yield from _absent(path, file, absent, numbers)
    yield from _doubled(path, numbers)
    yield from _moved(path, inside, expected)
    yield from _altered(path, inside, digests)
    if after:
        yield from _beyond(path, file, after)
    elif numbers == list(expected) and (size := path.stat().st_size) != file.bytes:
        yield TrailFinding("altered", path.name, f"the file has {size} bytes, and had {file.bytes}")


def _read(path: Path) -> Iterator[_Line]:
    with path.open("rb") as stream:
        for place, raw in enumerate(stream, 1):
            try:
                data = json.loads(raw)
                number, previous = int(data["line"]), str(data["previous"])
            except (ValueError, TypeError, KeyError, RecursionError):
                number, previous = 0, ""
            yield _Line(place, number, previous, digest_of(raw), raw.endswith(b"\n"))


def _after_the_end(lines: list[_Line], file: TrailFile) -> list[_Line]:
    """What stands behind the last line that the store knows, or behind what stands in its place."""
    there = [line for line in lines if file.first <= line.number <= file.last]
    place = max((line.place for line in there), default=0)
    return lines[place + file.last - max((line.number for line in there), default=file.first - 1) :]


def _absent(path: Path, file: TrailFile, absent: list[int], numbers: list[int]) -> Iterator[TrailFinding]:
    present = [number for number in numbers if file.first <= number <= file.last]
    for first, last in _runs(absent):
        if last == file.last:
            where = f"after line {max(present)}" if present else "at its beginning"
            yield TrailFinding("cut", path.name, f"the file ends {where}; {_named(first, last)} missing")
        else:
            yield TrailFinding("removed", path.name, f"{_named(first, last)} missing")


def _doubled(path: Path, numbers: list[int]) -> Iterator[TrailFinding]:
    for number, count in sorted(Counter(numbers).items()):
        if count > 1 and number:
            yield TrailFinding("inserted", path.name, f"line {number} stands there {count} times")


def _moved(path: Path, lines: list[_Line], expected: range) -> Iterator[TrailFinding]:
    seen: set[int] = set()
    highest = 0
    for line in lines:
        if line.number in expected and line.number not in seen:
            seen.add(line.number)
            if line.number < highest:
                yield TrailFinding("reordered", path.name, f"line {line.number} stands after line {highest}")
            highest = max(highest, line.number)


def _altered(path: Path, lines: list[_Line], digests: Mapping[int, str]) -> Iterator[TrailFinding]:
    """Lines whose digest is neither what the store remembers nor, where it does not, what the next line says."""
    said = {line.number - 1: line.previous for line in lines if line.number}
    right = {
        line.number for line in lines if line.digest == digests.get(line.number, said.get(line.number, line.digest))
    }
    wrong = sorted({line.number for line in lines if line.number} - right)
    for first, last in _runs(wrong):
        yield TrailFinding("altered", path.name, f"{_named(first, last)} not what was written")


def _beyond(path: Path, file: TrailFile, after: list[_Line]) -> Iterator[TrailFinding]:
    """Behind the end: the beginning of a write that the store never heard of, or something put there."""
    number, digest = file.last, file.digest
    for line in after:
        torn = not line.whole and line is after[-1]
        follows = line.number == number + 1 and line.previous == digest
        if file.closed_at is not None or not (torn or follows):
            yield TrailFinding("inserted", path.name, f"what stands in place {line.place} was put behind the end")
            return
        number, digest = line.number, line.digest
    text = f"after line {file.last} the node ended while it wrote; it writes this again when it starts"
    yield TrailFinding("unfinished", path.name, text)


def _runs(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Consecutive numbers as (first, last).

    >>> _runs([3, 4, 5, 9])
    [(3, 5), (9, 9)]
    """
    runs: list[tuple[int, int]] = []
    for number in numbers:
        if runs and runs[-1][1] == number - 1:
            runs[-1] = (runs[-1][0], number)
        else:
            runs.append((number, number))
    return runs


def _named(first: int, last: int) -> str:
    return f"line {first} is" if first == last else f"lines {first} to {last} are"
