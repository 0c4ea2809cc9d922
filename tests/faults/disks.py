"""Disks that fail as disks do: power cuts, really full, really read-only, a log torn in the middle. Needs root."""

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.faults.rig import Rig
from tests.small_disk import fill, small_disk

SECTOR_BYTES = 512
FULL_SECONDS = 0.7
MEGABYTES = 64


class Power:
    """A disk whose unsynced pages can be lost: ext4 on a loop device."""

    def __init__(self, folder: Path) -> None:
        self.image, self.mount = folder / "disk.img", folder / "disk"
        self.mount.mkdir(parents=True)
        with self.image.open("wb") as stream:
            stream.truncate(MEGABYTES << 20)
        _run("mkfs.ext4", "-q", str(self.image))
        _run("mount", "-o", "loop", str(self.image), str(self.mount))

    def cut(self, stop: Callable[[], object]) -> None:
        """What the disk holds at this moment is all that is left: pages not yet written are gone.

        `stop` ends who writes to it, and is called once that moment is kept.
        """
        after = self.image.with_suffix(".after")
        shutil.copyfile(self.image, after)
        stop()
        _run("umount", str(self.mount))
        os.replace(after, self.image)
        _run("mount", "-o", "loop", str(self.image), str(self.mount))  # replays the journal

    def close(self) -> None:
        _run("umount", "-l", str(self.mount))


@contextmanager
def power(folder: Path) -> Iterator[Power]:
    disk = Power(folder)
    try:
        yield disk
    finally:
        disk.close()


class Small:
    """A small disk that can be filled to the last byte, or be read-only."""

    def __init__(self, mount: Path) -> None:
        self.mount = mount

    def full_for_a_while(self, parts: Rig) -> None:
        """The frozen node goes on with no byte free."""
        filler = fill(self.mount, 0)
        parts.thaw()
        end = time.monotonic() + FULL_SECONDS
        while time.monotonic() < end and parts.running:
            time.sleep(0.02)
        filler.unlink()

    def read_only_at_the_next_start(self, parts: Rig) -> None:
        """The node is started once on a disk that it cannot write to, and sent what is missing."""
        parts.stop()
        _run("mount", "-o", "remount,ro", str(self.mount))
        if parts.start():
            parts.send()
        parts.stop()
        _run("mount", "-o", "remount,rw", str(self.mount))


@contextmanager
def small(folder: Path) -> Iterator[Small]:
    with small_disk(folder / "disk", MEGABYTES) as mount:
        yield Small(mount)


def torn(parts: Rig) -> None:
    """Of the last commit, which nobody has heard of yet, half of the sectors of SQLite's log were written."""
    parts.stop()
    log = parts.spool_root / "store.sqlite-wal"
    before, after = (parts.folder / "wal-before").read_bytes(), log.read_bytes()
    starts = range(0, len(after), SECTOR_BYTES)
    changed = [at for at in starts if before[at : at + SECTOR_BYTES] != after[at : at + SECTOR_BYTES]]
    whole = bytearray(after)
    for at in changed[len(changed) // 2 :]:
        whole[at : at + SECTOR_BYTES] = before[at : at + SECTOR_BYTES].ljust(SECTOR_BYTES, b"\0")
    log.write_bytes(whole)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=60)
