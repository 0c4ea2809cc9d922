"""The store on a thread of its own, for the many threads of the receiver."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from dicom_node.spool import Spool
from dicom_node.store import Store

T = TypeVar("T")


class Ledger:
    """The store, on a thread of its own: SQLite takes one writer at a time, and a connection belongs to its thread."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ledger")
        self._store: Store | None = None

    def call(self, work: Callable[[Store], T]) -> T:
        """Run `work(store)` on the store's thread and give its result, or raise its exception."""

        def run() -> T:
            if self._store is None:
                self._store = Store.open(self._spool.store)
            return work(self._store)

        return self._thread.submit(run).result()

    def close(self) -> None:
        def end() -> None:
            if self._store is not None:
                self._store.close()

        self._thread.submit(end).result()
        self._thread.shutdown()
