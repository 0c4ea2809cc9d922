"""Cells with injected time: outages of hours, clocks that jump, peers that answer badly. One process, real sockets."""

import random
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from config.settings import Deliver, Hl7Peer, Peer, Settings
from dicom_node import headers
from dicom_node.demo_pacs import Commitment
from dicom_node.executors.contract import Ended
from dicom_node.job import Runner
from dicom_node.spool import Spool
from dicom_node.store import Store
from dicom_node.worker import LOOK_AGAIN_SECONDS, Worker
from dicom_node.workitem import State
from models.bundle import Bundle
from tests.e2e.node import PACS
from tests.faults import engine, outcome
from tests.faults.child import answering
from tests.faults.engine import in_place_of
from tests.faults.outcome import Outcome
from tests.faults.peers import BadPacs, Ris, ris
from tests.road import Clock

HOUR = 3600.0
BOUNDARIES = ("arriving", "scheduled", "analysed", "reported", "sent")
STEPS = ("step_plan", "step_analyse", "step_report", "step_deliver")
SOP_CLASSES = {
    "risk SR": "1.2.840.10008.5.1.4.1.1.88.34",
    "page": "1.2.840.10008.5.1.4.1.1.7",
    "SEG": "1.2.840.10008.5.1.4.1.1.66.4",
}


@dataclass(frozen=True)
class Peers:
    """Who the node's results go to."""

    pacs: BadPacs
    ris: Ris


class Timed:
    """A node without processes: arrivals by file, time by hand, deliveries over real sockets."""

    def __init__(self, folder: Path, study: Sequence[Path], answers: Path, bundle: Bundle, peers: Peers) -> None:
        pacs = Peer(ae_title=PACS, port=peers.pacs.port, sends=False, receives_results=True)
        ris = Hl7Peer("RIS", port=peers.ris.port, timeout_seconds=0.3)
        settings = Settings(peers=(pacs,), hl7_peers=(ris,), deliver=Deliver(connect_timeout_seconds=1.0))
        self.settings = replace(settings, node=replace(settings.node, spool=folder / "spool"))
        self.study, self.clock, self.bundle, self.peers = study, Clock(), bundle, peers
        self.answer, self.fault = answering(answers), answering(answers)
        self.spool = Spool(folder / "spool")
        self.spool.create()
        self.store = Store.open(self.spool.store)
        self.acknowledged: dict[str, str] = {}
        self.down_until = 0.0
        self.retries = 0
        self.restart()

    def restart(self) -> None:
        runner = Runner(self.spool, self.settings.job, self.bundle)
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

    def run(self, *arguments: Any) -> Ended:
        """The executor: `fault` until the job engine is up again."""
        return (self.fault if self.clock() < self.down_until else self.answer)(*arguments)

    def turn(self) -> bool:
        worker = self.worker
        return any([worker.step_plan(), worker.step_analyse(), worker.step_report(), worker.step_deliver()])

    def until(self, boundary: str) -> None:
        """Work, stage by stage, until the item has come to this boundary."""
        for name in STEPS[: BOUNDARIES.index(boundary)]:
            if name == "step_deliver":  # as far as the first question for a proof
                self.peers.pacs.commitment = "never"
                self.worker.step_deliver()
                self.peers.pacs.commitment = "same"
                return
            while getattr(self.worker, name)():
                pass

    def pass_hours(self, hours: float) -> None:
        """In twelve steps, with what is due done at each, and a new worker after it."""
        for _ in range(12):
            while self.turn():
                pass
            self.clock.now += hours * HOUR / 12
            self.restart()

    def look(self, remarks: str = "") -> Outcome:
        remarks = f"{remarks} {self.retries} retries by hand".strip()
        return outcome.look(self.spool, self.peers.pacs, self.peers.ris, self.acknowledged, remarks)

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
                    self.retries += self.store.retry(item.id, self.clock())
            self.clock.now += pause
            pause = min(pause * 1.5, HOUR)


@contextmanager
def timed(study: Sequence[Path], answers: Path, bundle: Bundle, *modes: str, **pacs: Any) -> Iterator[Timed]:
    """`modes`: how the RIS answers first; `pacs`: how the PACS differs from a good one."""
    with tempfile.TemporaryDirectory(prefix="prognode-fault-") as name:
        folder = Path(name)
        with BadPacs(folder / "pacs", PACS, **{"commitment": "same", **pacs}) as peer, ris(*modes) as receiver:
            node = Timed(folder, study, answers, bundle, Peers(peer, receiver))
            try:
                with in_place_of("run", node.run):
                    yield node
            finally:
                node.store.close()


