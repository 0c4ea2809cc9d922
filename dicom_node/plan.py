"""Planning: what has arrived for one contour object -> Plan, Waiting or NotEligible. Between receive and analyse.

Pure: facts and times are arguments. References decide, never "the CT in the same study". The decision depends on the
set of instances on hand alone, so any order, duplication and interleaving of arrivals ends in the same one.
"""

import hashlib
import json
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from analysis.contract import ClinicalValue, QualityFlag, Reason, RoiKind
from config.identity import VERSION
from config.settings import Planning
from dicom_node import candidates, gates
from dicom_node.decision import Decision, NotEligible, Plan, PlanError, Waiting, from_json
from dicom_node.instance import CT_CLASSES, RTSTRUCT, Instance

__all__ = ["Decision", "NotEligible", "Plan", "PlanError", "Waiting", "decide", "from_json", "key"]

OnHand = Mapping[str, Instance]

# What contours are drawn on when not on CT (PS3.6 table A-1); for the report's words only.
_KINDS = {
    "1.2.840.10008.5.1.4.1.1.4": "MR",
    "1.2.840.10008.5.1.4.1.1.4.1": "MR",
    "1.2.840.10008.5.1.4.1.1.128": "PET",
    "1.2.840.10008.5.1.4.1.1.130": "PET",
    "1.2.840.10008.5.1.4.1.1.20": "NM",
    "1.2.840.10008.5.1.4.1.1.6.1": "ultrasound",
}


STILL_FACTOR = 10.0  # of quiet_seconds: no sender pauses for so long between the images of a series


def decide(
    roi: Instance,
    on_hand: OnHand | Iterable[Instance],
    settings: Planning,
    *,
    waited_seconds: float | None,
    quiet: bool,
    still: bool = False,
) -> Decision:
    """Decide what to do with a contour object.

    All referenced images here: a Plan at once (or NotEligible, with what a gate found). Some missing: Waiting, and
    after `settings.missing_instances_hours` NotEligible. None of them here, but images under other SOP Instance UIDs
    in the series that the object names, in its frame of reference: that series, for archives and de-identifiers crop
    series and rewrite UIDs; once quiet where it is as long as a list of the whole series, else once still.
    Only contours name images, or nothing does: the whole series once quiet.

    Parameters
    ----------
    on_hand : the instances that the ROI object references, and all others of their series, as far as they are here;
        for an object without references, the CT of its study and frame of reference.
    waited_seconds : since the object came; None when not known; `math.inf` when nothing else will come.
    quiet : nothing came for these series for `settings.quiet_seconds`.
    still : nothing came for STILL_FACTOR times as long.

    Raises
    ------
    ConfigError
        A pattern of the settings is not a regular expression.
    """
    choice = candidates.choose(roi.rois, settings)
    roi = candidates.drawn_by(roi, choice)
    question = _Question(roi, choice, _by_uid(on_hand), settings, waited_seconds or 0.0, quiet, still)
    refused = _refused_at_once(question)
    if refused is not None:
        return refused
    if not roi.referenced_sop_instance_uids:
        return _without_references(question)
    return _with_references(question)


@dataclass(frozen=True)
class _Question:
    """The arguments of `decide`; `images` are what is on hand, but our own objects, in UID order.

    `roi` has the references that count for the `choice` alone.
    """

    roi: Instance
    choice: candidates.Choice | candidates.NoChoice
    images: OnHand
    settings: Planning
    waited_seconds: float
    quiet: bool
    still: bool

    @property
    def nothing_else_comes(self) -> bool:
        return math.isinf(self.waited_seconds)

    @property
    def settled(self) -> bool:
        """The series may be taken as whole."""
        return self.quiet or self.nothing_else_comes

    @property
    def waited_enough(self) -> bool:
        """Late arrivals that are just trickling in are waited for, too: each would make another report."""
        return self.settled and self.waited_seconds >= self.settings.missing_instances_hours * 3600

    def series(self, series_instance_uid: str) -> list[Instance]:
        of_series = (image for image in self.images.values() if image.series_instance_uid == series_instance_uid)
        return [image for image in of_series if image.is_ct]


def _by_uid(on_hand: OnHand | Iterable[Instance]) -> dict[str, Instance]:
    instances = on_hand.values() if isinstance(on_hand, Mapping) else on_hand
    found = {i.sop_instance_uid: i for i in instances if not i.own}
    return dict(sorted(found.items()))


