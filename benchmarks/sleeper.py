"""What a Dask worker is started with (--preload benchmarks.sleeper) to run jobs of a fixed length: they sleep.

Everything around is real: the parcel, the sandbox, the golden case, the harvest. PROGNODE_SLEEPER is a JSON object:
`seconds` of a job, `log` (a line for each start: key, worker's process, time), `poison`: the job that is the first to
start kills its worker, every time.
"""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from analysis.contract import JOB_FILE, RESULT_FILE, BundleIdentity, JobResult, Outcome, Reason
from config.settings import Job
from dicom_node.executors import process
from dicom_node.executors.sandbox import Isolation
from models.bundle import DEMO, load

VARIABLE = "PROGNODE_SLEEPER"
CODE = """
import json, pathlib, sys, time
result, seconds, IN, OUT = json.loads(sys.argv[1]), float(sys.argv[2]), *map(pathlib.Path, sys.argv[3:5])
time.sleep(seconds)
(OUT / "{result}").write_text(json.dumps(result))
"""


def dask_setup(worker: Any) -> None:
    """Dask calls this in each worker that starts."""
    told = json.loads(os.environ[VARIABLE])
    identity = BundleIdentity(**load(DEMO).identity._asdict())
    real = process.command

    def command(folder_in: Path, folder_out: Path, limits: Job, isolation: Isolation) -> list[str]:
        key = json.loads((folder_in / JOB_FILE).read_text())["key"]
        with open(told["log"], "a") as log:
            log.write(f"{key} {os.getpid()} {time.time()}\n")
        if told["poison"] and Path(told["log"]).read_text().startswith(key):
            os.kill(os.getpid(), signal.SIGKILL)
        result = JobResult(
            key=key, outcome=Outcome.NOT_SCORED, reason=Reason.ROI_EMPTY, reason_detail="slept", bundle=identity
        )
        argv = real(folder_in, folder_out, limits, isolation)
        text = json.dumps(result.model_dump(mode="json"))
        code = CODE.format(result=RESULT_FILE)
        return [*argv[: argv.index("-m")], "-c", code, text, str(told["seconds"]), str(folder_in), str(folder_out)]

    process.command = command
