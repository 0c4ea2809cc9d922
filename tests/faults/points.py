"""Points at which a node can be stopped or hindered: everything that makes something durable, or leaves the machine.

Installed in the node's own process. A point has a name, which several moments may share: "fsync incoming" is hit once
for each object that arrives. A trap acts at the n-th hit of one name, so that it strikes the same act in every run.
"""

import errno
import os
import random
import signal
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pynetdicom.association import Association

from dicom_node import database, hl7_out

DISK_ERRORS = {"ENOSPC": errno.ENOSPC, "EIO": errno.EIO, "EROFS": errno.EROFS}
SQL_ERRORS = {"busy": "database is locked", "full": "database or disk is full"}
HINDERED_SECONDS = 0.3  # how long a full disk stays full
LONGEST_SOON_SECONDS = 0.1
WRITES = ("INSERT", "UPDATE", "DELETE", "COMMIT", "REPLACE")


@dataclass(frozen=True)
class Trap:
    """What happens at the `at`-th hit (from 1) of the point `name`; without a name the points are only written down.

    `action`: "kill" (before the act), "kill after", "kill soon" (at a random moment after it), "freeze" (SIGSTOP before
    it), "torn" (SIGSTOP after it, with the store's log as it was before kept beside), a key of DISK_ERRORS or
    SQL_ERRORS.
    """

    name: str = ""
    at: int = 0
    action: str = ""


class Points:
    """Counts hits, writes their names down, and springs the trap. `struck` is a file that says that it has."""

    def __init__(self, trap: Trap, log: Path, store: Path) -> None:
        self._trap, self._log, self._struck = trap, log.open("a", buffering=1), log.with_name("struck")
        self._wal, self._wal_before = store.with_name(f"{store.name}-wal"), log.with_name("wal-before")
        self._hits: Counter[str] = Counter()
        self._lock = threading.RLock()
        self._until = 0.0

    def hit(self, name: str, work: Callable[[], Any]) -> Any:
        """Do `work`, which is the point `name`; or what the trap says."""
        action = self._trap.action
        with self._lock:
            self._log.write(f"{name}\n")
            self._hits[name] += 1
            sprung = (name, self._hits[name]) == (self._trap.name, self._trap.at)
            if sprung:
                self._before(action)
            if sprung and action == "torn":  # nobody else commits meanwhile: what is torn is this one
                return self._after(action, work())
        if time.monotonic() < self._until:
            self._hinder(name)
        done = work()
        return self._after(action, done) if sprung else done

    def _before(self, action: str) -> None:
        if action in DISK_ERRORS or action in SQL_ERRORS:
            self._until = time.monotonic() + HINDERED_SECONDS
            return
        self._struck.touch()
        if action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif action == "freeze":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif action == "torn":
            self._wal_before.write_bytes(self._wal.read_bytes())

    def _after(self, action: str, done: Any) -> Any:
        if action == "kill after":
            os.kill(os.getpid(), signal.SIGKILL)
        elif action == "torn":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif action == "kill soon":
            moment = random.Random(f"{self._trap.name} {self._trap.at}").uniform(0.0, LONGEST_SOON_SECONDS)
            killer = threading.Timer(moment, os.kill, (os.getpid(), signal.SIGKILL))
            killer.daemon = True
            killer.start()
        return done

    def _hinder(self, name: str) -> None:
        action = self._trap.action
        if action in SQL_ERRORS and name.startswith("sql"):
            self._struck.touch()
            raise sqlite3.OperationalError(SQL_ERRORS[action])
        if action in DISK_ERRORS and name.split()[0] in ("replace", "fsync", "link"):
            self._struck.touch()
            raise OSError(DISK_ERRORS[action], os.strerror(DISK_ERRORS[action]))


def install(trap: Trap, spool: Path, log: Path) -> None:
    """Put the points into this process."""
    points = Points(trap, log, spool / "store.sqlite")
    root = str(spool.resolve())

    def kind(path: Any) -> str:
        """The folder of the spool that a path lies in."""
        text = os.fspath(path) if not isinstance(path, int) else os.readlink(f"/proc/self/fd/{path}")
        return text[len(root) + 1 :].split("/")[0] if str(text).startswith(root + "/") else ""

    def in_spool(name: str, real: Callable[..., Any], place: int) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            where = kind(arguments[place])
            work = lambda: real(*arguments, **options)  # noqa: E731
            return points.hit(f"{name} {where}", work) if where else work()

        return call

    def everywhere(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *arguments, **options: points.hit(name, lambda: real(*arguments, **options))

    for name, place in (("replace", 1), ("fsync", 0), ("link", 1)):
        setattr(os, name, in_spool(name, getattr(os, name), place))
    database.sqlite3 = _sqlite_with(points)  # type: ignore[assignment]
    Association.send_c_store = everywhere("send", Association.send_c_store)  # type: ignore[method-assign]
    hl7_out.exchange = everywhere("message", hl7_out.exchange)


def _sqlite_with(points: Points) -> Any:
    """The module sqlite3, with connections whose durable statements are points."""

    class Connection(sqlite3.Connection):
        about = ""  # the first table that the open transaction writes to

        def execute(self, sql: str, *arguments: Any) -> sqlite3.Cursor:  # type: ignore[override]
            verb = sql.split(None, 1)[0].upper()
            run = super().execute
            if verb not in WRITES:
                return run(sql, *arguments)
            if self.in_transaction and verb != "COMMIT":  # durable with its COMMIT
                self.about = self.about or _table(sql)
                return run(sql, *arguments)
            about, self.about = self.about or _table(sql), ""
            if not about:  # the transaction has only read
                return run(sql, *arguments)
            return points.hit(f"sql {verb} {about}", lambda: run(sql, *arguments))  # type: ignore[no-any-return]

        def executemany(self, sql: str, *arguments: Any) -> sqlite3.Cursor:  # type: ignore[override]
            self.about = self.about or _table(sql)
            return super().executemany(sql, *arguments)

    class _Sqlite:
        def __getattr__(self, name: str) -> Any:
            return getattr(sqlite3, name)

        @staticmethod
        def connect(path: Any, **options: Any) -> sqlite3.Connection:
            return sqlite3.connect(path, factory=Connection, **options)

    return _Sqlite()


def _table(sql: str) -> str:
    """The table that a statement writes to.

    >>> _table("INSERT OR REPLACE INTO vital (name) VALUES (?)"), _table("UPDATE item SET a = 1"), _table("COMMIT")
    ('vital', 'item', '')
    """
    words = sql.replace("(", " ").split()
    upper = [word.upper() for word in words[:6]]
    before = next((word for word in ("INTO", "FROM", "UPDATE") if word in upper), None)
    return words[upper.index(before) + 1] if before else ""
