"""What planning decided about a contour object: Plan, Waiting or NotEligible, and their stored form.

Leaf of the node, so that the stages after `plan` can read a decision without knowing the planner.
"""

import json
from dataclasses import asdict, dataclass
from enum import StrEnum

from analysis.contract import Combine, Reason, RoiKind


class PlanError(ValueError):
    """A text that neither `Plan.to_json` nor `NotEligible.to_json` wrote."""


class ChosenBy(StrEnum):
    """What made an ROI the tumour: the site's names, its type, or that there is no other. Not by a plain name: say so.

    AROUND: a name of the tumour that says a margin, too (PTV_tumour, GTV+5mm).
    """

    NAME = "name"
    AROUND = "around"
    TYPE = "type"
    ONLY = "only"


@dataclass(frozen=True)
class Plan:
    """Score these ROI numbers on these CT instances (in slice order along the normal).

    `absent` is 0, or the number of images that the ROI object lists when none of them ever came and its series, under
    other SOP Instance UIDs, did (see `decide`); the report has to state it.
    """

    study_instance_uid: str  # of the CT: the results go there
    ct_series_instance_uid: str
    ct_sop_instance_uids: tuple[str, ...]
    roi_sop_instance_uid: str
    roi_kind: RoiKind
    roi_numbers: tuple[int, ...]
    combine: Combine
    absent: int = 0
    chosen_by: ChosenBy = ChosenBy.NAME

    def to_json(self) -> str:
        return json.dumps({"decision": "PLAN", **asdict(self)}, separators=(",", ":"))

    @staticmethod
    def from_json(text: str) -> "Plan":
        """Read what `to_json` wrote; raises PlanError on anything else."""
        decision = from_json(text)
        if not isinstance(decision, Plan):
            raise PlanError("a plan was expected, not a NOT_ELIGIBLE decision")
        return decision


@dataclass(frozen=True)
class NotEligible:
    """Not scored, because of `reason`. `evidence`: what is on hand that the report can cite, the ROI object last."""

    reason: Reason
    detail: str
    evidence: tuple[str, ...]
    study_instance_uid: str
    roi_sop_instance_uid: str
    ct_series_instance_uid: str | None = None

    def to_json(self) -> str:
        return json.dumps({"decision": "NOT_ELIGIBLE", **asdict(self)}, separators=(",", ":"))

    @staticmethod
    def from_json(text: str) -> "NotEligible":
        """Read what `to_json` wrote; raises PlanError on anything else."""
        decision = from_json(text)
        if not isinstance(decision, NotEligible):
            raise PlanError("a NOT_ELIGIBLE decision was expected, not a plan")
        return decision


@dataclass(frozen=True)
class Waiting:
    """Not yet: `missing` referenced instances are not here (0 where only quiet is waited for)."""

    reason: Reason
    missing: int
    detail: str
    study_instance_uid: str
    ct_series_instance_uid: str | None = None


Decision = Plan | Waiting | NotEligible


def from_json(text: str) -> Plan | NotEligible:
    """Read a stored decision; raises PlanError on anything that `to_json` did not write."""
    try:
        data = json.loads(text)
        kind = data.pop("decision")
        if kind == "PLAN":
            for name in ("ct_sop_instance_uids", "roi_numbers"):
                data[name] = tuple(data[name])
            data["chosen_by"] = ChosenBy(data.get("chosen_by", ChosenBy.NAME))  # older releases did not say
            return Plan(**data | {"roi_kind": RoiKind(data["roi_kind"]), "combine": Combine(data["combine"])})
        if kind == "NOT_ELIGIBLE":
            return NotEligible(**data | {"reason": Reason(data["reason"]), "evidence": tuple(data["evidence"])})
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise PlanError(f"not a stored decision: {type(error).__name__}") from error
    raise PlanError("not a stored decision: unknown kind")
