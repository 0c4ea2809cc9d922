"""The store for the many threads of the receiver: one connection, one at a time, and one commit for all who wait."""

import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from dicom_node.instance import Instance
from dicom_node.spool import Spool
from dicom_node.store import Store

LOGGER = logging.getLogger(__name__)
T = TypeVar("T")


class _Waiting:
    """What a thread has brought to be committed, and what came of it; a Future would bring its own lock."""

    __slots__ = ("done", "error", "result", "work")

    def __init__(self, work: Callable[[Store], Any]) -> None:
        self.work = work
        self.done = False
        self.result: Any = None
        self.error: Exception | None = None


class Ledger:
    """The store, for any thread. SQLite takes one writer at a time, and each commit is a flush of the disk."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._turn = threading.Lock()
        self._waiting: deque[_Waiting] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ledger")  # for what nobody waits for
        self._store: Store | None = None

    def call(self, work: Callable[[Store], T]) -> T:
        """Run `work(store)` and give its result, or raise its exception."""
        with self._turn:
            return work(self._opened())

    def has(self, instance: Instance) -> bool:
        """Whether these very bytes were taken before: their file stays then, with the sender and syntax in its head."""
        uid, digest = instance.sop_instance_uid, instance.digest
        try:
            return self._spool.instance_path(uid, digest).exists() and self.call(lambda s: s.arrivals.has(uid, digest))
        except Exception:  # noqa: BLE001 - then it is kept as if it were new, and its row's commit says what is wrong
            return False

    def commit(self, work: Callable[[Store], T]) -> T:
        """`call` in one transaction with what other threads bring meanwhile; durable when this returns.

        `work` writes to the store and does nothing else: it runs again, alone, when something fails beside it.
        """
        mine = _Waiting(work)
        self._waiting.append(mine)
        with self._turn:  # whoever has the turn does the work of all who wait, and these find theirs done
            if not mine.done:
                waiting = [self._waiting.popleft() for _ in range(len(self._waiting))]
                if len(waiting) == 1 or not self._together(waiting):
                    for each in waiting:
                        self._alone(each)
        if mine.error is not None:
            raise mine.error
        result: T = mine.result
        return result

    def _together(self, waiting: list[_Waiting]) -> bool:
        """False when nothing was written."""
        try:
            store = self._opened()
            with store.transaction():
                results = [each.work(store) for each in waiting]
        except Exception:  # noqa: BLE001 - each will hear of its own when it runs alone
            return False
        for each, result in zip(waiting, results, strict=True):
            each.result, each.done = result, True
        return True

    def _alone(self, each: _Waiting) -> None:
        try:
            each.result = each.work(self._opened())
        except Exception as error:  # noqa: BLE001 - it is raised where it is waited for
            each.error = error
        each.done = True

    def post(self, work: Callable[[Store], object]) -> None:
        """`call` without waiting for the end; what fails is logged."""

        def run() -> None:
            try:
                self.call(work)
            except Exception as error:  # noqa: BLE001 - nobody waits for it
                LOGGER.error("store.failed %s; an entry of the audit trail is missing", type(error).__name__)

        self._thread.submit(run)

    def _opened(self) -> Store:
        if self._store is None:
            self._store = Store.open(self._spool.store, any_thread=True)
        return self._store

    def close(self) -> None:
        self._thread.shutdown()
        with self._turn:
            if self._store is not None:
                self._store.close()
