"""The loop: claim -> do -> advance, for each stage. The only place where exceptions become decisions.

APScheduler is the clock and nothing more; what must not be forgotten is a row with `run_after`.
"""

import errno
import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta

from apscheduler.schedulers.background import BackgroundScheduler

from analysis.contract import REASONS, FailureReason, Outcome
from config.settings import Settings
from dicom_node import backfill, candidates
from dicom_node.clinical_fetch import ClinicalFetch
from dicom_node.clinical_watch import ClinicalWatch
from dicom_node.decision import Plan
from dicom_node.dispatch import Dispatcher
from dicom_node.heartbeat import ECHO_SECONDS, Heartbeat
from dicom_node.job import Runner
from dicom_node.keeper import Keeper
from dicom_node.messages import MESSAGE
from dicom_node.reporter import Reporter
from dicom_node.schedule import Scheduler
from dicom_node.spool import Spool
from dicom_node.store import Store
from dicom_node.summary import summary_of
from dicom_node.ticket import Ticket
from dicom_node.turns import Turns, bounds
from dicom_node.ups_events import UpsTeller
from dicom_node.vitals import BEAT_SECONDS
from dicom_node.workitem import (
    ConfigError,
    EngineDown,
    LeaseLost,
    Permanent,
    Retryable,
    StageError,
    State,
    StoreBusy,
    WorkItem,
)
from models.bundle import Bundle
from reports import fonts

LOGGER = logging.getLogger(__name__)
LEASE_SECONDS = 60.0
TICK_SECONDS = 0.2
LOOK_AGAIN_SECONDS = 5.0
PAUSE_SECONDS = 5.0
FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS = 5.0, 600.0
LONGEST_ENGINE_SECONDS = 60.0  # until a job is tried again where none could be started


