"""What every executor promises: one call that runs a job to its end, the same for a child process and a container."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from config.settings import Job

GOLDEN_SECONDS = 120.0  # at least; a machine that needs longer for its jobs may need longer for this


@dataclass(frozen=True)
class Ended:
    """How a job ended: `exit_code` is negative for a signal, None when the wall clock ran out.

    `broke` says which promise it broke ("" for none): it was stopped for that, or what it left is not to be trusted.
    """

    exit_code: int | None
    broke: str = ""


class NotStarted(Exception):
    """No job can be started here and now, through no fault of a study; the text says why, and quotes no header."""


def for_a_tool(limits: Job) -> Job:
    """Limits for `ask`: what it runs is small, and a limit of memory too low for studies is not a bundle's fault."""
    return replace(limits, memory_bytes=max(limits.memory_bytes, Job().memory_bytes))


class Executor(Protocol):
    """Runs jobs. It holds no queue: the store is the truth, and whoever calls `run` waits for the end of the job.

    `text` says what confines a job, for the log, the System page and `prognode check`; `missing` names the promises
    that are not kept here. `read_only`: a job cannot change what it reads, so that IN may hold hard links to the spool.
    """

    @property
    def limits(self) -> Job: ...

    @property
    def text(self) -> str: ...

    @property
    def missing(self) -> tuple[str, ...]: ...

    @property
    def read_only(self) -> bool: ...

    @property
    def slots(self) -> int:
        """Jobs that it has room for side by side, where the settings leave that to it."""

    def run(self, folder_in: Path, folder_out: Path, key: str) -> Ended:
        """Run `analysis.run IN OUT` to its end or to one of its limits; several threads may be in it at once.

        `key` names the job (64 hexadecimal digits). What it says goes to LOG_FILE beside OUT. Raises NotStarted, and
        OSError for its folders.
        """

    def ask(self, module: str, folder: Path, seconds: float) -> tuple[int | None, str]:
        """Run a module of the analysis on a folder, confined as a job is: its exit status (None: out of time) and what
        it says. Raises NotStarted."""

    def sweep(self) -> int:
        """End what an earlier runner has left at work, and say how many; called at start, under the spool's lock."""
