"""What each process imports: budgets of start-up time and memory, held without a clock (docs/performance.md)."""

import subprocess
import sys

import pytest

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
        ("dicom_node.receive", COMPUTING | DRAWING | WEB | LATER),
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
