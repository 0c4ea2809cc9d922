"""Executor `systemd` against a manager of shell: what it is told, what its answers mean (nspawn-test: a real one)."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from config.job import Job
from dicom_node.executors import sandbox, systemd
from dicom_node.executors.contract import Ended, NotStarted

LIMITS = Job(executor="systemd")
KEY = "5" * 64
# Runs the trial here, unconfined, as the unit would; anything else as $ANSWER says.
MANAGER = """#!/bin/sh
shift
echo "$@" >>{folder}/told
name=${{2#prognode-job@}} name=${{name%.service}} job={folder}/jobs/$name
case $1 in
  start) case $name in
    trial-*) {trial} exec {python} -I "$job/in/trial.py" "$job/in" "$job/out" >"$job/out/job.log" 2>&1;; esac
    {start};;
  show) printf '{show}';;
  list-units) printf '{units}';;
esac
"""


class Site:
    """A spool, and a program `systemctl`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "jobs").mkdir()

    def manager(self, start: str = "exit 0", show: str = "", units: str = "", trial: str = "") -> None:
        text = MANAGER.format(
            folder=self.folder, python=sys.executable, start=start, show=show, units=units, trial=trial
        )
        (self.folder / "systemctl").write_text(text)
        (self.folder / "systemctl").chmod(0o755)

    @property
    def told(self) -> list[str]:
        return (self.folder / "told").read_text().splitlines()

    def job(self) -> tuple[Path, Path]:
        folder = self.folder / "jobs" / KEY
        for name in ("in/ct", "out"):
            (folder / name).mkdir(parents=True, mode=0o700)
        (folder / "in/ct/1.dcm").write_bytes(b"x")
        (folder / "in/ct/1.dcm").chmod(0o600)
        return folder / "in", folder / "out"

    def run(self, **answers: str) -> Ended:
        self.manager()
        executor = systemd.SystemdExecutor(LIMITS, self.folder)
        self.manager(**answers)
        return executor.run(*self.job(), KEY)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setattr(systemd, "SPOOL", tmp_path)
    monkeypatch.setattr(systemd, "_ENVIRONMENT", {"PATH": f"{tmp_path}:/usr/bin:/bin", "ORT_DISABLE_TELEMETRY": "1"})
    return Site(tmp_path)


def test_a_unit_that_confines_nothing_is_seen_at_start_and_each_promise_is_named(site: Site) -> None:
    site.manager()
    executor = systemd.SystemdExecutor(LIMITS, site.folder)
    assert {sandbox.INPUTS, sandbox.NOTHING_ELSE, sandbox.MEMORY, "CPU time"} <= set(executor.missing)
    assert "NOT in force: " in executor.text
    assert list((site.folder / "jobs").iterdir()) == []


def test_a_unit_with_less_than_the_settings_is_said(site: Site) -> None:
    site.manager(trial="ulimit -v 4000000; ulimit -t 60;")
    executor = systemd.SystemdExecutor(LIMITS, site.folder)
    assert executor.text.endswith("; less in the unit than in the settings: memory, CPU time")
    assert not {sandbox.MEMORY, "CPU time"} & set(executor.missing)


def test_a_job_is_a_unit_of_its_key_which_may_read_copies_and_write_out(site: Site) -> None:
    ended = site.run(start='echo said >"$job/out/job.log"')
    folder = site.folder / "jobs" / KEY
    assert ended == Ended(0)
    assert f"start prognode-job@{KEY}.service" in site.told
    modes = {path: (folder / path).stat().st_mode & 0o777 for path in (".", "in", "in/ct", "in/ct/1.dcm", "out")}
    assert modes == {".": 0o700, "in": 0o755, "in/ct": 0o755, "in/ct/1.dcm": 0o644, "out": 0o777}
    assert (folder / "job.log").read_text() == "said\n"


@pytest.mark.parametrize(
    ("result", "status", "ended"),
    [
        ("exit-code", 65, 65),
        ("exit-code", 137, 137),
        ("signal", 9, -9),
        ("core-dump", 11, -11),
        ("oom-kill", 9, -9),
        ("timeout", 15, None),
    ],
)
def test_how_a_unit_failed_is_how_the_job_ended(site: Site, result: str, status: int, ended: int | None) -> None:
    assert site.run(start="exit 1", show=f"Result={result}\\nExecMainStatus={status}\\n") == Ended(ended)
    assert site.told[-1] == f"reset-failed prognode-job@{KEY}.service"  # a failed unit would stay with the manager


@pytest.mark.parametrize(
    ("result", "status"), [("exit-code", 226), ("exit-code", 125), ("resources", 0), ("success", 0)]
)
def test_a_unit_that_was_not_started_is_no_study_s_fault_and_the_manager_is_quoted(
    site: Site, result: str, status: int
) -> None:
    with pytest.raises(NotStarted, match=f"Access denied .{result} {status}."):
        site.run(start="echo Access denied >&2; exit 1", show=f"Result={result}\\nExecMainStatus={status}\\n")


def test_a_job_that_somebody_else_stops_was_killed(site: Site) -> None:
    ended = site.run(start='touch "$job/out/job.log"; exit 1', show="Result=success\\nExecMainStatus=0\\n")
    assert ended == Ended(-15)


