"""The next job's process, started while its images still arrive: half a second of Python and imports is over by then.

It is a job like every other: one process for one job, confined and limited in the same way. Until it is told to go,
its two folders are empty; they become the job's own by being renamed, which moves no mount: what is put into IN is
seen inside, read-only. Only with bubblewrap, where a job's folders are mounts.
"""

import contextlib
import logging
import os
import select
import shutil
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from analysis.contract import LATER, READY
from config.settings import Job
from dicom_node.executors.contract import Ended, NotStarted
from dicom_node.executors.process import ProcessExecutor, Started, start

LOGGER = logging.getLogger(__name__)
PATIENCE_SECONDS = 10.0  # with one that does not say that it is there; then another one is started
AGAIN_SECONDS = 60.0  # until a start ahead is tried again where one has failed
FOLDERS = ("in", "out")
PREFIX = ".next-"  # of its folder beside those of jobs, which are named by keys


class AheadExecutor(ProcessExecutor):
    """Jobs as children of this process, one of them started before it is needed where the node says so."""

    def __init__(self, limits: Job, jobs: Path) -> None:
        """`jobs`: the folder that holds the jobs' folders; the runner that has the spool's lock uses it alone.

        Raises NotStarted.
        """
        super().__init__(limits)
        self._jobs = jobs
        self._next: tuple[Started, Path] | None = None
        self._fails, self._again = False, 0.0  # whether the last start has failed; when the next one is tried
        self._lock = threading.Lock()
        # A job dies with the thread that has started it (bwrap --die-with-parent); this one ends with the process.
        self._starter = ThreadPoolExecutor(1, "ahead")
        try:
            self._starter.submit(int)  # a thread that could begin only later might leave its work in the queue
        except RuntimeError as error:
            raise NotStarted("no thread is to be had") from error

    @property
    def can(self) -> bool:
        """Whether anything can be started ahead here: without bubblewrap there are no mounts."""
        return self.isolation.bubblewrap

    def get_ready(self) -> None:
        """A job may come soon: start its process, unless one waits already; only where it `can`.

        One that cannot be started is no error.
        """
        with self._lock:
            if self._next is not None or time.monotonic() < self._again:
                return
            try:
                self._next = self._starter.submit(self._start).result()
                self._fails = False
            except (NotStarted, OSError) as error:
                self._again = time.monotonic() + AGAIN_SECONDS
                if not self._fails:
                    why = error.strerror if isinstance(error, OSError) else error
                    LOGGER.warning("job.not_ahead jobs start only when their images are there, and later: %s", why)
                self._fails = True

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
        try:
            there = _is_there(started) and all((place / name).is_dir() for name in FOLDERS)
            if there:
                _hand_over(place, folder_in, folder_out)
                _tell(started)
        except BaseException:
            _end(started, place)
            raise
        if there:
            return started.run(folder_out, self.limits)
        _end(started, place)
        return super().run(folder_in, folder_out, key)

    def sweep(self) -> int:
        for folder in self._jobs.glob(f"{PREFIX}*"):
            shutil.rmtree(folder, ignore_errors=True)
        return super().sweep()

    def _start(self) -> tuple[Started, Path]:
        place = self._jobs / f"{PREFIX}{uuid.uuid4().hex}"
        try:
            for name in FOLDERS:
                (place / name).mkdir(parents=True, mode=0o700)
            return start(place / "in", place / "out", self.limits, self.isolation, LATER), place
        except BaseException:
            shutil.rmtree(place, ignore_errors=True)
            raise


def _is_there(started: Started) -> bool:
    """Wait until it says so, for only then its folders are mounted; False for one that has ended while it waited."""
    assert started.child.stdout is not None
    pipe, said, wanted = started.child.stdout.fileno(), b"", READY.encode() + b"\n"
    readable = select.poll()  # select.select takes no descriptor above 1023
    readable.register(pipe, select.POLLIN)
    end = time.monotonic() + PATIENCE_SECONDS
    while wanted not in said:  # a warning without an end of line may stand before it
        left = end - time.monotonic()
        if left <= 0 or not readable.poll(left * 1000) or not (piece := os.read(pipe, 65536)):
            return False
        said = said[-len(wanted) :] + piece
    return started.child.poll() is None


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
