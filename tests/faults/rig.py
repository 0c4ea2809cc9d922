"""One cell with processes: a PACS, a sender that repeats what was not acknowledged, and a node that comes back."""

import contextlib
import multiprocessing
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from pydicom import dcmread
from pynetdicom import AE

from dicom_node.demo_pacs import DemoPacs
from dicom_node.spool import Spool
from dicom_node.store import Store
from dicom_node.workitem import State
from tests.e2e.node import NODE, PACS, SENDER, destination, write_settings
from tests.faults import child, outcome
from tests.faults.outcome import Outcome
from tests.faults.points import Trap

PATIENCE_SECONDS = 60.0
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.faults.child", "reports.build", "dicom_node.compose"])


@dataclass
class Rig:
    """The parts of a cell. `study` are the files to send; `answers` the job's results."""

    folder: Path
    study: Sequence[Path]
    answers: Path
    spool_root: Path
    acknowledged: dict[str, str] = field(default_factory=dict)
    process: ForkServerProcess | None = None
    port: int = 0
    starts: int = 0

    @property
    def log(self) -> Path:
        return self.folder / "points.log"

    def start(self, trap: Trap | None = None) -> bool:
        """Start the node; False when it ended before it listened (the trap, or a read-only disk)."""
        self.starts += 1
        port_file = self.folder / f"port-{self.starts}"
        arguments = (
            str(self.folder / "prognode.toml"),
            str(self.answers),
            trap or Trap(),
            str(port_file),
            str(self.log),
        )
        self.process = CONTEXT.Process(target=child.run, args=arguments, daemon=True)
        self.process.start()
        end = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < end:
            with contextlib.suppress(OSError, ValueError):
                self.port = int(port_file.read_text())
                return True
            if self._is_over():
                return False
            time.sleep(0.01)
        raise AssertionError("the node neither listens nor ends")

    def stop(self) -> None:
        if self.process is not None and self.process.is_alive():
            self.process.kill()
        if self.process is not None:
            self.process.join()

    @property
    def running(self) -> bool:
        return self.process is not None and not self._is_over()

    @property
    def frozen(self) -> bool:
        """Stopped by SIGSTOP: the moment of a power cut."""
        with contextlib.suppress(OSError, TypeError, AttributeError):
            return Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"  # type: ignore[union-attr]
        return False

    def _is_over(self) -> bool:
        return self.process is None or not self.process.is_alive() or self.frozen

    def send(self) -> None:
        """One association for what has not been acknowledged yet; stops at the first object that is not taken."""
        entity = AE(SENDER)
        entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = 5
        entity.connection_timeout = 2
        datasets = [dcmread(path) for path in outcome.unacknowledged(self.study, self.acknowledged)]
        for dataset in {one.SOPClassUID: one for one in datasets}.values():
            entity.add_requested_context(dataset.SOPClassUID, dataset.file_meta.TransferSyntaxUID)
        association = entity.associate("127.0.0.1", self.port, ae_title=NODE)
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

    def run(self, trap: Trap, pacs: DemoPacs, on_end: "Power | None" = None) -> Outcome:
        """The cell: a node with the trap, a node after it, until the study is through or patience ends."""
        self.start(trap)
        end = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < end:
            if not self.running:
                if on_end is not None and self.frozen:
                    on_end.cut(self)
                else:
                    self.stop()
                if not self.start():
                    continue
            pacs.report_to = ("127.0.0.1", self.port)
            if len(self.acknowledged) < len(self.study):
                self.send()
            elif self._finished():
                break
            time.sleep(0.05)
        self.stop()
        return outcome.look(Spool(self.spool_root), pacs, self.acknowledged, f"{self.starts} starts")

    def _finished(self) -> bool:
        store = Store.open(self.spool_root / "store.sqlite")
        try:
            items = [item for item in store.items() if item.state is not State.CANCELED]
            for item in items:
                if item.state is State.FAILED:  # an operator looks after what the node gave up
                    store.retry(item.id, time.time())
            return bool(items) and all(item.state is State.COMPLETED for item in items)
        finally:
            store.close()


@contextmanager
def rig(study: Sequence[Path], answers: Path, spool_root: Path | None = None) -> Iterator[tuple[Rig, DemoPacs]]:
    """A rig in a folder of its own, with its PACS; both gone at the end."""
    folder = Path(tempfile.mkdtemp(prefix="prognode-fault-"))
    try:
        with DemoPacs(folder / "pacs", PACS, commitment="same") as pacs:
            root = spool_root or folder / "spool"
            write_settings(folder, destination(PACS, pacs.port), node={"spool": str(root)}, plan={"quiet_seconds": 0.5})
            parts = Rig(folder, study, answers, root)
            try:
                yield parts, pacs
            finally:
                parts.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Power:
    """A disk whose unsynced pages can be lost: ext4 on a loop device. Needs root and a free loop device."""

    def __init__(self, folder: Path) -> None:
        self.image, self.mount = folder / "disk.img", folder / "disk"
        self.mount.mkdir(parents=True)
        with self.image.open("wb") as stream:
            stream.truncate(64 << 20)
        _run("mkfs.ext4", "-q", str(self.image))
        _run("mount", "-o", "loop", str(self.image), str(self.mount))

    def cut(self, parts: Rig) -> None:
        """What the disk holds at this moment is all that is left: pages not yet written are gone."""
        after = self.image.with_suffix(".after")
        shutil.copyfile(self.image, after)
        os.kill(parts.process.pid, signal.SIGKILL)  # type: ignore[union-attr, arg-type]
        parts.stop()
        _run("umount", str(self.mount))
        os.replace(after, self.image)
        _run("mount", "-o", "loop", str(self.image), str(self.mount))  # replays the journal

    def close(self) -> None:
        _run("umount", "-l", str(self.mount))


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=60)
