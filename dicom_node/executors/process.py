"""Executor `process`: the job as a child in namespaces of its own, with limits and a scrubbed environment.

It dies with its worker (a parent-death signal at the outermost process, a PID namespace for the rest): a job never
outlives a killed node. What confines it, and what of that is to be had here, stands in `sandbox`.
"""

import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from config.settings import Job
from dicom_node.executors import cgroup, harvest, job_log, sandbox, syscalls
from dicom_node.executors.contract import Ended, NotStarted, for_a_tool
from dicom_node.executors.sandbox import Isolation

LOG_FILE = "job.log"  # beside IN and OUT: the job cannot reach it
LOOK_SECONDS = 0.25  # between two looks at what it has written
GRACE_SECONDS = 5.0  # between SIGTERM and SIGKILL
NICENESS = cgroup.NICENESS  # receiving and delivery go first where jobs take every processor
GIVES_WAY_SECONDS = 10.0  # that a job gives way wholly; then it has a share, so that a busy machine lets it end
_OUR_TOOLS = frozenset({"bwrap", "unshare", "setpriv", "prlimit", "sh"})


class ProcessExecutor:
    """Each job a child of this process. What it may do was tried when this was made."""

    def __init__(self, limits: Job) -> None:
        self.limits = limits
        self.isolation = probe()

    @property
    def text(self) -> str:
        return self.isolation.text

    @property
    def missing(self) -> tuple[str, ...]:
        return self.isolation.missing

    @property
    def read_only(self) -> bool:
        return self.isolation.bubblewrap

    @property
    def slots(self) -> int:
        return cgroup.slots(self.limits.memory_bytes, cgroup.memory())

    def run(self, folder_in: Path, folder_out: Path, key: str) -> Ended:
        return run(folder_in, folder_out, self.limits, self.isolation)

    def ask(self, module: str, folder: Path, seconds: float) -> tuple[int | None, str]:
        return ask_module(module, folder, seconds, for_a_tool(self.limits), self.isolation)

    def sweep(self) -> int:
        return 0  # a job dies with its runner, and `probe` has removed what control groups were left


def probe() -> Isolation:
    """Try what isolates a job here, best first."""
    root = os.geteuid() == 0
    above = cgroup.parents()
    cgroup.sweep(above)
    groups = above if above and _works(["true"], above) else ()
    wrap = next((one for one in sandbox.candidates(root=root) if _starts(one)), ())
    filtered = bool(wrap) and wrap[0] == "bwrap" and _filters(wrap)
    return sandbox.promises(wrap, root=root, filtered=filtered, groups=groups)


def _starts(wrap: tuple[str, ...]) -> bool:
    trial = Isolation(wrap, (), ())
    return _works(_confined(trial, Job(), [], None, ["true"]))


def _filters(wrap: tuple[str, ...]) -> bool:
    trial = Isolation(wrap, (), (), filtered=True)
    command = _confined(trial, Job(), [], None, ["true"])
    with _filter(trial, command) as (filtered, descriptors):
        return bool(descriptors) and _works(filtered, descriptors=descriptors)


def _works(command: Sequence[str], above: tuple[cgroup.Parent, ...] = (), descriptors: Sequence[int] = ()) -> bool:
    try:
        group = cgroup.Cgroup(above, Job().memory_bytes, sandbox.MAXIMUM_PROCESSES) if above else None
        try:
            done = subprocess.run(
                [*(group.join if group else []), *command], capture_output=True, timeout=10, check=False,
                env=_environment(None), stdin=subprocess.DEVNULL, pass_fds=tuple(descriptors),
            )  # fmt: skip
        finally:
            if group:
                group.end()
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def command(folder_in: Path, folder_out: Path, limits: Job, isolation: Isolation) -> list[str]:
    """The argument list. Only the two folders are passed."""
    # -P: the output folder is the working directory and must not become a place to import from.
    python = [sys.executable, "-P", "-m", "analysis.run", str(folder_in), str(folder_out)]
    return _confined(isolation, limits, [folder_in], folder_out, python)


def _confined(
    isolation: Isolation, limits: Job, readable: list[Path], writable: Path | None, program: list[str]
) -> list[str]:
    root = os.geteuid() == 0
    return sandbox.confined(isolation, limits, readable=readable, writable=writable, program=program, root=root)


def run(folder_in: Path, folder_out: Path, limits: Job, isolation: Isolation) -> Ended:
    """Run one job to its end or to one of its limits. Raises NotStarted, and OSError for its folders."""
    read_only = isolation.bubblewrap
    before = {} if read_only else harvest.digests(folder_in)
    ended = start(folder_in, folder_out, limits, isolation).run(folder_out, limits)
    if not read_only and harvest.digests(folder_in) != before:
        return Ended(ended.exit_code, "changed its inputs")
    return ended


