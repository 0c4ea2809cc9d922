"""What the plan stage froze for the stages after it: the JSON in work_item.plan. Leaf of the node."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from analysis.contract import ClinicalValue, QualityFlag
from dicom_node.decision import NotEligible, Plan, from_json
from reports.context import Change, Changed


@dataclass(frozen=True)
class Ticket:
    """The JSON in work_item.plan: the decision, and what was frozen with it.

    `digests` maps the SOP Instance UIDs of the inputs to their content: what changes later is another input.
    """

    decision: Plan | NotEligible
    clinical: tuple[ClinicalValue, ...]
    digests: dict[str, str]
    bundle_digest: str
    quality: tuple[QualityFlag, ...] = ()  # of the clinical values
    rule: str = ""  # of [[rules]], by name; "": none
    destinations: tuple[str, ...] | None = None  # as the rule has them; None: all that get results
    shadow: bool = False

    def goes_to(self, every: Sequence[str]) -> tuple[str, ...]:
        """Of `every` destination of results those that this one is for; in the rule's order, where it has one."""
        if self.shadow:
            return ()
        return tuple(every) if self.destinations is None else self.destinations

    def to_json(self) -> str:
        values = [value.model_dump(mode="json") for value in self.clinical]
        flags = [flag.model_dump(mode="json") for flag in self.quality]
        decision = json.loads(self.decision.to_json())
        frozen = {"decision": decision, "clinical": values, "digests": self.digests, "bundle": self.bundle_digest}
        rule = {"name": self.rule, "destinations": self.destinations, "shadow": self.shadow}
        return json.dumps(frozen | {"quality": flags, "rule": rule}, separators=(",", ":"))

    def paths(self, instance_path: Callable[[str, str], Path]) -> Callable[[str], Path]:
        """Where each input lies, by its frozen content: a later content of a UID is another input."""
        return lambda uid: instance_path(uid, self.digests[uid])

    @staticmethod
    def from_json(text: str) -> "Ticket":
        data = json.loads(text)
        clinical = tuple(ClinicalValue.model_validate(value) for value in data["clinical"])
        quality = tuple(QualityFlag.model_validate(flag) for flag in data.get("quality", ()))
        decision, rule = from_json(json.dumps(data["decision"])), data.get("rule", {})
        named = rule.get("destinations")
        return Ticket(
            decision,
            clinical,
            data["digests"],
            data["bundle"],
            quality,
            rule.get("name", ""),
            None if named is None else tuple(named),
            rule.get("shadow", False),
        )


def ticket_of(plan: str | None) -> Ticket | None:
    """The ticket of a stored plan, for who only shows it: None where there is none, or another release wrote it."""
    try:
        return Ticket.from_json(plan) if plan else None
    except (ValueError, KeyError, TypeError):
        return None


def changes(before: Ticket, now: Ticket) -> tuple[Changed, ...]:
    """What is different between the inputs of two revisions of one contour object, the gravest first."""
    roi = now.decision.roi_sop_instance_uid
    images = [{uid: digest for uid, digest in one.digests.items() if uid != roi} for one in (before, now)]
    values = [{item.name: item for item in one.clinical} for one in (before, now)]
    named = tuple(sorted(n for n in {*values[0], *values[1]} if values[0].get(n) != values[1].get(n)))
    found = {
        Change.CONTOUR: before.digests.get(roi) != now.digests.get(roi),
        Change.IMAGES: images[0] != images[1],
        Change.CHOICE: _other_choice(before.decision, now.decision),
        Change.CLINICAL: bool(named),
        Change.BUNDLE: before.bundle_digest != now.bundle_digest,
    }
    return tuple(Changed(kind, named if kind is Change.CLINICAL else ()) for kind, is_so in found.items() if is_so)


def _other_choice(before: Plan | NotEligible, now: Plan | NotEligible) -> bool:
    """Whether another part of the contour object was chosen; where one was refused, the reason says why."""
    if not isinstance(before, Plan) or not isinstance(now, Plan):
        return False
    return (before.roi_numbers, before.combine) != (now.roi_numbers, now.combine)
