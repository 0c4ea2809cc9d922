"""What lies in the spool, by kind: how much, how old, what retention would remove now, and what stays and why."""

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from config.settings import Settings
from dicom_node.audit_trail import trail_path
from dicom_node.retention import ENDED, Condition
from dicom_node.spool import Spool
from dicom_node.storage import DAY_SECONDS, Cleaner, aside, set_aside_at
from dicom_node.store import Store
from dicom_node.watermark import Room, room
from dicom_node.workitem import State

YOUNG = "is not old enough"
FOR_EVER = "is kept for ever, as the settings have it"
YOUNG_OR_HERE = "is not old enough, or something of the patient is here"
OPEN = "belongs to work that is open"


@dataclass
class Amount:
    """Objects and bytes."""

    objects: int = 0
    bytes: int = 0

    def add(self, objects: int, size: int) -> None:
        self.objects += objects
        self.bytes += size


@dataclass
class Kind:
    """One kind of thing. `oldest`: seconds since the epoch; `stays`: by the reason."""

    name: str
    all: Amount = field(default_factory=Amount)
    oldest: float | None = None
    goes: Amount = field(default_factory=Amount)
    stays: dict[str, Amount] = field(default_factory=dict)

    def count(self, objects: int, size: int, at: float | None, why: str = "") -> None:
        """Things that go (`why` is empty) or stay."""
        self.all.add(objects, size)
        if at is not None:
            self.oldest = at if self.oldest is None else min(at, self.oldest)
        (self.stays.setdefault(why, Amount()) if why else self.goes).add(objects, size)


@dataclass(frozen=True)
class Report:
    """Everything that `prognode storage` prints."""

    room: Room
    kinds: tuple[Kind, ...]

    def to_json(self) -> dict[str, Any]:
        state = "full" if self.room.full else "low" if self.room.low else "ok"
        return {"disk": asdict(self.room) | {"state": state}, "kinds": [asdict(kind) for kind in self.kinds]}


def report(store: Store, spool: Spool, settings: Settings, clock: Callable[[], float] = time.time) -> Report:
    """Look at everything; nothing is changed. Raises OSError."""
    return Report(room(spool.root, settings), tuple(_Inventory(store, spool, settings, clock).kinds()))


