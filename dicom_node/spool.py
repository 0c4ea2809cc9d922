"""ALL paths and atomic writes of the node. Nothing that a header says becomes part of a path: names are digests.

instances/<xx>/<digest of the SOP Instance UID>-<digest of the bytes>.dcm   what arrived, as it came (Part 10)
jobs/<key>/in, jobs/<key>/out                                              one analysis (hard links, no copies)
results/<key>/                                                             result.json and the DICOM objects
incoming/                                                                  half-written files; swept at start
audit/                                                                     the audit trail
quarantine/                                                                what `prognode fsck` found and nobody knows
store.sqlite                                                               the store
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from dicom_node.workitem import ConfigError

SUMS = "SHA256SUMS"  # beside each result, as sha256sum writes it: fsck finds what the disk has altered since
BEFORE = ".before"  # ends the name of results that new ones are about to replace
RESTORING = "restoring.json"  # in a spool that a backup is being restored into


_flushers = ThreadPoolExecutor(16, thread_name_prefix="flush")  # their threads begin when they are needed
_names = threading.Lock()  # around what gives a taken name to another file, or takes it back


@contextmanager
def _descriptor(path: Path | str, flags: int = os.O_WRONLY | os.O_CREAT) -> Iterator[int]:
    """Of a file that nothing is written to; `open` takes three times as long, twice for each object that arrives."""
    descriptor = os.open(path, flags, 0o666)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def fsync_folder(folder: Path) -> None:
    """Make the names in a folder durable: a rename alone may be lost in a power cut."""
    with _descriptor(folder, os.O_RDONLY | os.O_DIRECTORY) as descriptor:
        os.fsync(descriptor)


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, read in pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class Spool:
    """The node's folder. Holds bytes only; what state they are in stands in the store."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()  # a job runs in a folder of its own: relative paths would lose their meaning
        self.incoming = self.root / "incoming"
        self.audit = self.root / "audit"
        self.quarantine = self.root / "quarantine"
        self.store = self.root / "store.sqlite"
        # As text, for each object that arrives: a Path takes longer to make than the file to open.
        self._instances, self._arriving = f"{self.root}/instances", f"{self.incoming}"
        self._door, self._room = f"{self.root}/arrivals.lock", f"{self.root}/instances.lock"

    def why_not(self, error: OSError) -> tuple[str, str]:
        """Why it cannot be made or written, and the remedy, in words."""
        if isinstance(error, FileExistsError | NotADirectoryError):
            return f"{self.root}: a file is there, not a folder", "name a folder in [node] spool"
        what = f"{self.root}: cannot be made or written ({error.strerror})"
        return what, "make it for the service's user (mode 0700), or name another folder in [node] spool"

    def create(self) -> None:
        """Make the folders, readable by the service's user only. Raises OSError."""
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        for name in ("incoming", "instances", "jobs", "results", "audit"):
            (self.root / name).mkdir(exist_ok=True, mode=0o700)
        # All at once: a folder made on the way in could be seen by another association before its own name is durable.
        for number in range(256):
            (self.root / "instances" / f"{number:02x}").mkdir(exist_ok=True, mode=0o700)
        fsync_folder(self.root / "instances")
        fsync_folder(self.root)

    @contextmanager
    def lock(self, name: str, *, restoring: bool = False) -> Iterator[None]:
        """Hold the spool for one process of a kind ("receive", "work"). Raises ConfigError when another has it.

        What an earlier process left (leases, half-written files) may be cleared while the lock is held: it is gone.
        Raises ConfigError too where a restore was interrupted, but to the next one (`restoring`).
        """
        if (self.root / RESTORING).exists() and not restoring:
            raise ConfigError(f"{self.root}: a restore was interrupted here; run prognode restore again")
        with (self.root / f"{name}.lock").open("w") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ConfigError(
                    f"another `prognode {name}` (or serve) uses this spool; stop it, or set another [node] spool"
                ) from None
            yield

    @contextmanager
    def instances_kept(self, *, alone: bool = False) -> Iterator[None]:
        """Around what changes files of instances and their rows together; `alone`: while nobody else does.

        What arrives takes it with others, retention alone: else it could remove a file that has just come again. Who
        wants to be alone closes the first lock behind those that are in, so that a stream of arrivals has a gap for it.
        """
        kind = fcntl.LOCK_EX if alone else fcntl.LOCK_SH
        with _descriptor(self._door) as door, _descriptor(self._room) as room:
            fcntl.flock(door, kind)
            fcntl.flock(room, kind)
            if not alone:
                fcntl.flock(door, fcntl.LOCK_UN)
            yield

    @contextmanager
    def removing(self, *, wait: bool = False) -> Iterator[bool]:
        """Around the removal of what is kept; False: somebody copies or examines the spool just now. `wait`: till then.

        Who copies it holds this too: nothing that its rows name may go meanwhile.
        """
        with (self.root / "removing.lock").open("w") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True

    def is_locked(self, name: str) -> bool:
        """Whether a process of this kind uses the spool just now."""
        try:
            with self.lock(name, restoring=True):
                return False
        except ConfigError:
            return True

    def quarantined(self, path: Path) -> Path:
        """Move a file or folder of the spool to where nothing looks for it; [storage] quarantine_days may remove it."""
        self.quarantine.mkdir(mode=0o700, exist_ok=True)
        target = self.quarantine / "_".join(path.relative_to(self.root).parts)
        while target.exists():
            target = target.with_name(f"{target.name}.again")
        os.replace(path, target)
        fsync_folder(self.quarantine)
        fsync_folder(path.parent)
        return target

    def sweep_drafts(self) -> None:
        """Remove results that were being written when an earlier worker ended; their stage runs again.

        Where it ended between taking the old ones away and putting the new ones there, the old ones come back.
        """
        for old in (self.root / "results").glob(f"*/.*{BEFORE}"):
            final = old.with_name(old.name[1 : -len(BEFORE)])
            if not final.exists():
                os.replace(old, final)
                fsync_folder(final.parent)
        for draft in (self.root / "results").glob("*/.*"):
            shutil.rmtree(draft, ignore_errors=True)

    def sweep_incoming(self) -> int:
        """Remove half-written files of an earlier run; their senders never got a success. Returns how many."""
        leftovers = list(self.incoming.iterdir())
        for path in leftovers:
            path.unlink()
        return len(leftovers)

    # -- instances -------------------------------------------------------------------------------------------

    def new_incoming(self) -> Path:
        """A fresh name for a file being written, on the same file system as its final place."""
        return Path(f"{self._arriving}/{uuid.uuid4().hex}")

    def instance_path(self, sop_instance_uid: str, digest: str) -> Path:
        """Where an instance lies. The UID is hashed: it comes from the network."""
        name = hashlib.sha256(sop_instance_uid.encode()).hexdigest()[:32]
        return Path(f"{self._instances}/{name[:2]}/{name}-{digest[:32]}.dcm")

    def keep_instance(self, incoming: Path, sop_instance_uid: str, digest: str) -> Path:
        """Move a complete, already fsynced file to its place and make the name durable. Idempotent."""
        path = self.instance_path(sop_instance_uid, digest)
        os.replace(incoming, path)
        fsync_folder(path.parent)
        return path

    def keep_arrival(
        self, incoming: Path, descriptor: int, sop_instance_uid: str, digest: str, known: Callable[[], bool]
    ) -> bool:
        """`keep_instance` for a complete file that is still open and not yet durable. Raises OSError.

        False, and nothing is changed, where its name is taken and `known()` says that this is as it should be.

        Its bytes and its name are flushed side by side: a journalling file system makes one commit of it instead of
        two. A power cut before both are done can leave the name with a part of the bytes; no row knows it then, and
        the sender was told nothing. A name that is taken already is never given to bytes that are not durable.
        """
        path = self.instance_path(sop_instance_uid, digest)
        try:
            os.link(incoming, path)
        except OSError:  # it is here already, or the file system has no hard links
            if known():
                self._flush(path)  # another sender of the same may have given it its name just now
                return False
            os.fsync(descriptor)
            with _names:
                self.keep_instance(incoming, sop_instance_uid, digest)
            return True
        name_kept = _flushers.submit(fsync_folder, path.parent)
        try:
            try:
                os.fsync(descriptor)
            finally:
                name_kept.result()
        except OSError:
            self._take_back(path, descriptor)
            raise
        os.unlink(incoming)
        return True

    @staticmethod
    def _flush(path: Path) -> None:
        with _descriptor(path, os.O_RDONLY) as descriptor:
            os.fsync(descriptor)
        fsync_folder(path.parent)

    @staticmethod
    def _take_back(path: Path, descriptor: int) -> None:
        """Remove a name that was given to the open file, unless it names another one by now."""
        with _names, contextlib.suppress(OSError):
            if os.path.samestat(path.stat(), os.fstat(descriptor)):
                path.unlink()

    # -- jobs and results ------------------------------------------------------------------------------------

    def job(self, key: str) -> Path:
        return self.root / "jobs" / key

    def results(self, key: str, part: str) -> Path:
        """`part` is "analysis" or "report"."""
        return self.root / "results" / key / part

    def fresh_job(self, key: str) -> tuple[Path, Path]:
        """Empty IN and OUT folders for a job; what an earlier attempt left is removed."""
        folder = self.job(key)
        if folder.exists():
            shutil.rmtree(folder)
        for name in ("in/ct", "in/roi", "out"):
            (folder / name).mkdir(parents=True, mode=0o700)
        return folder / "in", folder / "out"

    @staticmethod
    def ct_name(position: int) -> str:
        """Name of a CT file in a job folder, by its position (from 0) in the plan; no identifier in it."""
        return f"{position + 1:05d}.dcm"

    def drop_job(self, key: str) -> None:
        shutil.rmtree(self.job(key), ignore_errors=True)

    @contextmanager
    def replace_results(self, key: str, part: str) -> Iterator[Path]:
        """A folder to write results into; it takes its final name only when the block ends without an error."""
        final = self.results(key, part)
        final.parent.mkdir(mode=0o700, exist_ok=True)
        draft = final.with_name(f".{final.name}.{uuid.uuid4().hex[:8]}")
        draft.mkdir(mode=0o700)
        try:
            yield draft
            sums = "".join(f"{sha256(path)}  {path.name}\n" for path in sorted(draft.iterdir()))
            (draft / SUMS).write_text(sums, encoding="utf-8")
            for path in draft.iterdir():
                with path.open("rb") as stream:
                    os.fsync(stream.fileno())
            fsync_folder(draft)
            self._put(draft, final)
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    @staticmethod
    def _put(draft: Path, final: Path) -> None:
        """Give a durable draft its name. What had the name is kept until then: rows name its files."""
        old = final.with_name(f".{final.name}{BEFORE}")
        if final.exists():  # made again: an attempt that crashed before its row was written, or under another identity
            shutil.rmtree(old, ignore_errors=True)
            os.replace(final, old)
        try:
            os.replace(draft, final)
            fsync_folder(final.parent)
            fsync_folder(final.parent.parent)
        except OSError:
            if old.exists() and not final.exists():
                os.replace(old, final)
            raise
        shutil.rmtree(old, ignore_errors=True)


def link_or_copy(source: Path, target: Path) -> None:
    """Hard link, or a copy where the file system does not allow it."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def write_atomically(path: Path, data: bytes) -> None:
    """Write temp, fsync, rename, fsync the folder: a reader sees the old bytes or the new, never a part."""
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    stream: IO[bytes]
    with draft.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(draft, path)
    fsync_folder(path.parent)
