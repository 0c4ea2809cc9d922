"""Rows as people read them: pure functions from what the store holds to the words and shapes that a template shows."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from analysis.contract import Endpoint, RiskGroup, RiskScore, wording
from dicom_node.local_time import local
from dicom_node.workitem import PRIORITIES, UNCHANGED, DeliveryState, State
from dicom_node.worklist import DeliveryCounts, Row
from reports import words

Shape = Literal["up", "down", "diamond"]  # beside the words of a risk group; never instead of them
Tone = Literal["", "good", "warn", "bad"]
_SHAPES: dict[RiskGroup, Shape] = {RiskGroup.HIGH: "up", RiskGroup.LOW: "down", RiskGroup.UNCERTAIN: "diamond"}

_EVENTS = {Endpoint.OS: "Death", Endpoint.PFS: "Progression or death"}

# What a state means, beside its word.
STAGES = {
    State.WAITING: "waits for its inputs",
    State.SCHEDULED: "ready to be analysed",
    State.ANALYSED: "report to be made",
    State.REPORTED: "being delivered",
    State.COMPLETED: "delivered",
    State.CANCELED: "withdrawn or replaced",
    State.FAILED: "needs an operator",
}
_PROOFS = {
    DeliveryState.PENDING: "not sent yet",
    DeliveryState.SENT: "sent; not proved",
    DeliveryState.COMMITTED: "storage commitment",
    DeliveryState.SEEN: "found there by C-FIND",
    DeliveryState.ACKNOWLEDGED: "acknowledged by the application",
    DeliveryState.FAILED: "none; needs an operator",
    DeliveryState.CANCELED: "withdrawn before it was sent",
    DeliveryState.NOT_ACCEPTED: "not accepted there; not needed",
}


@dataclass(frozen=True)
class Name:
    """A person's name: the alphabetic group, and the ideographic and phonetic ones beside it."""

    main: str
    others: tuple[str, ...] = ()


@dataclass(frozen=True)
class Badge:
    """A short text with a tone that says the same to those who see colours."""

    text: str
    tone: Tone = ""


@dataclass(frozen=True)
class Risk:
    """One predicted risk in words and numbers."""

    endpoint: Endpoint
    months: int
    text: str
    percent: str
    interval: str
    span: str  # the interval without its sign, for the worklist
    probability: float
    lower: float
    upper: float
    frequency: str


@dataclass(frozen=True)
class Group:
    """A risk group in words and as a shape."""

    text: str
    shape: Shape
    of: str


@dataclass(frozen=True)
class RowView:
    """A row of the worklist."""

    row: Row
    name: Name
    about_patient: str
    study_date: str
    about_study: str
    state: str
    stage: Badge
    groups: tuple[Group, ...]
    risks: tuple[Risk, ...]
    risk_lines: tuple[tuple[str, tuple[Risk, ...]], ...]  # by event: "31 %" beside "OS" would be read as survival
    reason: str
    priority: str
    deliveries: Badge
    warnings: str

    @property
    def open(self) -> bool:
        """Whether it still waits for something."""
        return self.row.state not in (State.COMPLETED, State.CANCELED)


def person_name(value: str) -> Name:
    """A PN value for people (PS3.5 6.2.1): family name first, empty components left out.

    >>> person_name("Yamada^Tarou=山田^太郎=やまだ^たろう")
    Name(main='Yamada, Tarou', others=('山田 太郎', 'やまだ たろう'))
    >>> person_name("Adams^John Robert Quincy^^Rev.^B.A. M.Div."), person_name("")
    (Name(main='Adams, Rev. John Robert Quincy, B.A. M.Div.', others=()), Name(main='no name', others=()))
    """
    groups = [group.split("^") for group in value.split("=")[:3]]
    alphabetic, *others = groups
    family, given, middle, prefix, suffix = (part.strip() for part in [*alphabetic, *[""] * 5][:5])
    main = ", ".join(filter(None, (family, " ".join(filter(None, (prefix, given, middle))), suffix)))
    shown = tuple(filter(None, (" ".join(filter(None, map(str.strip, group))) for group in others)))
    if not main and shown:
        main, shown = shown[0], shown[1:]
    return Name(main or "no name", shown)


def date(value: str) -> str:
    """A DICOM date as ISO 8601; anything else as it is.

    >>> date("20260302"), date("1926.03.02"), date("")
    ('2026-03-02', '1926.03.02', '')
    """
    return f"{value[:4]}-{value[4:6]}-{value[6:]}" if len(value) == 8 and value.isdigit() else value


def age_at(birth_date: str, day: str) -> str:
    """Whole years between two DICOM dates; '' where one is not a date.

    >>> age_at("19500102", "20260101"), age_at("", "20260101"), age_at("20260101", "19500102")
    ('75 y', '', '')
    """
    if not all(len(text) == 8 and text.isdigit() for text in (birth_date, day)):
        return ""
    years = int(day[:4]) - int(birth_date[:4]) - (day[4:] < birth_date[4:])
    return f"{years} y" if 0 <= years <= 130 else ""


