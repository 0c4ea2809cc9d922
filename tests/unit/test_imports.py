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
LEAST = {"numpy", "pydantic", "cryptography", "httpx", "fontTools", "PIL"}


@pytest.mark.parametrize(
    ("what", "forbidden"),
    [
        ("dicom_node.cli", COMPUTING | DRAWING | WEB | DICOM | LEAST),  # `prognode --help`
        ("dicom_node.receive", COMPUTING | DRAWING | WEB | {"highdicom", "httpx", "fontTools"}),
        ("dicom_node.hl7_in", COMPUTING | DRAWING | WEB | {"highdicom", "httpx", "fontTools"}),
        ("dicom_node.web.app", COMPUTING | DRAWING | {"highdicom", "pynetdicom", "fontTools"}),
        ("dicom_node.worker", COMPUTING | DRAWING | WEB),
        ("analysis.run", COMPUTING | DRAWING | WEB | {"highdicom", "fontTools"}),  # until it reads the first slice
    ],
)
def test_a_process_imports_nothing_that_it_does_not_need(what: str, forbidden: set[str]) -> None:
    said = subprocess.run(
        [sys.executable, "-P", "-c", f"import {what}, sys; print(*sys.modules)"], capture_output=True, check=True
    )
    imported = {name.partition(".")[0] for name in said.stdout.decode().split()}
    assert what.partition(".")[0] in imported
    assert imported & forbidden == set()