def _refused_at_once(question: _Question) -> NotEligible | None:
    """What no further arrival can change. Cites the ROI object alone, so that the key does not depend on the moment."""
    roi = question.roi
    classes = set(roi.referenced_sop_class_uids)
    seen = [question.images[uid] for uid in roi.referenced_sop_instance_uids if uid in question.images]
    if classes and not classes & CT_CLASSES:
        kinds = ", ".join(sorted({_KINDS.get(one, "other") for one in classes}))
        return _not_eligible(question, Reason.ROI_REFERENCES_NOT_CT, f"drawn on images of kind {kinds}")
    if any(not image.is_ct or image.modality.strip() not in {"", "CT"} for image in seen):
        return _not_eligible(question, Reason.ROI_REFERENCES_NOT_CT, "a referenced image is not of a CT")
    if classes - CT_CLASSES:
        detail = "images of CT and of another kind are referenced"
        return _not_eligible(question, Reason.ROI_REFERENCES_SEVERAL_SERIES, detail)
    if len(set(roi.referenced_series_instance_uids) | {image.series_instance_uid for image in seen}) > 1:
        return _not_eligible(question, Reason.ROI_REFERENCES_SEVERAL_SERIES, "images of several series are referenced")
    return None


def _without_references(question: _Question) -> Decision:
    """No image is named: the series that is, or the one CT series of the same study and frame; once quiet."""
    roi = question.roi
    frames = _frames_of_reference(roi)
    named = roi.referenced_series_instance_uids
    series = sorted(
        {
            image.series_instance_uid
            for image in question.images.values()
            if image.is_ct and (image.series_instance_uid in named if named else _beside(roi, image, frames))
        }
    )
    detail = f"{len(series)} CT series of its study and frame of reference are here"
    if len(series) == 1 and question.settled:
        return _examined(question, question.series(series[0]), 0)
    if question.waited_enough or (len(series) > 1 and question.settled):
        return _not_eligible(question, Reason.ROI_WITHOUT_REFERENCES, detail)
    return Waiting(Reason.ROI_WITHOUT_REFERENCES, 0, detail, roi.study_instance_uid, series[0] if series else None)


def _frames_of_reference(roi: Instance) -> set[str]:
    return ({roi.frame_of_reference_uid} | {one.frame_of_reference_uid for one in roi.rois}) - {""}


def _beside(roi: Instance, image: Instance, frames: Collection[str]) -> bool:
    return image.study_instance_uid == roi.study_instance_uid and image.frame_of_reference_uid in frames


def _with_references(question: _Question) -> Decision:
    """Complete: at once (or, where only contours name their images, once quiet). Else wait, then state it."""
    roi, images = question.roi, question.images
    wanted = set(roi.referenced_sop_instance_uids)
    here = [image for uid, image in images.items() if uid in wanted]
    absent = len(wanted) - len(here)
    detail = f"{len(here)} of {len(wanted)} images are here"
    if absent:
        # Not one listed image came, but their series did: archives rewrite UIDs. Should the listed images still come,
        # they make the next revision.
        rewritten = [] if here or not question.settled else _rewritten(question)
        instead = _examined(question, rewritten, absent) if rewritten else None
        early = isinstance(instead, Plan) and (question.still or _is_as_long(question, rewritten))
        if instead is not None and (early or question.waited_enough):
            return instead
        if not question.waited_enough:
            if not here and _rewritten(question):
                detail += "; others of the series it names are, which is taken as it is once nothing more comes"
            return _waiting(question, here, absent, detail)
        return _not_eligible(question, Reason.REFERENCED_CT_INCOMPLETE, detail, here)
    if not roi.references_from_contours and not _is_part_of_a_stack(here, question.settings):
        return _examined(question, here, 0)
    if not question.settled:
        return _waiting(question, here, 0, f"{detail}; the rest of their series may still come")
    return _examined(question, question.series(here[0].series_instance_uid), 0)


def _rewritten(question: _Question) -> list[Instance]:
    """Images of the named series, under other UIDs than listed; the frame of reference vouches for their place."""
    named = question.roi.referenced_series_instance_uids
    frames = _frames_of_reference(question.roi)
    images = question.series(named[0]) if named else []
    return images if all(image.frame_of_reference_uid in frames for image in images) else []


def _is_as_long(question: _Question, images: list[Instance]) -> bool:
    """As many images of the listed kind as the whole series has. What is less may be a pause of who sends it."""
    roi, listed = question.roi, len(question.roi.referenced_sop_instance_uids)
    of_kind = {image.sop_class_uid for image in images} <= set(roi.referenced_sop_class_uids)
    a_series = listed >= question.settings.minimum_slices or any(len(image.geometry.positions) > 1 for image in images)
    return not roi.references_from_contours and of_kind and a_series and len(images) >= listed


def _is_part_of_a_stack(images: list[Instance], settings: Planning) -> bool:
    """Some workstations list the contoured slices alone at series level; it shows where these are no stack."""
    if gates.series_defect(images) is not None:
        return False
    defect = gates.stack_defect(images, settings)
    return defect is not None and defect.reason in {Reason.MISSING_SLICE, Reason.TOO_FEW_SLICES}