@dataclass(frozen=True)
class Started:
    """A job's process, confined, with what it holds until its end."""

    child: "subprocess.Popen[bytes]"
    group: cgroup.Cgroup | None
    held: ExitStack

    def run(self, folder_out: Path, limits: Job) -> Ended:
        """Until the end, with a log beside OUT; the wall clock begins here. Raises NotStarted."""
        log = threading.Thread(target=job_log.keep, args=(self.child.stdout, folder_out.parent / LOG_FILE), daemon=True)
        with heard(self.child, log, self.end):
            return wait(self.child, folder_out, limits, lambda: _ask_to_end(self.child), self._take_a_share)

    def _take_a_share(self) -> None:
        if self.group is not None:
            self.group.give_way(wholly=False)

    def end(self) -> None:
        """Nothing of it is left."""
        with self.held:
            _kill(self.child, self.group)


def start(folder_in: Path, folder_out: Path, limits: Job, isolation: Isolation, *words: str) -> Started:
    """Start a job; with more `words` it hears us on its standard input. It ends when the thread that calls this ends.

    Raises NotStarted.
    """
    argv = [*command(folder_in, folder_out, limits, isolation), *words]
    with ExitStack() as held:
        filtered, descriptors = held.enter_context(_filter(isolation, argv))
        group = held.enter_context(_group(limits, isolation))
        joined = [*(group.join if group else []), "nice", "-n", NICENESS, *filtered]
        if group is not None:
            group.give_way(wholly=True)
        child = _start(joined, folder_out, descriptors, subprocess.PIPE if words else subprocess.DEVNULL)
        return Started(child, group, held.pop_all())


def _start(
    argv: list[str], folder_out: Path | None, descriptors: Sequence[int], stdin: int
) -> "subprocess.Popen[bytes]":
    try:
        child = subprocess.Popen(
            argv,
            bufsize=0,  # `job_log` and who waits for a word read the same pipe
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=folder_out,
            env=_environment(folder_out),
            start_new_session=True,
            pass_fds=descriptors,
        )
    except OSError as error:
        raise NotStarted(f"{argv[0]}: {error.strerror}") from error
    _stand_behind(child.pid)
    return child


def _stand_behind(session: int) -> None:
    """Without cgroups for the processor, sessions share it, and niceness counts within one alone (sched(7), autogroup).

    The kernel takes one such word in a tenth of a second from all unprivileged processes together.
    """
    for _ in range(5):
        try:
            Path(f"/proc/{session}/autogroup").write_text(NICENESS)
        except BlockingIOError:
            time.sleep(0.11)
        except OSError:
            return
        else:
            return


def wait(
    child: "subprocess.Popen[bytes]",
    folder_out: Path,
    limits: Job,
    ask_to_end: Callable[[], None],
    late: Callable[[], None] = lambda: None,
) -> Ended:
    """Until the child ends, or the job has had its time (it is asked to end then) or its bytes.

    `late` is called from GIVES_WAY_SECONDS on.
    """
    begun = time.monotonic()
    end = begun + limits.wall_clock_seconds
    code = None
    while code is None:
        code = _status(child, LOOK_SECONDS)
        if time.monotonic() - begun > GIVES_WAY_SECONDS:
            late()
        if harvest.used(folder_out, limits.output_bytes) > limits.output_bytes:
            return Ended(code, f"wrote more than {limits.output_bytes} bytes or {sandbox.MAXIMUM_FILES} files")
        if code is None and time.monotonic() > end:
            ask_to_end()
            return Ended(None)
    return Ended(code)


def _status(child: "subprocess.Popen[bytes]", seconds: float) -> int | None:
    """The exit status, the moment it is there; None after so many seconds. `Popen.wait` looks 20 times a second."""
    try:
        descriptor = os.pidfd_open(child.pid)
    except OSError:  # a kernel before 5.3 has none
        with contextlib.suppress(subprocess.TimeoutExpired):
            return child.wait(seconds)
        return None
    try:
        ended = select.poll()  # select.select takes no descriptor above 1023
        ended.register(descriptor, select.POLLIN)
        ended.poll(seconds * 1000)
    finally:
        os.close(descriptor)
    return child.poll()


