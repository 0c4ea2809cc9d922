"""The short form of `make faults`: a cell of each kind of fault, by the same code; half of the kinds in make test."""

import re
import subprocess
import sys

import pytest

from tests.paths import ROOT


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "part", ["1/4", *(pytest.param(f"{part}/4", marks=pytest.mark.exhaustive) for part in (2, 3, 4))]
)
def test_no_fault_loses_an_acknowledged_object_or_doubles_a_result(part: str) -> None:
    command = [sys.executable, "-m", "tests.faults", "--every", "200", "--part", part]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=880, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    cells, losses, doubles, wrong = map(
        int, re.search(r"\| all \| (\d+) \| (\d+) \| (\d+) \| (\d+)", done.stdout).groups()
    )  # type: ignore[union-attr]
    assert cells >= 4  # of six: a moment of the undisturbed run need not come again, and is counted apart then
    assert losses == doubles == wrong == 0