def _examined(question: _Question, images: list[Instance], absent: int) -> Decision:
    """All gates: the images, the whole series on hand, the ROI, and the images as a stack."""
    defect = gates.series_defect(images)
    if defect is None and (series := question.series(images[0].series_instance_uid)) != images:
        defect = gates.series_defect(series)
        if defect is not None and not question.settled:  # its figures still change as the series comes in
            return _waiting(question, images, 0, defect.detail, defect.reason)
    if defect is not None:
        return _not_eligible(question, defect.reason, defect.detail, images)
    if question.roi.patient and images[0].patient and question.roi.patient != images[0].patient:
        return _not_eligible(question, Reason.ROI_PATIENT_DIFFERS, "", images)
    choice = question.choice
    if isinstance(choice, candidates.NoChoice):
        return _not_eligible(question, choice.reason, choice.detail, images)
    if _in_another_frame(question.roi, choice, images):
        detail = f"{len(images)} images in another frame of reference than the ROI"
        return _not_eligible(question, Reason.ROI_FRAME_OF_REFERENCE_DIFFERS, detail, images)
    defect = gates.stack_defect(images, question.settings)
    if defect is not None:
        return _not_eligible(question, defect.reason, defect.detail, images)
    return _plan(question.roi, choice, gates.slice_order(images), absent)


def _in_another_frame(roi: Instance, choice: candidates.Choice, images: list[Instance]) -> bool:
    """Of the chosen ROIs where they name one, else of the object; nothing to compare is no difference."""
    frames = choice.frame_of_reference_uids or frozenset({roi.frame_of_reference_uid}) - {""}
    of_images = {image.frame_of_reference_uid for image in images} - {""}
    return bool(frames and of_images) and frames != of_images


def _plan(roi: Instance, choice: candidates.Choice, ordered: tuple[Instance, ...], absent: int) -> Plan:
    return Plan(
        study_instance_uid=ordered[0].study_instance_uid,
        ct_series_instance_uid=ordered[0].series_instance_uid,
        ct_sop_instance_uids=tuple(image.sop_instance_uid for image in ordered),
        roi_sop_instance_uid=roi.sop_instance_uid,
        roi_kind=RoiKind.RTSTRUCT if roi.sop_class_uid == RTSTRUCT else RoiKind.SEG,
        roi_numbers=choice.numbers,
        combine=choice.combine,
        absent=absent,
        chosen_by=choice.by,
    )


def _waiting(
    question: _Question,
    here: list[Instance],
    missing: int,
    detail: str,
    reason: Reason = Reason.REFERENCED_CT_INCOMPLETE,
) -> Waiting:
    study = here[0].study_instance_uid if here else question.roi.study_instance_uid
    named = question.roi.referenced_series_instance_uids
    series = here[0].series_instance_uid if here else (named[0] if named else None)
    return Waiting(reason, missing, detail, study, series)


def _not_eligible(question: _Question, reason: Reason, detail: str, images: Iterable[Instance] = ()) -> NotEligible:
    roi = question.roi
    cited = sorted(images, key=lambda image: image.sop_instance_uid)
    named = roi.referenced_series_instance_uids
    return NotEligible(
        reason=reason,
        detail=detail,
        evidence=(*(image.sop_instance_uid for image in cited), roi.sop_instance_uid),
        study_instance_uid=cited[0].study_instance_uid if cited else roi.study_instance_uid,
        roi_sop_instance_uid=roi.sop_instance_uid,
        ct_series_instance_uid=cited[0].series_instance_uid if cited else (named[0] if len(named) == 1 else None),
    )


def why(roi: Instance, plan: Plan, other_series: int) -> str:
    """Which CT was chosen for a contour object, and by what; `other_series` of the same study were not."""
    images = len(plan.ct_sop_instance_uids)
    if plan.absent:
        said = f"{images} images of the series that the contour names; none of the {plan.absent} that it lists came"
    elif not roi.referenced_sop_instance_uids:
        said = f"{images} images of the one CT series of the contour's study and frame of reference"
    elif set(plan.ct_sop_instance_uids) <= set(roi.referenced_sop_instance_uids):
        said = f"the {images} images that the contour references"
    else:
        said = f"all {images} images of the series that the contour references"
    return f"{said}; {other_series} other CT series of the study not used" if other_series else said


def key(
    decision: Plan | NotEligible,
    digests: Mapping[str, str],
    clinical: Iterable[ClinicalValue],
    bundle_digest: str,
    *,
    quality: Iterable[QualityFlag] = (),
    pipeline_version: str = VERSION,
    config: Mapping[str, Any] | None = None,
) -> str:
    """Content key of the work item: SHA-256 (hex) of everything that decides the result.

    `digests` has the content digest of each input instance; raises KeyError for one that it lacks. `config` holds
    the settings that change what is computed or written (JSON values).
    """
    used = decision.ct_sop_instance_uids if isinstance(decision, Plan) else decision.evidence
    inputs = sorted({*used, decision.roi_sop_instance_uid})
    values = sorted((value.model_dump(mode="json") for value in clinical), key=lambda value: str(value["name"]))
    content = {
        "inputs": [[uid, digests[uid]] for uid in inputs],
        "decision": json.loads(decision.to_json()),
        "clinical": values,
        "quality": [flag.model_dump(mode="json") for flag in quality],
        "bundle": bundle_digest,
        "pipeline": pipeline_version,
        "config": dict(config or {}),
    }
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode("ascii")).hexdigest()
