"""From the last C-STORE response to the risk SR accepted by the PACS, split by stage.

    python -m benchmarks.latency [--runs N]

Two inputs: the IBSI CT phantom (60 slices of 201x204) and `lung2`, a full 512x512 chest with a 48 mL lesion, written as
DICOM first. The node is a child process (`prognode serve`), the PACS another AE on loopback, the sender a third. Each
run is a fresh node on a fresh spool, with the first use of every library in it: what a first study of the day waits.
"""

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from config.settings import Node, Peer, Settings
from dicom_node import deliver
from dicom_node.demo_pacs import DemoPacs
from dicom_node.headers import data_set_digest, read
from dicom_node.spool import Spool
from dicom_node.store import Store
from dicom_node.workitem import State
from models.bundle import DEMO

SHARED = Path(os.environ.get("PROGNODE_SHARED", Path(__file__).resolve().parents[2] / "shared")) / "data"
SR_CLASS = "1.2.840.10008.5.1.4.1.1.88.34"
PATIENCE_SECONDS = 300


def lung2_as_dicom(folder: Path, thin: bool = False) -> Path:
    """Write the public chest CT `lung2` as a CT series with an RTSTRUCT of its label: 61 slices of 5 mm.

    `thin`: 300 slices of 1 mm instead, interpolated between them; the lesion keeps its 48 mL.
    """
    import numpy as np
    import SimpleITK

    from analysis.train.synth.anatomy import Grid
    from analysis.train.synth.dicom_files import Study, write_ct, write_rtstruct

    image = SimpleITK.ReadImage(str(SHARED / "pyradiomics_lung" / "lung2_image.nrrd"))
    label = SimpleITK.ReadImage(str(SHARED / "pyradiomics_lung" / "lung2_label.nrrd"))
    hu = SimpleITK.GetArrayFromImage(image).astype(np.float32)
    lesion = (SimpleITK.GetArrayFromImage(label) > 0).astype(np.float32)
    width, height, step = image.GetSpacing()
    if thin:
        place = np.arange(300) / step
        below, share = place.astype(int), (place % 1).astype(np.float32)[:, None, None]
        hu, lesion = ((1 - share) * one[below] + share * one[below + 1] for one in (hu, lesion))
        step = 1.0
    grid = Grid(hu.shape, (step, height, width))
    study = Study(key=f"lung2 {step:g}", number=2, seed=2, age=60, female=False, scanner="LUNG2", kernel="B30f")
    headers = write_ct(folder / "ct", hu, grid, study)
    write_rtstruct(folder / "rtstruct.dcm", lesion >= 0.5, grid, headers, study)
    return folder


def run_once(source: Path, work: Path) -> dict[str, float]:
    """One study through a fresh node; seconds by stage, and the whole."""
    accepted: dict[str, float] = {}

    def status(sop_class_uid: str) -> int:
        accepted.setdefault(sop_class_uid, time.time())
        return 0x0000

    with DemoPacs(work / "pacs", "PACS", status=status, commitment="none") as pacs:
        settings = work / "node.toml"
        settings.write_text(
            f'[node]\nport = 0\nspool = "spool"\n[[peers]]\nae_title = "CT"\n'
            f'[[peers]]\nae_title = "PACS"\nport = {pacs.port}\nsends = false\nreceives_results = true\n'
        )
        log = (work / "node.log").open("wb")
        node = subprocess.Popen(
            [sys.executable, "-m", "dicom_node.cli", "serve", "--config", str(settings)],
            stdout=subprocess.PIPE,
            stderr=log,
        )
        try:
            port = _port(node)
            _send(source, port)
            last_response = time.time()
            _wait(lambda: SR_CLASS in accepted)
            return _stages(work, last_response, accepted[SR_CLASS])
        finally:
            node.terminate()
            node.wait()
            log.close()


def _port(node: "subprocess.Popen[bytes]") -> int:
    assert node.stdout is not None
    found = re.search(rb":(\d+)$", node.stdout.readline().strip())
    assert found, "the node did not start"
    return int(found[1])


def _send(source: Path, port: int) -> None:
    documents = []
    for path in sorted(path for path in source.rglob("*.dcm")):
        instance = read(path, data_set_digest(path))
        variant = deliver.Variant(instance.sop_class_uid, instance.sop_instance_uid, path)
        documents.append(deliver.Document(path.name, (variant,)))
    settings = Settings(node=Node(ae_title="CT"))
    answers = deliver.send(Peer("PROGNODE", host="127.0.0.1", port=port), documents, settings)
    assert answers, f"no DICOM files in {source}"
    assert all(answer.status == 0 for answer in answers), "the node refused an object"


def _wait(done) -> None:  # type: ignore[no-untyped-def]
    end = time.monotonic() + PATIENCE_SECONDS
    while not done():
        assert time.monotonic() < end, "no SR came in time"
        time.sleep(0.01)


def _stages(work: Path, start: float, end: float) -> dict[str, float]:
    spool = Spool(work / "spool")
    store = Store.open(spool.store)
    item = next(item for item in store.items() if item.state is not State.CANCELED)
    events = {event["name"]: event["at"] for event in store.details(item.id)["events"]}
    steps = json.loads((spool.results(item.key or "", "analysis") / "timing.json").read_text())
    job = events["analysed"] - events["scheduled claimed"]
    stages = {
        "plan": events["scheduled"] - start,
        "wait for a worker": events["scheduled claimed"] - events["scheduled"],
        "job: start, imports, bundle, files": job - sum(steps.values()),
        **{f"job: {name}": seconds for name, seconds in steps.items()},
        "wait for the report stage": events["analysed claimed"] - events["analysed"],
        "report: evidence, SRs, SEG, page": events["reported"] - events["analysed claimed"],
        "deliver: until the SR is accepted": end - events["reported"],
        "total": end - start,
    }
    store.close()
    return stages


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3)
    runs = parser.parse_args().runs
    for name in ("phantom", "lung2"):
        with tempfile.TemporaryDirectory() as scratch:
            if not SHARED.is_dir():
                print(f"{name}: the shared data is not here (set PROGNODE_SHARED)")
                continue
            source = (
                SHARED / "ibsi_1_ct_phantom" / "dicom" if name == "phantom" else lung2_as_dicom(Path(scratch) / "in")
            )
            measured = []
            for number in range(runs):
                work = Path(scratch) / f"run{number}"
                work.mkdir()
                measured.append(run_once(source, work))
                shutil.rmtree(work)
            print(f"\n{name}, {runs} runs, bundle {json.loads((DEMO / 'manifest.json').read_text())['name']}")
            print(f"{'stage':<38}{'median s':>9}{'min':>8}{'max':>8}{'share':>8}")
            whole = statistics.median(run["total"] for run in measured)
            for stage in measured[0]:
                values = [run[stage] for run in measured]
                middle = statistics.median(values)
                print(f"{stage:<38}{middle:>9.2f}{min(values):>8.2f}{max(values):>8.2f}{middle / whole:>8.0%}")


if __name__ == "__main__":
    main()