def test_a_job_is_stopped_where_the_one_who_waits_for_it_is_killed(site: Site) -> None:
    ended = site.run(start='touch "$job/out/job.log"; kill -9 $$', show="Result=success\nExecMainStatus=0\n")
    assert ended == Ended(-15)
    assert f"stop prognode-job@{KEY}.service" in site.told


def test_a_job_out_of_time_is_stopped(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systemd, "END_SECONDS", 0.2)
    site.manager(start="exec sleep 60")
    executor = systemd.SystemdExecutor(Job(executor="systemd", wall_clock_seconds=0.1), site.folder)
    with pytest.raises(NotStarted, match="does not end"):  # this manager does not obey
        executor.run(*site.job(), KEY)
    assert f"stop prognode-job@{KEY}.service" in site.told


@pytest.mark.parametrize(("start", "ended"), [("exit 0", 0), ("exit 1", 65)])
def test_how_a_job_ended_stands_where_the_manager_does_not_answer_any_more(
    site: Site, monkeypatch: pytest.MonkeyPatch, start: str, ended: int
) -> None:
    told, tried = systemd._told, []

    def answer(*word: str, check: bool = True) -> Any:
        if word[0] == "reset-failed":
            tried.append(word)
            raise NotStarted("systemctl reset-failed: TimeoutExpired")
        return told(*word, check=check)

    monkeypatch.setattr(systemd, "_told", answer)
    assert site.run(start=start, show="Result=exit-code\\nExecMainStatus=65\\n") == Ended(ended)
    assert len(tried) == bool(ended), "a unit that has not failed leaves nothing to forget"
    site.manager(units=f"prognode-job@{KEY}.service loaded failed\\n")
    assert systemd.SystemdExecutor(LIMITS, site.folder).sweep() == 1


@pytest.mark.parametrize("made", ["ln -s {secret}", "ln {secret}", "mkdir", "mkfifo"])
def test_a_log_that_is_no_plain_file_of_the_job_s_is_not_read(site: Site, made: str) -> None:
    (site.folder / "secret").write_text("secret")
    site.run(start=f'{made.format(secret=site.folder / "secret")} "$job/out/job.log"')
    assert (site.folder / "jobs" / KEY / "job.log").read_text() == ""
    places = [Path("/proc/self/fd", number) for number in os.listdir("/proc/self/fd")]
    still_open = {os.readlink(place) for place in places if place.is_symlink()}
    assert str(site.folder / "jobs" / KEY / "out" / "job.log") not in still_open


def test_what_an_earlier_runner_left_is_stopped_and_counted(site: Site) -> None:
    site.manager()
    executor = systemd.SystemdExecutor(LIMITS, site.folder)
    site.job()
    (site.folder / "jobs" / f"golden-{KEY}").mkdir()
    unit = f"prognode-job@{KEY}.service"
    site.manager(units=f"{unit} loaded activating start Prognode: a job\\n")
    assert executor.sweep() == 1
    assert site.told[-2:] == [f"stop {unit}", f"reset-failed {unit}"]
    assert [path.name for path in (site.folder / "jobs").iterdir()] == [KEY]


def test_a_trial_of_a_living_process_is_let_be_by_a_runner_that_starts(site: Site) -> None:
    site.manager()
    executor, other = (systemd.SystemdExecutor(LIMITS, site.folder) for _ in range(2))
    units = [f"prognode-job@{name}.service" for name in (f"trial-{KEY}", KEY)]
    site.manager(units="".join(f"{unit} loaded activating start Prognode: a job\\n" for unit in units))
    with other._own_folder("golden") as living:
        assert executor.sweep() == 1
        assert living.is_dir()
        assert f"stop {units[0]}" not in site.told
    assert executor.sweep() == 2
    assert f"stop {units[0]}" in site.told


def test_a_module_is_asked_in_a_unit_named_for_it(site: Site, tmp_path: Path) -> None:
    site.manager()
    executor = systemd.SystemdExecutor(LIMITS, site.folder)
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "file").write_text("well")
    site.manager(start='cat "$job/in/file" >"$job/out/job.log"')
    assert executor.ask("analysis.golden", tmp_path / "bundle", 10.0) == (0, "well")
    assert any(line.startswith("start prognode-job@golden-") for line in site.told)


def test_another_spool_than_the_unit_s_is_refused(site: Site, tmp_path: Path) -> None:
    with pytest.raises(NotStarted, match=r"another: set \[node\] spool to .*, or choose another \[job\] exec"):
        systemd.SystemdExecutor(LIMITS, tmp_path / "other")


def test_without_a_manager_no_job_is_started(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systemd, "_ENVIRONMENT", {"PATH": str(site.folder)})
    with pytest.raises(NotStarted, match="systemctl: No such file"):
        systemd.SystemdExecutor(LIMITS, site.folder)


def test_a_spool_that_is_not_ours_is_said(site: Site) -> None:
    if os.geteuid() == 0:
        (site.folder / "jobs").rmdir()
    else:
        (site.folder / "jobs").chmod(0o500)
    site.manager()
    with pytest.raises(NotStarted, match="jobs: "):
        systemd.SystemdExecutor(LIMITS, site.folder)
