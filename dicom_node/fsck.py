"""`prognode fsck`: holds spool and store against each other, and says what does not agree. Looks, and changes nothing.

While a node works, what is just on its way (a file whose row is being written, a result that is being made) is no
finding.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from hashlib import sha256
from pathlib import Path

from dicom_node import headers
from dicom_node.audit_verify import verify
from dicom_node.elements import UnreadableHeader
from dicom_node.inspection import WITH_ANALYSIS, WITH_REPORT, ItemRow
from dicom_node.retention import ENDED
from dicom_node.spool import BEFORE, SUMS, Spool  # fmt: skip
from dicom_node.spool import sha256 as sha256_of
from dicom_node.store import Store
from dicom_node.ticket import Ticket
from dicom_node.workitem import State, StoreDamaged

JUST_NOW_SECONDS = 60.0


class Problem(Enum):
    """A kind of finding: what it is, and what repair does about it; "" where it can do nothing."""

    STORE_DAMAGED = ("the store is damaged; restore a backup: prognode restore", "")
    TRAIL_ALTERED = ("the audit trail was changed; keep a copy, and see: prognode audit verify", "")
    FILE_MISSING = ("rows without their file", "marked as lost: the object is taken as new when it is sent again")
    FILE_DAMAGED = ("files that are not what was received", "to quarantine, row marked as lost: send the object again")
    FILE_UNKNOWN = ("files without a row", "the row is made again from the header, and the object is planned")
    FILE_FOREIGN = ("files that no row can be made for", "to quarantine")
    RESULT_MISSING = ("results that are not there, or damaged", "analysed again; what was proved is not sent again")
    RESULT_LOST = ("results that cannot be made again, but are in the PACS", "marked as removed")
    RESULT_UNKNOWN = ("results of no work item", "to quarantine")
    REMOVAL_UNFINISHED = ("a removal that was interrupted", "finished")
    LEASE_STALE = ("work items that a worker holds and that is gone", "freed")
    JOB_ORPHANED = ("job folders of nobody", "removed")
    DRAFT_LEFT = ("half-written files", "removed: nobody was told that they are here")
    NOT_IN_PACS = ("results that were proved and are not in the PACS any more", "sent again")
    NOT_IN_PACS_NOR_HERE = ("results that are neither in the PACS any more nor here; see: prognode rescore", "")

    @property
    def title(self) -> str:
        return self.value[0]

    @property
    def repair(self) -> str:
        return self.value[1]


@dataclass(frozen=True)
class Finding:
    """One thing that does not agree. `about` is for people; the other fields are for the repair."""

    problem: Problem
    about: str
    path: Path | None = None
    row: int | None = None
    study_instance_uid: str = ""


class Examiner:
    """Looks at a spool and its store.

    Parameters
    ----------
    bundle_digest : str
        Of the bundle that is installed: a result of another one cannot be made again.
    alone : bool
        No node uses the spool: whatever lies half-done is left over.
    """

    def __init__(
        self,
        store: Store,
        spool: Spool,
        bundle_digest: str,
        *,
        alone: bool,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store, self._spool, self._bundle_digest = store, spool, bundle_digest
        self._alone, self._clock = alone, clock
        self._receiving = not alone and spool.is_locked("receive")
        self._working = not alone and (spool.is_locked("work") or spool.is_locked("run"))

    def everything(self, *, quick: bool = False) -> Iterator[Finding]:
        """All findings, as they are met. `quick`: files are not read to compare their digests."""
        damaged = list(self._store_damage())
        yield from damaged
        if damaged:
            return  # what it says of the rest is not to be relied on
        yield from self._trail()
        yield from self._instances(quick=quick)
        yield from self._unknown_instances()
        yield from self._results(quick=quick)
        yield from self._unknown_results()
        yield from self._removals()
        yield from self._leases()
        yield from self._jobs()
        yield from self._drafts()

    def _store_damage(self) -> Iterator[Finding]:
        try:
            texts = self._store.inspection.well()
        except StoreDamaged as error:
            texts = [str(error)]
        for text in texts:
            yield Finding(Problem.STORE_DAMAGED, text)

    def _trail(self) -> Iterator[Finding]:
        for finding in verify(self._spool.audit, self._store.audit):
            if finding.is_tampering:
                yield Finding(Problem.TRAIL_ALTERED, f"{finding.file}: {finding.text}")

    # -- what arrived ----------------------------------------------------------------------------------------

    def _instances(self, *, quick: bool) -> Iterator[Finding]:
        for row in self._store.inspection.instances():
            path = self._spool.instance_path(row.sop_instance_uid, row.digest)
            about = f"{self._name(path)} of study {row.study_instance_uid}"
            if not path.is_file():
                if self._store.inspection.has_file(row.sop_instance_uid, row.digest) and not path.is_file():
                    yield Finding(Problem.FILE_MISSING, about, path, row.id, row.study_instance_uid)
            elif not quick and self._digest(path) != row.digest:
                yield Finding(Problem.FILE_DAMAGED, about, path, row.id, row.study_instance_uid)

    def _unknown_instances(self) -> Iterator[Finding]:
        known = set()
        for row in self._store.inspection.instances():
            known.add(self._short(self._spool.instance_path(row.sop_instance_uid, row.digest).name))
        for path in self._spool.root.glob("instances/*/*"):
            if self._short(path.name) not in known and not self._is_new(path, busy=self._receiving):
                yield from self._unknown_instance(path)

    def _unknown_instance(self, path: Path) -> Iterator[Finding]:
        """A file whose name no row has: is it an object that belongs there?"""
        try:
            digest = headers.data_set_digest(path)
            instance = headers.read(path, digest)
        except FileNotFoundError:
            return  # retention has removed it meanwhile
        except (UnreadableHeader, OSError) as error:
            yield Finding(Problem.FILE_FOREIGN, f"{self._name(path)}: cannot be read ({type(error).__name__})", path)
            return
        uid = instance.sop_instance_uid
        about = f"{self._name(path)} of study {instance.study_instance_uid}"
        if self._spool.instance_path(uid, digest) != path:
            yield Finding(Problem.FILE_FOREIGN, f"{about}: has another name than its content calls for", path)
        elif self._store.inspection.has_file(uid, digest):
            return  # its row has come meanwhile, or it is going
        elif self._store.inspection.newer_than(uid, path.stat().st_mtime):
            yield Finding(Problem.FILE_FOREIGN, f"{about}: newer content of the same UID is here", path)
        else:
            yield Finding(Problem.FILE_UNKNOWN, about, path, study_instance_uid=instance.study_instance_uid)

    # -- results ---------------------------------------------------------------------------------------------

    def _results(self, *, quick: bool) -> Iterator[Finding]:
        for item in self._store.inspection.items_with_results():
            wanted = [part for part, states in _NEEDED.items() if item.state in states]
            wrong = [part for part in wanted if self._is_wrong(item.key, part, quick=quick)]
            if wrong:
                if self._working:
                    time.sleep(0.5)  # a result that is made again is away for a moment
                # Its row was read a while ago: retention may have removed its results since.
                same = self._store.inspection.state_with_results(item.id) is item.state
                wrong = [part for part in wrong if same and self._is_wrong(item.key, part, quick=quick)]
            if wrong:
                about = f"{' and '.join(wrong)} of work item {item.id} ({item.state}), study {item.study_instance_uid}"
                problem = Problem.RESULT_MISSING if self._can_be_made(item) else Problem.RESULT_LOST
                yield Finding(problem, about, row=item.id, study_instance_uid=item.study_instance_uid)

    def _is_wrong(self, key: str, part: str, *, quick: bool) -> bool:
        """Whether a result is not there, or not what was written."""
        folder = self._spool.results(key, part)
        if not folder.is_dir() or not any(folder.iterdir()):
            return True
        sums = folder / SUMS
        if not sums.is_file():
            return False  # made by an older Prognode
        for line in sums.read_text(encoding="utf-8", errors="replace").splitlines():
            digest, _, name = line.partition("  ")
            path = folder / Path(name).name
            if not path.is_file() or (not quick and sha256_of(path) != digest):
                return True
        return False

    def _can_be_made(self, item: ItemRow) -> bool:
        """What is not proved is always tried again; what is, only where it comes out the same."""
        if not (item.state is State.COMPLETED and item.proved):
            return True
        try:
            ticket = Ticket.from_json(item.plan)
        except (ValueError, KeyError, TypeError):
            return False
        inputs = [self._spool.instance_path(uid, digest) for uid, digest in ticket.digests.items() if uid]
        return ticket.bundle_digest == self._bundle_digest and all(path.is_file() for path in inputs)

    def _unknown_results(self) -> Iterator[Finding]:
        for folder in (self._spool.root / "results").iterdir():
            unknown = folder.is_dir() and self._store.inspection.item_of_key(folder.name) is None
            if unknown and not self._is_new(folder, busy=self._working):
                yield Finding(Problem.RESULT_UNKNOWN, self._name(folder), folder)

    # -- what is half done -----------------------------------------------------------------------------------

    def _removals(self) -> Iterator[Finding]:
        going = len(self._store.retention.contents_going()) + len(self._store.retention.results_going())
        if going and not self._working:
            yield Finding(Problem.REMOVAL_UNFINISHED, f"{going} objects and results that retention was removing")

    def _leases(self) -> Iterator[Finding]:
        limit = self._clock() - (JUST_NOW_SECONDS if self._working else 0.0)
        for item_id, until in self._store.inspection.stale_leases(limit):
            ago = self._clock() - until
            yield Finding(Problem.LEASE_STALE, f"work item {item_id}, since {ago:.0f} s", row=item_id)

    def _jobs(self) -> Iterator[Finding]:
        """Folders of jobs; that of a failed one is kept for its job.log.

        One with a dot is the runner's while it works: of the process that waits for the next job, or on its way out.
        """
        for folder in (self._spool.root / "jobs").iterdir():
            if self._working and folder.name.startswith("."):
                continue
            state = self._store.retention.state_of_key(folder.name)
            if state in ENDED and state != State.FAILED and not self._is_new(folder, busy=self._working):
                yield Finding(Problem.JOB_ORPHANED, self._name(folder), folder)

    def _drafts(self) -> Iterator[Finding]:
        patterns = ["*/.*", ".*"] if not self._working else []
        found = [path for pattern in patterns for path in (self._spool.root / "results").glob(pattern)]
        found += [] if self._receiving else list(self._spool.incoming.iterdir())
        found += list(self._spool.root.glob(".*")) if self._alone else []
        for path in found:
            if not path.name.endswith(BEFORE):  # may be the only copy; the next worker sees to it
                yield Finding(Problem.DRAFT_LEFT, self._name(path), path)

    # -- help ------------------------------------------------------------------------------------------------

    def _is_new(self, path: Path, *, busy: bool) -> bool:
        try:
            return busy and self._clock() - path.stat().st_mtime < JUST_NOW_SECONDS
        except FileNotFoundError:
            return True

    def _name(self, path: Path) -> str:
        return str(path.relative_to(self._spool.root))

    @staticmethod
    def _short(name: str) -> bytes:
        return sha256(name.encode()).digest()[:12]

    @staticmethod
    def _digest(path: Path) -> str:
        try:
            return headers.data_set_digest(path)
        except (UnreadableHeader, OSError):
            return ""


_NEEDED = {"analysis": WITH_ANALYSIS, "report": WITH_REPORT}
