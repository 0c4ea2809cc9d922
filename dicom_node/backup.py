"""`prognode backup`: the store and every file that its rows name, consistent while the node works.

The store is copied first, by SQLite's own backup; the files that its rows name are complete before the rows are, never
change, and are not removed meanwhile. So the copy of the store and the files belong together, and what comes after the
copy is not in it. The backup has its name only once it is whole and on disk.

store.sqlite, instances/, results/, audit/   as in the spool
manifest.jsonl                               a line per file: path, size, sha256
backup.json                                  what it is, and the SHA-256 of manifest.jsonl; written last
"""

import hashlib
import io
import json
import os
import shutil
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Protocol

from config.identity import VERSION
from config.settings import Settings
from dicom_node.audit import AuditEntry, AuditOutcome
from dicom_node.audit_trail import AuditTrail, trail_path
from dicom_node.inspection import WITH_ANALYSIS, WITH_REPORT, ItemRow
from dicom_node.spool import Spool, fsync_folder
from dicom_node.store import Store
from dicom_node.workitem import ConfigError

FORMAT = 1
MANIFEST, SUMMARY, STORE = "manifest.jsonl", "backup.json", "store.sqlite"
PARTS = ("analysis", "report")
ABSENT = "absent"
COPY_BYTES = 1 << 20


