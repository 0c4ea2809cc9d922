"""`prognode fsck --repair`: mends what was found, with consent, one thing at a time, each with its audit entry.

The node must not run. Each repair can be interrupted: what it has begun is found again, and finished, by the next one.
Nothing that may have been acknowledged is deleted: it goes to the spool's quarantine.
"""

import errno
import shutil
import time
from collections.abc import Callable

from dicom_node import headers
from dicom_node.audit import AuditEntry
from dicom_node.fsck import Finding, Problem
from dicom_node.spool import Spool
from dicom_node.storage import Cleaner
from dicom_node.store import Store


class Repairer:
    """Does what `Problem.repair` says. Holds nothing; the caller holds the spool's locks."""

    def __init__(
        self, store: Store, spool: Spool, cleaner: Cleaner, actor: str, clock: Callable[[], float] = time.time
    ) -> None:
        self._store, self._spool, self._cleaner, self._actor, self._clock = store, spool, cleaner, actor, clock
        self._repairs: dict[Problem, Callable[[Finding], str]] = {
            Problem.FILE_MISSING: self._mark_lost,
            Problem.FILE_DAMAGED: self._quarantine_and_mark_lost,
            Problem.FILE_UNKNOWN: self._make_row,
            Problem.FILE_FOREIGN: self._quarantine,
            Problem.RESULT_MISSING: self._analyse_again,
            Problem.RESULT_LOST: self._mark_removed,
            Problem.RESULT_UNKNOWN: self._quarantine,
            Problem.REMOVAL_UNFINISHED: self._finish_removal,
            Problem.LEASE_STALE: self._free,
            Problem.JOB_ORPHANED: self._remove,
            Problem.DRAFT_LEFT: self._remove,
            Problem.NOT_IN_PACS: self._send_again,
        }

    def repair(self, finding: Finding) -> str:
        """Mend one thing; gives what was done. Raises OSError."""
        return self._repairs[finding.problem](finding)

    def _mark_lost(self, finding: Finding) -> str:
        with self._store.transaction():
            self._store.inspection.mark_lost(_row(finding))
            self._say(finding, "the row is marked as lost")
        return "marked as lost"

    def _quarantine_and_mark_lost(self, finding: Finding) -> str:
        done = self._quarantine(finding)  # killed after this, the next run finds a row without its file
        self._mark_lost(finding)
        return done

    def _quarantine(self, finding: Finding) -> str:
        if finding.path is None or not finding.path.exists():
            return "is gone already"
        # Audited first: an entry too many is better than a file that moved and nobody knows.
        self._say(finding, "to quarantine", action="instances.quarantined")
        place = self._spool.quarantined(finding.path)
        return f"moved to {place.relative_to(self._spool.root)}"

    def _make_row(self, finding: Finding) -> str:
        path = finding.path
        assert path is not None
        digest = headers.data_set_digest(path)
        instance, identity = headers.read_with_identity(path, digest)
        with self._spool.instances_kept(), self._store.transaction():
            self._store.arrivals.add(instance, headers.sender(path) or "fsck", self._clock(), identity)
            self._say(finding, "the row was made again from the file's header")
        return "the row was made again"

    def _analyse_again(self, finding: Finding) -> str:
        with self._store.transaction():
            self._store.inspection.schedule_again(_row(finding), self._clock(), "its result was not there: fsck")
            self._say(finding, "scheduled again", item=finding.row)
        return "scheduled again"

    def _mark_removed(self, finding: Finding) -> str:
        with self._store.transaction():
            self._store.retention.results_gone(_row(finding))
            self._say(finding, "marked as removed", item=finding.row)
        return "marked as removed"

    def _finish_removal(self, finding: Finding) -> str:
        for _ in self._cleaner.finish():
            pass
        if self._store.retention.contents_going() or self._store.retention.results_going():
            raise OSError(errno.EACCES, "not all of it can be removed; see storage.not_removed")
        self._say(finding, "the removal was finished")
        return "finished"

    def _free(self, finding: Finding) -> str:
        with self._store.transaction():
            self._store.inspection.free(_row(finding))
            self._say(finding, "freed", item=finding.row)
        return "freed"

    def _remove(self, finding: Finding) -> str:
        path = finding.path
        assert path is not None
        self._say(finding, "removed")
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
        return "removed"

    def _send_again(self, finding: Finding) -> str:
        with self._store.transaction():
            self._store.inspection.send_again(_row(finding), self._clock(), "is not in the PACS any more: fsck")
            self._say(finding, "is sent again")
        return "is sent again"

    def _say(self, finding: Finding, done: str, action: str = "fsck.repaired", item: int | None = None) -> None:
        name = finding.problem.name
        detail = f"{name}: {finding.about}: {done}"[:500]
        entry = AuditEntry(
            self._clock(), self._actor, "cli", action,
            work_item_id=item, study_instance_uid=finding.study_instance_uid, detail=detail,
        )  # fmt: skip
        self._store.audit.add(entry)


def _row(finding: Finding) -> int:
    assert finding.row is not None
    return finding.row
