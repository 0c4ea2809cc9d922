"""The worker: what arrives is planned, what is analysed is reported, and what is reported is delivered."""

import logging
import time
from collections.abc import Callable
from contextlib import ExitStack

from config.settings import Settings
from dicom_node import analyst, backfill, candidates
from dicom_node.analyst import Analyst
from dicom_node.bundles import Bundles
from dicom_node.clinical_fetch import ClinicalFetch
from dicom_node.clinical_watch import ClinicalWatch
from dicom_node.dispatch import Dispatcher
from dicom_node.heartbeat import ECHO_SECONDS, Heartbeat
from dicom_node.job import Runner
from dicom_node.keeper import Keeper
from dicom_node.loop import Loop, Stage
from dicom_node.messages import MESSAGE, is_message
from dicom_node.readiness import Readiness
from dicom_node.schedule import LOOK_SECONDS, Lull, Scheduler
from dicom_node.spool import Spool
from dicom_node.store import Store
from dicom_node.ticket import Ticket
from dicom_node.tls import client_context
from dicom_node.ups_events import UpsTeller
from dicom_node.vitals import BEAT_SECONDS
from dicom_node.workitem import ConfigError, StageError, State, WorkItem
from models.bundle import Bundle
from reports import fonts

LOGGER = logging.getLogger(__name__)
LOOK_AGAIN_SECONDS = 5.0