@dataclass(frozen=True)
class Entry:
    """A line of the manifest."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Summary:
    """The content of backup.json. `missing`: files that rows name and that were not there."""

    format: int
    made_at: float
    version: str
    schema: int
    ae_title: str
    files: int
    bytes: int
    linked: int
    missing: int
    manifest: str


class Target(Protocol):
    """Where a backup goes: a folder or a tar file."""

    def add(self, name: str, source: Path, limit: int | None = None) -> Entry: ...
    def write(self, name: str, data: bytes) -> None: ...
    def finish(self) -> None: ...
    def drop(self) -> None: ...


def backup(
    store: Store,
    spool: Spool,
    settings: Settings,
    target: Path,
    previous: Path | None = None,
    actor: str = "prognode",
    clock: Callable[[], float] = time.time,
) -> Summary:
    """Make a backup at `target`: a new folder, or a tar file when its name ends with ".tar".

    Parameters
    ----------
    previous : Path, optional
        A folder of an earlier backup on the same disk: what lies in it unchanged is linked, not copied.

    Raises
    ------
    ConfigError
        When the target exists, lies in the spool, or `previous` is no backup.
    OSError
        When something cannot be read or written; nothing of the target is left then.
    """
    _check_target(spool, target)
    known = known_files(previous) if previous is not None else {}
    if previous is not None and target.suffix == ".tar":
        raise ConfigError("--previous links files between folders; a tar file cannot have links into another backup")
    AuditTrail(store, spool, settings, clock).write()
    made: Summary | None = None
    try:
        with spool.removing(wait=True):  # one backup at a time: a second to the same target finds that of the first
            _check_target(spool, target)
            place: Target = _Tar(target) if target.suffix == ".tar" else _Folder(target, previous, known)
            try:
                made = _make(store, spool, settings, place, clock)
                place.finish()
            except BaseException:
                made = None
                place.drop()
                raise
    finally:
        detail = f"{made.files} files, {made.bytes} bytes" if made else "it could not be made"
        facts = {"uri": target.absolute().as_uri(), "patient_id": "<all>"}
        outcome: AuditOutcome = "done" if made else "failed"
        with suppress(Exception):
            store.audit.add(AuditEntry(clock(), actor, "cli", "backup.made", outcome, detail=detail, facts=facts))
    return made


def known_files(folder: Path) -> dict[str, Entry]:
    """The manifest of a whole backup in a folder, by path. Raises ConfigError for anything else."""
    try:
        summary = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
        manifest = (folder / MANIFEST).read_bytes()
        if hashlib.sha256(manifest).hexdigest() != summary["manifest"]:
            raise ConfigError(f"{folder}: {MANIFEST} was changed; it is no whole backup")
        entries = [Entry(**json.loads(line)) for line in manifest.splitlines()]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{folder}: is no whole backup of Prognode ({type(error).__name__})") from None
    return {entry.path: entry for entry in entries}


def _check_target(spool: Spool, target: Path) -> None:
    if target.resolve().is_relative_to(spool.root.resolve()):
        raise ConfigError(f"{target}: lies in the spool; a backup belongs on another disk")
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise ConfigError(f"{target}: exists already; give a new name, such as one with the date")
    if not target.absolute().parent.is_dir():
        raise ConfigError(f"{target.absolute().parent}: no such folder; make it first")


def _make(store: Store, spool: Spool, settings: Settings, place: Target, clock: Callable[[], float]) -> Summary:
    made_at = clock()
    scratch = spool.root / ".backup.sqlite"
    try:
        store.inspection.copy(scratch)
        frozen = Store.of_copy(scratch)
        try:
            lines = [place.add(STORE, scratch)]
            missing = 0
            for name, source, limit in _named(frozen, spool):
                line = _added(place, name, source, limit)
                missing += line is None
                lines += [line] if line is not None else []
            schema = frozen.schema
        finally:
            frozen.close()
    finally:
        scratch.unlink(missing_ok=True)
    manifest = "".join(f"{json.dumps(asdict(line))}\n" for line in lines).encode()
    place.write(MANIFEST, manifest)
    summary = Summary(
        format=FORMAT,
        made_at=made_at,
        version=VERSION,
        schema=schema,
        ae_title=settings.node.ae_title,
        files=len(lines),
        bytes=sum(line.size for line in lines),
        linked=getattr(place, "linked", 0),
        missing=missing,
        manifest=hashlib.sha256(manifest).hexdigest(),
    )
    place.write(SUMMARY, json.dumps(asdict(summary), indent=1).encode())
    return summary


def _added(place: Target, name: str, source: Path, limit: int | None) -> Entry | None:
    """None: it is not there. A result that is made again is away for a moment, and comes back as the same bytes."""
    for pause in (0.5, 0.0):
        try:
            return place.add(name, source, limit)
        except FileNotFoundError:
            time.sleep(pause if source.name != ABSENT and "results" in name else 0.0)
    return None


def _named(frozen: Store, spool: Spool) -> Iterator[tuple[str, Path, int | None]]:
    """The files that the rows of a copy of the store name: path in the backup, path here, and how much of it."""
    for row in frozen.inspection.instances():
        path = spool.instance_path(row.sop_instance_uid, row.digest)
        yield str(path.relative_to(spool.root)), path, None
    for item in frozen.inspection.items_with_results():
        yield from _results(item, spool)
    for file in frozen.audit.files():
        if file.bytes:
            path = trail_path(spool.audit, file.first)
            yield str(path.relative_to(spool.root)), path, file.bytes


def _results(item: ItemRow, spool: Spool) -> Iterator[tuple[str, Path, int | None]]:
    """A result's files. Where the state says that there are some and there is no folder, that one is missing."""
    needed = {"analysis": item.state in WITH_ANALYSIS, "report": item.state in WITH_REPORT}
    for part in PARTS:
        folder = spool.results(item.key, part)
        found = sorted(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []
        if not found and needed[part]:
            yield str(folder.relative_to(spool.root)), folder / ABSENT, None
        for path in found:
            yield str(path.relative_to(spool.root)), path, None


class _Folder:
    def __init__(self, target: Path, previous: Path | None, known: dict[str, Entry]) -> None:
        self._target, self._previous, self._known = target, previous, known
        self._draft = target.with_name(f".{target.name}.partial")
        shutil.rmtree(self._draft, ignore_errors=True)  # of a backup that was killed
        self._draft.mkdir(mode=0o700)
        self.linked = 0

    def add(self, name: str, source: Path, limit: int | None = None) -> Entry:
        path = self._draft / name
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        linked = self._link(name, source, path)
        if linked is not None:
            return linked
        with source.open("rb") as reading, os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as writing:
            return Entry(name, *_copy(reading, writing.write, limit))

    def _link(self, name: str, source: Path, path: Path) -> Entry | None:
        """A file of the backup before, where its name says that its content is the same: that of an instance does."""
        entry = self._known.get(name)
        if entry is None or self._previous is None or not name.startswith("instances/"):
            return None
        if source.stat().st_size != entry.size:
            return None
        try:
            if (self._previous / name).stat().st_size != entry.size:
                return None
            os.link(self._previous / name, path)
        except OSError:
            return None
        self.linked += 1
        return entry

    def write(self, name: str, data: bytes) -> None:
        (self._draft / name).write_bytes(data)

    def finish(self) -> None:
        os.sync()  # all of it at once: one by one, a hundred thousand files take hours
        self._draft.rename(self._target)  # over an empty folder, where there is one
        fsync_folder(self._target.absolute().parent)

    def drop(self) -> None:
        shutil.rmtree(self._draft, ignore_errors=True)


class _Tar:
    def __init__(self, target: Path) -> None:
        self._target = target
        self._draft = target.with_name(f".{target.name}.partial")
        self._draft.unlink(missing_ok=True)
        self._stream = os.fdopen(os.open(self._draft, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600), "w+b")
        self._tar = tarfile.open(fileobj=self._stream, mode="w", format=tarfile.PAX_FORMAT)  # noqa: SIM115
        self.linked = 0

    def add(self, name: str, source: Path, limit: int | None = None) -> Entry:
        with source.open("rb") as reading:
            size = os.fstat(reading.fileno()).st_size
            info = self._info(name, size if limit is None else min(limit, size))
            hashing = _Hashing(reading)
            self._tar.addfile(info, hashing)
        return Entry(name, info.size, hashing.digest)

    def write(self, name: str, data: bytes) -> None:
        self._tar.addfile(self._info(name, len(data)), io.BytesIO(data))

    @staticmethod
    def _info(name: str, size: int) -> tarfile.TarInfo:
        info = tarfile.TarInfo(name)
        info.size, info.mode = size, 0o600
        return info

    def finish(self) -> None:
        self._tar.close()
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.close()
        os.replace(self._draft, self._target)
        fsync_folder(self._target.absolute().parent)

    def drop(self) -> None:
        with suppress(OSError):
            self._stream.close()
        self._draft.unlink(missing_ok=True)


class _Hashing(io.RawIOBase):
    """Reads from a stream, and knows the digest of what went through."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self._digest = stream, hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self._digest.update(data)
        return data

    @property
    def digest(self) -> str:
        return self._digest.hexdigest()


def _copy(reading: IO[bytes], write: Callable[[bytes], object], limit: int | None) -> tuple[int, str]:
    """Copy all of a stream, or its beginning; gives how much, and its SHA-256."""
    digest, size = hashlib.sha256(), 0
    while data := reading.read(COPY_BYTES if limit is None else min(COPY_BYTES, limit - size)):
        digest.update(data)
        write(data)
        size += len(data)
    return size, digest.hexdigest()
