"""The plan stage at work: what has arrived is handed to the pure planner, and its decisions become work items."""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import replace

from analysis.contract import Reason, WaitingReason
from config.identity import VERSION
from config.settings import Rule, Settings
from dicom_node import baseline, clinical_sources, plan
from dicom_node.births import Birth
from dicom_node.bundles import Bundles
from dicom_node.clinical_snapshot import Snapshot, Snapshots
from dicom_node.decision import NotEligible, Plan, Waiting
from dicom_node.instance import Instance
from dicom_node.logs import about, mark_of
from dicom_node.spool import Spool
from dicom_node.store import Store
from dicom_node.telemetry import done
from dicom_node.ticket import Ticket
from dicom_node.workitem import PRIORITIES, StageError

LOGGER = logging.getLogger(__name__)
LOOK_SECONDS = 0.02  # between two looks at whether something has come, while objects come
NEAR_SECONDS = 1.0  # after the newest of them; later they are rarer: an idle node should cost nothing
PACE_SECONDS = 0.19  # between two turns while objects come: each flushes the disk, which the receiver needs


class Lull:
    """When to plan: as soon as what has come is followed by nothing for a moment, and at a steady pace otherwise."""

    def __init__(self) -> None:
        self._seen = self._planned = -1  # the newest arrival: of the last look, and of the last turn
        self._turned = self._came = -math.inf

    def is_due(self, newest: int, now: float) -> bool:
        """Whether it is time for a turn, which is taken then. `newest`: a number that grows with each arrival."""
        lull = newest == self._seen != self._planned
        if newest != self._seen:
            self._seen, self._came = newest, now
        if not lull and 0 <= now - self._turned < PACE_SECONDS:
            return False
        self._planned, self._turned = newest, now
        return True

    def is_near(self, now: float) -> bool:
        """Whether something has come a moment ago, so that more may come, or a lull."""
        return 0 <= now - self._came < NEAR_SECONDS


