"""GET /metrics for Prometheus: the node's figures, read from the store at each scrape. No PHI: AE titles and codes.

Gauges and the receiver's counters are what the store says now; durations and results are counted by following the
history from when `prognode web` began. Names and meanings: docs/metrics.md.
"""

import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import Response
from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from config.identity import VERSION
from config.settings import Settings
from dicom_node.measures import STAGES
from dicom_node.spool import Spool
from dicom_node.store import Store
from dicom_node.traffic import OTHERS
from dicom_node.watermark import room
from dicom_node.web import deps
from dicom_node.workitem import DeliveryState, State

router = APIRouter(include_in_schema=False)
SECONDS = (1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3600.0, 14400.0, 86400.0)
# A second series beside each counter, which nothing of ours reads.
disable_created_metrics()  # type: ignore[no-untyped-call]


class Followed:
    """Counters of what the history says, from the first scrape on; one for the life of the process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._lock = threading.Lock()
        self._after: int | None = None
        named: dict[str, Any] = {"registry": self.registry, "namespace": "prognode"}
        self._stage = Histogram(
            "stage_duration_seconds", "From the begin of a stage to its end.", ["stage"], buckets=SECONDS, **named
        )
        self._total = Histogram(
            "study_duration_seconds", "From a work item's begin to its proved delivery.", buckets=SECONDS, **named
        )
        self._results = Counter("results", "Analyses that ended with a result.", ["outcome", "reason"], **named)
        self._outside = Counter(
            "results_outside_range",
            "Scored with a value outside the range of the bundle's development cohort.",
            **named,
        )
        self._failures = Counter("failures", "Work items that need an operator.", **named)
        self._deliveries = Counter(
            "deliveries", "Objects and messages that are at their end, by what proves it.", ["destination", "proof"],
            **named,
        )  # fmt: skip
        for stage, _ in STAGES.values():
            self._stage.labels(stage)  # so that each is there from the beginning, with 0
        ProcessCollector(namespace="prognode_web", registry=self.registry)

    def follow(self, store: Store, destinations: Iterable[str]) -> None:
        """Count what has happened since the last time."""
        with self._lock:
            for name in destinations:  # there with 0: `increase()` does not see a series that begins with 1
                self._deliveries.labels(name, DeliveryState.FAILED)
            if self._after is None:
                self._after = store.measures.last_event()
            while found := store.measures.happened(self._after):
                for one in found:
                    self._count(store, one)
                self._after = found[-1].id

    def _count(self, store: Store, one: Any) -> None:
        if one.name in STAGES and one.seconds is not None:
            self._stage.labels(STAGES[one.name][0]).observe(max(0.0, one.seconds))
        if one.name == "analysed":
            self._results.labels(one.outcome or "", one.reason or "").inc()
            self._outside.inc(int(one.outside_range))
        if one.name == "failed":
            self._failures.inc()
        if one.name == "completed":
            self._total.observe(max(0.0, one.total_seconds))
        if one.name in ("completed", "failed"):
            for (destination, state), count in store.measures.ended_deliveries(one).items():
                self._deliveries.labels(destination, state).inc(count)


@dataclass(eq=False)  # the registry keeps it in a dict
class Now(Collector):
    """What the store, the disk and the installed bundle say at this moment."""

    settings: Settings
    spool: Spool
    store: Store
    app: FastAPI

    def collect(self) -> Iterator[Metric]:
        now = time.time()
        yield from self._queue(now)
        yield from self._deliveries(now)
        yield from self._received()
        yield from self._peers()
        yield from self._processes(now)
        yield from self._disk()
        yield from self._bundle()

    def _queue(self, now: float) -> Iterator[Metric]:
        counts, oldest = self.store.counts(), self.store.vitals.oldest()
        items = _gauge("work_items", "Work items by state.", ["state"])
        ages = _gauge("oldest_work_item_seconds", "Age of the oldest work item of a state that is no end.", ["state"])
        for state in State:
            items.add_metric([state], counts.get(state, 0))
            if state not in (State.COMPLETED, State.CANCELED):
                ages.add_metric([state], now - oldest.get(state, now))
        since = self.store.measures.standing()
        standing = _gauge(
            "standing_seconds", "How long a work item that nobody holds has been in a state of work.", ["state"]
        )
        for state in (State.SCHEDULED, State.ANALYSED, State.REPORTED):
            standing.add_metric([state], now - since.get(state, now))
        held = _gauge("work_items_held", "Work items that wait for an operator's release.", [])
        held.add_metric([], self.store.vitals.held())
        yield from (items, ages, standing, held)

    def _deliveries(self, now: float) -> Iterator[Metric]:
        waiting = {one.destination: one for one in self.store.measures.open_deliveries()}
        names = {*waiting, *(peer.ae_title for peer in self.settings.destinations())}
        counts = _gauge("deliveries_open", "Objects and messages on their way, or not yet proved.", ["destination"])
        ages = _gauge(
            "oldest_delivery_seconds", "How long the oldest of them that nobody holds has waited.", ["destination"]
        )
        for name in sorted({*names, *self.settings.message_destinations()}):
            counts.add_metric([name], waiting[name].count if name in waiting else 0)
            oldest_at = waiting[name].oldest_at if name in waiting else None
            ages.add_metric([name], 0.0 if oldest_at is None else now - oldest_at)
        yield from (counts, ages)

    def _received(self) -> Iterator[Metric]:
        """The receiver's own counts; they begin again when it does, as counters may."""
        row = next((one for one in self.store.vitals.components() if one.component == "receive"), None)
        facts: dict[str, Any] = dict(row.facts) if row else {}
        by_peer = facts.get("peers", {})
        for what, words in (
            ("associations", "Associations that were accepted."),
            ("objects", "Objects that were stored, and answered with 0000H."),
            ("bytes", "Bytes of these objects."),
            ("refused", "Objects that were not taken."),
        ):
            name = {"bytes": "received_bytes", "refused": "objects_refused"}.get(what, what)
            counter = CounterMetricFamily(f"prognode_{name}", words, labels=["peer"])
            for peer, counts in by_peer.items():
                counter.add_metric([peer], counts.get(what, 0))
            yield counter
        turned_away = CounterMetricFamily("prognode_connections_turned_away", "Callers that were not let in.")
        turned_away.add_metric([], facts.get("turned_away", 0))
        running = _gauge("associations_running", "Associations of this moment, to ten seconds.", [])
        running.add_metric([], facts.get("running", 0))
        yield from (turned_away, running)

    def _peers(self) -> Iterator[Metric]:
        known = {peer.ae_title.strip() for peer in self.settings.peers} | {*self.settings.message_destinations()}
        asked = {peer.ae_title.strip() for peer in self.settings.destinations()}  # others not any more: old answers
        contact = _gauge(
            "peer_last_success_timestamp_seconds", "When this last went well with a peer.", ["peer", "kind"]
        )
        answers = _gauge("peer_echo", "1: the last C-ECHO was answered; each five minutes.", ["peer"])
        latest: dict[tuple[str, str], float] = {}
        for one in self.store.vitals.contacts():
            peer = one.peer.strip() if one.peer.strip() in known else OTHERS
            if one.well:
                latest[peer, one.kind] = max(one.at, latest.get((peer, one.kind), 0.0))
            if one.kind == "echo" and peer in asked:
                answers.add_metric([peer], int(one.well))
        for (peer, kind), at in latest.items():
            contact.add_metric([peer, kind], at)
        yield from (contact, answers)

    def _processes(self, now: float) -> Iterator[Metric]:
        alive = _gauge(
            "process_up",
            "1: the process has said something within three minutes, and is not seen to be gone.",
            ["process"],
        )
        begun = _gauge("process_start_timestamp_seconds", "When it began.", ["process"])
        isolated = _gauge("jobs_isolated", "1: every promise about jobs is kept on this machine.", [])
        for one in self.store.vitals.components():
            alive.add_metric([one.component], int(one.alive(now)))
            begun.add_metric([one.component], one.started_at)
            if one.component == "run":
                isolated.add_metric([], int(bool(one.facts.get("isolated"))))
        build = InfoMetricFamily("prognode_build", "Version of prognode web.", value={"version": VERSION})
        yield from (alive, begun, isolated, build)

    def _disk(self) -> Iterator[Metric]:
        seen = room(self.spool.root, self.settings)
        for name, value, words in (
            ("free", seen.free, "Free on the spool's disk."),
            ("total", seen.total, "Size of the spool's disk."),
            ("warn", seen.warn, "Below so much free, the node warns and removes sooner."),
            ("refuse", seen.refuse, "Below so much free, objects are refused (A700)."),
        ):
            gauge = _gauge(f"disk_{name}_bytes", words, [])
            gauge.add_metric([], value)
            yield gauge
        size = _gauge("store_bytes", "Size of the store's files.", [])
        files = (self.spool.store, self.spool.store.with_name(f"{self.spool.store.name}-wal"))
        size.add_metric([], sum(path.stat().st_size for path in files if path.exists()))
        yield size

    def _bundle(self) -> Iterator[Metric]:
        """What is installed, and whether jobs run with that very bundle."""
        found = self.app.state.models.all(self.store)[0]
        manifest = found.manifest
        value = {"digest": found.digest}
        if manifest is not None:
            value |= {"name": manifest.name, "version": manifest.version, "synthetic": str(manifest.synthetic).lower()}
        yield InfoMetricFamily("prognode_bundle", "The installed bundle; no digest: it cannot be used.", value=value)
        row = self.store.vitals.component("run")
        loaded = _gauge("bundle_loaded", "1: jobs run with the bundle that is installed.", [])
        if row is not None:
            loaded.add_metric([], int(bool(found.digest) and row.facts.get("bundle") == found.digest))
        yield loaded


def _gauge(name: str, words: str, labels: list[str]) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"prognode_{name}", words, labels=labels)


@router.get("/metrics", dependencies=[Depends(deps.monitor)])
def metrics(request: Request, store: deps.StoreDep, spool: deps.SpoolDep, settings: deps.SettingsDep) -> Response:
    """The exposition, as text or as OpenMetrics."""
    followed: Followed = request.app.state.followed
    followed.follow(store, (*(peer.ae_title for peer in settings.destinations()), *settings.message_destinations()))
    encode, content_type = choose_encoder(request.headers.get("accept", ""))
    both = CollectorRegistry(auto_describe=False)
    both.register(Now(settings, spool, store, request.app))
    both.register(followed.registry)
    return Response(encode(both), media_type=content_type)
