"""What .ci/run asks once more: one or two tests that failed, never more, and never where none did."""

import subprocess
import sys
from pathlib import Path

from tests.paths import ROOT

TESTS = """
from pathlib import Path
import pytest

def test_fails_the_first_time():
    seen = Path("seen")
    there = seen.exists()
    seen.touch()
    assert there

@pytest.mark.parametrize("number", range(3))
def test_fails(number):
    assert number == "a number"
"""


def asked_after(folder: Path, *tests: str, status: int = 0) -> tuple[int, str]:
    """How `scripts.again` ends in a folder where these tests ran, and what it said."""
    (folder / "test_some.py").write_text(TESTS)
    if tests:
        command = [sys.executable, "-m", "pytest", "-q", *(f"test_some.py::{test}" for test in tests)]
        ended = subprocess.run(command, cwd=folder, capture_output=True, check=False)
        (folder / ".pytest_cache" / "status").write_text(f"{status or ended.returncode}\n")
    command = [sys.executable, str(ROOT / "scripts/again.py")]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return ended.returncode, ended.stdout


def test_a_test_that_passes_alone_is_named(tmp_path: Path) -> None:
    code, said = asked_after(tmp_path, "test_fails_the_first_time")
    assert code == 0
    assert said.endswith(
        "again: failed among all tests and passed alone:\n    test_some.py::test_fails_the_first_time\n"
    )


def test_a_test_that_fails_twice_has_failed(tmp_path: Path) -> None:
    code, said = asked_after(tmp_path, "test_fails_the_first_time", "test_fails[1]")
    assert code == 1
    assert "and NOT passed alone:\n    test_some.py::test_fails_the_first_time\n    test_some.py::test_fails[1]" in said


def test_more_than_two_are_not_asked(tmp_path: Path) -> None:
    assert asked_after(tmp_path, "test_fails") == (1, "again: 3 tests failed; only one or 2 would be asked once more\n")


def test_what_failed_before_the_tests_is_no_matter_of_chance(tmp_path: Path) -> None:
    assert asked_after(tmp_path) == (1, "again: not all tests have run; what is above says why\n")


def test_where_the_tests_broke_off_none_is_asked_again(tmp_path: Path) -> None:
    said = (1, "again: not all tests have run; what is above says why\n")
    assert asked_after(tmp_path, "test_fails_the_first_time", status=3) == said
