"""The plan stage at work: what has arrived is handed to the pure planner, and its decisions become work items."""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import replace

from analysis.contract import Reason, WaitingReason
from config.identity import VERSION
from config.settings import Settings
from dicom_node import baseline, clinical_sources, plan
from dicom_node.births import Birth
from dicom_node.clinical_snapshot import Snapshot, Snapshots
from dicom_node.decision import NotEligible, Plan, Waiting
from dicom_node.instance import Instance
from dicom_node.spool import Spool
from dicom_node.store import Store
from dicom_node.ticket import Ticket
from dicom_node.workitem import StageError
from models.bundle import Bundle

LOGGER = logging.getLogger(__name__)


class Scheduler:
    """Looks at new arrivals, and again at what waits. One per thread, as its store is."""

    def __init__(
        self,
        store: Store,
        spool: Spool,
        settings: Settings,
        bundle: Bundle,
        clock: Callable[[], float] = time.time,
        *,
        final: bool = False,
    ) -> None:
        """`final`: nothing more will come (`prognode score`), so nothing is waited for."""
        self._store, self._spool, self._settings, self._bundle = store, spool, settings, bundle
        self._clock, self._final = clock, final
        self._snapshots = Snapshots(store, settings.clinical, bundle.manifest.clinical)

    def take_arrivals(self) -> bool:
        """Plan everything that the arrivals since the last call touch. False when there were none."""
        arrivals = self._store.arrivals.unplanned()
        rois: dict[str, None] = {}
        for _, instance in arrivals:
            if instance.is_roi:
                rois[instance.sop_instance_uid] = None
            else:
                touched = self._store.arrivals.rois_touched_by(instance.sop_instance_uid, instance.series_instance_uid)
                rois |= dict.fromkeys(sorted(touched))
        for uid in rois:
            self.look_at(uid)
        for _, instance in arrivals:  # after the contours: a CT that has one needs no waiting row
            if instance.is_ct:
                self._store.births.wait_for_contour(instance, Reason.NO_CONTOUR, self._clock())
        self._store.arrivals.mark_planned(row for row, _ in arrivals)
        return bool(arrivals)

    def look_at_waiting(self) -> None:
        """Decide again what is still open: quiet series, images that never came, a mended table, an operator's wish."""
        for uid in self._store.births.waiting_rois():
            self.look_at(uid)

    def refuse_without_contour(self) -> None:
        """Nothing more will come: a CT that still has no contour is told so."""
        for item in self._store.births.waiting_without_contour():
            images = self._store.arrivals.series(item.ct_series_instance_uid or "")
            refusal = NotEligible(
                reason=Reason.NO_CONTOUR,
                detail=f"{len(images)} images",
                evidence=tuple(image.sop_instance_uid for image in images),
                study_instance_uid=item.study_instance_uid,
                roi_sop_instance_uid="",
                ct_series_instance_uid=item.ct_series_instance_uid,
            )
            digests = {"": "", **{image.sop_instance_uid: image.digest for image in images}}
            inputs = self._key(refusal, digests, Snapshot(), "")
            birth = self._birth(refusal, digests, Snapshot(), inputs)
            self._store.births.schedule_without_contour(item.id, birth, self._clock())

    def look_at(self, roi_sop_instance_uid: str) -> None:
        """Decide one contour object and write the decision down. One that cannot be decided waits, and says why."""
        roi = self._store.arrivals.instance(roi_sop_instance_uid)
        if roi is None or roi.own:
            return
        try:
            self._decide(roi)
        except StageError as error:
            self._wait(roi, WaitingReason.CLINICAL_VALUES_UNAVAILABLE, f"{error}; {error.hint}")
        except Exception as error:
            LOGGER.debug("plan.held", exc_info=True)
            self._wait(roi, WaitingReason.PLANNING_FAILED, f"{type(error).__name__}; report this: it is a bug")

    def _decide(self, roi: Instance) -> None:
        images = self._store.arrivals.images_for(roi)
        here, *others = self._merged([roi, *images])
        decision = plan.decide(
            here, others, self._settings.plan, waited_seconds=self._waited(roi), quiet=self._quiet(roi, images)
        )
        if isinstance(decision, Waiting):
            study, series = decision.study_instance_uid, decision.ct_series_instance_uid
            self._store.births.wait(roi, study, series, decision.reason, decision.detail, self._clock())
        else:
            self._schedule(roi, decision, {item.sop_instance_uid: item.digest for item in [roi, *images]})

    def _merged(self, instances: list[Instance]) -> list[Instance]:
        """The same instances, with patients that were merged into one (HL7 A40) as that one: no reason to refuse."""
        into = self._store.patients.same_person({instance.patient for instance in instances} - {""})
        if not into:
            return instances
        return [replace(instance, patient=into.get(instance.patient, instance.patient)) for instance in instances]

    def _schedule(self, roi: Instance, decision: Plan | NotEligible, digests: dict[str, str]) -> None:
        uid = roi.sop_instance_uid
        inputs = self._key(decision, digests, Snapshot(), "")
        if self._store.births.is_answered(uid, inputs, self._clock()):
            return
        if self._awaits_what_was_removed(roi, decision, digests):
            return
        snapshot: Snapshot | None = Snapshot()
        if isinstance(decision, Plan):
            snapshot = self._clinical(roi, decision, digests)
            decision = self._of_baseline(decision)
        if snapshot is None:
            return
        birth = self._birth(decision, digests, snapshot if isinstance(decision, Plan) else Snapshot(), inputs)
        chosen = self._chosen(roi, decision) if isinstance(decision, Plan) else ""
        if self._store.births.schedule(uid, birth, self._clock(), chosen):
            LOGGER.info("plan.scheduled work item %s: %s", birth.key[:12], birth.reason or "eligible")

    def _chosen(self, roi: Instance, decision: Plan) -> str:
        study, series = decision.study_instance_uid, decision.ct_series_instance_uid
        return plan.why(roi, decision, self._store.arrivals.other_ct_series(study, series))

    def _of_baseline(self, decision: Plan) -> Plan | NotEligible:
        """The plan, unless its CT is a prior or a follow-up. Judged once, as the clinical values are."""
        study = decision.study_instance_uid
        objection = baseline.objection(baseline.days_of(study, self._store, self._snapshots), self._settings.plan)
        if objection is None:
            return decision
        return NotEligible(
            reason=objection.reason,
            detail=objection.detail,
            evidence=(*sorted(decision.ct_sop_instance_uids), decision.roi_sop_instance_uid),
            study_instance_uid=study,
            roi_sop_instance_uid=decision.roi_sop_instance_uid,
            ct_series_instance_uid=decision.ct_series_instance_uid,
        )

    def _awaits_what_was_removed(self, roi: Instance, decision: Plan | NotEligible, digests: dict[str, str]) -> bool:
        """Whether retention has removed some of the inputs: known by their rows, but needed once more as files."""
        used = decision.ct_sop_instance_uids if isinstance(decision, Plan) else decision.evidence
        uids = {uid for uid in (*used, roi.sop_instance_uid) if uid}
        removed = self._store.retention.removed_among({uid: digests[uid] for uid in uids})
        if removed:
            self._wait(roi, WaitingReason.INPUTS_REMOVED, f"{removed} of {len(uids)} objects are to be sent again")
        return bool(removed)

    def _birth(self, decision: Plan | NotEligible, digests: dict[str, str], snapshot: Snapshot, inputs: str) -> Birth:
        used = decision.ct_sop_instance_uids if isinstance(decision, Plan) else decision.evidence
        frozen = {uid: digests[uid] for uid in (*used, decision.roi_sop_instance_uid)}
        return Birth(
            study_instance_uid=decision.study_instance_uid,
            ct_series_instance_uid=decision.ct_series_instance_uid,
            key=self._key(decision, digests, snapshot, self._bundle.digest),
            inputs_digest=inputs,
            plan=Ticket(decision, snapshot.values, frozen, self._bundle.digest, snapshot.quality).to_json(),
            reason=None if isinstance(decision, Plan) else str(decision.reason),
        )

    def _key(
        self,
        decision: Plan | NotEligible,
        digests: dict[str, str],
        snapshot: Snapshot,
        bundle_digest: str,
    ) -> str:
        written: dict[str, str | int] = {
            "series_number": self._settings.report.series_number,
            "ae_title": self._settings.node.ae_title,
            "site": self._settings.node.site,
            "language": self._settings.report.language,
        }
        return plan.key(
            decision,
            digests,
            clinical=snapshot.values,
            quality=snapshot.quality,
            bundle_digest=bundle_digest,
            pipeline_version=VERSION,
            config=written if bundle_digest else None,
        )

    def _clinical(self, roi: Instance, plan: Plan, digests: dict[str, str]) -> Snapshot | None:
        """The clinical values of this moment; None while a FHIR server is asked: then the contour waits."""
        asked = clinical_sources.Asked()
        if not self._final:
            again = self._store.births.asked_again_at(roi.sop_instance_uid)
            asked = clinical_sources.ask(self._store, self._settings, plan.study_instance_uid, self._clock(), again)
        if asked.awaited:
            study, series, detail = plan.study_instance_uid, plan.ct_series_instance_uid, ", ".join(asked.awaited)
            reason = WaitingReason.CLINICAL_VALUES_AWAITED
            self._store.births.wait(roi, study, series, reason, detail, self._clock())
            return None
        uid = plan.ct_sop_instance_uids[0]
        taken = self._snapshots.take(plan.study_instance_uid, self._spool.instance_path(uid, digests[uid]))
        return replace(taken, quality=asked.quality + taken.quality)

    def _wait(self, roi: Instance, reason: str, detail: str) -> None:
        series = next(iter(roi.referenced_series_instance_uids), None)
        new = self._store.births.wait(roi, roi.study_instance_uid, series, reason, detail, self._clock())
        if new:  # looked at every few seconds, said once
            LOGGER.warning("plan.held a contour waits: %s: %s", reason, detail)

    def _waited(self, roi: Instance) -> float:
        if self._final:
            return math.inf
        return max(0.0, self._clock() - self._store.arrivals.received_at(roi.sop_instance_uid))

    def _quiet(self, roi: Instance, images: list[Instance]) -> bool:
        """True when nothing has come for a while: the fallback for contours that do not list a whole series."""
        if self._final:
            return True
        series = {image.series_instance_uid for image in images} | {roi.series_instance_uid}
        latest = self._store.arrivals.last_arrival(series)
        return latest is not None and self._clock() - latest >= self._settings.plan.quiet_seconds
