"""The node under test: receiver and worker in a process of their own, with a stub for the job and a trap set."""

import logging
import signal
import threading
from pathlib import Path

from analysis.contract import JobResult, QualityFlag
from config.settings import load as load_settings
from dicom_node import worker as worker_module
from dicom_node.decision import Plan
from dicom_node.job import Runner
from dicom_node.receive import Receiver
from dicom_node.spool import Spool
from dicom_node.worker import Worker
from models.bundle import DEMO
from models.bundle import load as load_bundle
from tests.faults import points
from tests.faults.points import Trap

RESULT_FILES = ("result.json", "features.json", "mask.nii.gz", "pictures.npz", "timing.json")


class StubRunner(Runner):
    """Gives the result of an earlier real run of the same study at once; everything around the job is as it is."""

    answers: Path  # folder of the earlier run's results

    def analyse(self, key: str, plan: Plan, clinical, path_of, quality: tuple[QualityFlag, ...] = ()) -> JobResult:  # type: ignore[no-untyped-def]
        self._prepare(key, plan, clinical, path_of, quality)
        result = JobResult.model_validate_json((self.answers / "result.json").read_bytes())
        result = result.model_copy(update={"key": key})
        with self._spool.replace_results(key, "analysis") as folder:
            for name in RESULT_FILES[1:]:
                if (self.answers / name).is_file():
                    (folder / name).write_bytes((self.answers / name).read_bytes())
            (folder / "result.json").write_text(result.model_dump_json(indent=1), encoding="utf-8")
        self._spool.drop_job(key)
        return result


def run(settings_file: str, answers: str, trap: Trap, port_file: str, log: str) -> None:
    """Main of the child: until SIGTERM, or until the trap kills it."""
    settings = load_settings(Path(settings_file))
    logging.disable(logging.CRITICAL)
    worker_module.FIRST_RETRY_SECONDS = worker_module.PAUSE_SECONDS = 0.2  # seconds instead of minutes
    worker_module.LEASE_SECONDS = 3.0
    spool = Spool(settings.node.spool)
    spool.create()
    points.install(trap, settings.node.spool, Path(log))
    bundle = load_bundle(DEMO)
    StubRunner.answers = Path(answers)
    receiver = Receiver(settings, spool)
    worker = Worker(settings, spool, bundle, StubRunner(spool, settings.job, bundle))
    receiver.start()
    worker.start()
    Path(port_file).write_text(str(receiver.port), encoding="utf-8")
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    ended.wait()
    receiver.stop()
    worker.stop()
