"""Ways in which the job engine is not there: each is what the executor really meets, not an exception of its own."""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from config.settings import Job
from dicom_node.executors import process
from dicom_node.executors.contract import Ended
from dicom_node.executors.sandbox import Isolation
from tests.faults.child import Run

_RUN, _CONFINED = process.run, process._confined


@contextmanager
def in_place_of(name: str, other: Any) -> Iterator[None]:
    """`process.<name>` is `other` inside the block."""
    real = getattr(process, name)
    setattr(process, name, other)
    try:
        yield
    finally:
        setattr(process, name, real)


def _missing(in_cgroup: bool) -> Run:
    """Without a control group the kernel says that the program is gone, with one the shell that enters it does."""

    def run(folder_in: Path, folder_out: Path, limits: Job, isolation: Isolation) -> Ended:
        with in_place_of("command", lambda *_: ["/nowhere/bwrap"]):
            groups = isolation.groups if in_cgroup else ()
            return _RUN(folder_in, folder_out, limits, replace(isolation, groups=groups))

    return run


def _no_process(*arguments: Any) -> Ended:
    """fork(2) fails: the machine has no process or memory to give."""

    def popen(*_: object, **__: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    with in_place_of("subprocess", SimpleNamespace(**{**vars(subprocess), "Popen": popen})):
        return _RUN(*arguments)


def _job(script: str, **limits: float) -> Run:
    """In the real sandbox, with the real limits, but another program."""

    def run(folder_in: Path, folder_out: Path, given: Job, isolation: Isolation) -> Ended:
        def command(inside: Path, outside: Path, all_limits: Job, where: Isolation) -> list[str]:
            return _CONFINED(where, all_limits, [inside], outside, ["sh", "-c", script])

        with in_place_of("command", command):
            return _RUN(folder_in, folder_out, replace(given, **limits), isolation)  # type: ignore[arg-type]

    return run


FAULTS: dict[str, Callable[..., Ended]] = {
    "bubblewrap is gone": _missing(in_cgroup=False),
    "bubblewrap is gone, with cgroup": _missing(in_cgroup=True),
    "no process to be had": _no_process,
    "jobs are killed": _job("kill -9 $$"),
    "jobs say: try again": _job("exit 75"),
    "jobs run out of time": _job("sleep 60", wall_clock_seconds=0.2),
    "jobs leave half a result": _job("printf '{' > result.json"),
    "jobs crash": _job("exit 70"),
}
