"""The audit trail's file: one JSON line per audit message, each with the SHA-256 of the line before it.

The table `audit` is where an entry begins; here it gets its line. A line is written, made durable, and only then
recorded in the store, with its digest: what lies beyond the recorded end was being written when the node ended, and is
written again. So a crash is told from tampering, and a file that was changed is found by what the store remembers.
"""

import fcntl
import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from config.identity import VERSION
from config.settings import Settings
from dicom_node.audit import AuditEntry, TrailFile
from dicom_node.audit_message import Source, audit_message
from dicom_node.spool import Spool, fsync_folder
from dicom_node.store import Store

LOGGER = logging.getLogger(__name__)
BATCH = 200
ANCHOR_SECONDS = 3600.0  # how often the end of the chain becomes a message of its own, for the collector


def trail_path(folder: Path, first: int) -> Path:
    """Where the file lies that begins with this line."""
    return folder / f"audit-{first:012d}.jsonl"


def source_of(settings: Settings) -> Source:
    """Who reports, as the settings have it."""
    node, audit = settings.node, settings.audit
    return Source(
        source_id=audit.source_id or node.ae_title,
        enterprise_site_id=audit.enterprise_site_id or node.site,
        ae_title=node.ae_title,
        host=os.uname().nodename if node.host in ("", "0.0.0.0", "::", "127.0.0.1", "::1") else node.host,  # noqa: S104
        software=f"Prognode {VERSION}",
    )


class AuditTrail:
    """The writer. Any process may be it; a lock sees to it that one is at a time. One per thread, as its store is."""

    def __init__(self, store: Store, spool: Spool, settings: Settings, clock: Callable[[], float] = time.time) -> None:
        self._store, self._folder, self._clock = store, spool.audit, clock
        self._settings = settings.audit
        self._source = source_of(settings)

    def write(self) -> bool:
        """Give the oldest entries without a line their lines. False when there are none, or another process writes.

        Raises OSError when the disk cannot be written: nothing is lost, the entries wait in the store.
        """
        if not self._store.audit.unwritten(limit=1):
            return False
        with self._locked() as ours:
            return ours and self._write()

    def anchor(self) -> None:
        """Make the end of the chain an entry, unless it is one already: a collector then knows it too."""
        file = self._store.audit.open_file()
        newest = self._store.audit.newest(limit=1)
        if file.last < 1 or (newest and newest[0].action == "audit.anchored"):
            return
        facts = {"uri": trail_path(self._folder, file.first).as_uri(), "line": file.last, "sha256": file.digest}
        self._store.audit.add(AuditEntry(self._clock(), "prognode", "node", "audit.anchored", facts=facts))

    def remove_old(self, before: float, sent_up_to: int | None) -> bool:
        """Remove the oldest closed file when all of it is from before that time and a collector (if any) has it."""
        with self._locked() as ours:
            files = self._store.audit.files() if ours else []
            if not files or (oldest := files[0]).closed_at is None:
                return False
            kept = oldest.closed_at >= before or (sent_up_to is not None and oldest.last > sent_up_to)
            if kept and not oldest.removed:
                return False
            self._store.audit.mark_removed(oldest.first)
            trail_path(self._folder, oldest.first).unlink(missing_ok=True)
            self._store.audit.forget_file(oldest)
        return True

    @contextmanager
    def _locked(self) -> Iterator[bool]:
        self._folder.mkdir(mode=0o700, exist_ok=True)
        with (self._folder / "lock").open("w") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True

    def _write(self) -> bool:
        file = self._mended(self._store.audit.open_file())
        lines: list[tuple[int, int, str]] = []
        written = bytearray()
        for row, entry in self._store.audit.unwritten(BATCH):
            line = self._line(file, entry)
            written += line
            file = replace(file, last=file.last + 1, digest=digest_of(line), bytes=file.bytes + len(line))
            lines.append((row, file.last, file.digest))
        if not lines:
            return False
        path = trail_path(self._folder, file.first)
        fresh = not path.exists()
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "ab") as stream:
            stream.write(written)
            stream.flush()
            os.fsync(stream.fileno())
        if fresh:
            fsync_folder(self._folder)
        self._store.audit.written(file, lines)
        if file.bytes >= self._settings.rotate_bytes:
            self._store.audit.close_file(file.first, self._clock())
        return True

    def _line(self, file: TrailFile, entry: AuditEntry) -> bytes:
        study = entry.study_instance_uid
        identity = self._store.patients.of_study(study) if study else None
        message = audit_message(entry, identity, self._source)
        line = {"line": file.last + 1, "previous": file.digest, "message": message}
        return json.dumps(line, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace") + b"\n"

    def _mended(self, file: TrailFile) -> TrailFile:
        """The file as the store knows it: what a crash left beyond its end is cut off, and its lines written again.

        A file that is shorter than it was is not ours to repair: it is closed as it is, for `prognode audit verify` to
        find, and the chain goes on in the next.
        """
        path = trail_path(self._folder, file.first)
        size = path.stat().st_size if path.exists() else 0
        if size == file.bytes:
            return file
        if size > file.bytes:
            LOGGER.warning("audit.recovered %d bytes of an unfinished write are written again", size - file.bytes)
            with path.open("rb+") as stream:
                stream.truncate(file.bytes)
                os.fsync(stream.fileno())
            return file
        LOGGER.error(
            "audit.damaged %s has %d bytes, it had %d; run: prognode audit verify", path.name, size, file.bytes
        )
        detail = f"{path.name} was {file.bytes} bytes long and is {size}"
        self._store.audit.close_file(file.first, self._clock())
        facts = {"uri": path.as_uri()}
        entry = AuditEntry(self._clock(), "prognode", "node", "audit.damaged", "failed", detail=detail, facts=facts)
        self._store.audit.add(entry)
        return self._store.audit.open_file()


def digest_of(line: bytes) -> str:
    """What the next line says of this one: SHA-256 of its bytes, without the line feed."""
    return hashlib.sha256(line.rstrip(b"\n")).hexdigest()
