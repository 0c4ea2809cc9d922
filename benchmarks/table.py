"""Rows of the table that `make benchmark` prints: what was measured, what was to be reached, and how it stands."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Row:
    """One figure. `at_most`, `at_least`: the target, where there is one."""

    what: str
    value: float
    unit: str
    at_most: float | None = None
    at_least: float | None = None

    @property
    def reached(self) -> bool | None:
        """None where nothing was to be reached."""
        if self.at_most is None and self.at_least is None:
            return None
        return (self.at_most is None or self.value <= self.at_most) and (
            self.at_least is None or self.value >= self.at_least
        )

    @property
    def target(self) -> str:
        words = [] if self.at_most is None else [f"<= {self.at_most:g}"]
        return " ".join(words + ([] if self.at_least is None else [f">= {self.at_least:g}"]))


def write(path: Path | None, rows: Sequence[Row]) -> None:
    """One JSON object a line; no file where none is asked for."""
    if path is not None:
        path.write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows), encoding="utf-8")


def read(path: Path) -> list[Row]:
    """What `write` has written."""
    return [Row(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def show(rows: Sequence[Row]) -> None:
    """Print the table."""
    width = max([len(row.what) for row in rows], default=10) + 2
    print(f"{'':<{width}}{'measured':>12} {'':<8}{'target':<12}")
    for row in rows:
        said = {None: "", True: "reached", False: "NOT REACHED"}[row.reached]
        print(f"{row.what:<{width}}{row.value:>12.4g} {row.unit:<8}{row.target:<12}{said}")
