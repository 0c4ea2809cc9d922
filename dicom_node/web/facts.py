"""Facts about the models and the system, for pages and the API. No PHI in any of them."""

import json
import logging
import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from config.settings import Settings
from dicom_node.elements import escaped
from dicom_node.spool import Spool
from dicom_node.store import Store
from dicom_node.vitals import Component, Contact
from dicom_node.watermark import room
from models.bundle import CARD, DEMO, METRICS, Bundle, BundleError, load
from models.manifest import Manifest

LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelFacts:
    """An installed bundle. Where it cannot be used, `problem` says why, and the manifest is None."""

    folder: str
    digest: str = ""
    manifest: Manifest | None = None
    card: str = ""  # Markdown
    metrics: dict[str, Any] = field(default_factory=dict)
    golden: str = ""  # how the golden case went when the runner started with this bundle; '' when it has not
    golden_at: float | None = None
    problem: str = ""


@dataclass(frozen=True)
class DiskFacts:
    """Bytes of the spool's disk; `low`: C-STORE is refused until some are free."""

    total: int
    free: int
    reserve: int

    @property
    def low(self) -> bool:
        return self.free < self.reserve


@dataclass(frozen=True)
class QueueFacts:
    """Work items by state; the age in seconds of the oldest of each state that is no end; how many are held."""

    counts: dict[str, int]
    oldest_seconds: dict[str, float]
    held: int


@dataclass(frozen=True)
class PeerFacts:
    """A peer of the settings, or a caller that has none, and when it was last heard of."""

    name: str
    where: str  # host:port, or a URL; '' for a caller that is not in the settings
    sends: bool
    receives_results: bool
    received: Contact | None
    delivered: Contact | None
    echo: Contact | None
    trouble: str  # what does not come to it since then; '' where all does


@dataclass(frozen=True)
class SystemFacts:
    """The node as it is now. `runner` is what runs the jobs, a part of the worker or a process of its own.

    Both are None before the first start; `..._alive`: heard of within three minutes.
    """

    at: float
    version: str
    disk: DiskFacts
    queue: QueueFacts
    peers: tuple[PeerFacts, ...]
    worker: Component | None
    worker_alive: bool
    runner: Component | None
    runner_alive: bool
    refused: dict[str, str]  # process -> why its last reload was refused


class Models:
    """The installed bundles. Every byte is checked, which takes a second: read once, and again when it changes."""

    def __init__(self, settings: Settings) -> None:
        named = (rule.bundle for rule in settings.rules if rule.bundle is not None)
        self._folders = tuple(dict.fromkeys((settings.bundle or DEMO, *named)))
        self._lock = threading.Lock()
        self._read: dict[Path, tuple[object, ModelFacts]] = {}

    def all(self, store: Store) -> tuple[ModelFacts, ...]:
        """Every installed bundle; the one in use first."""
        found = [self._model(folder) for folder in self._folders]
        runner = store.vitals.component("run")
        if runner is None:
            return tuple(found)
        told = runner.facts.get("bundles") or {runner.facts.get("bundle"): runner.facts.get("golden", "")}
        return tuple(
            replace(one, golden=str(told[one.digest]), golden_at=runner.started_at) if one.digest in told else one
            for one in found
        )

    def _model(self, folder: Path) -> ModelFacts:
        with self._lock:
            stamp = _stamp(folder)
            if folder not in self._read or self._read[folder][0] != stamp:
                self._read[folder] = (stamp, _model(folder))
            return self._read[folder][1]


def _stamp(folder: Path) -> object:
    try:
        return [(path.name, path.stat().st_mtime_ns, path.stat().st_size) for path in sorted(folder.iterdir())]
    except OSError:
        return None


def _model(folder: Path) -> ModelFacts:
    try:
        bundle = load(folder)
        metrics = json.loads((folder / METRICS).read_text("utf-8")) if METRICS in bundle.manifest.files else {}
        return ModelFacts(str(folder), bundle.digest, bundle.manifest, _card(bundle), metrics)
    except (BundleError, OSError, ValueError) as error:
        LOGGER.warning("web.bundle_unusable %s", error)
        return ModelFacts(str(folder), problem=str(error))


def _card(bundle: Bundle) -> str:
    return (bundle.folder / CARD).read_text("utf-8")


def system(settings: Settings, spool: Spool, store: Store, version: str) -> SystemFacts:
    """Look at the disk, the queue, the peers, the worker and what runs its jobs."""
    now = time.time()
    disk = room(spool.root, settings)
    worker, runner = store.vitals.component("work"), store.vitals.component("run")
    oldest = {state: now - at for state, at in store.vitals.oldest().items()}
    return SystemFacts(
        at=now,
        version=version,
        disk=DiskFacts(disk.total, disk.free, disk.refuse),
        queue=QueueFacts(store.counts(), oldest, store.vitals.held()),
        peers=_peers(settings, store.vitals.contacts(), store.deliveries.troubles()),
        worker=worker,
        worker_alive=worker is not None and worker.alive(now),
        runner=runner,
        runner_alive=runner is not None and runner.alive(now),
        refused=store.vitals.refusals(),
    )


def _peers(settings: Settings, contacts: list[Contact], troubles: dict[str, str]) -> tuple[PeerFacts, ...]:
    known = [(peer.ae_title, f"{peer.host}:{peer.port}", peer.sends, peer.receives_results) for peer in settings.peers]
    known += [
        (f"hl7:{peer.name}", f"{peer.host}:{peer.port}", False, peer.receives_results) for peer in settings.hl7_peers
    ]
    known += [(f"fhir:{one.name}", one.base_url, False, one.receives_results) for one in settings.fhir_servers]
    names = {name for name, *_ in known}
    strangers = sorted({contact.peer for contact in contacts if contact.peer not in names})
    known += [(name, "", True, False) for name in strangers]
    found = {(contact.peer, contact.kind): contact for contact in contacts}
    return tuple(
        PeerFacts(
            escaped(name),
            where,
            sends,
            receives,
            found.get((name, "received")),
            found.get((name, "delivered")),
            found.get((name, "echo")),
            troubles.get(name, ""),
        )
        for name, where, sends, receives in known
    )