def _ask_to_end(child: "subprocess.Popen[bytes]") -> None:
    """SIGTERM to what the job itself runs, and some time for it."""
    for process in _below(child.pid):
        with contextlib.suppress(OSError):
            name = Path(f"/proc/{process}/comm").read_text().strip()
            if name not in _OUR_TOOLS:
                os.kill(process, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(timeout=GRACE_SECONDS)


def _below(pid: int) -> list[int]:
    """The children of a process, theirs, and so on."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            children.setdefault(int(path.read_text().rpartition(")")[2].split()[1]), []).append(int(path.parent.name))
    found = [pid]
    for one in found:
        found += children.get(one, [])
    return found


def _kill(child: "subprocess.Popen[bytes]", group: cgroup.Cgroup | None) -> None:
    """End what is left of the job: its session, its control group; a PID namespace ends with its first process."""
    below = _below(child.pid) if child.poll() is None else []
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    for process in below[1:]:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(process, signal.SIGKILL)
    if group is not None:
        group.end()
    child.wait()


@contextmanager
def heard(child: "subprocess.Popen[bytes]", reader: threading.Thread, end: Callable[[], None]) -> Iterator[None]:
    """With a thread that reads what a child says; however this ends, `end` ends the child. Raises NotStarted."""
    try:
        reader.start()
    except RuntimeError as error:  # the machine has no thread left
        end()
        child.stdout.close()  # type: ignore[union-attr]
        raise NotStarted("no thread is to be had") from error
    try:
        yield
    finally:
        end()
        reader.join(GRACE_SECONDS)


@contextmanager
def _filter(isolation: Isolation, argv: list[str]) -> Iterator[tuple[list[str], tuple[int, ...]]]:
    """The argument list with the filter of system calls in it, and the descriptors that it needs."""
    descriptor = syscalls.compiled() if isolation.filtered else None
    if descriptor is None:
        yield argv, ()
        return
    try:
        yield [argv[0], "--seccomp", str(descriptor), *argv[1:]], (descriptor,)
    finally:
        os.close(descriptor)


@contextmanager
def _group(limits: Job, isolation: Isolation) -> Iterator[cgroup.Cgroup | None]:
    if not isolation.groups:
        yield None
        return
    try:
        group = cgroup.Cgroup(isolation.groups, limits.memory_bytes, sandbox.MAXIMUM_PROCESSES)
    except OSError as error:
        raise NotStarted(f"no control group: {error.strerror}") from error
    try:
        yield group
    finally:
        group.end()


def remove(folder: Path) -> None:
    """Remove a job's folder, whatever the job has made of its OUT: closed folders, or ones too deep for a path."""
    out, all_ = folder / "out", str(folder)
    gone = ["rm", "-rf", "--one-file-system", "--", all_]
    opened = [] if out.is_symlink() else [["chmod", "-R", "u+rwX", "--", str(out)]]  # chmod would follow this one
    for command in (gone, *opened, gone):
        if not os.path.lexists(folder):
            return
        subprocess.run(command, check=False, capture_output=True, stdin=subprocess.DEVNULL)


def run_module(module: str, arguments: list[str]) -> int:
    """Run a tool of ours (training, the synthetic cohort) in the foreground, with its output on the terminal.

    One thread in each of its processes, as in a job, unless the environment says otherwise; ends when we are killed.
    """
    environment = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", **os.environ}
    command = ["setpriv", "--pdeathsig", "TERM", "--", sys.executable, "-P", "-m", module, *arguments]
    return subprocess.run(command, check=False, env=environment).returncode


def ask_module(module: str, folder: Path, timeout: float, limits: Job, isolation: Isolation) -> tuple[int | None, str]:
    """Run a tool of ours on a folder, confined as a job is: exit status, None out of time, and the end of what it says.

    Raises NotStarted.
    """
    program = [sys.executable, "-P", "-m", module, str(folder)]
    with ExitStack() as held:
        argv, descriptors = held.enter_context(
            _filter(isolation, _confined(isolation, limits, [folder], None, program))
        )
        group = held.enter_context(_group(limits, isolation))
        child = _start([*(group.join if group else []), *argv], None, descriptors, subprocess.DEVNULL)
        said = bytearray()
        reader = threading.Thread(target=_keep_end, args=(child.stdout, said), daemon=True)
        try:
            with heard(child, reader, lambda: _kill(child, group)):
                code = child.wait(timeout)
        except subprocess.TimeoutExpired:
            return None, ""
    if code in (126, 127):  # the shell that enters the group, or bubblewrap, has not found what it should run
        raise NotStarted(f"{argv[0]} or what it starts is missing")
    return code, said.decode("utf-8", "replace").strip()


def _keep_end(stream: IO[bytes], said: bytearray) -> None:
    with stream:
        while piece := os.read(stream.fileno(), 65536):
            said += piece
            del said[: -job_log.MAXIMUM_BYTES]


def _environment(home: Path | None) -> dict[str, str]:
    """Nothing of ours leaks in: no peer, no path of the spool, no secret."""
    environment = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG": "C.UTF-8",
        "PYTHONDONTWRITEBYTECODE": "1",
        "ORT_DISABLE_TELEMETRY": "1",  # onnxruntime's Linux wheels send telemetry by default since 1.29
        # One thread each: sums in another order would give other last digits, and so other bytes.
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": "2",
    }
    if home is not None:
        environment["HOME"] = environment["TMPDIR"] = str(home)
    return environment
