"""Runs hostile code where a job runs, as root or as another user, and with what is to be had when bubblewrap is not."""

import atexit
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from dicom_node.executors import process
from tests.paths import ROOT

NOBODY = 65534
SYSTEM_PYTHON = Path("/usr/bin/python3")  # another user may not be able to read ours
RUNNER = """
import json, sys
from pathlib import Path
from config.settings import Job
from dicom_node.executors import process, sandbox
tool, folder, limits, code = sys.argv[1:5]
real_candidates, real_command = sandbox.candidates, process.command
sandbox.candidates = lambda root: [one for one in real_candidates(root=root) if one[0] == tool]
def command(*arguments):
    argv = real_command(*arguments)
    return [*argv[:argv.index("-m")], "-c", code]
process.command = command
isolation = process.probe()
if code:
    ended = process.run(Path(folder) / "in", Path(folder) / "out", Job(**json.loads(limits)), isolation)
    print(json.dumps({"exit_code": ended.exit_code, "broke": ended.broke}))
else:
    print(json.dumps({"in_force": dict(isolation.in_force), "missing": isolation.missing, "wrap": isolation.wrap}))
"""


@dataclass(frozen=True)
class Way:
    """A way to run a job here: the tool that makes the namespaces, and the user."""

    tool: str
    user: int

    @property
    def name(self) -> str:
        return f"{self.tool}-{'root' if self.user == 0 else 'nobody'}"

    def runner(self, folder: Path, code: str, **limits: Any) -> "subprocess.Popen[str]":
        """The node's side, in a process of its own."""
        python = [sys.executable]
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "LANG": "C.UTF-8"}
        if self.user != os.geteuid():
            python = ["setpriv", f"--reuid={self.user}", f"--regid={self.user}", "--clear-groups", str(SYSTEM_PYTHON)]
            environment["PYTHONPATH"] = f"{ROOT}:{_library()}"
        return subprocess.Popen(
            [*python, "-c", RUNNER, self.tool, str(folder), json.dumps(limits), code],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd="/",
        )  # fmt: skip

    def run(self, folder: Path, code: str, **limits: Any) -> dict[str, Any]:
        """Exit code and broken promise of a job that runs `code`; its log is in `folder`."""
        runner = self.runner(folder, code, **limits)
        try:
            out, err = runner.communicate(timeout=120)
        finally:
            runner.kill()  # and with it what it runs
            runner.wait()
        assert runner.returncode == 0, err
        return dict(json.loads(out))


@cache
def _library() -> Path:
    """pyseccomp is one file; alone in a folder, so that nothing else of ours is on another Python's path."""
    import pyseccomp

    folder = Path(tempfile.mkdtemp(prefix="prognode-tests-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    folder.chmod(0o755)
    (folder / "pyseccomp.py").write_bytes(Path(pyseccomp.__file__).read_bytes())
    return folder


@cache
def kept(way: Way) -> dict[str, Any]:
    """What is in force and what is missing for a way; empty where it cannot be had at all."""
    if way.user != os.geteuid() and (os.geteuid() != 0 or not SYSTEM_PYTHON.exists()):
        return {}
    runner = way.runner(Path("/"), "")
    out, err = runner.communicate(timeout=120)
    assert runner.returncode == 0, err
    found = dict(json.loads(out))
    return found if found["wrap"] else {}


def ways() -> list[Way]:
    users = (0, NOBODY) if os.geteuid() == 0 else (os.geteuid(),)
    return [way for tool in ("bwrap", "unshare") for user in users if kept(way := Way(tool, user))]


@contextmanager
def job_folder(tmp_path: Path, way: Way) -> Iterator[Path]:
    """A job folder with an input, owned by who runs the job, in a spool of its own (two folders up)."""
    other = way.user != os.geteuid()
    # pytest's own folders are closed to other users, and closed again by every session that begins.
    base = Path(tempfile.mkdtemp(prefix="prognode-tests-")) if other else tmp_path
    folder = base / "jobs" / "one"
    for name in ("in", "out"):
        (folder / name).mkdir(parents=True)
    (folder / "in" / "input.dcm").write_bytes(b"as it was sent")
    if other:
        base.chmod(0o755)
        for path in (folder, folder / "in", folder / "out", folder / "in" / "input.dcm"):
            os.chown(path, way.user, way.user)
    try:
        yield folder
    finally:
        if other:
            process.remove(folder)
            shutil.rmtree(base)


def log_of(folder: Path) -> str:
    return (folder / process.LOG_FILE).read_text(errors="replace")


def running(token: str) -> list[int]:
    """Processes of this machine, in any namespace, whose command line holds `token`; zombies have none."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            data = path.read_bytes()
        except OSError:
            continue
        if token.encode() in data and int(path.parent.name) != os.getpid():
            found.append(int(path.parent.name))
    return found


def gone(token: str, seconds: float = 60.0) -> bool:
    end = time.monotonic() + seconds
    while running(token):
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True
