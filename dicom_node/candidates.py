"""Which ROI of a contour object is the tumour: names first, types as second evidence, and a policy for several.

Pure. Never the first that comes: none or several is a reason, unless the site has decided otherwise. What was not
chosen by a name of the site is said in the report, and is never what bears the name of an organ.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from analysis.contract import Combine, Reason
from config.settings import Planning
from dicom_node.decision import ChosenBy
from dicom_node.instance import Instance, Roi
from dicom_node.organ_names import is_around, is_organ, meant
from dicom_node.workitem import ConfigError

LONGEST_NAME = 64  # VR LO; a longer name is cut before any pattern sees it
CLOSED = frozenset({"CLOSED_PLANAR", "CLOSEDPLANAR_XOR"})

# RT ROI Interpreted Type (3006,00A4) "GTV", and Segmented Property Type codes (CID 7159, 6102; SCT, then old SRT).
TUMOUR_TYPES = frozenset({
    "GTV",
    "108369006", "372087000", "86049000", "14799000", "254637007", "126713003", "363346000",  # neoplasms
    "52988006", "4147007", "27925004",  # lesion, mass, nodule
    "M-8FFFF", "M-80003", "M-80000", "M-01100", "M-03000", "M-03010",
})  # fmt: skip
# Interpreted types that speak against a tumour. Some workstations write ORGAN for everything they draw, so these
# count only where no single name decides.
OTHER_TYPES = frozenset({
    "EXTERNAL", "PTV", "CTV", "TREATED_VOLUME", "IRRAD_VOLUME", "BOLUS", "AVOIDANCE", "ORGAN", "MARKER", "REGISTRATION",
    "ISOCENTER", "CONTRAST_AGENT", "CAVITY", "SUPPORT", "FIXATION", "DOSE_REGION", "CONTROL", "DOSE_MEASUREMENT",
    "BRACHY_CHANNEL", "BRACHY_ACCESSORY", "BRACHY_SRC_APP", "BRACHY_CHNL_SHLD",
})  # fmt: skip


@dataclass(frozen=True)
class Choice:
    """The chosen ROI or segment numbers, ascending, and how they become one mask."""

    numbers: tuple[int, ...]
    combine: Combine
    frame_of_reference_uids: frozenset[str]
    by: ChosenBy = ChosenBy.NAME


@dataclass(frozen=True)
class NoChoice:
    """Why none was chosen; the detail has numbers, never names."""

    reason: Reason
    detail: str


def choose(rois: Sequence[Roi], settings: Planning) -> Choice | NoChoice:
    """Choose the tumour among the ROIs of one object.

    Raises ConfigError for a pattern that is no regular expression.
    """
    include, exclude = _compiled(settings.roi_name_patterns), _compiled(settings.roi_exclude_patterns)
    wanted = [roi for roi in rois if not _matches(roi.name, exclude)]
    named = [roi for roi in wanted if _matches(meant(roi.name), include)]
    drawn = [roi for roi in wanted if roi.contours > 0 and _closed(roi)]
    found, by = _by_name([roi for roi in drawn if roi in named], settings)
    if not found and not named:
        found, by = _without_a_name(rois, [roi for roi in drawn if not is_organ(roi.name)], settings)
        cut_out = any(_matches(roi.name, include) for roi in drawn)
        if not found and (cut_out or _without_a_name(rois, drawn, settings)[0]):
            detail = (
                f"none of {len(rois)} ROIs matches; what else could be meant bears the name of an organ or a margin"
            )
            return NoChoice(Reason.ROI_NOT_FOUND, detail)
    if not found:
        return _none(rois, named)
    numbers = tuple(sorted({roi.number for roi in found}))
    every = [roi.number for roi in rois]
    if any(every.count(number) > 1 for number in numbers):
        return NoChoice(Reason.ROI_UNREADABLE, "an ROI number is used more than once")
    if len(found) > 1 and settings.several_rois == "reject":
        return NoChoice(Reason.ROI_AMBIGUOUS, f"{len(found)} of {len(rois)} match: numbers {_listed(numbers)}")
    combine = Combine.SINGLE if len(found) == 1 else Combine(settings.several_rois)
    return Choice(numbers, combine, frozenset(roi.frame_of_reference_uid for roi in found) - {""}, by)


def drawn_by(roi: Instance, choice: Choice | NoChoice) -> Instance:
    """A contour object with the images that count for the chosen ROIs: the listed ones, and those they are drawn on.

    What other ROIs alone are drawn on counts where nothing else is named.
    """
    numbers = choice.numbers if isinstance(choice, Choice) else ()
    chosen = [one for one in roi.rois if one.number in numbers]
    theirs = {place for one in chosen for place in one.unlisted_images}
    others = {place for one in roi.rois for place in one.unlisted_images} - theirs
    images = tuple(uid for place, uid in enumerate(roi.referenced_sop_instance_uids) if place not in others)
    relevant = chosen if images else roi.rois
    classes = (*roi.referenced_sop_class_uids, *(uid for one in relevant for uid in one.unlisted_sop_class_uids))
    return replace(
        roi,
        referenced_sop_instance_uids=images or roi.referenced_sop_instance_uids,
        referenced_sop_class_uids=tuple(dict.fromkeys(classes)),
        references_from_contours=roi.references_from_contours or bool(theirs),
    )


def _compiled(patterns: Iterable[str]) -> list[re.Pattern[str]]:
    compiled = []
    for pattern in patterns:
        try:
            compiled.append(re.compile(pattern, re.IGNORECASE))
        except re.error as error:
            raise ConfigError(
                f"[plan] roi_name_patterns or roi_exclude_patterns: {pattern!r} is not a regular expression ({error}); "
                "correct it: a bracket or point that is meant as such has a backslash before it"
            ) from error
    return compiled


def _matches(name: str, patterns: Iterable[re.Pattern[str]]) -> bool:
    text = unicodedata.normalize("NFKC", name[:LONGEST_NAME]).strip()[:LONGEST_NAME]
    return any(pattern.search(text) for pattern in patterns)


def _closed(roi: Roi) -> bool:
    """Whether it has area: SEG segments name no geometric type, RTSTRUCT contours do."""
    return not roi.geometric_types or any(kind in CLOSED for kind in roi.geometric_types)


def _type(roi: Roi) -> str:
    return roi.interpreted_type.strip().upper()


def _by_name(found: list[Roi], settings: Planning) -> tuple[list[Roi], ChosenBy]:
    """Of those that match by name, the plain ones; a margin's name only where there is no other, and it is said.

    A pattern that is none of the defaults says what the site means, margin or not.
    """
    own = _compiled(set(settings.roi_name_patterns) - set(Planning().roi_name_patterns))
    plain = [roi for roi in found if not is_around(roi.name) or _matches(meant(roi.name), own)]
    return _narrowed(plain or found), ChosenBy.NAME if plain or not found else ChosenBy.AROUND


def _narrowed(found: list[Roi]) -> list[Roi]:
    """Of several that match by name, those whose type does not speak against them (if any are left)."""
    if len(found) < 2:
        return found
    return [roi for roi in found if _type(roi) not in OTHER_TYPES] or found


def _without_a_name(rois: Sequence[Roi], drawn: Sequence[Roi], settings: Planning) -> tuple[list[Roi], ChosenBy]:
    """What is taken where no name matches: by its type, else because there is no other."""
    typed = [roi for roi in drawn if _type(roi) in TUMOUR_TYPES]
    return (typed, ChosenBy.TYPE) if typed else (_only(rois, drawn, settings), ChosenBy.ONLY)


def _only(rois: Sequence[Roi], drawn: Sequence[Roi], settings: Planning) -> list[Roi]:
    """The only ROI of an object, whatever its name: what a person means who draws one thing and names it nothing."""
    filled = [roi for roi in rois if roi.contours > 0]
    if settings.only_roi_if_unnamed and len(filled) == 1 and len(drawn) == 1 and _type(drawn[0]) not in OTHER_TYPES:
        return list(drawn)
    return []


def _none(rois: Sequence[Roi], named: Sequence[Roi]) -> NoChoice:
    relevant = named or rois
    if relevant and not any(roi.contours for roi in relevant):
        return NoChoice(Reason.ROI_EMPTY, f"{len(relevant)} of {len(rois)} ROIs could be meant, without any contour")
    if relevant and not any(_closed(roi) for roi in relevant if roi.contours):
        kinds = sorted({kind for roi in relevant for kind in roi.geometric_types})
        return NoChoice(Reason.ROI_GEOMETRY_UNSUPPORTED, f"contours of type {', '.join(map(_word, kinds))} only")
    return NoChoice(Reason.ROI_NOT_FOUND, f"none of {len(rois)} ROIs matches")


def _word(text: str) -> str:
    """A code string fit for a report: it comes from the network."""
    return re.sub(r"[^A-Z_]", "?", text[:16].upper()) or "unknown"


def _listed(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:10]))
    return shown if len(numbers) <= 10 else f"{shown}, ..."