def outage(study: Sequence[Path], answers: Path, bundle: Bundle, who: str, boundary: str, hours: float) -> Outcome:
    """PACS or RIS is away for hours from a boundary on; the node is restarted again and again meanwhile.

    "arriving" is in the middle of the study, "sent" after the PACS has taken the objects and before it has proved it.
    """
    with timed(study, answers, bundle) as node:
        away: BadPacs | Ris = node.peers.pacs if who == "PACS" else node.peers.ris
        node.take(study[:-1] if boundary == "arriving" else study)
        node.until(boundary)
        away.stop()
        node.take(study)
        node.pass_hours(hours)
        away.start()
        node.finish()
        return node.look(f"{hours:g} h")


def engine_away(
    study: Sequence[Path], answers: Path, bundle: Bundle, fault: str, boundary: str, hours: float
) -> Outcome:
    """The job engine cannot do its work for hours."""
    with timed(study, answers, bundle) as node:
        node.take(study[:-1] if boundary == "arriving" else study)
        node.until(boundary)
        node.fault, node.down_until = engine.FAULTS[fault], node.clock() + hours * HOUR
        node.take(study)
        node.pass_hours(hours)
        node.finish()
        return node.look(f"{hours:g} h")


def clock_jump(study: Sequence[Path], answers: Path, bundle: Bundle, boundary: str, seconds: float) -> Outcome:
    with timed(study, answers, bundle) as node:
        node.take(study)
        node.until(boundary)
        node.clock.now += seconds
        node.finish(200.0 + abs(seconds) / HOUR)
        return node.look()


def bad_status(study: Sequence[Path], answers: Path, bundle: Bundle, what: str, status: int, times: int) -> Outcome:
    """The PACS answers `status` for one SOP class, `times` times, then takes it."""
    left = [times]

    def answer(sop_class_uid: str) -> int:
        if sop_class_uid == SOP_CLASSES[what] and left[0]:
            left[0] -= 1
            return status
        return 0x0000

    with timed(study, answers, bundle, status=answer) as node:
        node.take(study)
        node.finish()
        return node.look(f"{times} times")


def loses(study: Sequence[Path], answers: Path, bundle: Bundle, what: str, commitment: Commitment) -> Outcome:
    """The PACS says success and has lost the object, twice."""
    left = [2]

    def drop(sop_class_uid: str) -> bool:
        if sop_class_uid == SOP_CLASSES[what] and left[0]:
            left[0] -= 1
            return True
        return False

    with timed(study, answers, bundle, drop=drop, commitment=commitment) as node:
        node.take(study)
        node.finish()
        return node.look(f"commitment {commitment}")


def unproved(study: Sequence[Path], answers: Path, bundle: Bundle, commitment: Commitment, find: bool) -> Outcome:
    """Storage commitment that never answers or is not offered, with and without C-FIND."""
    with timed(study, answers, bundle, commitment=commitment, offers_find=find) as node:
        node.take(study)
        node.finish()
        return node.look()


def sent_again(study: Sequence[Path], answers: Path, bundle: Bundle, seed: int) -> Outcome:
    """The study again and again, in other orders and portions, at other moments of its way."""
    shuffle = random.Random(seed)
    with timed(study, answers, bundle) as node:
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
        return node.look(f"seed {seed}")


def aborts(study: Sequence[Path], answers: Path, bundle: Bundle, at: int, files_first: bool) -> Outcome:
    """The PACS aborts the association at an object, and has filed it or not."""
    with timed(study, answers, bundle) as node:
        node.peers.pacs.aborts_at, node.peers.pacs.files_first = at, files_first
        node.take(study)
        node.finish()
        return node.look()


def denies(study: Sequence[Path], answers: Path, bundle: Bundle, denials: int, refusals: int) -> Outcome:
    """Storage commitment fails for objects that are there, or is refused."""
    with timed(study, answers, bundle) as node:
        node.peers.pacs.denials, node.peers.pacs.refusals = denials, refusals
        node.take(study)
        node.finish()
        return node.look()


def bad_ris(study: Sequence[Path], answers: Path, bundle: Bundle, mode: str, times: int) -> Outcome:
    """The RIS answers badly, or not at all, so many times."""
    with timed(study, answers, bundle, *[mode] * times) as node:
        node.take(study)
        node.finish()
        return node.look(f"{times} times")
