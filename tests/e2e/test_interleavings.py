"""The same study sent again and again, in any order, through several associations at once, while the node works on it.

Real sockets on both sides; the worker's turns are taken here, with a clock by hand; the job is a stub that gives an
earlier real result at once and counts.
"""

import random
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset, dcmread

from config.settings import Deliver, Peer, Planning, Report
from dicom_node.demo_pacs import DemoPacs
from dicom_node.executors import process
from dicom_node.executors.process import Ended
from dicom_node.headers import data_set_digest
from dicom_node.instance import CT, RTSTRUCT
from dicom_node.job import Runner
from dicom_node.receive import Receiver
from dicom_node.spool import Spool
from dicom_node.store import Store
from dicom_node.worker import LOOK_AGAIN_SECONDS, Worker
from dicom_node.workitem import State, WorkItem
from models.bundle import DEMO, Bundle, load
from tests.e2e.node import PACS
from tests.faults.child import answering
from tests.faults.prepare import study_and_answers
from tests.network import association, settings_for
from tests.road import Clock
from tests.synthetic import rtstruct, save

SENDERS = 4
DOCUMENTS = {"risk-sr", "radiomics-sr", "page-1", "segmentation"}


def seeds(short: int) -> list[Any]:
    """0 to 99; the first `short` of them in `make test`."""
    return [pytest.param(seed, marks=[] if seed < short else pytest.mark.exhaustive) for seed in range(100)]


@dataclass(frozen=True)
class Given:
    """The study as files, CT first and the contour last, and a folder with the job's real answer to it."""

    files: Sequence[Path]
    answers: Path
    bundle: Bundle

    @property
    def digests(self) -> dict[str, str]:
        return {path.stem: data_set_digest(path) for path in self.files}


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Given:
    return Given(*study_and_answers(tmp_path_factory.mktemp("study")), load(DEMO))


class Site:
    """A receiver, a worker whose turns are taken by hand, and a PACS."""

    def __init__(self, receiver: Receiver, worker: Worker, store: Store, clock: Clock, pacs: DemoPacs) -> None:
        self.receiver, self.worker, self.store, self.clock, self.pacs = receiver, worker, store, clock, pacs
        self.ran: list[str] = []

    def turn(self) -> bool:
        worker = self.worker
        return any([worker.step_plan(), worker.step_analyse(), worker.step_report(), worker.step_deliver()])

    def finish(self, seconds: float = 600.0) -> None:
        """Let that much time pass, in steps of what waits."""
        end = self.clock.now + seconds
        while self.clock.now < end:
            while self.turn():
                pass
            self.clock.now += LOOK_AGAIN_SECONDS if self.open else seconds
        while self.turn():
            pass

    @property
    def open(self) -> bool:
        return any(item.state is not State.COMPLETED for item in self.items)

    @property
    def items(self) -> list[WorkItem]:
        """Newest first, without those that were replaced before they ran."""
        return [item for item in self.store.items() if item.state is not State.CANCELED]


@contextmanager
def site(folder: Path, given: Given) -> Iterator[Site]:
    clock = Clock()
    with DemoPacs(folder / "pacs", PACS, commitment="same") as pacs:
        destination = Peer(PACS, port=pacs.port, sends=False, receives_results=True)
        settings = replace(
            settings_for(destination),
            plan=Planning(quiet_seconds=30.0, missing_instances_hours=1e6),  # however long a busy machine takes to send
            deliver=Deliver(first_delay_seconds=1.0),
            report=Report(
                presentation_state=False, sr_sop_classes=Report().sr_sop_classes[:1]
            ),  # what is quick to make
        )
        spool = Spool(folder / "spool")
        settings = replace(settings, node=replace(settings.node, spool=spool.root))
        receiver = Receiver(settings, spool, clock)
        receiver.start()
        store = Store.open(spool.store)
        runner = Runner(spool, settings.job, given.bundle)
        made = Site(receiver, Worker(settings, spool, given.bundle, runner, clock), store, clock, pacs)
        answer = answering(given.answers)

        def run(folder_in: Path, *arguments: Any) -> Ended:
            made.ran.append(folder_in.parent.name)
            return answer(folder_in, *arguments)

        try:
            with pytest.MonkeyPatch.context() as patched:
                patched.setattr(process, "run", run)
                yield made
        finally:
            store.close()
            receiver.stop()


