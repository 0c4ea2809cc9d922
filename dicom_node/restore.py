"""`prognode restore`: a backup back into an empty spool. Everything is verified before anything is written.

The store comes last, so that a node never starts on half of it; a mark in the spool says so until all is done.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Protocol

from config.settings import Settings
from dicom_node.audit import AuditEntry
from dicom_node.backup import COPY_BYTES, FORMAT, MANIFEST, STORE, SUMMARY, Entry, Summary
from dicom_node.database import SCHEMA_VERSION
from dicom_node.inspection import Outlook
from dicom_node.spool import RESTORING, Spool, fsync_folder, write_atomically
from dicom_node.store import Store
from dicom_node.workitem import ConfigError

_NAMES = re.compile(
    r"store\.sqlite|instances/[0-9a-f]{2}/[0-9a-f]{32}-[0-9a-f]{32}\.dcm|audit/audit-\d{12}\.jsonl"
    r"|results/[0-9a-f]{64}/(analysis|report)/[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
)
KEPT = ("instances", "results", "audit", "quarantine")  # what a spool must not hold when it is restored into
ROOM_BYTES = 64_000_000  # beside what the backup needs


class BackupDamaged(Exception):
    """A backup is not whole, or not one of ours; the text names the file."""


@dataclass(frozen=True)
class Restored:
    """What was restored, and what the node will do with it."""

    summary: Summary
    outlook: Outlook


class _Source(Protocol):
    def read(self, name: str) -> bytes: ...
    def files(self) -> Iterator[tuple[str, IO[bytes]]]: ...


def verify(source: Path) -> tuple[Summary, dict[str, Entry]]:
    """Read all of a backup and hold it against its manifest; nothing is written but to the system's temporary folder.

    Raises BackupDamaged, naming the file; ConfigError for a newer format or schema.
    """
    with _opened(source) as opened:
        summary, entries = _manifest(opened, source)
        left = dict(entries)
        with tempfile.TemporaryDirectory(prefix="prognode-restore-") as scratch:
            store = Path(scratch, STORE)
            for name, stream in opened.files():
                entry = left.pop(name, None)
                if entry is None:
                    continue  # nothing that the manifest does not name is ever restored
                with store.open("wb") if name == STORE else open(os.devnull, "wb") as writing:
                    _check(source, entry, stream, writing)
            if left:
                raise BackupDamaged(f"{source}: {next(iter(left))} is missing, and {len(left) - 1} more files")
            _check_store(store, source)
    return summary, entries


def restore(
    source: Path, spool: Spool, settings: Settings, actor: str = "prognode", clock: Callable[[], float] = time.time
) -> Restored:
    """Verify a backup and put it into the spool, which must be empty (or hold a restore that was interrupted).

    Raises
    ------
    BackupDamaged
        When the backup is not whole; nothing has been written then.
    ConfigError
        When the spool is not empty or in use, the disk too small, or the backup newer than this version.
    OSError
        When the disk cannot be written, or the backup has changed since it was verified; run it again then.
    """
    _check_empty(spool)
    summary, entries = verify(source)
    spool.create()
    with ExitStack() as held:
        for name in ("receive", "work", "run"):
            held.enter_context(spool.lock(name, restoring=True))
        _check_empty(spool)
        _check_room(spool, summary)
        write_atomically(spool.root / RESTORING, json.dumps({"source": str(source), "at": clock()}).encode())
        _clear(spool)
        spool.create()
        _write(source, entries, spool)
        store = Store.open(spool.store)  # migrates it where it is older
        store.inspection.end_sessions()
        facts = {"uri": source.absolute().as_uri(), "patient_id": "<all>"}
        moment = datetime.fromtimestamp(summary.made_at, UTC).isoformat(timespec="seconds")
        detail = f"{summary.files} files of a backup of {moment}"
        store.audit.add(AuditEntry(clock(), actor, "cli", "restore.done", detail=detail, facts=facts))
        outlook = store.inspection.outlook()
        store.close()
        # Last: no node starts before the sessions of then have ended and the audit says that it was restored.
        (spool.root / RESTORING).unlink()
        fsync_folder(spool.root)
    return Restored(summary, outlook)


def _check_empty(spool: Spool) -> None:
    if not spool.root.is_dir() or (spool.root / RESTORING).is_file():
        return
    kept = (path for name in KEPT for path in (spool.root / name).rglob("*") if path.is_file())
    full = spool.store.exists() or any(path.name != "lock" for path in kept)
    if full:
        raise ConfigError(
            f"{spool.root}: is not empty; a backup is restored into an empty spool only: move this one away, or give "
            "another [node] spool"
        )


def _check_room(spool: Spool, summary: Summary) -> None:
    free = shutil.disk_usage(spool.root).free
    if free < summary.bytes + ROOM_BYTES:
        raise ConfigError(
            f"{spool.root}: {(summary.bytes + ROOM_BYTES) / 1e6:.0f} MB are needed and {free / 1e6:.0f} MB are free"
        )


def _clear(spool: Spool) -> None:
    """Remove what an interrupted restore left; the mark says that nothing else was here."""
    for name in (*KEPT, "jobs", "incoming"):
        shutil.rmtree(spool.root / name, ignore_errors=True)
    for path in spool.root.glob(f"{STORE}*"):
        path.unlink()


def _write(source: Path, entries: dict[str, Entry], spool: Spool) -> None:
    draft = spool.root / f".{STORE}.restoring"
    with _opened(source) as opened:
        for name, stream in opened.files():
            entry = entries.get(name)
            if entry is None:
                continue
            path = draft if name == STORE else spool.root / name
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as writing:
                try:
                    _check(source, entry, stream, writing)
                except BackupDamaged:  # it was whole when it was verified
                    raise OSError(errno.EIO, "has changed while it was restored", str(source)) from None
    os.sync()
    draft.rename(spool.store)


# -- a backup that is read -------------------------------------------------------------------------------------


def _manifest(opened: _Source, source: Path) -> tuple[Summary, dict[str, Entry]]:
    try:
        data = json.loads(opened.read(SUMMARY))
        if data.get("format") != FORMAT:
            raise ConfigError(f"{source}: was made by a newer Prognode (format {data.get('format')}); install that one")
        summary = Summary(**data)
        manifest = opened.read(MANIFEST)
        if hashlib.sha256(manifest).hexdigest() != summary.manifest:
            raise BackupDamaged(f"{source}: {MANIFEST} was changed or is damaged")
        entries = {entry.path: entry for line in manifest.splitlines() if (entry := Entry(**json.loads(line)))}
    except (OSError, KeyError, TypeError, ValueError, AttributeError, tarfile.TarError) as error:
        raise BackupDamaged(
            f"{source}: is no whole backup of Prognode ({type(error).__name__} in {SUMMARY} or {MANIFEST})"
        ) from None
    if summary.schema > SCHEMA_VERSION:
        raise ConfigError(
            f"{source}: has schema {summary.schema}, newer than this version of Prognode ({SCHEMA_VERSION}); "
            f"restore it with Prognode {summary.version} or newer"
        )
    for name in entries:
        if not _NAMES.fullmatch(name):
            raise BackupDamaged(f"{source}: {MANIFEST} names a file that no backup has")
    if STORE not in entries:
        raise BackupDamaged(f"{source}: has no {STORE}")
    return summary, entries


def _check(source: Path, entry: Entry, stream: IO[bytes], writing: IO[bytes]) -> None:
    digest, size = hashlib.sha256(), 0
    while data := stream.read(COPY_BYTES):
        digest.update(data)
        writing.write(data)
        size += len(data)
    if size != entry.size or digest.hexdigest() != entry.sha256:
        raise BackupDamaged(f"{source}: {entry.path} is damaged: its SHA-256 is not that of the manifest")


def _check_store(path: Path, source: Path) -> None:
    try:
        store = Store.of_copy(path)
        wrong = store.inspection.well()
        store.close()
    except Exception as error:  # noqa: BLE001 - SQLite's own, of a file that may be anything
        raise BackupDamaged(f"{source}: {STORE} cannot be read ({type(error).__name__})") from None
    if wrong:
        raise BackupDamaged(f"{source}: {STORE} is damaged: {wrong[0]}")


@contextmanager
def _opened(source: Path) -> Iterator[_Source]:
    if source.is_dir():
        yield _FromFolder(source)
        return
    try:
        with tarfile.open(source, "r:") as tar:
            yield _FromTar(tar)
    except FileNotFoundError:
        raise ConfigError(f"{source}: no such backup") from None
    except tarfile.TarError as error:
        raise BackupDamaged(f"{source}: is no whole tar file ({type(error).__name__})") from None


class _FromFolder:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, name: str) -> bytes:
        return (self._folder / name).read_bytes()

    def files(self) -> Iterator[tuple[str, IO[bytes]]]:
        """What the manifest may name; links are not followed out of the backup."""
        for path in sorted(self._folder.rglob("*")):
            if path.is_file() and not path.is_symlink():
                with path.open("rb") as stream:
                    yield str(path.relative_to(self._folder)), stream


class _FromTar:
    def __init__(self, tar: tarfile.TarFile) -> None:
        self._tar = tar

    def read(self, name: str) -> bytes:
        stream = self._tar.extractfile(name)
        if stream is None:
            raise KeyError(name)
        with stream:
            return stream.read()

    def files(self) -> Iterator[tuple[str, IO[bytes]]]:
        for member in self._tar:
            if member.isfile() and (stream := self._tar.extractfile(member)) is not None:
                with stream:
                    yield member.name, stream
