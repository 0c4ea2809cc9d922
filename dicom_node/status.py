"""What `prognode status` prints: the node's counts, and one study's way through the ten stops of docs/tour.md."""

import json
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from analysis.contract import TIMING_FILE, wording
from dicom_node.deliveries import Delivery
from dicom_node.local_time import local, zone_name
from dicom_node.logs import mark_of
from dicom_node.spool import Spool
from dicom_node.store import Store
from dicom_node.ticket import ticket_of
from dicom_node.vitals import Component
from dicom_node.workitem import PRIORITIES, UNCHANGED, DeliveryState, State, WorkItem

SHOWN = 20
_PRIORITIES = {number: word for word, number in PRIORITIES.items()}
STOPS = ("receive", "spool", "store", "plan", "schedule", "job", "analysis", "report", "deliver", "proof")


def overview(store: Store, synthetic: bool) -> str:
    """Counts by state and the newest work items."""
    counts = store.counts()
    lines = ["SYNTHETIC bundle - NOT FOR CLINICAL USE"] if synthetic else []
    lines += [f"{one.component} does not run: {_ended(one)}" for one in store.vitals.silent(time.time())]
    lines.append("  ".join(f"{state} {counts.get(state, 0)}" for state in State))
    newest = [item for item in store.items(limit=2 * SHOWN) if not _is_unchanged(item)][:SHOWN]
    if newest:
        changed = f"changed, {local(time.time()):%Z}"
        head = f"{'item':<8} {'state':<16} {'priority':<8} {'outcome':<10} {'reason':<28} {changed:<23}  study"
        lines.append(head)
    lines += [
        f"{f'#{item.id}':<8} {item.state + (' (held)' if item.held else ''):<16} {_PRIORITIES[item.priority]:<8} "
        f"{item.outcome or '-':<10} {item.reason or '-':<28} {_time(item.updated_at)}  {item.study_instance_uid}"
        f"{'  shadow' if item.shadow else ''}"
        for item in newest
    ]
    return "\n".join(lines)


def _is_unchanged(item: WorkItem) -> bool:
    """Whether it was planned once more, to the same answer: what counts is the one before it."""
    return item.state is State.CANCELED and item.hint == UNCHANGED


def _ended(one: Component) -> str:
    if one.ended_at is not None:
        return f"it was stopped {_time(one.ended_at)}"
    said = "it has ended without a word, last" if one.gone else "not"
    return f"{said} heard of{'' if one.gone else ' since'} {_time(one.seen_at)}; prognode check"


def of_study(store: Store, spool: Spool, study_instance_uid: str) -> str | None:
    """The way of each work item of a study; None when the study is not known."""
    items = store.items(study_instance_uid)
    if not items and not store.arrivals.knows_study(study_instance_uid):
        return None
    if not items:
        return f"{_named(study_instance_uid)}\n  objects are here, but none asks for a score yet"
    ways = [_way(item, store, spool) for item in sorted(items, key=_is_unchanged)]
    return "\n\n".join([*ways, f"times are in {zone_name(time.time())}"])


def _named(study_instance_uid: str) -> str:
    return f"study {study_instance_uid} (in the log: {mark_of(study_instance_uid)})"


def _way(item: WorkItem, store: Store, spool: Spool) -> str:
    row = store.details(item.id)
    deliveries = store.deliveries.of_item(item.id)
    head = f"{_named(item.study_instance_uid)}\nwork item {item.id}, revision {item.revision}, state {item.state}"
    head += " (held)" if item.held else ""
    if item.outcome or item.reason:
        head += f", {item.outcome or 'waiting'} {item.reason or ''}".rstrip()
    lines = [head]
    ticket = ticket_of(item.plan)
    if ticket and ticket.rule:
        lines.append(f"  by the rule {ticket.rule}{': a shadow, nothing of it is sent' if item.shadow else ''}")
    if item.state is State.CANCELED:
        lines.append(f"  {row['events'][-1]['detail']}")
    elif text := wording(item.reason):
        lines.append(f"  {text.sentence} {text.remedy}")
    if row["hint"] and not _is_unchanged(item):
        lines.append(f"  {'waits' if item.state is State.WAITING else 'to do'}: {row['hint']}")
    lines += [
        f"  {number:>2} {stop.name:<9} {_at(stop.at, stop.text)}"
        for number, stop in enumerate(stops(item, row, deliveries, spool), 1)
    ]
    return "\n".join(lines)