class Worker:
    """One worker of one node. `step_*` take the next thing of a stage and say whether there was one."""

    def __init__(
        self,
        settings: Settings,
        spool: Spool,
        bundle: Bundle,
        runner: Runner,
        clock: Callable[[], float] = time.time,
        golden: str = "",
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        """`golden`: how the bundle's golden case went, for the system page. Raises ConfigError for bad settings."""
        self._settings, self._spool, self._bundle, self._runner, self._clock = settings, spool, bundle, runner, clock
        candidates.choose((), settings.plan)  # a pattern that is no regular expression is said now, not per study
        try:
            fonts.check(settings.report.language)
        except fonts.FontMissing as error:
            raise ConfigError(str(error)) from error
        self._owner = uuid.uuid4().hex
        self._locked = ExitStack()
        self._stopping = threading.Event()
        self._local = threading.local()
        self._looked = 0.0
        self._turns = Turns(bounds(settings), timer)
        self._identified = False
        self._engine_failed, self._engine_again = 0, 0.0  # times in a row that no job could be started; the next try
        self._fetch = ClinicalFetch(settings, clock)  # raises ConfigError for a bad mapping of codes
        isolation = runner.isolation
        facts = {
            "executor": settings.job.executor,
            "isolation": isolation.text,
            "isolated": not isolation.missing,
            "bundle": bundle.digest,
            "golden": golden,
        }
        self._keeper = Keeper(settings, spool, clock)
        self._heartbeat = Heartbeat(settings, lambda: self._store, facts, clock)
        self._clock_work: BackgroundScheduler | None = None

    # -- stages ----------------------------------------------------------------------------------------------

    def step_plan(self) -> bool:
        """Arrivals -> work items."""
        scheduler = Scheduler(self._store, self._spool, self._settings, self._bundle, self._clock)
        if self._clock() - self._looked >= LOOK_AGAIN_SECONDS:
            self._looked = self._clock()
            scheduler.look_at_waiting()
        return scheduler.take_arrivals()

    def step_fetch(self) -> bool:
        """Clinical values of FHIR servers, for the studies that wait for them. False also where there is none."""
        asked = self._fetch.fetch_due(self._store)
        if asked:
            self._looked = 0.0  # what waits for it is looked at in the next turn
        return asked

    def step_watch(self) -> bool:
        """Clinical values that came after a score."""
        return ClinicalWatch(self._store, self._spool, self._settings, self._bundle, self._clock).look()

    def step_identify(self) -> bool:
        """Whose the studies are that came before studies had an identity; done once."""
        self._identified = self._identified or not backfill.fill(self._store, self._spool, self._clock)
        return not self._identified

    def step_analyse(self) -> bool:
        """SCHEDULED -> ANALYSED. What needs a job waits while none can be started, but never for a clock put back."""
        held = 0 < self._engine_again - self._clock() <= LONGEST_ENGINE_SECONDS
        return self._take(State.SCHEDULED, self._analyse, without_job=held)

    def step_report(self) -> bool:
        """ANALYSED -> REPORTED, with a delivery row per object and destination."""
        return self._take(State.ANALYSED, self._report)

    def step_deliver(self) -> bool:
        """Objects on their way to their destinations; REPORTED -> COMPLETED when all are there."""
        self._store.complete_delivered(self._clock())
        return Dispatcher(self._store, self._spool, self._settings, self._clock).deliver_due()

    def step_tell(self) -> bool:
        """Subscribers of the UPS worklist hear of what has happened. False also where there is no such worklist."""
        return self._settings.ups.enabled and self._teller.tell_due()

    def _analyse(self, item: WorkItem) -> None:
        ticket = Ticket.from_json(item.plan or "")
        key = item.key or ""
        if ticket.bundle_digest != self._bundle.digest:
            LOGGER.info("workitem.replanned work item %s: the bundle has changed", _short(item))
            self._store.births.replan(item.id, "the bundle has changed", self._clock())
            return
        if isinstance(ticket.decision, Plan):
            paths = ticket.paths(self._spool.instance_path)
            result = self._runner.analyse(key, ticket.decision, ticket.clinical, paths, ticket.quality)
            self._engine_runs()
        else:
            result = self._runner.state_not_eligible(key, ticket.decision)
        reason = str(result.reason) if result.reason else None
        self._advance(
            item,
            State.ANALYSED,
            result.outcome if result.outcome is Outcome.SCORED else reason or "",
            outcome=result.outcome,
            reason=reason,
            summary=summary.model_dump_json() if (summary := summary_of(result)) else None,
        )

    def _report(self, item: WorkItem) -> None:
        documents = Reporter(self._store, self._spool, self._settings, self._clock).write(item)
        destinations = [peer.ae_title for peer in self._settings.destinations()]
        rows = [(document, destination) for destination in destinations for document in documents]
        rows += [(MESSAGE, destination) for destination in self._settings.message_destinations()]
        review = self._settings.deliver.hold_for_review and bool(rows)
        self._advance(item, State.REPORTED, f"{len(documents)} objects", deliveries=rows, held=review)

    # -- claim, do, advance ----------------------------------------------------------------------------------

    def _take(self, state: State, work: Callable[[WorkItem], None], *, without_job: bool = False) -> bool:
        item = self._store.claim(state, self._owner, LEASE_SECONDS, self._clock(), without_job=without_job)
        if item is None:
            return False
        self._store.note(item.id, f"{state.lower()} claimed", self._clock(), f"attempt {item.attempts}")
        try:
            self._attempt(item, state, work)
        except LeaseLost as error:  # superseded meanwhile, or taken over: what was done is not wanted any more
            LOGGER.warning("lease.lost %s", error)
        except StoreBusy as error:  # the lease runs out, and the stage runs again
            LOGGER.warning("store.busy %s", error)
        return True

    def _attempt(self, item: WorkItem, state: State, work: Callable[[WorkItem], None]) -> None:
        if item.attempts > self._settings.job.attempts:  # claimed before and never given back: it ended the node
            text = f"the node ended {item.attempts - 1} times in this stage"
            self._fail(item, _failure(FailureReason.NODE_ENDED, text))
            return
        try:
            with self._kept_alive(item):
                work(item)
        except (LeaseLost, StoreBusy):
            raise
        except EngineDown as error:
            self._hold_engine(item, error)
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
        LOGGER.warning("stage.postponed work item %s by %.0f s: %s; %s", _short(item), wait, error, error.hint)
        self._store.postpone(
            item, self._owner, self._clock() + wait, self._clock(), f"{error}; {error.hint}", counts=counts
        )

    def _hold_engine(self, item: WorkItem, error: EngineDown) -> None:
        """No study's fault, and it may last for days: said at the first, second, fourth, eighth ... try."""
        self._engine_failed += 1
        wait = min(FIRST_RETRY_SECONDS * 2.0 ** min(self._engine_failed - 1, 20), LONGEST_ENGINE_SECONDS)
        self._engine_again = self._clock() + wait
        if self._engine_failed & (self._engine_failed - 1) == 0:
            text = "engine.down try %d, no job can be started, the next try is in %.0f s: %s; %s"
            LOGGER.warning(text, self._engine_failed, wait, error, error.hint)
        self._store.postpone(
            item, self._owner, self._engine_again, self._clock(), f"{error}; {error.hint}", counts=False
        )

    def _engine_runs(self) -> None:
        if self._engine_failed:
            LOGGER.info("engine.runs jobs can be started again, after %d tries", self._engine_failed)
        self._engine_failed = 0

    def _fail(self, item: WorkItem, error: StageError) -> None:
        text = f"{error.code}: {error}" if error.code else str(error)
        LOGGER.error("stage.failed work item %s: %s; %s", _short(item), text, error.hint)
        self._advance(item, State.FAILED, text, hint=error.hint)

    def _advance(self, item: WorkItem, state: State, detail: str, **columns: object) -> None:
        self._store.advance(item, state, self._owner, self._clock(), detail, **columns)  # type: ignore[arg-type]
        LOGGER.info("workitem.%s work item %s %s", state.lower(), _short(item), detail)

    @contextmanager
    def _kept_alive(self, item: WorkItem) -> Iterator[None]:
        """Renew the lease while the stage works, so that a lease can be short and a dead worker's item is free soon."""
        done = threading.Event()

        def renew() -> None:
            while not done.wait(LEASE_SECONDS / 3):
                try:
                    store = Store.open(self._spool.store)
                    store.renew(item.id, self._owner, self._clock() + LEASE_SECONDS)
                    store.close()
                except (StoreBusy, ConfigError) as error:
                    LOGGER.warning("store.busy %s", error)

        keeper = threading.Thread(target=renew, name=f"lease-{item.id}", daemon=True)
        keeper.start()
        try:
            yield
        finally:
            done.set()
            keeper.join()

    # -- life of the worker ----------------------------------------------------------------------------------

    def start(self) -> None:
        """Take the spool, free what an earlier worker held, start the clock. Raises ConfigError when it is taken."""
        self._locked.enter_context(self._spool.lock("work"))
        try:
            freed = self._store.break_leases_but(self._owner)
            self._spool.sweep_drafts()
        except BaseException:
            self._locked.close()
            raise
        if freed:
            LOGGER.info("lease.freed %d work items of a worker that is gone", freed)
        LOGGER.info("worker.started job isolation: %s", self._runner.isolation.text)
        if self._settings.ups.enabled:
            self._teller.announce("RESTARTED")
        steps = (
            self.step_plan,
            self.step_fetch,
            self.step_analyse,
            self.step_report,
            self.step_deliver,
            self.step_tell,
        )
        begin = datetime.now(UTC)
        turns = [
            *((step, TICK_SECONDS, begin) for step in steps),
            (self.step_watch, LOOK_AGAIN_SECONDS, begin),
            (self.step_identify, LOOK_AGAIN_SECONDS, begin),
            (self._heartbeat.beat, BEAT_SECONDS, begin),
            (self._heartbeat.echo, ECHO_SECONDS, begin + timedelta(seconds=BEAT_SECONDS)),
            *((turn, seconds, begin + timedelta(seconds=1.0)) for turn, seconds in self._keeper.turns),
        ]
        pool = {"type": "threadpool", "max_workers": len(turns)}
        clock = BackgroundScheduler(timezone="UTC", executors={"default": pool})
        for turn, seconds, first in turns:
            clock.add_job(
                self._drain,
                "interval",
                args=[turn],
                seconds=seconds,
                coalesce=True,
                max_instances=1,
                misfire_grace_time=None,
                next_run_time=first,
            )
        clock.start()
        self._clock_work = clock

    def stop(self) -> None:
        """Finish what is at work and stop claiming."""
        self._stopping.set()
        with self._locked:
            if self._clock_work is None:
                return
            self._clock_work.shutdown(wait=True)
            try:
                if self._settings.ups.enabled:
                    self._teller.say_going_down()
            finally:
                self._keeper.close()

    def pulse(self) -> tuple[bool, str]:
        """For the service manager: whether the clock turns and no stage is stuck, and the work items by state."""
        try:
            counts = ", ".join(f"{count} {state}" for state, count in sorted(self._store.counts().items()))
        except StoreBusy:
            counts = "the store is busy"
        stuck = self._turns.stuck()
        return not stuck, "; ".join([*stuck, f"work items: {counts or 'none yet'}"])

    def _drain(self, step: Callable[[], bool]) -> None:
        try:
            while self._running() and self._turn(step):
                pass
        except Exception as error:  # the clock's thread: one bad tick must not end the stage
            LOGGER.error("worker.tick_failed %s in %s", type(error).__name__, step.__name__)
            LOGGER.debug("worker.tick_failed", exc_info=True)
            self._stopping.wait(PAUSE_SECONDS)  # the cause (a full disk, say) will not pass in a fifth of a second

    def _turn(self, step: Callable[[], bool]) -> bool:
        with self._turns.turn(step.__name__.removeprefix("step_")):
            return step()

    def _running(self) -> bool:
        return not self._stopping.is_set()

    @property
    def _teller(self) -> UpsTeller:
        return UpsTeller(self._store, self._spool, self._settings, self._clock)

    @property
    def _store(self) -> Store:
        """This thread's store: a SQLite connection belongs to one thread."""
        store: Store | None = getattr(self._local, "store", None)
        if store is None:
            store = self._local.store = Store.open(self._spool.store)
        return store


def _failure(code: FailureReason, text: str) -> StageError:
    return StageError(text, REASONS[code].remedy, code)


def _short(item: WorkItem) -> str:
    return (item.key or "")[:12] or f"#{item.id}"