class Worker:
    """One worker of one node. `step_*` take the next thing of a stage and say whether there was one."""

    def __init__(
        self,
        settings: Settings,
        spool: Spool,
        bundle: Bundle | Bundles,
        runner: Runner | None,
        clock: Callable[[], float] = time.time,
        timer: Callable[[], float] = time.monotonic,
        *,
        prove: bool = False,
    ) -> None:
        """`runner`: None where jobs are another process's (`prognode run`). `prove`: the golden case of each bundle
        comes before the first job. Raises ConfigError for bad settings."""
        self._settings, self._spool, self._clock = settings, spool, clock
        self._bundles = bundle if isinstance(bundle, Bundles) else Bundles(bundle)
        _check(settings)
        self._loop = Loop(settings, spool, clock, timer)
        self.analyst = Analyst(settings, spool, self._bundles, runner, self._loop, prove=prove) if runner else None
        self._locked = ExitStack()
        self._looked, self._lull, self._timer = 0.0, Lull(), timer
        self._identified = self._running = False
        self._readiness = Readiness(timer)
        self._fetch = ClinicalFetch(settings, clock)  # raises ConfigError for a bad mapping of codes
        self._keeper = Keeper(settings, spool, clock)
        self._heartbeat = Heartbeat(settings, lambda: self._store, {"jobs": "here" if runner else "apart"}, clock)

    # -- stages ----------------------------------------------------------------------------------------------

    def step_plan(self) -> bool:
        """Arrivals -> work items."""
        looked = self._looked
        again = abs(self._clock() - looked) >= LOOK_AGAIN_SECONDS  # the clock may be set back
        scheduler = Scheduler(self._store, self._spool, self._settings, self._bundles, self._clock)
        if again:
            self._looked = self._clock()
            scheduler.look_at_waiting(looked)
        more = scheduler.take_arrivals()
        if more:
            self._readiness.needed()
        if more or again:
            self._loop.wake(State.SCHEDULED)
        return more

    def _plan_in_a_lull(self) -> bool:
        """True, after a moment, while objects come."""
        if self._lull.is_due(self._store.arrivals.newest(), self._timer()):
            self.step_plan()
        if not self._lull.is_near(self._timer()):
            return False
        time.sleep(LOOK_SECONDS)
        return True

    def step_fetch(self) -> bool:
        """Clinical values of FHIR servers, for the studies that wait for them. False also where there is none."""
        asked = self._fetch.fetch_due(self._store)
        if asked:
            self._looked = 0.0  # what waits for it is looked at in the next turn
        return asked

    def step_watch(self) -> bool:
        """Clinical values that came after a score."""
        return ClinicalWatch(self._store, self._spool, self._settings, self._bundles, self._clock).look()

    def step_identify(self) -> bool:
        """Whose the studies are that came before studies had an identity; done once."""
        self._identified = self._identified or not backfill.fill(self._store, self._spool, self._clock)
        return not self._identified

    def step_analyse(self) -> bool:
        """SCHEDULED -> ANALYSED, by a job; where a process of its own does that, there is nothing to do."""
        return self.analyst is not None and self.analyst.step()

    def step_report(self) -> bool:
        """ANALYSED -> REPORTED, with a delivery row per object and destination."""
        taken = self._loop.take(State.ANALYSED, self._report)
        self._readiness.needed() if taken else self._readiness.idle()
        return taken

    def step_deliver(self) -> bool:
        """Objects on their way to their destinations; REPORTED -> COMPLETED when all are there."""
        dispatcher = Dispatcher(self._store, self._spool, self._settings, self._clock)
        dispatcher.complete()
        return dispatcher.deliver_due()

    def step_tell(self) -> bool:
        """Subscribers of the UPS worklist hear of what has happened. False also where there is no such worklist."""
        return self._settings.ups.enabled and self._teller.tell_due()

    def _report(self, item: WorkItem) -> None:
        from dicom_node.reporter import Reporter  # noqa: PLC0415 - `readiness` says why

        documents = Reporter(self._store, self._spool, self._settings, self._clock).write(item)
        goes_to = Ticket.from_json(item.plan or "").goes_to(self._settings.every_destination())
        rows = [(document, name) for name in goes_to if not is_message(name) for document in documents]
        rows += [(MESSAGE, name) for name in goes_to if is_message(name)]
        review = self._settings.deliver.hold_for_review and bool(rows)
        said = f"{len(documents)} objects{', kept: shadow' if item.shadow else ''}"
        self._loop.advance(item, State.REPORTED, said, deliveries=rows, held=review)

    # -- life of the worker ----------------------------------------------------------------------------------

    @property
    def _stages(self) -> list[Stage]:
        return [
            Stage("plan", self._plan_in_a_lull),
            Stage("fetch", self.step_fetch),
            *(self.analyst.stages if self.analyst else ()),
            Stage("report", self.step_report, of=State.ANALYSED),
            Stage("deliver", self.step_deliver, of=State.REPORTED),
            *([Stage("tell", self.step_tell)] if self._settings.ups.enabled else []),
            Stage("watch", self.step_watch, LOOK_AGAIN_SECONDS),
            Stage("identify", self.step_identify, LOOK_AGAIN_SECONDS),
            Stage("beat", self._heartbeat.beat, BEAT_SECONDS),
            Stage("echo", self._heartbeat.echo, ECHO_SECONDS, first=BEAT_SECONDS),
            *(Stage(turn.__name__, turn, seconds, first=1.0) for turn, seconds in self._keeper.turns),
        ]

    def start(self) -> None:
        """Take the spool, free what an earlier worker held, start the stages. Raises ConfigError when it is taken."""
        self._locked.enter_context(self._spool.lock("work"))
        try:
            if self.analyst:
                self._locked.enter_context(self._spool.lock("run"))
                self.analyst.prepare()
            self._loop.free((State.ANALYSED,))
            self._spool.sweep_drafts()
        except BaseException:
            self._locked.close()
            raise
        if self._settings.ups.enabled:
            self._teller.announce("RESTARTED")
        self._loop.start(self._stages)
        self._running = True

    def stop(self) -> None:
        """Finish what is at work and stop claiming."""
        with self._locked:
            self._loop.stop()
            if self.analyst:
                self.analyst.close()
            if not self._running:
                return
            try:
                if self._settings.ups.enabled:
                    self._teller.say_going_down()
            finally:
                self._keeper.close()

    def ready_for(self, settings: Settings) -> Callable[[], None]:
        """As `reload.Reloadable`: what is planned and sent from now on goes by these settings."""
        _check(settings)
        bundles = analyst.renewed(self._bundles, settings, self.analyst.executor if self.analyst else None)
        fetch = ClinicalFetch(settings, self._clock)

        def put_in_force() -> None:
            self._bundles = bundles  # first: they hold those of the old settings too
            self._settings, self._fetch = settings, fetch
            self._keeper.go_on_with(settings)
            self._heartbeat.go_on_with(settings)
            self._loop.go_on_with(settings)
            if self.analyst:
                self.analyst.go_on_with(bundles)
            self._looked = 0.0  # what waits may have waited for these; last, else a turn with the old ones uses it

        return put_in_force

    @property
    def unfit(self) -> StageError | None:
        """Why the process has to end, where it has: a bundle that says other numbers here."""
        return self.analyst.unfit if self.analyst else None

    def pulse(self) -> tuple[bool, str]:
        """For the service manager: whether the stages turn and none is stuck, and the work items by state."""
        return self.analyst.pulse() if self.analyst else self._loop.pulse()

    @property
    def _teller(self) -> UpsTeller:
        return UpsTeller(self._store, self._spool, self._settings, self._clock)

    @property
    def _store(self) -> Store:
        return self._loop.store


def _check(settings: Settings) -> None:
    """Raises ConfigError: a pattern that is no regular expression, or a font that lacks, is said now, not per study."""
    for plan in (settings.plan, *(rule.plan for rule in settings.rules)):
        candidates.choose((), plan)
    if any(peer.tls for peer in settings.peers):
        client_context(settings.tls)
    try:
        fonts.check(settings.report.language)
    except fonts.FontMissing as error:
        raise ConfigError(str(error)) from error
