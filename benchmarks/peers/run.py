"""Runs `afternoon` as its author would: storescp with a command at the end of a study."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

EOSTUDY_SECONDS = 1  # the shortest that storescp knows; a careful engineer would write 10 or 60
ENVIRONMENT = {**os.environ, "TCP_NODELAY": "1", "OMP_NUM_THREADS": "2"}  # without it DCMTK stalls 50 ms an object


@contextmanager
def listening(folder: Path, port: int, pacs_port: int, spacing_mm: float) -> Iterator[None]:
    """A storescp that runs the script at the end of each study; `folder` gets what it receives and says."""
    folder.mkdir(parents=True)
    script = Path(__file__).with_name("afternoon.py")
    command = f"{sys.executable} {script} #p 127.0.0.1 {pacs_port} {spacing_mm:g}"
    arguments = [
        "storescp", "--aetitle", "PEER", "--output-directory", str(folder), "--sort-on-study-uid", "s",
        "--exec-on-eostudy", command, "--eostudy-timeout", str(EOSTUDY_SECONDS), str(port),
    ]  # fmt: skip
    with (folder / "storescp.log").open("wb") as log:
        process = subprocess.Popen(arguments, stdout=log, stderr=log, env=ENVIRONMENT, start_new_session=True)
        try:
            yield
        finally:
            process.terminate()
            process.wait()


def stages(folder: Path, patience: float = 30.0) -> dict[str, float]:
    """What the script took by stage, in seconds; waits for its end."""
    path = folder / "stages.json"
    end = time.monotonic() + patience
    while not path.exists():
        if time.monotonic() > end:
            raise RuntimeError(f"the peer has not ended: {(folder / 'storescp.log').read_text()[-2000:]}")
        time.sleep(0.05)
    found: dict[str, float] = json.loads(path.read_text())
    return found
