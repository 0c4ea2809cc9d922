"""Executor `container`: each job in a container of its own, started through the command line of podman or docker.

A container outlives the process that started it: it has a deadline of its own, and `sweep` ends what an earlier runner
left, known by its label. When this is made, a container proves from inside what it keeps of the promises (`inside`).
"""

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from config.identity import VERSION
from config.settings import Job
from dicom_node.executors import cgroup, inside, job_log, process, sandbox, trials
from dicom_node.executors import container_words as words
from dicom_node.executors.container_words import Engine
from dicom_node.executors.contract import Ended, NotStarted, for_a_tool

ENGINES = ("podman", "docker")
_ABOUT = {
    "podman": "{{.Version.Version}} {{.Host.CgroupManager}}",
    "docker": "{{.ServerVersion}} {{.CgroupDriver}}",
}
ENGINE_SECONDS = 60.0  # that a word with the engine may take
TRIAL_SECONDS = 120.0
TRIAL = "trial-"  # how the names of their folders begin
# What the engines' programs need of our environment; a proxy, for one, podman would hand on to the job.
_PASSED_ON = (
    "PATH", "HOME", "LANG", "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS", "CONTAINERS_", "DOCKER_", "STORAGE_",
)  # fmt: skip


class ContainerExecutor:
    """Each job a container of the image in the settings. `place`: the node's spool, by which it knows its own."""

    def __init__(self, limits: Job, place: Path | None = None) -> None:
        """Raises NotStarted where there is no engine, no image, or a job could not read or write there."""
        self.limits = limits
        self._place = place
        self._owner = words.owner((place or Path("/")).resolve())
        self._engine = _engine(limits)
        self._kept = self._tried()
        if self._kept.unfit:
            raise NotStarted(f"{self._engine.name}: {self._kept.unfit}")

    @property
    def text(self) -> str:
        image = self.limits.image[: self.limits.image.index("sha256:") + 19]
        kept = sandbox.told(self._kept.in_force, self._kept.missing)
        return f"{self._engine.name} {self._engine.version}, image {image}, {kept}"

    @property
    def missing(self) -> tuple[str, ...]:
        return self._kept.missing

    @property
    def read_only(self) -> bool:
        """Root gives IN to the job's user: with hard links that would be the spool's own files."""
        return self._engine.uid != 0

    @property
    def slots(self) -> int:
        return cgroup.slots(self.limits.memory_bytes, cgroup.memory_of_the_machine())

    def run(self, folder_in: Path, folder_out: Path, key: str) -> Ended:
        self._give(folder_in, folder_out)
        program = [words.PYTHON, "-P", "-m", "analysis.run", "/in", "/out"]
        name = f"prognode-{self._owner}-{key[:32]}"
        log = folder_out.parent / process.LOG_FILE
        seconds = self.limits.wall_clock_seconds + words.LATE_SECONDS
        argv = self._command(name, words.NODE_LABEL, program, folder_in, folder_out, seconds, self.limits)
        child = self._start(argv)
        assert child.stdout is not None
        said = threading.Thread(target=job_log.keep, args=(child.stdout, log), daemon=True)
        with process.heard(child, said, lambda: self._end(child, name)):
            ended = process.wait(child, folder_out, self.limits, lambda: self._remove(name))
        if ended.exit_code in words.ENGINE_FAILED and not ended.broke:
            raise NotStarted(self._why(log.read_bytes() if log.exists() else b""))
        return ended

    def ask(self, module: str, folder: Path, seconds: float) -> tuple[int | None, str]:
        with trials.at_work(self._place), self._readable(folder) as shown:
            program = [words.PYTHON, "-P", "-m", module, "/in"]
            return self._ask(program, shown, None, seconds, for_a_tool(self.limits))

    def sweep(self) -> int:
        """Also ends trials and golden cases that a killed process has left, and removes their folders."""
        if self._place is not None:
            with trials.swept(self._place) as alone:
                if alone:
                    self._swept(words.TRIAL_LABEL)
                    for folder in self._place.glob(f"{TRIAL}*"):
                        process.remove(folder)
        return self._swept(words.NODE_LABEL)

    def _swept(self, label: str) -> int:
        listed = ["ps", "--all", "--quiet", "--no-trunc", "--filter", f"label={label}={self._owner}"]
        found = _told([self._engine.name, *listed]).stdout.split()
        for name in found:
            self._remove(name)
        return len(found)

    # -- one container ----------------------------------------------------------------------------------------

    def _command(
        self,
        name: str,
        label: str,
        program: Sequence[str],
        folder_in: Path,
        folder_out: Path | None,
        seconds: float,
        limits: Job,
    ) -> list[str]:
        try:
            return words.command(
                self._engine, limits, name, f"{label}={self._owner}", program,
                folder_in=folder_in, folder_out=folder_out, seconds=seconds,
            )  # fmt: skip
        except ValueError as error:
            raise NotStarted(str(error)) from error

    def _start(self, argv: list[str]) -> "subprocess.Popen[bytes]":
        try:
            return subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd="/",
                env=_environment(), start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            raise NotStarted(f"{argv[0]}: {error.strerror}") from error

    def _end(self, child: "subprocess.Popen[bytes]", name: str) -> None:
        """Where its client did not see it end, or the engine would not start it, the container may be there still."""
        if child.poll() is None or child.returncode < 0 or child.returncode in words.ENGINE_FAILED:
            self._remove(name)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(timeout=process.GRACE_SECONDS)
        child.kill()
        child.wait()

    def _remove(self, name: str) -> None:
        """Kill first: podman's `rm --force` alone would wait ten seconds for the job to end of itself."""
        for word in (["kill", name], ["rm", "--force", name]):
            with contextlib.suppress(NotStarted):
                _told([self._engine.name, *word], check=False)

    def _why(self, said: bytes) -> str:
        """The engine's last line: the job has said nothing, it was not started."""
        lines = said.decode("utf-8", "replace").strip().splitlines()
        return f"{self._engine.name}: {lines[-1][-300:] if lines else 'no reason given'}"

    def _ask(
        self, program: Sequence[str], folder_in: Path, folder_out: Path | None, seconds: float, limits: Job
    ) -> tuple[int | None, str]:
        name = f"prognode-{self._owner}-{secrets.token_hex(8)}"
        seconds_in_all = seconds + words.LATE_SECONDS
        argv = self._command(name, words.TRIAL_LABEL, program, folder_in, folder_out, seconds_in_all, limits)
        child = self._start(argv)
        try:
            said, _ = child.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            return None, ""
        finally:
            self._end(child, name)
        if child.returncode in words.ENGINE_FAILED:
            raise NotStarted(self._why(said))
        return child.returncode, said.decode("utf-8", "replace").strip()

    # -- folders ----------------------------------------------------------------------------------------------

    def _give(self, folder_in: Path, folder_out: Path | None) -> None:
        """Called by root: let the job's user read IN and own OUT. The folder around them lets nobody else in."""
        if self._engine.uid != 0:
            return
        for path in (folder_in, *folder_in.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        if folder_out is not None:
            os.chown(folder_out, words.USER, words.USER)
            folder_out.chmod(0o700)

    @contextmanager
    def _readable(self, folder: Path) -> Iterator[Path]:
        """The folder, or a copy of it where the job's user could not read it."""
        paths = (folder, *folder.rglob("*"))
        if self._engine.uid != 0 or all(path.stat().st_mode & 0o004 for path in paths):
            yield folder
            return
        with self._own_folder() as own:
            shutil.copytree(folder, own / "in", copy_function=shutil.copyfile)
            self._give(own / "in", None)
            yield own / "in"

    @contextmanager
    def _own_folder(self) -> Iterator[Path]:
        """In the spool where that is known: a daemon may see another /tmp than we."""
        try:
            folder = tempfile.TemporaryDirectory(prefix=TRIAL, dir=self._place)
        except OSError as error:
            raise NotStarted(f"{self._place or tempfile.gettempdir()}: {error.strerror}") from error
        with folder as own:
            yield Path(own).resolve()

    # -- the trial --------------------------------------------------------------------------------------------

    def _tried(self) -> words.Kept:
        question = secrets.token_hex(8)
        program = [words.PYTHON, "-I", "-c", Path(inside.__file__).read_text(encoding="utf-8")]
        with trials.at_work(self._place), self._own_folder() as own:
            folder_in, folder_out = own / "in", own / "out"
            folder_in.mkdir()
            folder_out.mkdir()
            (folder_in / "question").write_text(question)
            self._give(folder_in, folder_out)
            code, said = self._ask(program, folder_in, folder_out, TRIAL_SECONDS, self.limits)
        try:
            if code == 0:
                return words.judged(json.loads(said.splitlines()[-1]), self.limits, VERSION, question)
        except (ValueError, IndexError, KeyError, TypeError):
            pass  # no answer of `inside`
        last = said.splitlines()[-1][-300:] if said else "it said nothing"
        raise NotStarted(f"{self._engine.name}: the trial container ended with status {code}: {last}")


def _engine(limits: Job) -> Engine:
    """The engine of the settings, or the first that answers. Raises NotStarted."""
    reasons = []
    for name in ENGINES if limits.engine == "auto" else (limits.engine,):
        try:
            version, cgroups = _told([name, "info", "--format", _ABOUT[name]]).stdout.split()
        except NotStarted as error:
            reasons.append(str(error))
            continue
        except ValueError:
            reasons.append(f"{name} info: no version and control groups in its answer")
            continue
        return Engine(name, version, os.geteuid(), os.getegid(), cgroups)
    raise NotStarted("; ".join(reasons))


def _told(argv: list[str], *, check: bool = True) -> "subprocess.CompletedProcess[str]":
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=ENGINE_SECONDS,
            check=False, cwd="/", env=_environment(),
        )  # fmt: skip
    except FileNotFoundError as error:
        raise NotStarted(f"{argv[0]} is not installed") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotStarted(f"{argv[0]} {argv[1]}: {type(error).__name__}") from error
    if check and done.returncode:
        raise NotStarted(f"{argv[0]} {argv[1]}: {(done.stderr.strip().splitlines() or ['failed'])[-1][-300:]}")
    return done


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith(_PASSED_ON)}