class Scheduler:
    """Looks at new arrivals, and again at what waits. One per thread, as its store is.

    Which rule counts is decided by who sent the contour object, and stands in the work item's ticket from then on.
    """

    def __init__(
        self,
        store: Store,
        spool: Spool,
        settings: Settings,
        bundles: Bundles,
        clock: Callable[[], float] = time.time,
        *,
        final: bool = False,
    ) -> None:
        """`final`: nothing more will come (`prognode score`), so nothing is waited for."""
        self._store, self._spool, self._settings, self._bundles = store, spool, settings, bundles
        self._clock, self._final = clock, final
        self._began = 0.0  # when the decision on a contour began, for its trace

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
        for study in dict.fromkeys(instance.study_instance_uid for _, instance in arrivals):
            rois |= dict.fromkeys(self._store.births.waiting_in(study))
        for uid in rois:
            self.look_at(uid)
        for _, instance in arrivals:  # after the contours: a CT that has one needs no waiting row
            if instance.is_ct:
                self._store.births.wait_for_contour(instance, Reason.NO_CONTOUR, self._clock())
        self._store.arrivals.mark_planned(row for row, _ in arrivals)
        return bool(arrivals)

    def look_at_waiting(self, looked: float = -math.inf) -> None:
        """Decide again what is still open: quiet series, images that never came, a mended table, an operator's wish.

        `looked`: when that was done last.
        """
        for uid in self._store.births.waiting_rois(looked, self._clock()):
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
            rule = self._settings.rule_for("")
            inputs = self._key(refusal, digests, Snapshot(), rule, "")
            birth = self._birth(refusal, digests, Snapshot(), rule, inputs)
            self._store.births.schedule_without_contour(item.id, birth, self._clock())

    def look_at(self, roi_sop_instance_uid: str) -> None:
        """Decide one contour object and write the decision down. One that cannot be decided waits, and says why."""
        roi = self._store.arrivals.instance(roi_sop_instance_uid)
        if roi is None or roi.own:
            return
        rule = self._settings.rule_for(self._store.arrivals.calling_ae_title(roi_sop_instance_uid))
        self._began = time.monotonic()
        with about(study=mark_of(roi.study_instance_uid)):
            self._look_at(roi, rule)

    def _look_at(self, roi: Instance, rule: Rule) -> None:
        try:
            self._decide(roi, rule)
        except StageError as error:
            self._wait(roi, rule, WaitingReason.CLINICAL_VALUES_UNAVAILABLE, f"{error}; {error.hint}")
        except Exception as error:
            LOGGER.debug("plan.held", exc_info=True)
            self._wait(roi, rule, WaitingReason.PLANNING_FAILED, f"{type(error).__name__}; report this: it is a bug")

    def _decide(self, roi: Instance, rule: Rule) -> None:
        images = self._store.arrivals.images_for(roi)
        here, *others = self._merged([roi, *images])
        at_once = self._final or self._store.births.is_planned_at_once(roi.sop_instance_uid)
        decision = plan.decide(
            here,
            others,
            rule.plan,
            waited_seconds=math.inf if at_once else self._waited(roi),
            quiet=at_once or self._quiet(roi, images, rule.plan.quiet_seconds),
            still=at_once or self._quiet(roi, images, rule.plan.quiet_seconds * plan.STILL_FACTOR),
        )
        if isinstance(decision, Waiting):
            study, series = decision.study_instance_uid, decision.ct_series_instance_uid
            reason, detail = decision.reason, decision.detail
            self._store.births.wait(roi, study, series, reason, detail, self._clock(), shadow=rule.shadow)
        else:
            self._schedule(roi, decision, {item.sop_instance_uid: item.digest for item in [roi, *images]}, rule)

    def _merged(self, instances: list[Instance]) -> list[Instance]:
        """The same instances, with patients that were merged into one (HL7 A40) as that one: no reason to refuse."""
        into = self._store.patients.same_person({instance.patient for instance in instances} - {""})
        if not into:
            return instances
        return [replace(instance, patient=into.get(instance.patient, instance.patient)) for instance in instances]

    def _schedule(self, roi: Instance, decision: Plan | NotEligible, digests: dict[str, str], rule: Rule) -> None:
        uid = roi.sop_instance_uid
        inputs = self._key(decision, digests, Snapshot(), rule, "")
        if self._store.births.is_answered(uid, decision.study_instance_uid, inputs, self._clock()):
            return
        if self._awaits_what_was_removed(roi, decision, digests, rule):
            return
        snapshot: Snapshot | None = Snapshot()
        if isinstance(decision, Plan):
            snapshots = self._snapshots(rule)
            snapshot = self._clinical(roi, decision, digests, rule, snapshots)
            decision = self._of_baseline(decision, rule, snapshots)
        if snapshot is None:
            return
        birth = self._birth(decision, digests, snapshot if isinstance(decision, Plan) else Snapshot(), rule, inputs)
        chosen = self._chosen(roi, decision) if isinstance(decision, Plan) else ""
        if self._store.births.schedule(uid, birth, self._clock(), chosen):
            by = f" by rule {rule.name}" if rule.name else ""
            with about(study=mark_of(birth.study_instance_uid)):  # a contour may lie in another study than its CT
                LOGGER.info("plan.scheduled work item %s: %s%s", birth.key[:12], birth.reason or "eligible", by)
            done("plan", birth.key, birth.study_instance_uid, time.monotonic() - self._began)

    def _snapshots(self, rule: Rule) -> Snapshots:
        return Snapshots(self._store, self._settings.clinical, self._bundles.of(rule).manifest.clinical)

    def _chosen(self, roi: Instance, decision: Plan) -> str:
        study, series = decision.study_instance_uid, decision.ct_series_instance_uid
        return plan.why(roi, decision, self._store.arrivals.other_ct_series(study, series))

    def _of_baseline(self, decision: Plan, rule: Rule, snapshots: Snapshots) -> Plan | NotEligible:
        """The plan, unless its CT is a prior or a follow-up. Judged once, as the clinical values are."""
        study = decision.study_instance_uid
        days = baseline.days_of(study, self._store, snapshots, shadow=rule.shadow)
        objection = baseline.objection(days, rule.plan)
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

    def _awaits_what_was_removed(
        self, roi: Instance, decision: Plan | NotEligible, digests: dict[str, str], rule: Rule
    ) -> bool:
        """Whether retention has removed some of the inputs: known by their rows, but needed once more as files."""
        used = decision.ct_sop_instance_uids if isinstance(decision, Plan) else decision.evidence
        uids = {uid for uid in (*used, roi.sop_instance_uid) if uid}
        removed = self._store.retention.removed_among({uid: digests[uid] for uid in uids})
        if removed:
            self._wait(
                roi, rule, WaitingReason.INPUTS_REMOVED, f"{removed} of {len(uids)} objects are to be sent again"
            )
        return bool(removed)

    def _birth(
        self, decision: Plan | NotEligible, digests: dict[str, str], snapshot: Snapshot, rule: Rule, inputs: str
    ) -> Birth:
        bundle = self._bundles.of(rule).digest
        used = decision.ct_sop_instance_uids if isinstance(decision, Plan) else decision.evidence
        frozen = {uid: digests[uid] for uid in (*used, decision.roi_sop_instance_uid)}
        return Birth(
            study_instance_uid=decision.study_instance_uid,
            ct_series_instance_uid=decision.ct_series_instance_uid,
            key=self._key(decision, digests, snapshot, rule, bundle),
            inputs_digest=inputs,
            plan=Ticket(
                decision,
                snapshot.values,
                frozen,
                bundle,
                snapshot.quality,
                rule=rule.name,
                destinations=rule.destinations,
                shadow=rule.shadow,
            ).to_json(),
            reason=None if isinstance(decision, Plan) else str(decision.reason),
            priority=PRIORITIES[rule.priority],
            shadow=rule.shadow,
        )

    def _key(
        self,
        decision: Plan | NotEligible,
        digests: dict[str, str],
        snapshot: Snapshot,
        rule: Rule,
        bundle_digest: str,
    ) -> str:
        written: dict[str, str | int] = {
            **({"shadow": True} if rule.shadow else {}),  # what nobody was told of is no answer once it is to be sent
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

    def _clinical(
        self, roi: Instance, plan: Plan, digests: dict[str, str], rule: Rule, snapshots: Snapshots
    ) -> Snapshot | None:
        """The clinical values of this moment; None while a FHIR server is asked: then the contour waits."""
        asked = clinical_sources.Asked()
        if not self._final:
            again = self._store.births.asked_again_at(roi.sop_instance_uid)
            asked = clinical_sources.ask(self._store, self._settings, plan.study_instance_uid, self._clock(), again)
        if asked.awaited:
            study, series, detail = plan.study_instance_uid, plan.ct_series_instance_uid, ", ".join(asked.awaited)
            reason = WaitingReason.CLINICAL_VALUES_AWAITED
            self._store.births.wait(roi, study, series, reason, detail, self._clock(), shadow=rule.shadow)
            return None
        uid = plan.ct_sop_instance_uids[0]
        taken = snapshots.take(plan.study_instance_uid, self._spool.instance_path(uid, digests[uid]))
        return replace(taken, quality=asked.quality + taken.quality)

    def _wait(self, roi: Instance, rule: Rule, reason: str, detail: str) -> None:
        series = next(iter(roi.referenced_series_instance_uids), None)
        study, now = roi.study_instance_uid, self._clock()
        new = self._store.births.wait(roi, study, series, reason, detail, now, shadow=rule.shadow)
        if new:  # looked at every few seconds, said once
            LOGGER.warning("plan.held a contour waits: %s: %s", reason, detail)

    def _waited(self, roi: Instance) -> float:
        return max(0.0, self._clock() - self._store.arrivals.received_at(roi.sop_instance_uid))

    def _quiet(self, roi: Instance, images: list[Instance], seconds: float) -> bool:
        """True when nothing has come for a while: the fallback for contours that do not list a whole series."""
        series = {image.series_instance_uid for image in images} | {roi.series_instance_uid}
        latest = self._store.arrivals.last_arrival(series)
        return latest is not None and self._clock() - latest >= seconds