def sender(port: int, portions: Sequence[Sequence[Dataset]], refused: list[object]) -> threading.Thread:
    """A thread that sends each portion over an association of its own."""

    def send() -> None:
        for portion in portions:
            with association(port, [CT, RTSTRUCT]) as made:
                for dataset in portion:
                    answer = made.send_c_store(dataset)
                    if answer.get("Status") != 0x0000:
                        refused.append(answer)

    return threading.Thread(target=send)


def send_at_once(node: Site, portions: Sequence[Sequence[Sequence[Dataset]]], chance: random.Random) -> None:
    """Each list of portions by a sender of its own, all at once; meanwhile the worker takes turns, and time passes."""
    refused: list[object] = []
    threads = [sender(node.receiver.port, each, refused) for each in portions]
    for thread in threads:
        thread.start()
    for thread in threads:
        while thread.is_alive():
            getattr(node.worker, chance.choice(["step_plan", "step_analyse", "step_report", "step_deliver"]))()
            node.clock.now += chance.choice([0.0, 0.0, 1.0, 40.0])
            thread.join(0.005)  # else this thread would leave the others little of the processor
    assert not refused


def portions_of(datasets: Sequence[Dataset], chance: random.Random) -> list[list[list[Dataset]]]:
    """For each sender one to three portions with repeats, each in an order of its own; all together hold everything."""
    shares: list[list[Dataset]] = [[] for _ in range(SENDERS)]
    for dataset in datasets:
        for share in chance.sample(shares, chance.choice([1, 1, 2, 3])):
            share.append(dataset)
    made = []
    for share in shares:
        again = share + chance.choices(datasets, k=2)
        chance.shuffle(again)
        cut = chance.randint(0, len(again))
        made.append([portion for portion in (again[:cut], again[cut:], again[: chance.randint(0, 3)]) if portion])
    return made


@pytest.mark.parametrize("seed", seeds(8))
def test_a_study_sent_many_times_at_once_in_any_order_is_one_run_and_one_set_of_results(
    seed: int, given: Given, tmp_path: Path
) -> None:
    chance = random.Random(seed)
    datasets = [dcmread(path) for path in given.files]
    with site(tmp_path, given) as node:
        send_at_once(node, portions_of(datasets, chance), chance)
        node.finish()
        send_at_once(node, portions_of(chance.sample(datasets, 5), chance), chance)  # and some of it later again
        node.finish()

        (item,) = node.items
        assert (item.state, item.revision) == (State.COMPLETED, 1)
        assert node.ran == [item.key]
        rows = node.store.deliveries.of_item(item.id)
        assert {row.document for row in rows} >= DOCUMENTS
        assert sorted(node.pacs.received) == sorted(str(row.sop_instance_uid) for row in rows)  # each once
        kept = {uid: node.store.arrivals.instance(uid) for uid in given.digests}
        assert {uid: one.digest for uid, one in kept.items() if one} == given.digests


@pytest.mark.parametrize("seed", seeds(2))
def test_two_contents_of_one_uid_at_once_end_in_the_one_that_came_last_with_the_other_kept(
    seed: int, given: Given, tmp_path: Path
) -> None:
    chance = random.Random(seed)
    ct = [dcmread(path) for path in given.files[:-1]]
    contours = [dcmread(given.files[-1]), rtstruct(ct, radius=8.0)]
    assert contours[0].SOPInstanceUID == contours[1].SOPInstanceUID
    digests = {data_set_digest(save(each, tmp_path / f"contour-{k}")): k for k, each in enumerate(contours)}
    with site(tmp_path, given) as node:
        portions = [[[*chance.sample(ct, len(ct)), *chance.choices(contours, k=2)]] for _ in range(2)]
        portions += [[chance.choices(contours, k=2)] for _ in range(SENDERS - 2)]
        portions[0][0] += contours  # both, in any case
        send_at_once(node, portions, chance)
        node.finish()

        uid = str(contours[0].SOPInstanceUID)
        last = node.store.arrivals.instance(uid)
        assert last is not None
        newest = node.items[0]
        assert f'"{uid}":"{last.digest}"' in (newest.plan or "").replace(" ", "")
        spool = Spool(tmp_path / "spool")
        assert all(data_set_digest(spool.instance_path(uid, digest)) == digest for digest in digests)
        assert len(set(node.ran)) == len(node.ran)  # no content twice under one key
        assert {item.state for item in node.items} == {State.COMPLETED}
        assert [item.revision for item in node.items] == list(range(len(node.items), 0, -1))
        for newer, older in zip(node.items, node.items[1:], strict=False):
            assert newer.predecessor_key == older.key
