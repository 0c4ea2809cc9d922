"""Cells with injected time: outages of hours, clocks that jump, peers that answer badly. One process, real sockets."""

import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from config.settings import Deliver, Peer, Settings
from dicom_node import headers
from dicom_node.demo_pacs import Commitment, DemoPacs
from dicom_node.job import Runner
from dicom_node.spool import Spool
from dicom_node.store import Store
from dicom_node.worker import LOOK_AGAIN_SECONDS, Worker
from dicom_node.workitem import Retryable, State
from models.bundle import Bundle
from tests.e2e.node import PACS
from tests.faults import outcome
from tests.faults.child import StubRunner
from tests.faults.outcome import Outcome
from tests.road import Clock

HOUR = 3600.0
BOUNDARIES = (State.WAITING, State.SCHEDULED, State.ANALYSED, State.REPORTED)
SOP_CLASSES = {
    "risk SR": "1.2.840.10008.5.1.4.1.1.88.34",
    "page": "1.2.840.10008.5.1.4.1.1.7",
    "SEG": "1.2.840.10008.5.1.4.1.1.66.4",
}


class DownRunner(StubRunner):
    """A job engine that is down while `down` says so."""

    down: Callable[[], bool] = staticmethod(lambda: False)

    def analyse(self, *arguments, **options):  # type: ignore[no-untyped-def]
        if self.down():
            raise Retryable("the job engine does not answer", "start it")
        return super().analyse(*arguments, **options)


class Timed:
    """A node without processes: arrivals by file, time by hand, deliveries over real sockets."""

    def __init__(self, folder: Path, study: Sequence[Path], answers: Path, bundle: Bundle, port: int) -> None:
        StubRunner.answers = answers
        peer = Peer(ae_title=PACS, port=port, sends=False, receives_results=True)
        settings = Settings(peers=(peer,), deliver=Deliver(connect_timeout_seconds=1.0))
        self.settings = replace(settings, node=replace(settings.node, spool=folder / "spool"))
        self.study, self.clock, self.bundle = study, Clock(), bundle
        self.spool = Spool(folder / "spool")
        self.spool.create()
        self.store = Store.open(self.spool.store)
        self.acknowledged: dict[str, str] = {}
        self.down_until = 0.0
        self.restart()

    def restart(self) -> None:
        runner: Runner = DownRunner(self.spool, self.settings.job, self.bundle)
        runner.down = lambda: self.clock() < self.down_until  # type: ignore[attr-defined]
        self.worker = Worker(self.settings, self.spool, self.bundle, runner, self.clock)

    def take(self, paths: Sequence[Path]) -> None:
        for path in paths:
            digest = headers.data_set_digest(path)
            instance, identity = headers.read_with_identity(path, digest)
            incoming = self.spool.new_incoming()
            incoming.write_bytes(path.read_bytes())
            self.spool.keep_instance(incoming, instance.sop_instance_uid, digest)
            self.store.arrivals.add(instance, "TEST", self.clock(), identity)
            self.acknowledged[path.stem] = digest

    def turn(self) -> bool:
        worker = self.worker
        return any([worker.step_plan(), worker.step_analyse(), worker.step_report(), worker.step_deliver()])

    def until(self, state: State) -> None:
        """Work, stage by stage, until the item is in `state` (or past it)."""
        steps = {
            State.SCHEDULED: ("step_plan",),
            State.ANALYSED: ("step_plan", "step_analyse"),
            State.REPORTED: ("step_plan", "step_analyse", "step_report"),
        }
        for name in steps.get(state, ()):
            while getattr(self.worker, name)():
                pass

    def finish(self, hours: float = 200.0) -> None:
        """Let time pass, in steps of what waits, until the study is through; an operator retries what was given up."""
        end = self.clock.now + hours * HOUR
        pause = LOOK_AGAIN_SECONDS
        while self.clock.now < end:
            while self.turn():
                pass
            items = [item for item in self.store.items() if item.state is not State.CANCELED]
            if items and all(item.state is State.COMPLETED for item in items):
                return
            for item in items:
                if item.state is State.FAILED:
                    self.store.retry(item.id, self.clock())
            self.clock.now += pause
            pause = min(pause * 1.5, HOUR)


