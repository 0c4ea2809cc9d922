"""The loop of a process that works: claim -> do -> advance. The only place where exceptions become decisions.

Each stage has a thread of its own that looks for work at an interval, and at once when another stage of the same
process has made some. What must not be forgotten is a row with `run_after`; a thread forgets nothing.
"""

import errno
import logging
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from analysis.contract import REASONS, FailureReason
from config.settings import Settings
from dicom_node import telemetry
from dicom_node.logs import about, mark_of
from dicom_node.spool import Spool
from dicom_node.store import Store
from dicom_node.turns import Turns, bounds
from dicom_node.workitem import ConfigError, LeaseLost, Permanent, Retryable, StageError, State, StoreBusy, WorkItem

LOGGER = logging.getLogger(__name__)
LEASE_SECONDS = 60.0
TICK_SECONDS = 0.2
PAUSE_SECONDS = 5.0
STOP_SECONDS = 90.0  # that a stop waits for what is at work; the units' TimeoutStopSec is longer
SPANS = {State.SCHEDULED: "analyse", State.ANALYSED: "report"}  # of a state's work, in traces
FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS = 5.0, 600.0


@dataclass(frozen=True)
class Stage:
    """What a thread does again and again: `step` does the next thing and says whether there was one.

    `seconds` between two looks where there was none; `of`: the state of what it claims, for those that make it.
    """

    name: str
    step: Callable[[], bool]
    seconds: float = TICK_SECONDS
    of: State | None = None
    first: float = 0.0  # seconds before the first look


