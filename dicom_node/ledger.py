"""The store on a thread of its own, for the many threads of the receiver."""

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from dicom_node.spool import Spool
from dicom_node.store import Store

LOGGER = logging.getLogger(__name__)
T = TypeVar("T")


class Ledger:
    """The store, on a thread of its own: SQLite takes one writer at a time, and a connection belongs to its thread."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ledger")
        self._store: Store | None = None

    def call(self, work: Callable[[Store], T]) -> T:
        """Run `work(store)` on the store's thread and give its result, or raise its exception."""
        return self._thread.submit(self._run, work).result()

    def post(self, work: Callable[[Store], object]) -> None:
        """`call` without waiting for the end; what fails is logged."""

        def run() -> None:
            try:
                self._run(work)
            except Exception as error:  # noqa: BLE001 - nobody waits for it
                LOGGER.error("store.failed %s; an entry of the audit trail is missing", type(error).__name__)

        self._thread.submit(run)

    def _run(self, work: Callable[[Store], T]) -> T:
        if self._store is None:
            self._store = Store.open(self._spool.store)
        return work(self._store)

    def close(self) -> None:
        def end() -> None:
            if self._store is not None:
                self._store.close()

        self._thread.submit(end).result()
        self._thread.shutdown()
