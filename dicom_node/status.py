"""What `prognode status` prints: the node's counts, and one study's way through the ten stops of docs/tour.md."""

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from analysis.contract import REASONS, TIMING_FILE, Reason
from dicom_node.deliveries import Delivery
from dicom_node.spool import Spool
from dicom_node.store import Store
from dicom_node.workitem import DeliveryState, State, WorkItem

STOPS = ("receive", "spool", "store", "plan", "schedule", "job", "analysis", "report", "deliver", "proof")


def overview(store: Store, synthetic: bool) -> str:
    """Counts by state and the newest work items."""
    counts = store.counts()
    lines = ["SYNTHETIC bundle - NOT FOR CLINICAL USE"] if synthetic else []
    lines.append("  ".join(f"{state} {counts.get(state, 0)}" for state in State))
    lines += [
        f"{_time(item.updated_at)}  {item.state:<10} {item.outcome or '-':<10} {item.reason or '-':<28} "
        f"study {item.study_instance_uid}"
        for item in store.items(limit=20)
    ]
    return "\n".join(lines)


def of_study(store: Store, spool: Spool, study_instance_uid: str) -> str | None:
    """The way of each work item of a study; None when the study is not known."""
    items = store.items(study_instance_uid)
    if not items and not store.arrivals.knows_study(study_instance_uid):
        return None
    if not items:
        return f"study {study_instance_uid}\n  objects are here, but none asks for a score yet"
    return "\n\n".join(_way(item, store, spool) for item in items)


def _way(item: WorkItem, store: Store, spool: Spool) -> str:
    row = store.details(item.id)
    deliveries = store.deliveries.of_item(item.id)
    head = f"study {item.study_instance_uid}\nwork item {item.id}, revision {item.revision}, state {item.state}"
    if item.outcome or item.reason:
        head += f", {item.outcome or 'waiting'} {item.reason or ''}".rstrip()
    lines = [head]
    if item.state is State.CANCELED:
        lines.append(f"  {row['events'][-1]['detail']}")
    elif item.reason in set(Reason):
        text = REASONS[Reason(item.reason)]
        lines.append(f"  {text.sentence} {text.remedy}")
    if row["hint"]:
        lines.append(f"  {'waits' if item.state is State.WAITING else 'to do'}: {row['hint']}")
    lines += [
        f"  {number:>2} {stop:<9} {text}" for number, (stop, text) in enumerate(_stops(item, row, deliveries, spool), 1)
    ]
    return "\n".join(lines)


def _stops(item: WorkItem, row: dict[str, Any], deliveries: list[Delivery], spool: Spool) -> Iterable[tuple[str, str]]:
    received, events = row["received"], row["events"]
    yield "receive", _at(received["first"], "first object")
    yield "spool", _at(received["last"], "last object")
    yield "store", f"{received['instances']} instances of this CT and contour"
    yield "plan", _event(events, "waiting") if item.state is State.WAITING else _event(events, "scheduled")
    yield "schedule", _event(events, "scheduled")
    yield "job", _event(events, "scheduled claimed")
    yield "analysis", " ".join(part for part in (_event(events, "analysed"), _steps(item, spool)) if part)
    yield "report", _event(events, "reported")
    yield "deliver", "; ".join(_sent(delivery) for delivery in deliveries)
    yield "proof", "; ".join(filter(None, (_proof(delivery) for delivery in deliveries))) or _event(events, "completed")


def _steps(item: WorkItem, spool: Spool) -> str:
    path = spool.results(item.key or "-", "analysis") / TIMING_FILE
    if not path.is_file():
        return ""
    return "(" + ", ".join(f"{name} {seconds:.2f} s" for name, seconds in json.loads(path.read_text()).items()) + ")"


def _event(events: list[dict[str, Any]], name: str) -> str:
    """The last event of a name: a stage that ran again shows its last run."""
    found = [event for event in events if event["name"] == name]
    return _at(found[-1]["at"], found[-1]["detail"]) if found else ""


def _sent(delivery: Delivery) -> str:
    if delivery.sent_at is None:
        return f"{delivery.document} to {delivery.destination}: {delivery.state} {delivery.detail}".rstrip()
    return f"{delivery.document} to {delivery.destination}: sent {_time(delivery.sent_at)}"


def _proof(delivery: Delivery) -> str:
    if delivery.proved_at is not None:
        return f"{delivery.document} {delivery.state} {_time(delivery.proved_at)}"
    if delivery.state is DeliveryState.SENT:
        return f"{delivery.document} sent, {delivery.detail or 'not yet proved'}"
    return ""


def _at(moment: float | None, text: str) -> str:
    return f"{_time(moment)}  {text}".rstrip() if moment is not None else ""


def _time(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
