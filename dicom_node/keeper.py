"""What a node does beside its work: the audit trail is written and sent on, and what is no longer needed is removed.

The worker's clock calls the `turns`; each has a store of its own. `on_record` is around the life of every process.
"""

import hashlib
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

from config.identity import VERSION
from config.settings import Settings
from dicom_node.audit import AuditEntry, AuditOutcome
from dicom_node.audit_trail import ANCHOR_SECONDS, AuditTrail
from dicom_node.spool import Spool
from dicom_node.storage import Cleaner
from dicom_node.store import Store
from dicom_node.syslog_out import Forwarder
from dicom_node.workitem import StoreBusy

LOGGER = logging.getLogger(__name__)
DAY_SECONDS = 86_400.0
LAST_SECONDS = 3.0  # for the collector to answer when a process ends
WRITE_SECONDS, FORWARD_SECONDS, ROOM_SECONDS = 1.0, 2.0, 15.0
_ENDS: dict[AuditOutcome, str] = {"done": "was told to end, and has", "failed": "ends with an error"}
Turn = tuple[Callable[[], bool], float]


class Keeper:
    """The turns of one worker. Nothing here keeps a study waiting: each runs beside the stages."""

    def __init__(self, settings: Settings, spool: Spool, clock: Callable[[], float] = time.time) -> None:
        self._settings, self._spool, self._clock = settings, spool, clock
        self._stores: dict[str, Store] = {}
        self._sender: Forwarder | None = None
        self._cleaner: tuple[Settings, Cleaner] | None = None  # and what it goes by

    @property
    def turns(self) -> list[Turn]:
        """What to call, and every how many seconds; True from one of them means: again, at once."""
        return [
            (self.write_audit, WRITE_SECONDS),
            (self.forward_audit, FORWARD_SECONDS),
            (self.anchor_audit, ANCHOR_SECONDS),
            (self.keep_room, ROOM_SECONDS),
        ]

    def go_on_with(self, settings: Settings) -> None:
        """Keep room by other settings. The trail and its collector stay as they were."""
        self._settings = settings

    def write_audit(self) -> bool:
        """Entries become lines of the trail."""
        return AuditTrail(self._store("write"), self._spool, self._settings, self._clock).write()

    def forward_audit(self) -> bool:
        """Lines go to the collector."""
        if self._sender is None:
            self._sender = Forwarder(self._store("forward"), self._spool, self._settings, self._clock)
        return self._sender.step()

    def anchor_audit(self) -> bool:
        """The end of the chain becomes a message of its own; files of the trail that are old enough go."""
        store = self._store("anchor")
        trail = AuditTrail(store, self._spool, self._settings, self._clock)
        trail.anchor()
        days = self._settings.audit.keep_days
        if not days:
            return False
        syslog = self._settings.audit.syslog
        sent = store.audit.sent(f"{syslog.host}:{syslog.port}") if syslog.host else None
        return trail.remove_old(self._clock() - days * DAY_SECONDS, sent)

    def keep_room(self) -> bool:
        """What is delivered, proved and old enough goes; sooner where the disk is low."""
        settings, made = self._settings, self._cleaner  # a reload, in another thread, may come at any moment
        if made is None or made[0] is not settings:
            made = self._cleaner = settings, Cleaner(self._store("room"), self._spool, settings, self._clock)
        return made[1].step()

    def close(self) -> None:
        """End the connection and the stores, once no turn runs any more."""
        if self._sender is not None:
            self._sender.settle()
        for store in self._stores.values():
            store.close()
        self._stores.clear()

    def _store(self, turn: str) -> Store:
        """A turn's own: the clock's threads take turns at it, one at a time."""
        if turn not in self._stores:
            self._stores[turn] = Store.open(self._spool.store, any_thread=True)
        return self._stores[turn]


@contextmanager
def on_record(
    settings: Settings, spool: Spool, process: str, *, forwards: bool = False, clock: Callable[[], float] = time.time
) -> Iterator[None]:
    """Start and end of a process ("serve", "receive", "work", "web") stand in the audit trail, and changed settings.

    `forwards`: at the end, the trail is sent on as far as that goes quickly.
    """
    begun = clock()
    _started(settings, spool, process, clock)
    outcome: AuditOutcome = "failed"
    try:
        yield
        outcome = "done"
    finally:
        LOGGER.info("process.stopped prognode %s %s", process, _ENDS[outcome])
        with suppress(StoreBusy, OSError):  # a full disk: the next start shows that there was an end
            store = Store.open(spool.store)
            store.vitals.ended(process, begun, clock())
            store.audit.add(AuditEntry(clock(), process, "node", "node.stop", outcome))
            trail = AuditTrail(store, spool, settings, clock)
            while trail.write():
                pass
            if forwards:
                syslog = settings.audit.syslog
                hurried = replace(syslog, timeout_seconds=min(syslog.timeout_seconds, LAST_SECONDS))
                sender = Forwarder(
                    store, spool, replace(settings, audit=replace(settings.audit, syslog=hurried)), clock
                )
                sender.step()
                sender.settle()
            store.close()


def _started(settings: Settings, spool: Spool, process: str, clock: Callable[[], float]) -> None:
    store = Store.open(spool.store)
    store.vitals.took_settings(process, VERSION, clock())
    before = store.audit.last("node.start", process)
    digests = {name: hashlib.sha256(repr(value).encode()).hexdigest()[:16] for name, value in vars(settings).items()}
    store.audit.add(AuditEntry(clock(), process, "node", "node.start", facts={"settings": digests}))
    if before is not None:
        known = before.facts.get("settings", {})
        changed = sorted(name for name, digest in digests.items() if known.get(name) != digest)
        if changed:
            detail = f"changed since the last start: {', '.join(changed)}"
            store.audit.add(AuditEntry(clock(), process, "node", "settings.changed", detail=detail))
    store.close()
