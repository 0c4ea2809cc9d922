"""The node under test: receiver and worker in a process of their own, with a trap set and the job's answer at hand."""

import logging
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

from analysis.contract import JOB_FILE, RESULT_FILE, JobRequest, JobResult
from config.settings import Job
from config.settings import load as load_settings
from dicom_node import loop as loop_module
from dicom_node.executors import process
from dicom_node.executors.ahead import AheadExecutor
from dicom_node.executors.contract import Ended
from dicom_node.executors.sandbox import Isolation
from dicom_node.job import PROMISED, Runner
from dicom_node.receive import Receiver
from dicom_node.spool import Spool
from dicom_node.worker import Worker
from models.bundle import DEMO
from models.bundle import load as load_bundle
from tests.faults import points
from tests.faults.points import Trap

Run = Callable[[Path, Path, Job, Isolation], Ended]


def answering(answers: Path) -> Run:
    """Stands for `process.run`: leaves at once what the real job once left for the same study."""

    def run(folder_in: Path, folder_out: Path, *_: object) -> Ended:
        request = JobRequest.model_validate_json((folder_in / JOB_FILE).read_bytes())
        for name in PROMISED:
            if (answers / name).is_file():
                (folder_out / name).write_bytes((answers / name).read_bytes())
        result = JobResult.model_validate_json((answers / RESULT_FILE).read_bytes())
        (folder_out / RESULT_FILE).write_text(
            result.model_copy(update={"key": request.key}).model_dump_json(), encoding="utf-8"
        )
        return Ended(0)

    return run


def stand_in_for_jobs(answers: Path) -> None:
    """From here on `answering` stands for every job: none is started ahead, for that would be a real one."""
    process.run = answering(answers)
    AheadExecutor.can = property(lambda _: False)  # type: ignore[assignment, method-assign]


def run(settings_file: str, answers: str, trap: Trap, port_file: str, log: str) -> None:
    """Main of the child: until SIGTERM, or until the trap ends it. What it says goes beside its settings."""
    settings = load_settings(Path(settings_file))
    said = os.open(Path(settings_file).with_name("node.log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(said, 2)
    logging.disable(logging.CRITICAL)
    loop_module.FIRST_RETRY_SECONDS = loop_module.PAUSE_SECONDS = 0.2  # seconds instead of minutes
    loop_module.LEASE_SECONDS = 3.0
    stand_in_for_jobs(Path(answers))
    spool = Spool(settings.node.spool)
    spool.create()
    points.install(trap, settings.node.spool, Path(log))
    bundle = load_bundle(DEMO)
    receiver = Receiver(settings, spool)
    worker = Worker(settings, spool, bundle, Runner(spool, settings.job, bundle))
    receiver.start()
    worker.start()
    Path(port_file).write_text(str(receiver.port), encoding="utf-8")
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    ended.wait()
    receiver.stop()
    worker.stop()