class _Inventory:
    def __init__(self, store: Store, spool: Spool, settings: Settings, clock: Callable[[], float]) -> None:
        self._store, self._spool, self._settings, self._clock = store, spool, settings, clock
        self._cleaner = Cleaner(store, spool, settings, clock)
        self._pressed = room(spool.root, settings).low
        self._conditions: dict[str, Condition] = {}

    def kinds(self) -> Iterator[Kind]:
        yield from self._contents()
        yield from self._results()
        yield self._jobs()
        yield self._events()
        yield self._audit()
        root = self._spool.root
        yield _files("store", root.glob("store.sqlite*"), skip=(".schema-",))
        yield _files("half-written", self._spool.incoming.glob("*"))
        yield from self._aside()
        yield from self._people()

    def _contents(self) -> Iterator[Kind]:
        received, superseded = Kind("received"), Kind("superseded")
        for study in self._store.retention.studies_with_files():
            for content in self._store.retention.contents(study):
                kind = received if content.current else superseded
                path = self._spool.instance_path(content.sop_instance_uid, content.digest)
                why = self._why(study, "received") if content.current else self._why_superseded(study)
                kind.count(1, _size(path), content.received_at, why)
        yield from (received, superseded)

    def _why_superseded(self, study: str) -> str:
        return self._why(study, "superseded") and self._why(study, "received")

    def _results(self) -> Iterator[Kind]:
        kinds = {"results": Kind("results"), "canceled": Kind("canceled"), "open": Kind("open results")}
        for row in self._store.retention.all_results():
            folder = self._spool.results(row["key"], "report").parent
            size = sum(_size(path) for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else None
            if size is None:
                continue
            name = {State.COMPLETED: "results", State.CANCELED: "canceled"}.get(State(row["state"]), "open")
            why = OPEN if name == "open" else self._why(row["study_instance_uid"], name)
            kinds[name].count(1, size, row["updated_at"], why)
        yield from kinds.values()

    def _jobs(self) -> Kind:
        kind, days = Kind("jobs"), self._cleaner.due_days("jobs")
        for folder in (self._spool.root / "jobs").iterdir():
            if folder.name.startswith("."):  # waits for a study that still arrives
                continue
            try:
                at = folder.stat().st_mtime
                size = sum(_size(path) for path in folder.rglob("*") if path.is_file() and path.stat().st_nlink == 1)
            except FileNotFoundError:  # its job has ended
                continue
            open_work = self._store.retention.state_of_key(folder.name) not in ENDED
            kind.count(1, size, at, OPEN if open_work else self._too_young(at, days))
        return kind

    def _events(self) -> Kind:
        kind, days = Kind("events"), self._cleaner.due_days("events")
        count, oldest = self._store.retention.events()
        due = self._store.retention.events_due(self._clock() - days * DAY_SECONDS) if days else 0
        kind.count(due, 0, None)
        kind.count(count - due, 0, oldest, YOUNG if days else FOR_EVER)
        return kind

    def _audit(self) -> Kind:
        kind, days = Kind("audit"), self._settings.audit.keep_days
        syslog = self._settings.audit.syslog
        sent = self._store.audit.sent(f"{syslog.host}:{syslog.port}") if syslog.host else None
        for file in self._store.audit.files():
            path = trail_path(self._spool.audit, file.first)
            if not path.is_file():
                continue
            if file.closed_at is None:
                why = "is being written"
            elif sent is not None and file.last > sent:
                why = "the collector does not have it yet"
            else:
                why = self._too_young(file.closed_at, days)
            kind.count(1, file.bytes, path.stat().st_mtime, why)
        return kind

    def _aside(self) -> Iterator[Kind]:
        for name, paths in aside(self._spool).items():
            kind, days = Kind(name), self._cleaner.due_days(name)
            for path in paths:
                at = set_aside_at(path)
                size = sum(_size(each) for each in path.rglob("*")) if path.is_dir() else _size(path)
                kind.count(1, size, at, self._too_young(at, days))
            yield kind

    def _people(self) -> Iterator[Kind]:
        """Rows about patients; what stays may also be young, or of studies of which something is here."""
        forgetting, limits = self._store.forgetting, self._settings.storage
        cutoffs = [self._clock() - days * DAY_SECONDS for days in (limits.clinical_days, limits.identity_days)]
        due = sum(count for _, count in forgetting.patients(cutoffs[0])) if limits.clinical_days else 0
        yield _rows("clinical", *forgetting.values(), due, limits.clinical_days)
        due = sum(1 for _ in forgetting.studies(cutoffs[1])) if limits.identity_days else 0
        yield _rows("identity", *forgetting.identities(), due, limits.identity_days)

    def _why(self, study: str, name: str) -> str:
        """Why the files of a study stay; "" when they would go now."""
        if study not in self._conditions:
            self._conditions[study] = self._store.retention.condition(study)
        condition = self._conditions[study]
        if condition.kept:
            return str(condition.kept[0])
        return self._too_young(condition.changed_at, self._cleaner.due_days(name, pressed=self._pressed))

    def _too_young(self, at: float, days: float) -> str:
        if not days:
            return FOR_EVER
        return "" if at < self._clock() - days * DAY_SECONDS else YOUNG


def _files(name: str, paths: Iterator[Path], skip: tuple[str, ...] = ()) -> Kind:
    kind = Kind(name)
    for path in paths:
        if path.is_file() and not any(part in path.name for part in skip):
            kind.count(1, _size(path), path.stat().st_mtime, "is not under retention")
    return kind


def _rows(name: str, count: int, oldest: float | None, due: int, days: float) -> Kind:
    kind = Kind(name)
    kind.count(due, 0, None)
    kind.count(count - due, 0, oldest, YOUNG_OR_HERE if days else FOR_EVER)
    return kind


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
