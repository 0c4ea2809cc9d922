"""What the plan stage froze for the stages after it: the JSON in work_item.plan. Leaf of the node."""

import json
from dataclasses import dataclass

from analysis.contract import ClinicalValue, QualityFlag
from dicom_node.decision import NotEligible, Plan, from_json


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

    def to_json(self) -> str:
        values = [value.model_dump(mode="json") for value in self.clinical]
        flags = [flag.model_dump(mode="json") for flag in self.quality]
        decision = json.loads(self.decision.to_json())
        frozen = {"decision": decision, "clinical": values, "digests": self.digests, "bundle": self.bundle_digest}
        return json.dumps(frozen | {"quality": flags}, separators=(",", ":"))

    @staticmethod
    def from_json(text: str) -> "Ticket":
        data = json.loads(text)
        clinical = tuple(ClinicalValue.model_validate(value) for value in data["clinical"])
        quality = tuple(QualityFlag.model_validate(flag) for flag in data.get("quality", ()))
        return Ticket(from_json(json.dumps(data["decision"])), clinical, data["digests"], data["bundle"], quality)
