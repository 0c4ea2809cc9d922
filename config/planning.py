"""Settings of planning: the section [plan], and the entries [[rules]] that give some senders one of their own.

Leaf of `config`; read through `config.settings`.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

ANY = "*"


@dataclass(frozen=True)
class Planning:
    """Which ROI is the tumour, what to do with none or several, and which CT is eligible, and is the baseline.

    `without_therapy_start`: where it is not known when therapy began, every CT may be scored ("score"), the patient's
    first ("first": none of a later day than one that is scored already), or none ("refuse").
    """

    roi_name_patterns: tuple[str, ...] = ("^gtv", "tumou?r", "lesion", "mass", "neoplasm")
    roi_exclude_patterns: tuple[str, ...] = ("node", "gtvn", "gtv-n")
    several_rois: Literal["reject", "largest", "union"] = "reject"
    only_roi_if_unnamed: bool = True
    minimum_slices: int = 8
    minimum_slice_spacing_mm: float = 0.3
    maximum_slice_spacing_mm: float = 5.0
    minimum_pixel_spacing_mm: float = 0.3
    maximum_pixel_spacing_mm: float = 2.0
    missing_instances_hours: float = 24.0
    quiet_seconds: float = 30.0
    baseline_days_before_therapy: float = 90.0
    baseline_days_after_therapy: float = 0.0
    without_therapy_start: Literal["score", "first", "refuse"] = "score"


@dataclass(frozen=True)
class Rule:
    """What is done with the contours that certain AEs send; the first rule that matches the calling AE title counts.

    `calling_ae_titles` may hold the wild cards * and ? of PS3.4 C.2.2.2.4; case counts. None: as without a rule, so the
    node's own `bundle`, and all `destinations` with receives_results. `plan` is [plan] with the rule's own values over
    it. `shadow`: analysed and kept; nothing is sent, and nobody outside is told.
    """

    name: str
    calling_ae_titles: tuple[str, ...] = (ANY,)
    bundle: Path | None = None
    destinations: tuple[str, ...] | None = None  # AE titles of [[peers]], "hl7:NAME", "fhir:NAME"
    priority: Literal["HIGH", "MEDIUM", "LOW"] = "MEDIUM"
    shadow: bool = False
    plan: Planning = field(default_factory=Planning)

    def matches(self, calling_ae_title: str) -> bool:
        """Whether it is for what this AE sends; blanks around a title mean nothing (PS3.5 table 6.2-1).

        >>> Rule("all CTs", ("CT_?", "GE*")).matches("CT_1 "), Rule("all CTs", ("CT_?",)).matches("CT_10")
        (True, False)
        """
        title = calling_ae_title.strip()
        return any(re.fullmatch(_regex(pattern.strip()), title) for pattern in self.calling_ae_titles)


def _regex(pattern: str) -> str:
    wild = {"*": ".*", "?": "."}
    return "".join(wild.get(character) or re.escape(character) for character in pattern)


def inherited(data: Mapping[str, Any]) -> dict[str, Any]:
    """A parsed TOML document in which the plan of each rule is [plan] with the rule's own values over it."""
    plan, rules = data.get("plan", {}), data.get("rules")
    if not isinstance(plan, dict) or not isinstance(rules, list):
        return dict(data)  # not what it should be: said by whoever builds it

    def whole(rule: Any) -> Any:
        own = rule.get("plan", {}) if isinstance(rule, dict) else None
        return rule | {"plan": plan | own} if isinstance(own, dict) else rule

    return {"plan": plan, **data, "rules": [whole(rule) for rule in rules]}  # a slip in [plan] is named as such


def mistakes(rules: Sequence[Rule], receiving: Collection[str]) -> Iterator[str]:
    """Rules that could not do what they say; `receiving` are the destinations there are."""
    every = ""
    for rule in rules:
        where = f"[[rules]] {rule.name!r}"
        if not re.fullmatch(r"[\w .-]{1,64}", rule.name):
            yield f"{where}: use a name of 1 to 64 letters, digits, blanks, '-', '_' or '.'"
        if every:
            yield f"{where} is never reached: {every!r} before it takes every AE title; put it first"
        for title in rule.calling_ae_titles or ("",):
            if not 1 <= len(title.strip()) <= 16 or not title.isascii() or "\\" in title or not title.isprintable():
                yield f'{where}: calling_ae_titles {title!r}: use AE titles, with * and ?; ["*"] is any'
        if rule.shadow and rule.destinations:
            yield f"{where}: shadow = true sends nothing; take out destinations, or shadow"
        for name in rule.destinations or ():
            if name not in receiving:
                known = ", ".join(sorted(receiving)) or "none"
                yield (
                    f"{where}: destination {name!r} gets no results; give it receives_results = true in [[peers]], "
                    f"[[hl7_peers]] (hl7:NAME) or [[fhir_servers]] (fhir:NAME); those that do: {known}"
                )
        every = every or (rule.name if ANY in rule.calling_ae_titles else "")
    names = [rule.name for rule in rules]
    doubles = sorted({name for name in names if names.count(name) > 1})
    if doubles:
        yield f"[[rules]] names {', '.join(doubles)} more than once; give each a name of its own"
