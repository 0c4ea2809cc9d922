"""The short form of `make faults`: some cells of each kind of fault, by the same code."""

import subprocess
import sys

import pytest

from tests.paths import ROOT


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_no_fault_loses_an_acknowledged_object_or_doubles_a_result() -> None:
    command = [sys.executable, "-m", "tests.faults", "--every", "120"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=580, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "all " in done.stdout
