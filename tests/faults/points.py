"""Points at which a node can be stopped or hindered: everything that makes something durable, or leaves the machine.

Installed in the node's own process. Each point has a name; the n-th hit of all points, in order, is where a trap acts.
"""

import errno
import os
import signal
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pynetdicom.association import Association

from dicom_node import database

DISK_ERRORS = {"ENOSPC": errno.ENOSPC, "EIO": errno.EIO, "EROFS": errno.EROFS}
FULL_SECONDS = 0.3  # how long a full disk stays full
WRITES = ("INSERT", "UPDATE", "DELETE", "COMMIT", "REPLACE")


@dataclass(frozen=True)
class Trap:
    """What happens at the point with this number (from 1); 0: nothing, the points are only written down.

    `action` is "kill" (before the point), "kill after", "freeze" (SIGSTOP before it, for a power cut), a key of
    DISK_ERRORS, "busy" or "full" (SQLite).
    """

    at: int = 0
    action: str = ""


class Points:
    """Counts hits, writes their names down, and springs the trap."""

    def __init__(self, trap: Trap, log: Path) -> None:
        self._trap, self._log = trap, log.open("a", buffering=1)
        self._count = 0
        self._lock = threading.Lock()
        self._until = 0.0

    def hit(self, name: str, work: Callable[[], Any]) -> Any:
        """Do `work`, which is the point `name`; or what the trap says."""
        with self._lock:
            self._count += 1
            self._log.write(f"{name}\n")
            sprung = self._count == self._trap.at
        action = self._trap.action
        disk = action in DISK_ERRORS and not name.startswith("sql")
        if sprung and action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if sprung and action == "freeze":
            os.kill(os.getpid(), signal.SIGSTOP)
        if sprung and (disk or action in ("busy", "full")):
            self._until = time.monotonic() + FULL_SECONDS
        if time.monotonic() < self._until:
            self._hinder(name, disk)
        done = work()
        if sprung and action == "kill after":
            os.kill(os.getpid(), signal.SIGKILL)
        return done

    def _hinder(self, name: str, disk: bool) -> None:
        if disk:
            number = DISK_ERRORS[self._trap.action]
            raise OSError(number, os.strerror(number))
        if name.startswith("sql"):
            text = "database is locked" if self._trap.action == "busy" else "database or disk is full"
            raise sqlite3.OperationalError(text)


def install(trap: Trap, spool: Path, log: Path) -> None:
    """Put the points into this process."""
    points = Points(trap, log)
    root = str(spool.resolve())

    def kind(path: Any) -> str:
        """The folder of the spool that a path lies in."""
        text = os.fspath(path) if not isinstance(path, int) else os.readlink(f"/proc/self/fd/{path}")
        return text[len(root) + 1 :].split("/")[0] if str(text).startswith(root + "/") else ""

    def wrapped(name: str, real: Callable[..., Any], place: int) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            where = kind(arguments[place])
            work = lambda: real(*arguments, **options)  # noqa: E731
            return points.hit(f"{name} {where}", work) if where else work()

        return call

    for name, place in (("replace", 1), ("fsync", 0), ("link", 1)):
        setattr(os, name, wrapped(name, getattr(os, name), place))

    class Connection(sqlite3.Connection):
        def execute(self, sql: str, *arguments: Any) -> sqlite3.Cursor:  # type: ignore[override]
            words = sql.split(None, 3)
            verb = words[0].upper()
            # Inside a transaction nothing is durable before its COMMIT.
            durable = verb in WRITES and (verb == "COMMIT" or not self.in_transaction)
            run = super().execute
            if not durable:
                return run(sql, *arguments)
            what = words[1] if verb == "UPDATE" else words[2] if len(words) > 2 else ""
            return points.hit(f"sql {verb} {what}".rstrip(), lambda: run(sql, *arguments))  # type: ignore[no-any-return]

    real_connect = sqlite3.connect

    class _Sqlite:
        def __getattr__(self, name: str) -> Any:
            return getattr(sqlite3, name)

        @staticmethod
        def connect(path: Any, **options: Any) -> sqlite3.Connection:
            return real_connect(path, factory=Connection, **options)

    database.sqlite3 = _Sqlite()  # type: ignore[assignment]
    send = Association.send_c_store

    def send_c_store(self: Association, *arguments: Any, **options: Any) -> Any:
        return points.hit("send", lambda: send(self, *arguments, **options))

    Association.send_c_store = send_c_store