@dataclass(frozen=True)
class Stop:
    """One of the ten stops of docs/tour.md: when a work item passed it, and what there is to say. None: not yet."""

    name: str
    at: float | None = None
    text: str = ""


def stops(item: WorkItem, row: dict[str, Any], deliveries: list[Delivery], spool: Spool) -> list[Stop]:
    """A work item's way; `row` is what `store.details` gives. The same list is printed and shown on the study page."""
    received, events = row["received"], row["events"]
    analysed = _event("analysis", events, "analysed")
    proofs = "; ".join(filter(None, (_proof(delivery) for delivery in deliveries)))
    return [
        Stop("receive", received["first"], "first object"),
        Stop("spool", received["last"], "last object"),
        Stop("store", None, _instances(received["instances"])),
        _event("plan", events, "waiting" if item.state is State.WAITING else "scheduled"),
        _event("schedule", events, "scheduled"),
        _event("job", events, "scheduled claimed"),
        replace(analysed, text=" ".join(part for part in (analysed.text, _steps(item, spool)) if part)),
        _event("report", events, "reported"),
        Stop(
            "deliver",
            _last(delivery.sent_at for delivery in deliveries),
            "; ".join(_sent(deliveries)),
        ),
        Stop("proof", _last(delivery.proved_at for delivery in deliveries), proofs)
        if proofs
        else _event("proof", events, "completed"),
    ]


def _instances(number: int) -> str:
    return f"{number} instance{'' if number == 1 else 's'} of this CT and contour"


def _last(moments: Iterable[float | None]) -> float | None:
    """When the last of them came; None while one is missing."""
    known = list(moments)
    return max((moment for moment in known if moment is not None), default=None) if None not in known else None


def _steps(item: WorkItem, spool: Spool) -> str:
    path = spool.results(item.key or "-", "analysis") / TIMING_FILE
    if not path.is_file():
        return ""
    return "(" + ", ".join(f"{name} {seconds:.2f} s" for name, seconds in json.loads(path.read_text()).items()) + ")"


def _event(stop: str, events: list[dict[str, Any]], name: str) -> Stop:
    """The last event of a name: a stage that ran again shows its last run."""
    found = [event for event in events if event["name"] == name]
    return Stop(stop, found[-1]["at"], found[-1]["detail"]) if found else Stop(stop)


def _sent(deliveries: list[Delivery]) -> Iterator[str]:
    """What has been sent, and when; what has not, by destination and reason: a PACS that is down is said once."""
    waiting: dict[tuple[str, str], list[str]] = defaultdict(list)
    for one in deliveries:
        if one.sent_at is None:
            waiting[one.destination, f"{one.state} {one.detail}".rstrip()].append(one.document)
        else:
            yield f"{one.document} to {one.destination}: sent {_time(one.sent_at)}"
    for (destination, why), documents in waiting.items():
        what = documents[0] if len(documents) == 1 else f"{len(documents)} objects"
        yield f"{what} to {destination}: {why}"


def _proof(delivery: Delivery) -> str:
    if delivery.proved_at is not None:
        return f"{delivery.document} {delivery.state} {_time(delivery.proved_at)}"
    if delivery.state is DeliveryState.SENT:
        return f"{delivery.document} sent, {delivery.detail or 'not yet proved'}"
    return ""


def _at(moment: float | None, text: str) -> str:
    return f"{_time(moment)}  {text}".rstrip() if moment is not None else text


def _time(moment: float) -> str:
    return local(moment).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
