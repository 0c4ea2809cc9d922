"""A short campaign of each target, the same inputs each time; `make fuzz` goes on where this ends."""

from pathlib import Path

import pytest

from tests.fuzz.engine import Broken, Campaign, Target
from tests.fuzz.targets import TARGETS

PATIENCE = 10.0  # what hangs does so after that too, and a slow machine is no finding
INPUTS = 450  # in all: some 10 seconds


@pytest.mark.parametrize("name", list(TARGETS))
@pytest.mark.filterwarnings("ignore")
def test_changed_inputs_end_in_the_documented_way_and_nothing_good_is_lost(name: str, tmp_path: Path) -> None:
    entry = TARGETS[name]
    target = entry.make(tmp_path)
    try:
        total = sum(one.weight for one in TARGETS.values())
        tally = Campaign(target, 1, tmp_path / "corpus", PATIENCE).run(max(8, INPUTS * entry.weight // total))
    finally:
        target.close()
    assert tally.kinds == {}, [path.read_text() for path in (tmp_path / "corpus").glob("*.txt")]
    assert tally.findings == 0


class Breaks(Target):
    """Breaks in every way that is looked for, at inputs of one's choice."""

    name = "breaks"
    seconds = 0.2

    def __init__(self) -> None:
        self.number = 0
        self.hogged: list[bytes] = []

    def make(self, random: object) -> bytes:
        self.number += 1
        return b"padding" * 3 + (b"\xff" if self.number == 2 else b"\xfe" if self.number == 3 else b"\xfd")

    def run(self, data: bytes) -> None:
        if b"\xff" in data:
            raise KeyError("a value")
        while b"\xfe" in data:
            continue

    def settle(self) -> int:
        return 2


def test_the_harness_sees_crashes_hangs_and_losses_and_makes_inputs_small(tmp_path: Path) -> None:
    tally = Campaign(Breaks(), 1, tmp_path).run(4)
    assert (tally.inputs, tally.crashes, tally.hangs, tally.lost) == (4, 1, 1, 2)
    assert b"\xff" in {path.read_bytes() for path in tmp_path.iterdir() if path.suffix != ".txt"}


def test_the_harness_sees_a_service_that_no_longer_answers(tmp_path: Path) -> None:
    target = Breaks()

    def gone() -> int:
        raise Broken("no answer")

    target.settle = gone  # type: ignore[method-assign]
    assert Campaign(target, 1, tmp_path).run(1).crashes == 1
