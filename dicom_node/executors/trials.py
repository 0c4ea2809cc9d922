"""Trials and golden cases beside the jobs: a runner that starts must not take those of a living `prognode check` away.

Whoever has one at work holds the folder that they lie in in common; they are swept only by who can have it alone.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dicom_node.executors.contract import NotStarted


@contextmanager
def at_work(place: Path | None) -> Iterator[None]:
    """Around a trial or a golden case; without a place nobody sweeps it. Raises NotStarted."""
    if place is None:
        yield
        return
    with _held(place, fcntl.LOCK_SH):
        yield


@contextmanager
def swept(place: Path) -> Iterator[bool]:
    """Around their sweep: False where one is at work, and none is to be touched; the next start looks again.

    Raises NotStarted.
    """
    with _held(place, fcntl.LOCK_EX | fcntl.LOCK_NB) as alone:
        yield alone


@contextmanager
def _held(place: Path, kind: int) -> Iterator[bool]:
    """The lock goes with the descriptor, also where its process is killed."""
    try:
        descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise NotStarted(f"{place}: {error.strerror}") from error
    try:
        yield _locked(descriptor, kind)
    finally:
        os.close(descriptor)


def _locked(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind)
    except OSError:  # another one has it, or this file system has no locks
        return False
    return True
