"""CPU of a process and of all below it, also of those that it never waits for.

bubblewrap ends as soon as it knows how its job ended, and leaves the rest of it to init: the kernel adds what the job
used to no process of the node's. So each is looked at while it lives.
"""

import threading
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from benchmarks.trend import cpu_seconds

_EVERY_SECONDS = 0.05  # what a process uses between the last look and its end is lost


class Family:
    """Looks at a process and its descendants until the block ends."""

    def __init__(self, pid: int) -> None:
        self._pid, self._used, self._over = pid, dict[int, float](), threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Family":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def seconds(self) -> float:
        """CPU of all that have lived so far."""
        self._look()
        return sum(self._used.values())

    def _watch(self) -> None:
        while not self._over.wait(_EVERY_SECONDS):
            self._look()

    def _look(self) -> None:
        with self._lock:
            for pid in {*self._used, *_below(self._pid)}:
                self._used[pid] = max(self._used.get(pid, 0.0), cpu_seconds(pid, of_children=False))


def _below(pid: int) -> Iterator[int]:
    yield pid
    try:
        children = [path.read_text().split() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    except OSError:  # it has just ended
        return
    for child in chain.from_iterable(children):
        yield from _below(int(child))
