"""A study page as people read it: pure functions from a result, its rows and its history to what the template shows."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from analysis.contract import ClinicalValue, Contribution, Endpoint, JobResult, Severity, by_modality
from dicom_node.deliveries import Delivery
from dicom_node.status import Stop
from dicom_node.web import views
from dicom_node.web.views import Badge
from reports import particulars, words

TOP = 8  # contributions of an endpoint that stand open; the others unfold
_DOCUMENTS = {
    "risk-sr": "Risk report (SR)",
    "radiomics-sr": "Radiomics report (SR)",
    "segmentation": "Contour (SEG)",
    "presentation-state": "Contour on the CT (GSPS)",
    "pages-pdf": "Pages (PDF)",
    "message": "Message",
}


@dataclass(frozen=True)
class Bar:
    """One contribution: `start` and `length` of its bar in per cent of the track, whose middle is no influence."""

    label: str
    value: str
    share: str
    direction: str
    start: float
    length: float
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Bars:
    """What moved one endpoint's score, the strongest first."""

    title: str
    shares: str
    top: tuple[Bar, ...]
    rest: tuple[Bar, ...]


@dataclass(frozen=True)
class Flag:
    """A quality flag; the severity is a word."""

    severity: str
    text: str
    warning: bool


@dataclass(frozen=True)
class Value:
    """A clinical value that was used."""

    label: str
    value: str
    source: str
    date: str


@dataclass(frozen=True)
class Sending:
    """One object on its way to one destination, with what proves that it is there."""

    document: str
    destination: str
    state: str
    proof: Badge
    sent: str
    proved: str
    attempts: int
    detail: str
    next_try: str


@dataclass(frozen=True)
class StopView:
    """One of the ten stops; `done` where the work item has passed it."""

    number: int
    name: str
    time: str
    text: str
    done: bool


def groups(result: JobResult) -> list[views.Group]:
    """Risk group per endpoint, OS first."""
    return [views.group(item.group, f"{words.survival(item.endpoint)} ({item.endpoint})") for item in result.groups]


def bars(result: JobResult) -> list[Bars]:
    """Contributions per endpoint as bars on one scale."""
    longest = max((abs(item.contribution) for item in result.contributions), default=0.0) or 1.0
    found = []
    for endpoint in Endpoint:
        mine = sorted(
            (item for item in result.contributions if item.endpoint == endpoint),
            key=lambda item: -abs(item.contribution),
        )
        if mine:
            made = tuple(_bar(item, longest) for item in mine)
            title = words.capital(words.survival(endpoint))
            found.append(Bars(title, particulars.shares(by_modality(mine, endpoint)), made[:TOP], made[TOP:]))
    return found


def _bar(item: Contribution, longest: float) -> Bar:
    length = 50 * abs(item.contribution) / longest
    raises = item.contribution > 0
    notes = ("imputed",) * item.imputed + ("outside the training range",) * item.out_of_range
    return Bar(
        label=item.label,
        value=particulars.value(item.value, views.unit(item.unit)),
        share=particulars.signed(item.contribution),
        direction="raises" if raises else "lowers" if item.contribution < 0 else "no influence",
        start=round(50 if raises else 50 - length, 2),
        length=round(length, 2),
        notes=notes,
    )


def flags(result: JobResult) -> list[Flag]:
    """Quality flags, warnings first."""
    ordered = sorted(result.quality, key=lambda flag: flag.severity is not Severity.WARNING)
    return [Flag(words.capital(flag.severity.value), flag.text, flag.severity is Severity.WARNING) for flag in ordered]


def clinical(values: Iterable[ClinicalValue], contributions: Iterable[Contribution]) -> list[Value]:
    """Clinical values as they were supplied, under the names that the model gives them."""
    labels = {item.name: item.label for item in contributions}
    return [
        Value(
            label=labels.get(item.name, words.capital(item.name.replace("_", " "))),
            value=particulars.value(item.value, views.unit(item.unit)),
            source=item.source,
            date=item.date or "",
        )
        for item in values
    ]


def document(name: str) -> str:
    """What a document is called.

    >>> document("risk-sr"), document("page-2"), document("something-new")
    ('Risk report (SR)', 'Page 2 (SC)', 'Something new')
    """
    if name.startswith("page-"):
        return f"Page {name.removeprefix('page-')} (SC)"
    return _DOCUMENTS.get(name) or words.capital(name.replace("-", " "))


def sendings(deliveries: Sequence[Delivery], now: float) -> list[Sending]:
    """Deliveries with their proof. What is said of several objects of one destination is said once."""
    said: dict[tuple[str, str, str], str] = {}
    return [_sending(row, now, said) for row in deliveries]


def _sending(row: Delivery, now: float, said: dict[tuple[str, str, str], str]) -> Sending:
    name, detail = document(row.document), row.detail
    next_try = "" if row.final else f"in {views.ago(row.run_after - now)}" if row.run_after > now else "now"
    if detail:
        first = said.setdefault((row.destination, detail, next_try), name)
        detail, next_try = (detail, next_try) if first == name else (f"as for {first}", "")
    return Sending(
        document=name,
        destination=row.destination,
        state=row.state.capitalize(),
        proof=views.proof(row.state),
        sent=views.moment(row.sent_at),
        proved=views.moment(row.proved_at),
        attempts=row.attempts,
        detail=detail,
        next_try=next_try,
    )


def stops(way: Sequence[Stop], deliveries: Sequence[Delivery]) -> list[StopView]:
    """The ten stops, numbered; a stop without a time is done when a later one is. Deliveries are listed elsewhere."""
    timed = [number for number, stop in enumerate(way, 1) if stop.at is not None]
    reached, total = max(timed, default=0), len(deliveries)
    counted = {
        "deliver": f"{sum(row.sent_at is not None for row in deliveries)} of {total} sent",
        "proof": f"{sum(row.proved_at is not None for row in deliveries)} of {total} proved",
    }
    shown = counted if total else {}
    return [
        StopView(number, stop.name, views.moment(stop.at), shown.get(stop.name, stop.text), number <= reached)
        for number, stop in enumerate(way, 1)
    ]


def events(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, str]]:
    """Time, name and detail of each event, newest first."""
    return [(views.moment(row["at"]), str(row["name"]), str(row["detail"])) for row in reversed(rows)]
