"""The spool's disk: watermarks, and the removal of what is delivered, proved and old enough; then of whose it was.

Never what is unsent, and nothing of a study that has open work (`retention.Kept`). In small steps, in an order that
survives a kill: the row is marked, the file goes, the row says so. What a crash leaves marked is finished first.
"""

import logging
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from config.settings import Settings
from dicom_node.audit import AuditEntry
from dicom_node.retention import ACTOR, ENDED, Contents
from dicom_node.spool import Spool
from dicom_node.store import Store
from dicom_node.watermark import room
from dicom_node.workitem import State

LOGGER = logging.getLogger(__name__)
DAY_SECONDS = 86_400.0
PASS_SECONDS = 600.0  # between two looks at everything; while the disk is low, each turn of the clock is one
WARN_AGAIN_SECONDS = 3600.0


class Cleaner:
    """Removes what may go. Belongs to one turn of the clock, as its store does."""

    def __init__(self, store: Store, spool: Spool, settings: Settings, clock: Callable[[], float] = time.time) -> None:
        self._store, self._spool, self._settings, self._clock = store, spool, settings.storage, clock
        self._all = settings
        self._pass: Iterator[str] | None = None
        self._begun = float("-inf")
        self._warned = float("-inf")
        self._forgot = float("-inf")
        self._stubborn: set[Path] = set()  # what could not be removed, and was said

    def step(self) -> bool:
        """Remove one study's files, one result or the like. False: nothing is due now."""
        if self._pass is None:
            pressed = self._look()
            if not pressed and abs(self._clock() - self._begun) < PASS_SECONDS:  # the clock may be set back
                return False
            self._begun = self._clock()
            self._pass = self.everything(pressed=pressed)
        with self._spool.removing() as free:
            if free and next(self._pass, None) is not None:
                return True
        self._pass = None  # done, or a backup is being made: later
        return False

    def run(self) -> list[str]:
        """Remove all that is due now; the kind of each thing. Waits while a backup is made."""
        with self._spool.removing(wait=True):
            return list(self.everything(pressed=room(self._spool.root, self._all).low))

    def everything(self, *, pressed: bool = False) -> Iterator[str]:
        """Remove all that is due, step by step; gives the kind of each thing that went. `pressed`: the disk is low."""
        yield from self.finish()
        now = self._clock()
        if days := self._settings.failed_days:
            why = f"given up by retention: failed {days:g} days ago, and nothing was composed"
            yield from ["failed"] * self._store.retention.give_up(State.FAILED, now - days * DAY_SECONDS, why, now)
        if days := self._settings.waiting_days:
            why = f"given up by retention: what it waits for did not come within {days:g} days"
            yield from ["waiting"] * self._store.retention.give_up(State.WAITING, now - days * DAY_SECONDS, why, now)
        yield from self._contents(pressed=pressed)
        yield from self._results(pressed=pressed)
        yield from self._jobs()
        if days := self._settings.events_days:
            while self._store.retention.forget_events(now - days * DAY_SECONDS):
                yield "events"
        yield from self._aside()
        if abs(self._clock() - self._forgot) >= DAY_SECONDS:  # it goes by years, and looks at every row
            yield from self._people()
            self._forgot = self._clock()

    def finish(self) -> Iterator[str]:
        """Remove what an earlier run had marked, and did not live to remove or could not."""
        after = 0
        with self._spool.instances_kept(alone=True):
            while going := self._store.retention.contents_going(after):
                after = going[-1].id
                self._unlink(going)
        for item_id, key in self._store.retention.results_going():
            if self._drop_results(item_id, key):
                yield "results"
        for folder in (self._spool.root / "jobs").glob(".gone-*"):
            shutil.rmtree(folder, ignore_errors=True)

    # -- kinds -----------------------------------------------------------------------------------------------

    def due_days(self, kind: str, *, pressed: bool = False) -> float:
        """After how many days a kind may go; 0: never."""
        days = float(getattr(self._settings, f"{kind}_days"))
        return min(days, self._settings.pressure_days) if pressed else days

    def _contents(self, *, pressed: bool) -> Iterator[str]:
        """What arrived: whole studies, and contents that newer ones have replaced."""
        kinds = {kind: self.due_days(kind, pressed=pressed) for kind in ("received", "superseded")}
        cutoffs = {kind: self._clock() - days * DAY_SECONDS for kind, days in kinds.items() if days}
        if not cutoffs:
            return
        after, seen = (float("-inf"), ""), set[str]()
        while found := self._store.retention.studies_here(max(cutoffs.values()), after):
            after = found[-1]
            for study in dict.fromkeys(study for _, study in found):
                if study in seen:
                    continue
                seen.add(study)
                if pressed and not room(self._spool.root, self._all).low:
                    return
                kind = self._remove_study(study, cutoffs)
                if kind is None:
                    return  # whatever it is may be in the way of all: no more is marked in this pass
                if kind:
                    yield kind

    def _remove_study(self, study: str, cutoffs: dict[str, float]) -> str | None:
        """The kind that went; '' where nothing may go, None where no file can be removed."""
        condition = self._store.retention.condition(study)
        due = [kind for kind, cutoff in cutoffs.items() if condition.changed_at < cutoff]
        if condition.kept or not due:
            return ""
        contents = self._store.retention.contents(study)
        if "received" not in due:
            contents = [content for content in contents if not content.current]
        if not contents:
            return ""
        with self._spool.instances_kept(alone=True):
            if not self._store.retention.remove_contents(study, contents, self._clock()):
                return ""
            if not self._unlink(contents):
                return None
        LOGGER.info("storage.removed %d objects of a study that was delivered", len(contents))
        return due[0]

    def _unlink(self, contents: list[Contents]) -> bool:
        """False where none can be removed. Those that cannot stay marked, and the next pass tries again."""
        gone: list[Contents] = []
        for content in contents:
            path = self._spool.instance_path(content.sop_instance_uid, content.digest)
            try:
                path.unlink(missing_ok=True)
                gone.append(content)
            except OSError as error:
                self._stays(f"{path.relative_to(self._spool.root)}", path, error.strerror)
        self._store.retention.contents_gone(gone)
        return bool(gone)

    def _stays(self, what: str, path: Path, why: str | None) -> None:
        """Say it, once until the next start."""
        if path not in self._stubborn:
            LOGGER.warning("storage.not_removed %s: %s", what, why)
            self._stubborn.add(path)

    def _results(self, *, pressed: bool) -> Iterator[str]:
        days = {
            State.COMPLETED: self.due_days("results", pressed=pressed),
            State.CANCELED: self.due_days("canceled", pressed=pressed),
        }
        cutoffs = {state: self._clock() - after * DAY_SECONDS for state, after in days.items() if after}
        if not cutoffs:
            return
        after = (float("-inf"), 0)
        while found := self._store.retention.results_here(max(cutoffs.values()), after):
            after = (found[-1]["updated_at"], found[-1]["id"])
            for row in found:
                if pressed and not room(self._spool.root, self._all).low:
                    return
                cutoff = cutoffs.get(State(row["state"]), float("-inf"))
                condition = self._store.retention.condition(row["study_instance_uid"])
                if condition.kept or condition.changed_at >= cutoff:
                    continue
                documents = self._documents(row["id"], row["key"])
                removed = self._store.retention.remove_results(row["id"], documents, self._clock())
                if removed and self._drop_results(row["id"], row["key"]):
                    yield "results" if row["state"] == State.COMPLETED else "canceled"

    def _documents(self, item_id: int, key: str) -> str:
        """Where the SRs are in the PACS, for the revision that may follow one day."""
        rows = self._store.deliveries.of_item(item_id)
        sent = {row.document: row.sop_instance_uid for row in rows if row.sop_instance_uid}
        from dicom_node import compose  # noqa: PLC0415 - highdicom: an idle node has not loaded it

        return compose.kept_documents(self._spool, key, sent)

    def _drop_results(self, item_id: int, key: str) -> bool:
        """False where they cannot be removed; they stay marked, and the next pass tries again."""
        folder = self._spool.results(key, "report").parent
        shutil.rmtree(folder, ignore_errors=True)
        if folder.exists():
            self._stays("results", folder, f"something is left in {folder.relative_to(self._spool.root)}")
            return False
        self._store.retention.results_gone(item_id)
        return True

    def _jobs(self) -> Iterator[str]:
        """Folders of jobs that are nobody's any more; renamed first, so that no stage finds half of one.

        Not one with a dot: a process waits in it for the next job, and the runner sweeps them at its start.
        """
        days = self._settings.jobs_days
        for folder in sorted((self._spool.root / "jobs").glob("[!.]*")) if days else []:
            try:
                taken = folder.stat().st_mtime < self._clock() - days * DAY_SECONDS and self._take_job(folder)
            except FileNotFoundError:
                continue
            except OSError as error:
                self._stays("jobs", folder, error.strerror)
                continue
            if taken:
                yield "jobs"

    def _take_job(self, folder: Path) -> bool:
        gone = folder.with_name(f".gone-{folder.name}")
        with self._store.transaction():  # no worker can claim it meanwhile
            if self._store.retention.state_of_key(folder.name) not in ENDED:
                return False
            folder.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)
        return True

    def _aside(self) -> Iterator[str]:
        """What fsck has set aside, and the copies of the store that migrations left."""
        for kind, paths in aside(self._spool).items():
            days = self.due_days(kind)
            for path in paths if days else []:  # audited once, so tried again at the next start only
                if path not in self._stubborn and set_aside_at(path) < self._clock() - days * DAY_SECONDS:
                    # Audited first: an entry too many is better than patient data that went and nobody knows.
                    entry = AuditEntry(self._clock(), ACTOR, "node", f"{kind}.removed", detail=path.name[:200])
                    self._store.audit.add(entry)
                    try:
                        if path.is_dir() and not path.is_symlink():
                            shutil.rmtree(path)
                        else:
                            path.unlink(missing_ok=True)
                    except OSError as error:
                        self._stays(kind, path, error.strerror)
                        continue
                    yield kind

    def _people(self) -> Iterator[str]:
        """Clinical values and identities of patients of whom nothing else is here; values first, they need the IDs."""
        forgetting, now = self._store.forgetting, self._clock()
        if days := self._settings.clinical_days:
            before = now - days * DAY_SECONDS
            for patient, _ in forgetting.patients(before):
                if forgetting.forget_values(patient, before, now):
                    yield "clinical"
        if days := self._settings.identity_days:
            before, forgotten = now - days * DAY_SECONDS, False
            for study in forgetting.studies(before):
                if forgetting.forget_study(study, before, now):
                    forgotten = True
                    yield "identity"
            forgetting.forget_merges(before)
            forgetting.forget_questions(before)
            for _ in forgetting.purge_search() if forgotten else ():
                yield "search index"

    # -- watermarks ------------------------------------------------------------------------------------------

    def _look(self) -> bool:
        """Whether the disk is low; says so, but not each second."""
        seen = room(self._spool.root, self._all)
        if seen.low and abs(self._clock() - self._warned) >= WARN_AGAIN_SECONDS:
            self._warned = self._clock()
            words = "nothing more is taken until there is room" if seen.full else "what may go goes sooner"
            LOGGER.warning(
                "storage.low %.1f GB of %.0f GB are free, below %.1f GB: %s; see: prognode storage",
                seen.free / 1e9,
                seen.total / 1e9,
                seen.warn / 1e9,
                words,
            )
        if not seen.low and self._warned > float("-inf"):
            self._warned = float("-inf")
            LOGGER.info("storage.relieved %.1f GB are free again", seen.free / 1e9)
        return seen.low


def aside(spool: Spool) -> dict[str, list[Path]]:
    """What lies beside the road, by kind: in the quarantine, and copies of the store that migrations left."""
    quarantine = sorted(spool.quarantine.iterdir()) if spool.quarantine.is_dir() else []
    return {"quarantine": quarantine, "copies": sorted(spool.root.glob(f"{spool.store.name}.schema-*"))}


def set_aside_at(path: Path) -> float:
    """When a file got its name here: a rename leaves the time of its content as it is, and sets that of its entry."""
    status = path.lstat()
    return max(status.st_mtime, status.st_ctime)
