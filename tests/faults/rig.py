"""One cell with processes: a PACS, a RIS, a sender that repeats what was not acknowledged, a node that comes back."""

import contextlib
import multiprocessing
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from pydicom import dcmread
from pynetdicom import build_context

from dicom_node.demo_pacs import DemoPacs
from dicom_node.spool import Spool
from dicom_node.store import Store
from dicom_node.workitem import State
from tests.e2e.node import PACS, destination, write_settings
from tests.faults import child, outcome
from tests.faults.outcome import Outcome
from tests.faults.peers import Ris, ris
from tests.faults.points import Trap
from tests.network import call

PATIENCE_SECONDS = 90.0
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.faults.child", "reports.build", "dicom_node.compose"])


@dataclass
class Rig:
    """The parts of a cell. `study` are the files to send; `answers` the job's results.

    `between` is called once, when the trap has ended or frozen the node, before it is started again.
    """

    folder: Path
    study: Sequence[Path]
    answers: Path
    spool_root: Path
    pacs: DemoPacs
    ris: Ris
    between: Callable[["Rig"], None] | None = None
    acknowledged: dict[str, str] = field(default_factory=dict)
    process: ForkServerProcess | None = None
    port: int = 0
    starts: int = 0
    retries: int = 0
    lock: threading.RLock = field(default_factory=threading.RLock)

    @property
    def log(self) -> Path:
        return self.folder / "points.log"

    def start(self, trap: Trap | None = None) -> bool:
        """Start the node; False when it ended before it listened (the trap, or a read-only disk)."""
        self.starts += 1
        arguments = (
            str(self.folder / "prognode.toml"),
            str(self.answers),
            trap or Trap(),
            str(self._port_file),
            str(self.log),
        )
        self.process = CONTEXT.Process(target=child.run, args=arguments, daemon=True)
        self.process.start()
        return self._listens()

    @property
    def _port_file(self) -> Path:
        return self.folder / f"port-{self.starts}"

    def _listens(self) -> bool:
        end = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < end:
            with contextlib.suppress(OSError, ValueError):
                self.port = int(self._port_file.read_text())
                self.pacs.report_to = ("127.0.0.1", self.port)
                return True
            if not self.running:
                return False
            time.sleep(0.01)
        raise AssertionError("the node neither listens nor ends")

    def stop(self) -> None:
        if self.process is not None:
            if self.process.is_alive():
                self.process.kill()
            self.process.join()

    def thaw(self) -> None:
        """Let a frozen node go on."""
        os.kill(self.process.pid, signal.SIGCONT)  # type: ignore[union-attr, arg-type]
        while self.frozen:
            time.sleep(0.001)

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.is_alive() and not self.frozen

    @property
    def frozen(self) -> bool:
        """Stopped by SIGSTOP: the moment of a power cut."""
        with contextlib.suppress(OSError, TypeError, AttributeError):
            return Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"  # type: ignore[union-attr]
        return False

    def send(self) -> None:
        """One association for what has not been acknowledged yet; stops at the first object that is not taken."""
        datasets = [dcmread(path) for path in outcome.unacknowledged(self.study, self.acknowledged)]
        contexts = [
            build_context(dataset.SOPClassUID, dataset.file_meta.TransferSyntaxUID)
            for dataset in {one.SOPClassUID: one for one in datasets}.values()
        ]
        association = call(self.port, contexts, seconds=5)
        if not association.is_established:
            return
        known = outcome.digests(self.study)
        for dataset in datasets:
            try:
                answer = association.send_c_store(dataset)
            except (RuntimeError, ValueError):
                break
            if "Status" not in answer or answer.Status != 0x0000:
                break
            uid = str(dataset.SOPInstanceUID)
            self.acknowledged[uid] = known[uid]
        association.release() if association.is_established else None

    def run(self, trap: Trap) -> Outcome:
        """The cell: a node with the trap, a node after it, until the study is through or patience ends."""
        self.start(trap)
        # A frozen node must not cost its sender a time-out: somebody looks while that one waits.
        threading.Thread(target=self._watch, daemon=True).start()
        end = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < end:
            with self.lock:
                self._recover()
                all_sent = len(self.acknowledged) == len(self.study)
                if all_sent and self._finished():
                    break
            if not all_sent:
                self.send()
            time.sleep(0.05)
        with self.lock:
            self.between = None
            self.stop()
        struck = not trap.name or (self.folder / "struck").exists()
        remarks = f"{self.starts} starts, {self.retries} retries by hand"
        return outcome.look(Spool(self.spool_root), self.pacs, self.ris, self.acknowledged, remarks, struck=struck)

    def _watch(self) -> None:
        while self.between is not None:
            with self.lock:
                self._recover()
            time.sleep(0.01)

    def _recover(self) -> None:
        """Where the node has ended or is frozen: what happens in between, and a new one."""
        if self.running:
            return
        if self.between is not None:
            between, self.between = self.between, None
            between(self)
        # What goes on may have been stopped before it listened.
        if not self.running or not self._listens():
            self.stop()
            self.start()

    def _finished(self) -> bool:
        store = Store.open(self.spool_root / "store.sqlite")
        try:
            items = [item for item in store.items() if item.state is not State.CANCELED]
            for item in items:
                if item.state is State.FAILED:  # an operator looks after what the node gave up
                    self.retries += store.retry(item.id, time.time())
            return bool(items) and all(item.state is State.COMPLETED for item in items)
        finally:
            store.close()


@contextmanager
def rig(study: Sequence[Path], answers: Path, spool_root: Path | None = None) -> Iterator[Rig]:
    """A rig in a folder of its own, with its PACS and RIS; all gone at the end."""
    folder = Path(tempfile.mkdtemp(prefix="prognode-fault-"))
    try:
        with DemoPacs(folder / "pacs", PACS, commitment="same") as pacs, ris() as receiver:
            root = spool_root or folder / "spool"
            settings = write_settings(
                folder, destination(PACS, pacs.port), node={"spool": str(root)}, plan={"quiet_seconds": 0.5}
            )
            with settings.open("a", encoding="utf-8") as stream:
                stream.write(f'\n[[hl7_peers]]\nname = "RIS"\nport = {receiver.port}\ntimeout_seconds = 2.0\n')
            parts = Rig(folder, study, answers, root, pacs, receiver)
            try:
                yield parts
            finally:
                parts.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
