"""Executor `systemd`: each job an instance of the template unit `prognode-job@`, which systemd's manager confines.

The runner needs no privilege for it but to start and stop these units (a rule of polkit). An instance outlives a killed
runner; `sweep` stops what an earlier one left. When this is made, an instance proves from inside what it keeps of the
promises (`inside`): the limits stand in the unit, and the settings say what they have to be.
"""

import contextlib
import json
import os
import re
import secrets
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from config.identity import VERSION
from config.settings import Job
from dicom_node.executors import cgroup, harvest, inside, job_log, process, sandbox, trials
from dicom_node.executors import container_words as words
from dicom_node.executors.contract import Ended, NotStarted

SPOOL = Path("/var/lib/prognode")  # of the unit's own paths
UNITS = "prognode-job@"
MANAGER_SECONDS = 60.0  # that a word with the manager may take
END_SECONDS = 60.0  # for the end of a unit that was told to stop
TRIAL_SECONDS = 120.0
LOG_IN_OUT = "job.log"
TRIAL_FILE = "trial.py"
_HELPERS = re.compile(r"(?:trial|golden)-[0-9a-f]{64}")
_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}


class SystemdExecutor:
    """Each job a oneshot unit. `place`: the node's spool, which has to be the unit's."""

    def __init__(self, limits: Job, place: Path | None = None) -> None:
        """Raises NotStarted where no unit can be started, or a job could not read or write there."""
        if place is not None and place.resolve() != SPOOL.resolve():
            raise NotStarted(
                f"the units of jobs are made for the spool {SPOOL}, and this node has another:"
                f" set [node] spool to {SPOOL}, or choose another [job] executor"
            )
        self.limits = limits
        self._jobs = SPOOL / "jobs"
        self._less: list[str] = []
        self._kept = self._tried()
        if self._kept.unfit:
            raise NotStarted(f"{UNITS}: {self._kept.unfit}")

    @property
    def text(self) -> str:
        less = f"; less in the unit than in the settings: {', '.join(self._less)}" if self._less else ""
        return f"units {UNITS}, {sandbox.told(self._kept.in_force, self._kept.missing)}{less}"

    @property
    def missing(self) -> tuple[str, ...]:
        return self._kept.missing

    @property
    def read_only(self) -> bool:
        """The job's user is another one: it is let read copies, and not the spool's own files."""
        return False

    @property
    def slots(self) -> int:
        return cgroup.slots(self.limits.memory_bytes, cgroup.memory_of_the_machine())

    def run(self, folder_in: Path, folder_out: Path, key: str) -> Ended:
        _let_in(folder_in, folder_out)
        try:
            return self._run(key, folder_out, self.limits)
        finally:
            _keep_log(folder_out, folder_out.parent / process.LOG_FILE)

    def ask(self, module: str, folder: Path, seconds: float) -> tuple[int | None, str]:
        with self._own_folder(module.rpartition(".")[2]) as own:
            shutil.copytree(folder, own / "in", copy_function=shutil.copyfile)
            return self._ask(own, seconds)

    def sweep(self) -> int:
        """Also trials and golden cases that a killed process has left, with their folders."""
        listed = _told("list-units", "--all", "--plain", "--no-legend", f"{UNITS}*").stdout
        units = [line.split()[0] for line in listed.splitlines() if line.strip()]
        with trials.swept(self._jobs) as alone:
            if not alone:
                units = [unit for unit in units if not _HELPERS.search(unit)]
            for unit in units:
                _told("stop", unit, check=False)
                _forget(unit)
            for folder in self._jobs.iterdir() if alone else ():
                if _HELPERS.fullmatch(folder.name):
                    process.remove(folder)
        return len(units)

    # -- one unit ---------------------------------------------------------------------------------------------

    def _run(self, name: str, folder_out: Path, limits: Job) -> Ended:
        unit = f"{UNITS}{name}.service"
        try:
            child = subprocess.Popen(
                ["systemctl", "--no-ask-password", "start", unit], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE, env=_ENVIRONMENT, start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            raise NotStarted(f"systemctl: {error.strerror}") from error
        assert child.stderr is not None
        with child.stderr:
            try:
                ended = process.wait(child, folder_out, limits, lambda: None)
                if child.poll() != 0:  # also where systemctl alone was killed, and the job goes on
                    _told("stop", unit, check=False)
                    child.wait(END_SECONDS)
                if ended.broke or ended.exit_code in (None, 0):
                    return ended
                return _how(unit, child.stderr.read(65536), started=(folder_out / LOG_IN_OUT).exists())
            except subprocess.TimeoutExpired as error:
                raise NotStarted(f"{unit} does not end") from error
            finally:
                child.kill()
                if child.wait() != 0:
                    _forget(unit)

    def _ask(self, own: Path, seconds: float) -> tuple[int | None, str]:
        (own / "out").mkdir()
        _let_in(own / "in", own / "out")
        ended = self._run(own.name, own / "out", Job(wall_clock_seconds=seconds))
        _keep_log(own / "out", own / process.LOG_FILE)
        said = (own / process.LOG_FILE).read_text(encoding="utf-8", errors="replace").strip()
        return ended.exit_code, "" if ended.exit_code is None else said

    @contextmanager
    def _own_folder(self, word: str) -> Iterator[Path]:
        own = self._jobs / f"{word}-{secrets.token_hex(32)}"
        try:
            with trials.at_work(self._jobs):
                own.mkdir(mode=0o700)
                yield own
        except OSError as error:
            raise NotStarted(f"{self._jobs}: {error.strerror}") from error
        finally:
            process.remove(own)

    # -- the trial --------------------------------------------------------------------------------------------

    def _tried(self) -> words.Kept:
        question = secrets.token_hex(8)
        with self._own_folder("trial") as own:
            (own / "in").mkdir()
            (own / "in" / "question").write_text(question)
            shutil.copyfile(inside.__file__, own / "in" / TRIAL_FILE)
            code, said = self._ask(own, TRIAL_SECONDS)
        try:
            if code == 0:
                found = json.loads(said.splitlines()[-1])
                self._less = _less(found, self.limits)
                return words.judged(found, self.limits, VERSION, question, survivors="control group")
        except (ValueError, IndexError, KeyError, TypeError):
            pass  # no answer of `inside`
        last = said.splitlines()[-1][-300:] if said else "it said nothing"
        raise NotStarted(f"{UNITS}: the trial ended with status {code}: {last}")


def _less(found: Mapping[str, Any], limits: Job) -> list[str]:
    """Limits that would end a job before those of the settings do; a control group's are whole pages."""
    page = os.sysconf("SC_PAGE_SIZE")
    wanted = {
        sandbox.MEMORY: (limits.memory_bytes // page * page, found["memory_bytes"], found["address_space"]),
        "CPU time": (limits.cpu_seconds, found["cpu_seconds"]),
        "size of files": (limits.output_bytes, found["file_bytes"]),
    }
    return [
        name
        for name, (limit, *there) in wanted.items()
        if any(each is not None and 0 <= each < limit for each in there)
    ]


def _how(unit: str, said: bytes, *, started: bool) -> Ended:
    """How a unit has failed. Raises NotStarted where there was no job: no job can say those statuses, see the unit."""
    asked = _told("show", "--property=Result,ExecMainStatus", unit).stdout
    shown = dict(line.split("=", 1) for line in asked.splitlines() if "=" in line)
    result, status = shown.get("Result", ""), int(shown.get("ExecMainStatus") or 0)
    if result == "exit-code" and status < 200 and status not in words.ENGINE_FAILED:
        return Ended(status)
    if result in ("signal", "core-dump"):
        return Ended(-status)
    if result == "oom-kill":
        return Ended(-9)
    if result == "timeout":
        return Ended(None)
    if result == "success" and started:  # somebody else has stopped it
        return Ended(-15)
    lines = said.decode("utf-8", "replace").strip().splitlines() or ["no reason given"]
    raise NotStarted(f"{lines[0][-300:]} ({result} {status})")


def _let_in(folder_in: Path, folder_out: Path) -> None:
    """Let the job's user read IN and write OUT. The folder around them lets nobody else in."""
    folder_in.parent.chmod(0o700)
    for path in (folder_in, *folder_in.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    folder_out.chmod(0o777)


def _keep_log(folder_out: Path, target: Path) -> None:
    """What the job has said, which lies in its OUT, to where the job does not reach; a plain file or none."""
    target.unlink(missing_ok=True)
    target.touch(mode=0o600)
    with contextlib.suppress(OSError, harvest.Unfit):
        stream = harvest.opened(folder_out, LOG_IN_OUT)
        if stream is not None:
            job_log.keep(stream, target)


def _forget(unit: str) -> None:
    """A failed unit would stay with the manager. How the job has ended does not hang on that."""
    with contextlib.suppress(NotStarted):
        _told("reset-failed", unit, check=False)


def _told(*word: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
    argv = ["systemctl", "--no-ask-password", *word]
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=MANAGER_SECONDS,
            check=False, env=_ENVIRONMENT,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotStarted(f"systemctl {word[0]}: {type(error).__name__}") from error
    if check and done.returncode:
        raise NotStarted(f"systemctl {word[0]}: {(done.stderr.strip().splitlines() or ['failed'])[-1][-300:]}")
    return done
