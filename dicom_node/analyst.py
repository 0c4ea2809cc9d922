"""The analyse stage: SCHEDULED -> ANALYSED by a job. Its process alone starts jobs, and needs no network.

In the embedded default it is a part of the worker; `prognode run` makes it a process of its own.
"""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any

from analysis.contract import Outcome
from config.identity import VERSION
from config.settings import Settings
from dicom_node.bundles import Bundles
from dicom_node.decision import Plan
from dicom_node.executors.contract import Executor
from dicom_node.job import Runner, verify_golden
from dicom_node.loop import FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS, Loop, Stage, short
from dicom_node.spool import Spool
from dicom_node.summary import summary_of
from dicom_node.ticket import Ticket
from dicom_node.vitals import BEAT_SECONDS
from dicom_node.workitem import EngineDown, StageError, State, StoreBusy, TwinAtWork, WorkItem

LOGGER = logging.getLogger(__name__)
EXPECTED_SECONDS = 60.0  # after the newest arrival, for which the next job's process is kept ready
HANDLER_SECONDS = 20.0  # that a process which is starting is waited for, each time
LONGEST_ENGINE_SECONDS = 60.0  # until a job is tried again where none could be started


class Analyst:
    """Claims what is planned and has it analysed; several threads may be in `step`."""

    def __init__(
        self, settings: Settings, spool: Spool, bundles: Bundles, runner: Runner, loop: Loop, *, prove: bool = False
    ) -> None:
        """`prove`: run the golden case of each bundle first, beside whatever else starts; no job is claimed before."""
        self._settings, self._spool, self._bundles, self._runner, self._loop = settings, spool, bundles, runner, loop
        self._at_once = settings.job.at_once or runner.executor.slots
        self._engine = threading.Lock()
        self._engine_failed, self._engine_again = 0, 0.0  # times in a row that no job could be started; the next try
        self._started = self._since = loop.clock()
        self._proves = self._proving = prove
        self._at_work, self._newest, self._expected_until = 0, -1, 0.0  # jobs; the newest arrival, and what it promises
        self._asked_to_end = False
        self.unfit: StageError | None = None  # why this process must end: a bundle that says other numbers here
        self._facts: dict[str, Any] = {
            "executor": settings.job.executor,
            "isolation": runner.executor.text,
            "isolated": not runner.executor.missing,
            "waits": "",  # why no job can be started just now
            **_facts_of(bundles),
        }

    def pulse(self) -> tuple[bool, str]:
        """As `Loop.pulse`, and whether a bundle has still to be proved."""
        well, words = self._loop.pulse()
        return well, f"golden case waits; {words}" if self._proving else words

    @property
    def executor(self) -> Executor:
        return self._runner.executor

    @property
    def stages(self) -> list[Stage]:
        """What the loop turns: as many threads as jobs may run at once, and a sign of life."""
        names = [f"analyse-{number}" for number in range(self._at_once)]
        jobs = [Stage(name, self.step, of=State.SCHEDULED) for name in names]
        others = [("golden", self._prove, BEAT_SECONDS), ("beat-run", self._beat, BEAT_SECONDS)]
        ahead = [Stage("ready", self._get_ready)] if self._runner.ahead else []
        return [*jobs, *ahead, *(Stage(*one) for one in others)]

    def prepare(self) -> None:
        """Free what an earlier runner held, and end what it has left at work; under the spool's lock `run`."""
        self._loop.free((State.SCHEDULED,))
        swept = self._runner.executor.sweep()
        if swept:
            LOGGER.info("job.swept %d jobs that an earlier runner has left at work", swept)
        text = "worker.started %d jobs at once; job isolation: %s"
        LOGGER.info(text, self._at_once, self._runner.executor.text)

    def close(self) -> None:
        """When the stages have ended."""
        if ahead := self._runner.ahead:
            ahead.stand_down()

    def go_on_with(self, bundles: Bundles) -> None:
        """Analyse with these bundles from now on."""
        self._bundles, self._since = bundles, self._loop.clock()
        self._facts |= _facts_of(bundles)
        self._engine_again = 0.0  # what could not be used may be mended by these

    def step(self) -> bool:
        """SCHEDULED -> ANALYSED. What needs a job waits while none can be started, but never for a clock put back."""
        if self._proving:
            return False
        held = 0 < self._engine_again - self._loop.clock() <= LONGEST_ENGINE_SECONDS
        return self._loop.take(State.SCHEDULED, self._analyse, without_job=held)

    def _get_ready(self) -> bool:
        """Where images arrive, a job follows: its process is started meanwhile, unless a job needs the processor."""
        ahead = self._runner.ahead
        assert ahead is not None
        newest, now = self._loop.store.arrivals.newest(), self._loop.clock()
        with self._engine:
            if self._newest not in (-1, newest):
                self._expected_until = now + EXPECTED_SECONDS
            self._newest = newest
            if self._at_work:  # what waits is for this job, which may still be laying out its inputs
                return False
            expected = 0 < self._expected_until - now <= EXPECTED_SECONDS
        if not expected:
            ahead.stand_down()
        elif not self._proving:
            ahead.get_ready()
        return False

    def _analyse(self, item: WorkItem) -> None:
        ticket = Ticket.from_json(item.plan or "")
        key = item.key or ""
        bundle = self._bundles.get(ticket.bundle_digest)
        if bundle is None or (self._proves and bundle.digest not in self._bundles.golden):
            self._without_bundle(item)
            return
        if isinstance(ticket.decision, Plan):
            paths = ticket.paths(self._spool.instance_path)
            self._begin()
            try:
                result = self._runner.analyse(key, ticket.decision, ticket.clinical, paths, ticket.quality, bundle)
            except EngineDown as error:
                self._hold_engine(item, error)
                return
            except TwinAtWork as error:
                self._loop.give_back(item, self._loop.clock() + FIRST_RETRY_SECONDS, error, counts=False)
                return
            finally:
                self._end()
            self._engine_runs()
        else:
            result = self._runner.state_not_eligible(key, ticket.decision, bundle)
        reason = str(result.reason) if result.reason else None
        self._loop.advance(
            item,
            State.ANALYSED,
            result.outcome if result.outcome is Outcome.SCORED else reason or "",
            outcome=result.outcome,
            reason=reason,
            summary=summary.model_dump_json() if (summary := summary_of(result)) else None,
        )

    def _begin(self) -> None:
        """A job begins: it is what the arrivals so far have promised."""
        newest = self._loop.store.arrivals.newest()  # first: where the store is busy, no job has begun
        with self._engine:
            self._at_work += 1
            self._newest, self._expected_until = newest, 0.0

    def _end(self) -> None:
        with self._engine:
            self._at_work -= 1

    def _without_bundle(self, item: WorkItem) -> None:
        """The planner decides again; but one that has decided since our bundles came would only say the same again."""
        now, scheduled = self._loop.clock(), item.scheduled_at or 0.0
        if self._since < scheduled and now - scheduled < LONGEST_RETRY_SECONDS:
            error = StageError("it was planned with a bundle that this process has not", "reload this process too")
            LOGGER.warning("bundle.unknown work item %s waits: %s; %s", short(item), error, error.hint)
            self._loop.give_back(item, now + LONGEST_ENGINE_SECONDS, error, counts=False)
            return
        LOGGER.info("workitem.replanned work item %s: the bundle has changed", short(item))
        self._loop.store.births.replan(item.id, "the bundle has changed", now)

    def _hold_engine(self, item: WorkItem, error: EngineDown) -> None:
        """No study's fault, and it may last for days: said at the first, second, fourth, eighth ... try."""
        with self._engine:
            self._engine_failed += 1
            failed = self._engine_failed
            wait = min(FIRST_RETRY_SECONDS * 2.0 ** min(failed - 1, 20), LONGEST_ENGINE_SECONDS)
            self._engine_again = self._loop.clock() + wait
        if failed & (failed - 1) == 0:
            text = "engine.down try %d, no job can be started, the next try is in %.0f s: %s; %s"
            LOGGER.warning(text, failed, wait, error, error.hint)
        self._loop.give_back(item, self._loop.clock() + wait, error, counts=False)
        self._say_waits(f"{error}; {error.hint}")

    def _engine_runs(self) -> None:
        with self._engine:
            if self._engine_failed:
                LOGGER.info("engine.runs jobs can be started again, after %d tries", self._engine_failed)
            self._engine_failed = 0
        self._say_waits("")

    def _say_waits(self, why: str) -> None:
        """For the System page and `prognode check`."""
        if self._facts["waits"] != why:
            self._facts["waits"] = why
            with suppress(StoreBusy):  # the next sign of life says it
                self._beat()

    def _prove(self) -> bool:
        """The golden cases, once. Where one fails, the process is asked to end, and `unfit` says why.

        A reload meanwhile puts other bundles in force, and has run their cases itself: then it is those that count.
        """
        if self.unfit is not None:
            self._ask_to_end()
            return False
        if not self._proving:
            return False
        bundles = self._bundles
        try:
            for bundle in bundles:
                if bundle.digest not in bundles.golden:
                    bundles.golden[bundle.digest] = verify_golden(bundle, self.executor)
        except StageError as error:
            if bundles is self._bundles:
                self._not_proved(error)
                return False
        if bundles is not self._bundles:
            return True
        self._facts |= _facts_of(bundles) | {"waits": ""}
        self._proving = False
        self._beat()
        self._loop.wake(State.SCHEDULED)
        return False

    def _not_proved(self, error: StageError) -> None:
        if isinstance(error, EngineDown):
            LOGGER.warning("engine.down the golden case waits, and all jobs with it: %s; %s", error, error.hint)
            self._say_waits(f"{error}; {error.hint}")
            return
        self.unfit = error
        self._say_waits(f"{error}; {error.hint}")
        self._ask_to_end()

    def _ask_to_end(self) -> None:
        """Once there is a handler: a process that is still starting has none yet, one that embeds us maybe never."""
        end = time.monotonic() + HANDLER_SECONDS
        while signal.getsignal(signal.SIGTERM) is signal.SIG_DFL and time.monotonic() < end:
            time.sleep(0.05)
        if self._asked_to_end or signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            return  # the next turn looks again
        self._asked_to_end = True
        os.kill(os.getpid(), signal.SIGTERM)

    def _beat(self) -> bool:
        self._loop.store.vitals.beat("run", VERSION, self._started, self._loop.clock(), self._facts)
        return False


