"""What each process imports: budgets of start-up time and memory, held without a clock (docs/performance.md)."""

import subprocess
import sys
from pathlib import Path

import pytest

from analysis.contract import CtInput, JobRequest, RoiInput
from models.bundle import load
from tests.synthetic import ct_series, rtstruct, save, save_all

BUNDLE = Path(__file__).resolve().parents[2] / "models" / "demo"

# Of the node's processes none computes: what computes is the job's.
COMPUTING = {
    "scipy",
    "skimage",
    "sklearn",
    "sksurv",
    "torch",
    "SimpleITK",
    "radiomics",
    "onnxruntime",
    "nibabel",
    "pandas",
}
DRAWING = {"matplotlib", "reportlab"}
WEB = {"fastapi", "starlette", "uvicorn", "jinja2"}
DICOM = {"pydicom", "pynetdicom", "highdicom"}
# What a service loads when it is needed: a report is to be built, a certificate to be read, a FHIR server to be asked,
# somebody signs in at the hospital's provider. pydicom.sr are the standard's coded concepts.
LATER = {"highdicom", "pydicom.sr", "fontTools", "cryptography", "httpx", "joserfc", "rich"}
LEAST = {"numpy", "pydantic", "cryptography", "httpx", "fontTools", "PIL"}


@pytest.mark.parametrize(
    ("what", "forbidden"),
    [
        ("dicom_node.cli", COMPUTING | DRAWING | WEB | DICOM | LEAST),  # `prognode --help`
        ("dicom_node.receive", COMPUTING | DRAWING | WEB | LATER | {"pydantic", "analysis.contract"}),
        ("dicom_node.hl7_in", COMPUTING | DRAWING | WEB | LATER),
        ("dicom_node.web.app", COMPUTING | DRAWING | LATER | {"pynetdicom"}),
        ("dicom_node.worker", COMPUTING | DRAWING | WEB | LATER),
        ("analysis.run", COMPUTING | DRAWING | WEB | {"highdicom", "fontTools"}),  # until it reads the first slice
    ],
)
def test_a_process_imports_nothing_that_it_does_not_need(what: str, forbidden: set[str]) -> None:
    said = subprocess.run(
        [sys.executable, "-P", "-c", f"import {what}, sys; print(*sys.modules)"], capture_output=True, check=True
    )
    imported = set(said.stdout.decode().split())
    assert what in imported
    assert (imported | {name.partition(".")[0] for name in imported}) & forbidden == set()


IDLE = """
import sys, pathlib
from config.settings import Node, Settings
from dicom_node.spool import Spool
from dicom_node.worker import Worker
from models.bundle import load

settings = Settings(node=Node(spool=pathlib.Path(sys.argv[1])))
spool = Spool(settings.node.spool)
spool.create()
worker = Worker(settings, spool, load(pathlib.Path(sys.argv[2])), None)
for stage in worker._stages:
    stage.step()
print(*(stage.name for stage in worker._stages), "|", *sys.modules)
"""


def test_a_worker_without_a_study_has_not_loaded_what_builds_reports(tmp_path: Path) -> None:
    said = subprocess.run(
        [sys.executable, "-P", "-c", IDLE, str(tmp_path / "spool"), str(BUNDLE)], capture_output=True, check=True
    )
    stages, _, modules = said.stdout.decode().splitlines()[-1].partition("|")
    assert {"plan", "report", "deliver", "keep_room"} <= set(stages.split())
    imported = set(modules.split())
    assert "dicom_node.storage" in imported
    assert imported & {"highdicom", "pydicom.sr", "reports.build", "dicom_node.reporter", "fontTools"} == set()


TOLD = """
import pathlib, sys
from analysis import run
assert run._told()
before = set(sys.modules)
status = run.main(*map(pathlib.Path, sys.argv[1:]))
print(status, *set(sys.modules) - before)
"""


def test_a_job_that_was_started_ahead_has_nothing_left_to_import(tmp_path: Path) -> None:
    ct = ct_series(16, 40, 40, seed=72)
    names = tuple(path.name for path in save_all(ct, tmp_path / "in" / "ct"))
    roi = save(rtstruct(ct), tmp_path / "in" / "roi").name
    (tmp_path / "in" / "bundle").symlink_to(BUNDLE)
    (tmp_path / "out").mkdir()
    request = JobRequest(
        key="k" * 64,
        ct=CtInput(files=names),
        roi=RoiInput(kind="RTSTRUCT", file=roi, numbers=(1,), combine="single"),
        bundle_digest=load(BUNDLE).digest,
    )
    (tmp_path / "in" / "job.json").write_text(request.model_dump_json())
    command = [sys.executable, "-P", "-c", TOLD, str(tmp_path / "in"), str(tmp_path / "out")]
    said = subprocess.run(command, input=b"go\n", capture_output=True, check=True)
    assert said.stdout.decode().split() == ["ready", "0"]
    assert '"outcome": "SCORED"' in (tmp_path / "out" / "result.json").read_text()