def ago(seconds: float) -> str:
    """A duration in its two largest parts.

    >>> ago(12), ago(185), ago(7500), ago(200_000)
    ('under 1 min', '3 min', '2 h 5 min', '2 d 7 h')
    """
    minutes = int(max(0.0, seconds) // 60)
    if minutes < 1:
        return "under 1 min"
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"


def moment(seconds: float | None) -> str:
    """A time of the store in the node's zone, to the second; '' for none."""
    return local(seconds).strftime("%Y-%m-%d %H:%M:%S") if seconds else ""


def iso(seconds: float) -> str:
    """A time of the store for a machine (the attribute of <time>)."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def reason_text(reason: str | None, hint: str | None) -> str:
    """Why there is no score (yet), as a sentence; what the planner notes where the code is of another release."""
    text = wording(reason)
    return text.sentence if text else hint or ""


def stage(row: Row) -> str:
    """What a work item's state means, beside its word."""
    if row.leased and row.state is State.SCHEDULED:
        return "being analysed"
    if row.state is State.CANCELED and row.hint == UNCHANGED:
        return UNCHANGED
    if row.state is State.CANCELED and not row.newest:
        return "replaced by a later revision" if row.roi_sop_instance_uid else "the contour that it waited for came"
    if row.shadow and row.state in (State.REPORTED, State.COMPLETED):
        return "kept as a shadow"
    return STAGES[row.state]


def tone_of(row: Row) -> Tone:
    if row.state is State.FAILED:
        return "bad"
    return "good" if row.state is State.COMPLETED else ""


def unit(code: str) -> str:
    """A UCUM code as people write it; nothing for a pure number.

    >>> unit("[hnsf'U]2.mm3"), unit("mm2"), unit("1"), unit("g/L"), unit("a")
    ('HU²·mm³', 'mm²', '', 'g/L', 'years')
    """
    if code in ("", "1") or code.startswith("{"):
        return ""
    plain = code.replace("[hnsf'U]", "HU")
    powers = re.sub(r"(?<=HU|mm)[23]", lambda found: {"2": "²", "3": "³"}[found.group()], plain)
    return "years" if code == "a" else powers.replace(".", "·")


def risk(score: RiskScore) -> Risk:
    return Risk(
        endpoint=score.endpoint,
        months=score.horizon_months,
        text=words.risk(score),
        percent=words.percent(score.event_probability),
        interval=words.interval(score),
        span=span(words.share(score.lower), words.share(score.upper)),
        probability=score.event_probability,
        lower=score.lower,
        upper=score.upper,
        frequency=words.natural_frequency(score),
    )


def span(lower: str, upper: str) -> str:
    """From one to the other, in the least room.

    >>> span("22", "41"), span("93", ">99")
    ('22–41', '93 to >99')
    """
    return f"{lower}–{upper}" if lower.isdigit() and upper.isdigit() else f"{lower} to {upper}"


def group(value: RiskGroup, of: str = "") -> Group:
    return Group(words.group(value), _SHAPES[value], of)


def deliveries(counts: DeliveryCounts) -> Badge:
    """How far the objects have come, over all destinations.

    >>> deliveries(DeliveryCounts(open=1, refused=0, sent=3, proved=3, total=4))
    Badge(text='3 of 4 proved', tone='')
    >>> deliveries(DeliveryCounts(open=0, refused=1, sent=3, proved=3, total=4)).text
    '1 of 4 failed'
    >>> deliveries(DeliveryCounts(open=0, refused=0, sent=0, proved=0, total=6))
    Badge(text='0 of 6 sent', tone='')
    """
    if not counts.total:
        return Badge("none yet")
    if counts.refused:
        return Badge(f"{counts.refused} of {counts.total} failed", "bad")
    done = counts.open == 0
    if done and counts.sent < counts.total:  # withdrawn, or not accepted there and not needed
        proved = f", {counts.proved} proved" if counts.proved < counts.sent else ""
        return Badge(f"{counts.sent} of {counts.total} sent{proved}", "good" if counts.sent else "")
    if done and counts.proved < counts.total:
        return Badge(f"{counts.total} sent, {counts.proved} proved", "good")
    return Badge(f"{counts.proved} of {counts.total} proved", "good" if done else "")


def proof(state: DeliveryState) -> Badge:
    """What proves a delivery, in words."""
    good = state in (DeliveryState.COMMITTED, DeliveryState.SEEN, DeliveryState.ACKNOWLEDGED)
    return Badge(_PROOFS[state], "good" if good else "bad" if state is DeliveryState.FAILED else "")


def priority(value: int) -> str:
    """HIGH, MEDIUM or LOW (0074,1200)."""
    return next((name for name, number in PRIORITIES.items() if number == value), "MEDIUM")


def about_patient(sex: str, birth_date: str, study_date: str) -> str:
    """Sex and age at the study.

    >>> about_patient("F", "19500102", "20260101")
    'F, 75 y'
    """
    return ", ".join(filter(None, (sex, age_at(birth_date, study_date))))


def row_view(row: Row) -> RowView:
    """A row of the store as a row for people."""
    summary = row.summary
    scored = summary is not None and row.outcome == "SCORED"
    warnings = summary.warnings if summary and scored else 0
    risks = tuple(risk(score) for score in summary.scores) if summary and scored else ()
    return RowView(
        row=row,
        name=person_name(row.patient_name),
        about_patient=about_patient(row.patient_sex, row.patient_birth_date, row.study_date),
        study_date=date(row.study_date) or "no date",
        about_study=row.study_description,
        state=row.state.capitalize(),
        stage=Badge(stage(row), tone_of(row)),
        groups=tuple(group(one.group, str(one.endpoint)) for one in summary.groups) if summary and scored else (),
        risks=risks,
        risk_lines=tuple(
            (text, mine)
            for endpoint, text in _EVENTS.items()
            if (mine := tuple(one for one in risks if one.endpoint is endpoint))
        ),
        reason="" if scored else reason_text(row.reason, row.hint),
        priority=priority(row.priority),
        deliveries=Badge("not sent") if row.shadow else deliveries(row.deliveries),
        warnings=f"{warnings} warning{'s' * (warnings != 1)}" if warnings else "",
    )