def renewed(before: Bundles, settings: Settings, executor: Executor | None) -> Bundles:
    """The bundles of other settings; with an executor, it runs the golden case of each that is new.

    None is given up that may still be the bundle of work in progress, but one whose golden case was never proved.
    Raises BundleError, StageError.
    """
    bundles = Bundles.load(settings, before)
    for bundle in bundles:
        known = before.golden.get(bundle.digest)
        if executor is not None:
            bundles.golden[bundle.digest] = verify_golden(bundle, executor) if known is None else known
    bundles.golden = before.golden | bundles.golden
    return bundles


def _facts_of(bundles: Bundles) -> dict[str, Any]:
    golden = {bundle.digest: bundles.golden.get(bundle.digest, "") for bundle in bundles}
    return {"bundle": bundles.own.digest, "golden": golden[bundles.own.digest], "bundles": golden}


class RunnerProcess:
    """`prognode run`: the analyse stage alone, beside `prognode work --without-jobs`."""

    def __init__(self, settings: Settings, spool: Spool, bundles: Bundles, runner: Runner) -> None:
        self._spool, self._loop = spool, Loop(settings, spool)
        self._bundles = bundles
        self._analyst = Analyst(settings, spool, bundles, runner, self._loop, prove=True)
        self._locked = ExitStack()

    def start(self) -> None:
        """Take the spool and start. Raises ConfigError when another runner has it."""
        self._locked.enter_context(self._spool.lock("run"))
        try:
            self._analyst.prepare()
        except BaseException:
            self._locked.close()
            raise
        self._loop.start(self._analyst.stages)

    def stop(self) -> None:
        """Finish the jobs that run and start no more."""
        with self._locked:
            self._loop.stop()
            self._analyst.close()

    def ready_for(self, settings: Settings) -> Callable[[], None]:
        """As `reload.Reloadable`."""
        bundles = renewed(self._bundles, settings, self._analyst.executor)

        def put_in_force() -> None:
            self._bundles = bundles
            self._analyst.go_on_with(bundles)

        return put_in_force

    @property
    def unfit(self) -> StageError | None:
        """Why the process has to end, where it has."""
        return self._analyst.unfit

    def pulse(self) -> tuple[bool, str]:
        return self._analyst.pulse()
