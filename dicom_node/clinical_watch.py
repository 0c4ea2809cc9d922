"""Clinical values that came after a score: which work items would use other ones now, and their next revision where
the site wants that ([clinical] revise). Else the page says so, and a rescore uses them.
"""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

from analysis.contract import Reason
from config.settings import Rule, Settings
from dicom_node import baseline
from dicom_node.bundles import Bundles
from dicom_node.clinical_snapshot import THERAPY_START, Snapshots
from dicom_node.decision import NotEligible, Plan
from dicom_node.spool import Spool
from dicom_node.store import Store
from dicom_node.ticket import Ticket
from dicom_node.workitem import Retryable, StageError, State, WorkItem

LOGGER = logging.getLogger(__name__)
_CAN_BE_REVISED = (State.SCHEDULED, State.COMPLETED)


class ClinicalWatch:
    """Compares what is on hand with what was frozen. One per thread, as its store is."""

    def __init__(
        self, store: Store, spool: Spool, settings: Settings, bundles: Bundles, clock: Callable[[], float]
    ) -> None:
        self._store, self._spool, self._settings, self._clock = store, spool, settings, clock
        self._bundles = bundles

    def look(self) -> bool:
        """Deal with what has changed since the last look. False when nothing has, or it cannot be told just now."""
        dealt = skipped = 0
        try:
            while changes := self._store.clinical.changes(skipped):
                for change in changes:
                    if self._deal_with(change):
                        dealt += 1
                    else:
                        skipped += 1
        except Retryable as error:  # the site's table as a whole: tried again, and what waits for it says so
            LOGGER.debug("clinical.not_compared %s", error)
        if self._settings.clinical.revise:
            self._revise()
        return dealt > 0

    def _deal_with(self, change: tuple[str, str, float]) -> bool:
        """False where the site's table has bad lines about this patient: it stays noted, and keeps nobody else."""
        try:
            for item in self._newest_of(*change[:2]):
                self._compare(item)
        except Retryable:
            raise
        except StageError as error:
            LOGGER.debug("clinical.not_compared %s", error)
            return False
        self._store.clinical.looked_at(change)
        return True

    def _newest_of(self, patient_id: str, issuer: str) -> Iterator[WorkItem]:
        """The newest planned work item of each contour of a patient."""
        aliases = self._store.clinical.aliases(patient_id, issuer)
        studies = dict.fromkeys(uid for alias in aliases for uid in self._store.patients.studies_of(*alias))
        seen: set[str] = set()
        for item in (item for study in studies for item in self._store.items(study)):
            roi = item.roi_sop_instance_uid
            if roi is None or item.key is None or item.state is State.CANCELED or roi in seen:
                continue
            seen.add(roi)
            yield item

    def _compare(self, item: WorkItem) -> None:
        ticket = Ticket.from_json(item.plan or "")
        image = self._first_image(ticket)
        if image is None or not image.exists():  # its images have gone: it will not be scored again
            return
        names: tuple[str, ...] = ()
        rule = self._rule(ticket)
        snapshots = Snapshots(self._store, self._settings.clinical, self._bundles.of(rule).manifest.clinical)
        if isinstance(ticket.decision, Plan):
            now = snapshots.take(item.study_instance_uid, image)
            names = snapshots.differing(ticket.clinical, now.values)
        if self._is_judged_anew(ticket.decision, rule, snapshots):
            names += (THERAPY_START,)
        if self._store.clinical.note_newer(item.id, names, self._clock()) and names:
            LOGGER.info("clinical.newer work item %s: %s", (item.key or "")[:12], ", ".join(names))
            self._store.note(item.id, "newer clinical values", self._clock(), ", ".join(names))

    def _rule(self, ticket: Ticket) -> Rule:
        """The rule by which it would be planned now."""
        return self._settings.rule_for(self._store.arrivals.calling_ae_title(ticket.decision.roi_sop_instance_uid))

    def _first_image(self, ticket: Ticket) -> Path | None:
        """An image of what was planned; None where only other inputs can change the answer."""
        decision = ticket.decision
        if isinstance(decision, Plan):
            first = decision.ct_sop_instance_uids[0]
        elif decision.reason == Reason.CT_NOT_BASELINE:
            first = decision.evidence[0]
        else:
            return None
        return self._spool.instance_path(first, ticket.digests[first])

    def _is_judged_anew(self, decision: Plan | NotEligible, rule: Rule, snapshots: Snapshots) -> bool:
        """Whether the day on which therapy began, as it is known now, changes if the CT is the baseline, or why not."""
        days = baseline.days_of(decision.study_instance_uid, self._store, snapshots, shadow=rule.shadow)
        objection = baseline.objection(days, rule.plan)
        if isinstance(decision, Plan):
            return objection is not None and days.therapy_start is not None
        return objection is None or objection.detail != decision.detail

    def _revise(self) -> None:
        for item_id, names in self._store.clinical.newer().items():
            item = self._store.item(item_id)
            if item is None or item.held or item.state not in _CAN_BE_REVISED:
                continue  # at work, failed or held by an operator: looked at again when that has come to its end
            if self._store.births.replan(item_id, f"newer clinical values: {names}", self._clock()):
                self._store.clinical.note_newer(item_id, (), self._clock())
