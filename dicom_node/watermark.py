"""How full the spool's disk is, and whether there is room for what is arriving, over all associations at once.

Leaf of the node: the settings and the standard library.
"""

import shutil
import threading
from dataclasses import dataclass
from pathlib import Path

from config.settings import Settings


@dataclass(frozen=True)
class Room:
    """Free space of the spool's disk in bytes, and the watermarks it is held against."""

    free: int
    total: int
    warn: int
    refuse: int

    @property
    def low(self) -> bool:
        """Time to warn; what may go goes sooner."""
        return self.free < self.warn

    @property
    def full(self) -> bool:
        """Nothing more is taken."""
        return self.free < self.refuse


def room(root: Path, settings: Settings) -> Room:
    """How full the disk of a spool is. Raises OSError."""
    usage = shutil.disk_usage(root)
    limits = settings.storage
    return Room(
        free=usage.free,
        total=usage.total,
        warn=max(limits.warn_free_bytes, int(usage.total * limits.warn_free_percent / 100)),
        refuse=max(settings.receive.reserve_disk_bytes, int(usage.total * limits.refuse_free_percent / 100)),
    )


class Disk:
    """Room promised to objects that are being written: what all of them may still write is kept free beside the limit.

    Each asks before it writes so many bytes, and gives them back when they are written (the disk knows of them then) or
    not wanted any more. So fifty at once cannot each find the same last gigabyte free.
    """

    def __init__(self, root: Path, settings: Settings) -> None:
        self._root, self._settings = root, settings
        self._lock = threading.Lock()
        self._promised = 0

    def go_on_with(self, settings: Settings) -> None:
        """Other watermarks from now on; what is promised stays promised."""
        self._settings = settings

    def take(self, count: int) -> bool:
        """Promise room for `count` bytes; False when there is not as much. Raises OSError."""
        seen = room(self._root, self._settings)
        with self._lock:
            if seen.free - self._promised - count < seen.refuse:
                return False
            self._promised += count
            return True

    def give(self, count: int) -> None:
        """What was promised is written, or not needed."""
        with self._lock:
            self._promised -= count
