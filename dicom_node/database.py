"""The node's SQLite file: connection, transactions and forward migrations. Only `store` and `deliveries` use it.

WAL with synchronous=FULL: what is acknowledged to a sender survives a power cut. Read-then-write stands inside
BEGIN IMMEDIATE: a deferred BEGIN loses with "database is locked" as soon as another connection has written.
"""

import logging
import os
import shutil
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

from dicom_node.workitem import ConfigError, StoreBusy, StoreDamaged

LOGGER = logging.getLogger(__name__)
SCHEMA_VERSION = 2
MIGRATION_BYTES = 64_000_000  # beside twice the store's size


class _Available:
    """Around each statement: SQLite's errors become StoreBusy and StoreDamaged. (A generator takes longer to enter.)"""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, sqlite3.OperationalError):
            raise StoreBusy(
                f"the store cannot be used: {error}", "check the spool's disk and other processes"
            ) from error
        if type(error) is sqlite3.DatabaseError:  # its subclasses say that a statement was wrong, not the file
            raise StoreDamaged(
                f"the store is damaged ({error}): stop the node, keep a copy of the spool, then: prognode restore"
            ) from error


_available = _Available()


class Database:
    """One connection; belongs to the thread that opened it. Raises ConfigError for a file that is no store of ours.

    `any_thread` is for a caller that uses it from several threads, but never from two at a time. `frozen` opens a copy
    that nobody writes to, and writes nothing itself: no migration, no file beside it.
    """

    def __init__(self, path: Path, *, any_thread: bool = False, frozen: bool = False) -> None:
        name = f"{path.absolute().as_uri()}?mode=ro&immutable=1" if frozen else str(path)
        connection = sqlite3.connect(
            name, timeout=30, isolation_level=None, check_same_thread=not any_thread, uri=frozen
        )
        pragmas = ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=30000", "secure_delete=ON")
        try:
            for pragma in () if frozen else pragmas:
                connection.execute(f"PRAGMA {pragma}")
            self.connection = connection
            if not frozen:
                self._migrate(path)
        except sqlite3.OperationalError as error:
            connection.close()
            raise StoreBusy(f"{path.name} cannot be opened: {error}", "check the spool's disk") from error
        except StoreBusy:
            connection.close()
            raise
        except (sqlite3.DatabaseError, ConfigError) as error:
            connection.close()
            if isinstance(error, ConfigError):
                raise
            raise ConfigError(
                f"{path} is not a store of Prognode ({error}); bring back a backup (prognode restore), or move the "
                "file away to begin with an empty store"
            ) from error

    def close(self) -> None:
        self.connection.close()

    @contextmanager
    def immediate(self) -> Iterator[None]:
        """A write transaction; rolled back when the block raises. Inside another one it is a part of that."""
        nested = self.connection.in_transaction
        if nested:
            yield
            return
        with _available:
            self.connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            with _available:
                self.connection.execute("COMMIT")
        except BaseException:
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")
            raise

    def execute(self, sql: str, arguments: Sequence[Any] | Mapping[str, Any] = ()) -> int:
        """Run a statement that returns no rows; gives the number of rows it changed."""
        with _available:
            return self.connection.execute(sql, arguments).rowcount

    def insert(self, table: str, row: Mapping[str, Any]) -> int:
        """Insert a row whose keys are column names of ours; gives its id."""
        names, marks = ", ".join(row), ", ".join("?" * len(row))
        with _available:
            cursor = self.connection.execute(f"INSERT INTO {table} ({names}) VALUES ({marks})", list(row.values()))
        return int(cursor.lastrowid or 0)

    def many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        with _available:
            self.connection.executemany(sql, rows)

    def rows(self, sql: str, arguments: Sequence[Any] | Mapping[str, Any] = ()) -> list[dict[str, Any]]:
        """Rows of a query, or of an UPDATE ... RETURNING (committed at once, outside a transaction)."""
        with _available:
            cursor = self.connection.execute(sql, arguments)
            names = [column[0] for column in cursor.description]
            return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def copy(self, target: Path) -> None:
        """Write a consistent copy of the store while others write to it; under its name only once it is durable.

        One file, which needs no others beside it. Raises OSError or StoreBusy.
        """
        with _available:
            _copy(self.connection, target)

    def well(self) -> list[str]:
        """What SQLite finds wrong with the file; [] when it is well."""
        with _available:
            found = [str(row[0]) for row in self.connection.execute("PRAGMA integrity_check(20)")]
            broken = self.connection.execute("PRAGMA foreign_key_check").fetchall()
        return [text for text in found if text != "ok"] + [f"a row of {row[0]} refers to none" for row in broken[:20]]

    def _migrate(self, path: Path) -> None:
        if self._version() == SCHEMA_VERSION:
            return  # opened for each request of the page: not a write transaction each time
        with self.immediate():
            version = self._version()
            if version > SCHEMA_VERSION:
                older = _kept(path, SCHEMA_VERSION)
                known = f" ({older.name}, beside it)" if older.exists() else ""
                raise ConfigError(
                    f"{path.name}: schema {version} is newer than this version of Prognode ({SCHEMA_VERSION}); "
                    f"install the newer version again, or restore the backup made before it{known}"
                )
            if 0 < version < SCHEMA_VERSION:
                _keep_a_copy(path, version)
            for number in range(version + 1, SCHEMA_VERSION + 1):
                script = resources.files("dicom_node").joinpath(f"schema/{number:03d}.sql").read_text("utf-8")
                for statement in _statements(script):  # executescript would commit the transaction
                    self.connection.execute(statement)
                self.connection.execute(f"PRAGMA user_version={number}")
        if version:
            LOGGER.info(
                "store.migrated from schema %d to %d; as it was: %s", version, SCHEMA_VERSION, _kept(path, version)
            )

    @property
    def version(self) -> int:
        """The schema that the file has."""
        with _available:
            return self._version()

    def _version(self) -> int:
        return int(self.connection.execute("PRAGMA user_version").fetchone()[0])


def _kept(path: Path, version: int) -> Path:
    """Where the store lies as it was before it left this schema."""
    return path.with_name(f"{path.name}.schema-{version}")


def _keep_a_copy(path: Path, version: int) -> None:
    """Before a migration. It holds the write lock, so another connection reads what was last committed."""
    size = sum(each.stat().st_size for each in (path, path.with_name(f"{path.name}-wal")) if each.exists())
    needed, free = 2 * size + MIGRATION_BYTES, shutil.disk_usage(path.parent).free
    if free < needed:
        raise ConfigError(
            f"{path.name}: to go from schema {version} to {SCHEMA_VERSION}, a copy of it is made first, and that needs "
            f"{needed / 1e6:.0f} MB; {free / 1e6:.0f} MB are free: free some space on the spool's disk"
        )
    source = sqlite3.connect(path, timeout=30)
    try:
        _copy(source, _kept(path, version))
    finally:
        source.close()


def _copy(source: sqlite3.Connection, target: Path) -> None:
    draft = target.with_name(f".{target.name}.draft")
    draft.unlink(missing_ok=True)
    os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    try:
        made = sqlite3.connect(draft, isolation_level=None)
        try:
            source.backup(made)  # in one step: a writer in between cannot make it begin again
            made.execute("PRAGMA journal_mode=DELETE")  # else it could not be read from where nothing can be written
        finally:
            made.close()
        with draft.open("rb") as stream:
            os.fsync(stream.fileno())
        os.replace(draft, target)
    finally:
        draft.unlink(missing_ok=True)
    folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _statements(script: str) -> Iterator[str]:
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
