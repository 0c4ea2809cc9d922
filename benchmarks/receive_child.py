"""`prognode receive` that flushes nothing to the disk, for the benchmark: what safety costs.

The node itself has no such switch.
"""

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dicom_node import cli, database, spool


def _replace(
    self: spool.Spool, incoming: Path, descriptor: int, sop_instance_uid: str, digest: str, known: Callable[[], bool]
) -> bool:
    """Who flushes nothing needs no second thread to flush beside the first, and no second name."""
    os.replace(incoming, self.instance_path(sop_instance_uid, digest))
    return True


class _Careless(sqlite3.Connection):
    def execute(self, sql: str, *arguments: Any) -> sqlite3.Cursor:  # type: ignore[override]
        return super().execute(sql.replace("synchronous=FULL", "synchronous=OFF"), *arguments)


class _Sqlite:
    def __getattr__(self, name: str) -> Any:
        return getattr(sqlite3, name)

    @staticmethod
    def connect(path: Any, **options: Any) -> sqlite3.Connection:
        return sqlite3.connect(path, factory=_Careless, **options)


if __name__ == "__main__":
    os.fsync = lambda descriptor: None
    spool.Spool.keep_arrival = _replace  # type: ignore[method-assign]
    database.sqlite3 = _Sqlite()  # type: ignore[assignment]
    cli.app()