class Loop:
    """Claims work items for the stages of one process, keeps their leases, moves them on."""

    def __init__(
        self,
        settings: Settings,
        spool: Spool,
        clock: Callable[[], float] = time.time,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings, self._spool, self.clock = settings, spool, clock
        self._process = uuid.uuid4().hex  # its claims' owners begin with it
        self._local = threading.local()
        self._turns = Turns(bounds(settings), timer)
        self._held: dict[str, WorkItem] = {}  # what stages work on, by its claim's owner
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        self._waking: dict[State | None, list[threading.Event]] = {}

    def go_on_with(self, settings: Settings) -> None:
        """Be as patient with each stage as these settings want."""
        self._settings = settings
        self._turns.allow(bounds(settings))

    @property
    def store(self) -> Store:
        """This thread's store: a SQLite connection belongs to one thread."""
        store: Store | None = getattr(self._local, "store", None)
        if store is None:
            store = self._local.store = Store.open(self._spool.store)
        return store

    @property
    def _owner(self) -> str:
        """Who holds what this thread claimed last: it works on one item at a time."""
        owner: str = self._local.owner
        return owner

    def free(self, states: Collection[State]) -> None:
        """Free what an earlier process held in these states; under the spool's lock, so that it is gone."""
        freed = self.store.break_leases_but(self._process, states)
        if freed:
            LOGGER.info("lease.freed %d work items of a worker that is gone", freed)
        late = self.store.bring_forward(self.clock())
        if late:
            LOGGER.warning("clock.set_back %d tries were put off to a time far ahead; they are made now", late)

    # -- claim, do, advance ----------------------------------------------------------------------------------

    def take(self, state: State, work: Callable[[WorkItem], None], *, without_job: bool = False) -> bool:
        """Do this with the next work item of a state. False when there is none."""
        self._pay()
        # A lease belongs to a claim: a thread that stood still for longer must not go on with what another one has.
        self._local.owner = f"{self._process}-{uuid.uuid4().hex}"
        item = self.store.claim(state, self._owner, LEASE_SECONDS, self.clock(), without_job=without_job)
        if item is None:
            return False
        with about(item=str(item.id), study=mark_of(item.study_instance_uid)):
            try:
                self.store.note(item.id, f"{state.lower()} claimed", self.clock(), f"attempt {item.attempts}")
                self._attempt(item, state, work)
            except LeaseLost as error:  # superseded meanwhile, or taken over: what was done is not wanted any more
                LOGGER.warning("lease.lost %s", error)
            except StoreBusy as error:
                LOGGER.warning("store.busy %s", error)
                self._local.owed = item, error
        return True

    def _pay(self) -> None:
        """Give back what the store could not take, not as an attempt: nothing has ended. Raises StoreBusy."""
        owed: tuple[WorkItem, StoreBusy] | None = getattr(self._local, "owed", None)
        if owed is not None:
            item, error = owed
            with suppress(LeaseLost):  # the lease has run out, and another process has it
                self.give_back(item, self.clock() + FIRST_RETRY_SECONDS, error, counts=False)
            self._local.owed = None

    def _attempt(self, item: WorkItem, state: State, work: Callable[[WorkItem], None]) -> None:
        if item.attempts > self._settings.job.attempts:  # claimed before and never given back: it ended the node
            text = f"the node ended {item.attempts - 1} times in this stage"
            self._fail(item, _failure(FailureReason.NODE_ENDED, text))
            return
        try:
            name, study = SPANS.get(state, state.lower()), item.study_instance_uid
            with self._kept_alive(item), telemetry.stage(name, item.key or "", study, attempt=item.attempts):
                work(item)
        except (LeaseLost, StoreBusy):
            raise
        except Retryable as error:
            self._postpone(item, error)
        except Permanent as error:
            self._fail(item, error)
        except OSError as error:  # a full or broken disk may pass; the text of an OSError holds no PHI but a path
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            self._postpone(item, _failure(FailureReason.DISK_FAILED, f"disk: {error.strerror}"), counts=not full)
        except Exception as error:  # the boundary of a stage: one bad study must not stop the node
            # The text may quote a header: only its type is logged, the trace goes to debug.
            LOGGER.debug("stage.bug", exc_info=True)
            self._fail(item, _failure(FailureReason.STAGE_FAILED, f"{type(error).__name__} in stage {state}"))

    def _postpone(self, item: WorkItem, error: StageError, *, counts: bool = True) -> None:
        if counts and item.attempts >= self._settings.job.attempts:
            self._fail(item, StageError(f"{error} ({item.attempts} attempts)", error.hint, error.code))
            return
        wait = min(FIRST_RETRY_SECONDS * 2.0 ** min(item.attempts - 1, 20), LONGEST_RETRY_SECONDS)
        LOGGER.warning("stage.postponed work item %s by %.0f s: %s; %s", short(item), wait, error, error.hint)
        self.give_back(item, self.clock() + wait, error, counts=counts)

    def give_back(self, item: WorkItem, run_after: float, error: StageError, *, counts: bool) -> None:
        """It is tried again then; `counts`: as an attempt. Raises LeaseLost."""
        detail = f"{error}; {error.hint}"
        self.store.postpone(item, self._owner, run_after, self.clock(), detail, counts=counts)

    def _fail(self, item: WorkItem, error: StageError) -> None:
        text = f"{error.code}: {error}" if error.code else str(error)
        LOGGER.error("stage.failed work item %s: %s; %s", short(item), text, error.hint)
        self.advance(item, State.FAILED, text, hint=error.hint)

    def advance(self, item: WorkItem, state: State, detail: str, **columns: object) -> None:
        """Move a claimed work item on, and wake whoever goes on with it here. Raises LeaseLost."""
        self.store.advance(item, state, self._owner, self.clock(), detail, **columns)  # type: ignore[arg-type]
        LOGGER.info("workitem.%s work item %s %s", state.lower(), short(item), detail)
        self.wake(state)

    def wake(self, state: State | None) -> None:
        """There is something in this state now: its stages need not wait for their next look. Of any thread."""
        for waking in self._waking.get(state, ()):
            waking.set()

    @contextmanager
    def _kept_alive(self, item: WorkItem) -> Iterator[None]:
        """Renew the lease while the stage works, so that a lease can be short and a dead worker's item is free soon."""
        done, owner = threading.Event(), self._owner

        def renew() -> None:
            while not done.wait(LEASE_SECONDS / 3):
                try:
                    store = Store.open(self._spool.store)
                    store.renew(item.id, owner, self.clock() + LEASE_SECONDS)
                    store.close()
                except (StoreBusy, ConfigError) as error:
                    LOGGER.warning("store.busy %s", error)
                except Exception as error:  # noqa: BLE001 - it is tried again: without, the lease would run out
                    LOGGER.warning("store.busy %s: the lease could not be renewed", type(error).__name__)

        keeper = threading.Thread(target=renew, name=f"lease-{item.id}", daemon=True)
        keeper.start()
        self._held[owner] = item
        try:
            yield
        finally:
            del self._held[owner]
            done.set()
            keeper.join()

    # -- life ------------------------------------------------------------------------------------------------

    def start(self, stages: Collection[Stage]) -> None:
        """A thread for each of them."""
        for stage in stages:
            waking = threading.Event()
            self._waking.setdefault(stage.of, []).append(waking)
            thread = threading.Thread(target=self._turn_by_turn, args=[stage, waking], name=stage.name, daemon=True)
            self._threads.append(thread)
        for thread in self._threads:
            thread.start()

    def stop(self, patience: float = STOP_SECONDS) -> None:
        """Stop claiming and finish what is at work. What takes longer is given back, not as an attempt: it ends with
        this process."""
        self._stopping.set()
        for events in self._waking.values():
            for waking in events:
                waking.set()
        end = time.monotonic() + patience
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        for owner, item in [*self._held.items()]:
            text = "the node was stopped meanwhile; it is done again after the next start"
            LOGGER.info("stage.left work item %s: %s", short(item), text)
            with suppress(LeaseLost, StoreBusy):  # then it counts as an attempt
                self.store.postpone(item, owner, self.clock(), self.clock(), text, counts=False)

    def _turn_by_turn(self, stage: Stage, waking: threading.Event) -> None:
        waking.wait(stage.first)
        while not self._stopping.is_set():
            waking.clear()  # before the look: what comes during it is looked for again
            self.drain(stage.step, stage.name)
            waking.wait(stage.seconds)

    def drain(self, step: Callable[[], bool], name: str) -> None:
        """Turn after turn of a stage, until there is nothing to do."""
        try:
            while not self._stopping.is_set() and self._turn(step, name):
                pass
        except Exception as error:  # a stage's thread: one bad turn must not end the stage
            LOGGER.error("worker.tick_failed %s in %s", type(error).__name__, name)
            LOGGER.debug("worker.tick_failed", exc_info=True)
            self._stopping.wait(PAUSE_SECONDS)  # the cause (a full disk, say) will not pass in a fifth of a second

    def _turn(self, step: Callable[[], bool], name: str) -> bool:
        with self._turns.turn(name):
            return step()

    def pulse(self) -> tuple[bool, str]:
        """For the service manager: whether the stages turn and none is stuck, and the work items by state."""
        try:
            counts = ", ".join(f"{count} {state}" for state, count in sorted(self.store.counts().items()))
        except StoreBusy:
            counts = "the store is busy"
        stuck = self._turns.stuck()
        return not stuck, "; ".join([*stuck, f"work items: {counts or 'none yet'}"])


def _failure(code: FailureReason, text: str) -> StageError:
    return StageError(text, REASONS[code].remedy, code)


def short(item: WorkItem) -> str:
    """How a work item is named in the log."""
    return (item.key or "")[:12] or f"#{item.id}"