@contextmanager
def timed(study: Sequence[Path], answers: Path, bundle: Bundle, **pacs: object) -> Iterator[tuple[Timed, DemoPacs]]:
    with tempfile.TemporaryDirectory(prefix="prognode-fault-") as name:
        folder = Path(name)
        with DemoPacs(folder / "pacs", PACS, **{"commitment": "same", **pacs}) as peer:  # type: ignore[arg-type]
            node = Timed(folder, study, answers, bundle, peer.port)
            try:
                yield node, peer
            finally:
                node.store.close()


def outage(study: Sequence[Path], answers: Path, bundle: Bundle, who: str, boundary: State, hours: float) -> Outcome:
    """The PACS or the job engine is away for hours from a state boundary on; the node is restarted in between."""
    with timed(study, answers, bundle) as (node, pacs):
        node.take(study[:-1])
        node.until(boundary)
        if who == "PACS":
            port = pacs.port
            pacs.stop()
        else:
            node.down_until = node.clock() + hours * HOUR
        node.take(study[-1:])
        end = node.clock() + hours * HOUR
        while node.clock() < end:
            while node.turn():
                pass
            node.clock.now += hours * HOUR / 12
            node.restart()
        if who == "PACS":
            pacs.port = port
            pacs.start()
        node.finish()
        return outcome.look(node.spool, pacs, node.acknowledged, f"{hours:g} h")


def clock_jump(study: Sequence[Path], answers: Path, bundle: Bundle, boundary: State, seconds: float) -> Outcome:
    with timed(study, answers, bundle) as (node, pacs):
        node.take(study)
        node.until(boundary)
        node.clock.now += seconds
        node.finish(200.0 + abs(seconds) / HOUR)
        return outcome.look(node.spool, pacs, node.acknowledged)


def bad_status(study: Sequence[Path], answers: Path, bundle: Bundle, what: str, status: int, times: int) -> Outcome:
    """The PACS answers `status` for one SOP class, `times` times, then takes it."""
    left = [times]

    def answer(sop_class_uid: str) -> int:
        if sop_class_uid == SOP_CLASSES[what] and left[0]:
            left[0] -= 1
            return status
        return 0x0000

    with timed(study, answers, bundle, status=answer) as (node, pacs):
        node.take(study)
        node.finish()
        return outcome.look(node.spool, pacs, node.acknowledged, f"{times} times")


def loses(study: Sequence[Path], answers: Path, bundle: Bundle, what: str, commitment: Commitment) -> Outcome:
    """The PACS says success and has lost the object, twice."""
    left = [2]

    def drop(sop_class_uid: str) -> bool:
        if sop_class_uid == SOP_CLASSES[what] and left[0]:
            left[0] -= 1
            return True
        return False

    with timed(study, answers, bundle, drop=drop, commitment=commitment) as (node, pacs):
        node.take(study)
        node.finish()
        return outcome.look(node.spool, pacs, node.acknowledged, f"commitment {commitment}")


def unproved(study: Sequence[Path], answers: Path, bundle: Bundle, commitment: Commitment, find: bool) -> Outcome:
    """Storage commitment that never answers or is not offered, with and without C-FIND."""
    with timed(study, answers, bundle, commitment=commitment, offers_find=find) as (node, pacs):
        node.take(study)
        node.finish()
        return outcome.look(node.spool, pacs, node.acknowledged)


def sent_again(study: Sequence[Path], answers: Path, bundle: Bundle, seed: int) -> Outcome:
    """The study again and again, in other orders and portions, at other moments of its way."""
    shuffle = random.Random(seed)
    with timed(study, answers, bundle) as (node, pacs):
        for _ in range(4):
            portion = shuffle.sample(list(study), shuffle.randint(1, len(study)))
            node.take(portion)
            for name in shuffle.sample(["step_plan", "step_analyse", "step_report", "step_deliver"], 3):
                getattr(node.worker, name)()
            node.clock.now += shuffle.choice([0.0, 1.0, 40.0, 7200.0])
            if shuffle.random() < 0.3:
                node.restart()
        node.take(shuffle.sample(list(study), len(study)))
        node.finish()
        return outcome.look(node.spool, pacs, node.acknowledged, f"seed {seed}")
