"""What a job leaves in OUT, taken with care: it may have left links, pipes, devices, or files without end."""

import contextlib
import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from dicom_node.executors.sandbox import MAXIMUM_FILES

PIECE_BYTES = 1 << 20


class Unfit(Exception):
    """A file of the job's that is not taken; the text names it and says why."""


def read(folder: Path, name: str, most: int) -> bytes | None:
    """A file that a job has left; None when there is none. Raises Unfit for anything but a plain file of that size."""
    stream = opened(folder, name)
    if stream is None:
        return None
    with stream:
        return b"".join(_pieces(stream, name, most))


def take(folder: Path, name: str, most: int, target: Path) -> bool:
    """Copy a file that a job has left to `target`; False when there is none. Raises Unfit and OSError."""
    stream = opened(folder, name)
    if stream is None:
        return False
    with stream:
        pieces = _pieces(stream, name, most)
        with target.open("xb") as copy:
            for piece in pieces:
                copy.write(piece)
    return True


def opened(folder: Path, name: str) -> IO[bytes] | None:
    """A file that a job has left, to be read; None when there is none. Raises Unfit for anything but a plain file."""
    try:
        descriptor = os.open(folder / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Unfit(f"{name} is no plain file ({error.strerror})") from None
    status = os.fstat(descriptor)  # before fdopen, which takes no folder
    if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
        os.close(descriptor)
        raise Unfit(f"{name} is no plain file of the job's own")
    return os.fdopen(descriptor, "rb")


def _pieces(stream: IO[bytes], name: str, most: int) -> Iterator[bytes]:
    size = os.fstat(stream.fileno()).st_size
    if size > most:
        raise Unfit(f"{name} has {size} bytes; {most} are the most")
    return _read(stream, size)


def _read(stream: IO[bytes], left: int) -> Iterator[bytes]:
    """As much as the file had when it was looked at: where a process outlives its job, it may still write."""
    while piece := stream.read(min(PIECE_BYTES, left)):
        left -= len(piece)
        yield piece


def used(folder: Path, most: int) -> int:
    """Bytes on the disk in a folder and all below it, links not followed.

    More than MAXIMUM_FILES entries, folders too deep to be looked into, or closed by a user who is not ours, count as
    more than `most`.
    """
    total, entries, left = 0, 0, [folder]
    while left:
        at = left.pop()
        try:
            with os.scandir(at) as found:
                for entry in found:
                    entries += 1
                    if entries > MAXIMUM_FILES:
                        return most + 1
                    with contextlib.suppress(FileNotFoundError):
                        total += entry.stat(follow_symlinks=False).st_blocks * 512
                    if entry.is_dir(follow_symlinks=False):
                        left.append(Path(entry.path))
        except FileNotFoundError:
            continue
        except PermissionError:  # closed by the job; if it is our user, what it holds came through while it was open
            with contextlib.suppress(FileNotFoundError, PermissionError):  # gone meanwhile, or one above it is closed
                if at.lstat().st_uid != os.geteuid():
                    return most + 1
        except OSError:
            return most + 1
    return total


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder, by its path in it; links and the like by what they are."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink() or not path.is_file():
            found[name] = f"mode {path.lstat().st_mode:o}"
        else:
            with path.open("rb") as stream:
                found[name] = hashlib.file_digest(stream, "sha256").hexdigest()
    return found
