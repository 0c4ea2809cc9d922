"""A disk of the test's own that can be filled to the last byte: a tmpfs, where one may be mounted."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """A disk of so many megabytes at `folder`; skips the test where nothing can be mounted."""
    folder.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=0700", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("a file system cannot be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path, left: int) -> Path:
    """A file that leaves just so many bytes free."""
    filler = folder / "filler"
    with filler.open("wb") as stream:
        missing = shutil.disk_usage(folder).free - left
        while missing > 0:
            missing -= stream.write(b"\0" * min(missing, 1 << 20))
    return filler
