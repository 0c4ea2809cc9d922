"""`python -m tests.e2e.step STAGE --config FILE`: a worker that does the stages up to STAGE, then SIGKILLs itself.

Built from the same parts as `prognode work`, but step by step instead of by the clock, so that a kill falls exactly
between two stages, or between an act and its record. The restart is the real `prognode serve`.
"""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from analysis.contract import RESULT_FILE
from config.settings import load
from dicom_node import compose, deliver, dispatch
from dicom_node.executors import process
from dicom_node.job import Runner
from dicom_node.spool import Spool
from dicom_node.store import Store
from dicom_node.worker import Worker
from models.bundle import DEMO
from models.bundle import load as load_bundle

STAGES = ("scheduled", "job-ran", "analysed", "composed", "reported", "sent", "recorded")
MOMENT = 1_760_000_000.25  # the node's clock here: what is scheduled by this worker carries this time


def die(*_: object, **__: object) -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)
    raise AssertionError("killed, and still here")


def then_die(work: Callable[..., Any]) -> Callable[..., NoReturn]:
    """The real work is done; nobody lives to write down that it was."""

    def run(*arguments: Any, **more: Any) -> NoReturn:
        work(*arguments, **more)
        die()

    return run


def main(stage: str, config: Path) -> None:
    settings, bundle = load(config), load_bundle(DEMO)
    spool = Spool(settings.node.spool)
    spool.create()
    Store.open(spool.store).close()
    worker = Worker(settings, spool, bundle, Runner(spool, settings.job, bundle), lambda: MOMENT)
    if stage == "job-ran":
        process.run = then_die(process.run)
    if stage == "composed":
        compose.compose = then_die(compose.compose)
    if stage == "sent":
        deliver.send = then_die(deliver.send)
    if stage == "recorded":
        dispatch.deliver.request_commitment = die  # type: ignore[attr-defined]
    steps = (worker.step_plan, worker.step_analyse, worker.step_report, worker.step_deliver)
    last = {"scheduled": 1, "analysed": 2, "reported": 3}.get(stage, len(steps))
    for step in steps[:last]:
        while step():
            pass
    assert stage != "job-ran" or not list(spool.root.glob(f"results/*/*/{RESULT_FILE}"))
    die()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[3]))
