"""What a job says, in a file beside its folders."""

import contextlib
import os
from collections import deque
from pathlib import Path
from typing import IO

MAXIMUM_BYTES = 524_288  # that are kept of the beginning, and as many of the end


def keep(stream: IO[bytes], path: Path) -> None:
    """Write what a job says to its log: the beginning as it comes, the end when it has ended; not gigabytes.

    A full disk costs the log alone: what is not read from its pipe would hold up the job.
    """
    written, left_out = 0, 0
    tail: deque[bytes] = deque()
    with stream, contextlib.closing(_Log(path)) as log:
        while piece := os.read(stream.fileno(), 65536):
            if written < MAXIMUM_BYTES:
                log.write(piece)
                written += len(piece)
                continue
            tail.append(piece)
            while sum(map(len, tail)) > MAXIMUM_BYTES:
                left_out += len(tail.popleft())
        if left_out:
            log.write(f"\n... {left_out} bytes are left out here ...\n".encode())
        for piece in tail:
            log.write(piece)


class _Log:
    """A file that says nothing of errors."""

    def __init__(self, path: Path) -> None:
        self._file: IO[bytes] | None = None
        with contextlib.suppress(OSError):
            self._file = path.open("wb", buffering=0)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def write(self, data: bytes) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.write(data)
