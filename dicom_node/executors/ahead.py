"""The next job's process, started while its images still arrive: half a second of Python and imports is over by then.

It is a job like every other: one process for one job, confined and limited in the same way. Until it is told to go,
its two folders are empty; they become the job's own by being renamed, which moves no mount: what is put into IN is
seen inside, read-only. Only with bubblewrap, where a job's folders are mounts.
"""

import contextlib
import select
import shutil
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from analysis.contract import LATER, READY
from config.settings import Job
from dicom_node.executors.contract import Ended, NotStarted
from dicom_node.executors.process import ProcessExecutor, Started, start

PATIENCE_SECONDS = 10.0  # with one that does not say that it is there; then another one is started
PREFIX = ".next-"  # of its folder beside those of jobs, which are named by keys


class AheadExecutor(ProcessExecutor):
    """Jobs as children of this process, one of them started before it is needed where the node says so."""

    def __init__(self, limits: Job, jobs: Path) -> None:
        """`jobs`: the folder that holds the jobs' folders; the runner that has the spool's lock uses it alone."""
        super().__init__(limits)
        self._jobs = jobs
        self._next: tuple[Started, Path] | None = None
        self._lock = threading.Lock()
        # A job dies with the thread that has started it (bwrap --die-with-parent); this one ends with the process.
        self._starter = ThreadPoolExecutor(1, "ahead")

    def get_ready(self) -> None:
        """A job may come soon: start its process, unless one waits already. One that cannot be started is no error."""
        with self._lock:
            if self._next is None and self.isolation.bubblewrap:
                with contextlib.suppress(NotStarted, OSError):
                    self._next = self._starter.submit(self._start).result()

    def stand_down(self) -> None:
        """None has come: give its memory back."""
        with self._lock:
            waiting, self._next = self._next, None
        if waiting is not None:
            _end(*waiting)

    def run(self, folder_in: Path, folder_out: Path, key: str) -> Ended:
        with self._lock:
            waiting, self._next = self._next, None
        if waiting is None:
            return super().run(folder_in, folder_out, key)
        started, place = waiting
        if not _is_there(started):
            _end(started, place)
            return super().run(folder_in, folder_out, key)
        try:
            _hand_over(place, folder_in, folder_out)
            _tell(started)
        except BaseException:
            _end(started, place)
            raise
        return started.run(folder_out, self.limits)

    def sweep(self) -> int:
        for folder in self._jobs.glob(f"{PREFIX}*"):
            shutil.rmtree(folder, ignore_errors=True)
        return super().sweep()

    def _start(self) -> tuple[Started, Path]:
        place = self._jobs / f"{PREFIX}{uuid.uuid4().hex}"
        for name in ("in", "out"):
            (place / name).mkdir(parents=True, mode=0o700)
        try:
            return start(place / "in", place / "out", self.limits, self.isolation, LATER), place
        except BaseException:
            shutil.rmtree(place, ignore_errors=True)
            raise


def _is_there(started: Started) -> bool:
    """Wait until it says so, for only then its folders are mounted; False for one that has ended while it waited."""
    said = started.child.stdout
    assert said is not None
    while select.select([said], [], [], PATIENCE_SECONDS)[0] and (line := said.readline()):
        if line == READY.encode() + b"\n":
            return started.child.poll() is None
    return False


def _hand_over(place: Path, folder_in: Path, folder_out: Path) -> None:
    """What the runner has laid out goes into the folders that are mounted, and these take the names of the job's."""
    for path in folder_in.iterdir():
        path.rename(place / "in" / path.name)
    for mounted, folder in ((place / "in", folder_in), (place / "out", folder_out)):
        folder.rmdir()
        mounted.rename(folder)
    place.rmdir()


def _tell(started: Started) -> None:
    assert started.child.stdin is not None
    with contextlib.suppress(BrokenPipeError), started.child.stdin as told:  # its end is seen as that of any job
        told.write(b"go\n")


def _end(started: Started, place: Path) -> None:
    started.end()
    for stream in (started.child.stdin, started.child.stdout):
        if stream is not None:
            with contextlib.suppress(BrokenPipeError):
                stream.close()
    shutil.rmtree(place, ignore_errors=True)
