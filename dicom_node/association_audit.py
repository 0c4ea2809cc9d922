"""What the audit trail hears of associations: who was let in, who was not, and what each brought, study by study."""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace

from dicom_node.audit import AuditEntry
from dicom_node.limits import Buckets
from dicom_node.store import Store

HOUR_SECONDS = 3600.0
Post = Callable[[Callable[[Store], object]], None]  # Ledger.post


class AssociationAudit:
    """Adds the entries of one receiver. `post` runs on the store's thread: no caller waits for its entry."""

    def __init__(self, post: Post, clock: Callable[[], float]) -> None:
        self._post, self._clock = post, clock
        self._accepted = Buckets(1 / HOUR_SECONDS, 1)
        self._since: Counter[tuple[str, str]] = Counter()

    def accepted(self, calling: str, address: str) -> None:
        """An association stands. One entry an hour for each caller: a monitor's C-ECHO would drown all others."""
        who = (calling, address)
        if not self._accepted.take(who, time.monotonic()):
            self._since[who] += 1
            return
        more = self._since.pop(who, 0)
        detail = f"{more} associations more in the hour before" if more else ""
        self._add(AuditEntry(self._clock(), calling, "dicom", "association.accepted", address=address, detail=detail))

    def refused(self, address: str, words: str) -> None:
        """Somebody was not let in; the caller of this has limited the rate already. `words` begin with the event."""
        action, _, why = words.partition(" ")
        self._add(AuditEntry(self._clock(), "", "dicom", action, "refused", address=address, detail=why[:500]))

    def ended(self, mark: str, calling: str, address: str, known: Mapping[tuple[str, str], int]) -> None:
        """An association is over: one entry for each study it brought, and one for each that was here already."""
        now = self._clock()

        def add(store: Store) -> None:
            new = AuditEntry(now, calling, "dicom", "instances.received", address=address)
            store.audit.of_association(mark, new)
            for study in sorted({study for study, _ in known}):
                classes = {sop_class: count for (of, sop_class), count in known.items() if of == study}
                entry = AuditEntry(now, calling, "dicom", "instances.known", address=address, study_instance_uid=study)
                store.audit.add(replace(entry, facts={"sop_classes": classes}))

        self._post(add)

    def left_over(self) -> None:
        """Objects of associations that an earlier run did not live to see the end of."""
        now = self._clock()

        def add(store: Store) -> None:
            for mark in store.audit.unaudited_associations():
                detail = "the node ended before the association did"
                store.audit.of_association(mark, AuditEntry(now, "", "dicom", "instances.received", detail=detail))

        self._post(add)

    def _add(self, entry: AuditEntry) -> None:
        self._post(lambda store: store.audit.add(entry))
