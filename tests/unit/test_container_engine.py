"""Executor `container` with a stand-in for the engine: what it says to one, and where it leaves things."""

import os
from pathlib import Path

import pytest

from config.settings import Job
from dicom_node.executors import container
from dicom_node.executors import container_words as words
from dicom_node.executors.container import ContainerExecutor
from dicom_node.executors.container_words import Kept
from dicom_node.executors.contract import NotStarted

IMAGE = f"localhost/prognode-job@sha256:{'0' * 64}"
ENGINE = """#!/bin/sh
echo "$*" >>"$HOME/said"
case $1 in info) echo 5.4.2 systemd;; ps) echo "id-of-${6##*=}-${6%=*}";; run) exit 1;; esac
"""


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that holds what the engine was told."""
    (tmp_path / "podman").write_text(ENGINE)
    (tmp_path / "podman").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path / "said"


def executor(place: Path, monkeypatch: pytest.MonkeyPatch) -> ContainerExecutor:
    monkeypatch.setattr(ContainerExecutor, "_tried", lambda _: Kept((), ()))
    return ContainerExecutor(Job(executor="container", image=IMAGE, engine="podman", memory_bytes=1000), place)


def test_trials_that_a_killed_process_left_are_swept_with_the_jobs_and_are_no_jobs(
    engine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "spool" / "trial-abc" / "in").mkdir(parents=True)
    made = executor(tmp_path / "spool", monkeypatch)
    assert made.sweep() == 1
    killed = {line.split()[1].rpartition("-")[2] for line in engine.read_text().splitlines() if line[:5] == "kill "}
    assert {word.rpartition("=")[2] for word in killed} == {"prognode.trial", "prognode.node"}
    assert list((tmp_path / "spool").iterdir()) == []


def test_a_trial_of_a_living_process_is_let_be_by_a_runner_that_starts(
    engine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("spool", "bundle"):
        (tmp_path / name).mkdir()
    starts, checks = (executor(tmp_path / "spool", monkeypatch) for _ in range(2))
    swept: list[str] = []
    monkeypatch.setattr(starts, "_swept", swept.append)
    monkeypatch.setattr(checks, "_ask", lambda *_: (0, str(starts.sweep())))
    (tmp_path / "spool" / "trial-of-check").mkdir()
    assert checks.ask("analysis.golden", tmp_path / "bundle", 1.0) == (0, "None")
    assert swept == [words.NODE_LABEL]
    assert (tmp_path / "spool" / "trial-of-check").is_dir()
    starts.sweep()
    assert swept[1:] == [words.TRIAL_LABEL, words.NODE_LABEL]


def test_a_tool_has_the_memory_that_it_needs_also_where_jobs_have_little(
    engine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bundle").mkdir()
    executor(tmp_path, monkeypatch).ask("analysis.golden", tmp_path / "bundle", 1.0)
    assert f"--memory {Job().memory_bytes}b" in engine.read_text()


def test_a_place_where_nothing_may_be_written_is_said(tmp_path: Path, engine: Path) -> None:
    with pytest.raises(NotStarted, match="/nowhere: No such file"):
        ContainerExecutor(Job(executor="container", image=IMAGE, engine="podman"), Path("/nowhere"))
    assert container.TRIAL not in engine.read_text()
