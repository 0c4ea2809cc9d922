"""The contract between node and job: generated schemas, exit codes that decide, requests that carry no name."""

import json
import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
from pydantic import ValidationError

from analysis.contract import (
    REASONS,
    RESULT_FILE,
    BundleIdentity,
    CtInput,
    ExitCode,
    FailureReason,
    JobRequest,
    JobResult,
    Outcome,
    Reason,
    RoiInput,
    WaitingReason,
)
from dicom_node.job import classify
from dicom_node.workitem import Permanent, Retryable
from tests.paths import ROOT

KEY = "k" * 64
REQUEST = JobRequest(
    key=KEY,
    ct=CtInput(files=("00001.dcm",)),
    roi=RoiInput(kind="RTSTRUCT", file="roi.dcm", numbers=(1,), combine="single"),
    bundle_digest="d",
)
RESULT = JobResult(
    key=KEY,
    outcome=Outcome.NOT_SCORED,
    reason=Reason.ROI_EMPTY,
    bundle=BundleIdentity(name="b", version="1", digest="d", synthetic=True),
)


def test_the_committed_schemas_are_those_of_the_code() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "schema.py", "--check"], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("name", "document"), [("job", REQUEST), ("result", RESULT)])
def test_what_is_written_validates_against_its_json_schema(name: str, document: JobRequest | JobResult) -> None:
    schema = json.loads((ROOT / "config" / "schema" / f"{name}.schema.json").read_text())
    jsonschema.validate(json.loads(document.model_dump_json()), schema)


@pytest.mark.parametrize("name", ["../etc/passwd", "..", ".hidden", "a/b", "", "x" * 65, "ä.dcm"])
def test_a_file_name_that_could_leave_the_job_folder_is_refused(name: str) -> None:
    with pytest.raises(ValidationError):
        CtInput(files=(name,))


def test_an_unknown_key_is_refused_on_both_sides() -> None:
    for document, kind in ((REQUEST, JobRequest), (RESULT, JobResult)):
        data = json.loads(document.model_dump_json()) | {"patient_name": "X"}
        with pytest.raises(ValidationError, match="patient_name"):
            kind.model_validate_json(json.dumps(data))


def test_every_reason_has_a_sentence_and_a_remedy() -> None:
    assert set(REASONS) == {*Reason, *WaitingReason, *FailureReason}
    assert len({str(code) for code in REASONS}) == len(REASONS)
    assert len({text.sentence for text in REASONS.values()}) == len(REASONS)
    for text in REASONS.values():
        assert re.fullmatch(r"[A-Z][^.]*\.", text.sentence), f"not one sentence: {text.sentence}"
        who = "Contouring team|Imaging team|Clinical team|Administrator|Nobody"
        assert re.fullmatch(rf"({who}): [a-z].*\.", text.remedy), f"does not say who does what: {text.remedy}"


@pytest.mark.parametrize("code", [None, ExitCode.TEMPORARY, 125, 126, 127, 137, 143, -9, -15])
def test_an_ending_that_may_pass_is_tried_again(code: int | None, tmp_path: Path) -> None:
    with pytest.raises(Retryable):
        classify(code, tmp_path, KEY)


@pytest.mark.parametrize("code", [1, 2, ExitCode.DATA_ERROR, ExitCode.NO_INPUT, ExitCode.BUG, ExitCode.CONFIG, -11])
def test_an_ending_that_cannot_pass_needs_an_operator_and_says_what_to_do(code: int, tmp_path: Path) -> None:
    with pytest.raises(Permanent) as caught:
        classify(code, tmp_path, KEY)
    assert caught.value.hint


@pytest.mark.parametrize("content", [None, b"", b'{"schema_version": 1, "key"', b"{}"])
def test_a_good_ending_without_a_valid_result_is_a_broken_promise(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / RESULT_FILE).write_bytes(content)
    with pytest.raises(Permanent, match="not valid"):
        classify(0, tmp_path, KEY)


def test_a_result_of_another_work_item_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / RESULT_FILE).write_text(RESULT.model_dump_json())
    assert classify(0, tmp_path, KEY) == RESULT
    with pytest.raises(Permanent, match="another work item"):
        classify(0, tmp_path, "other")


@pytest.mark.parametrize(
    ("arrange", "code"),
    [
        (lambda folder: None, ExitCode.NO_INPUT),
        (lambda folder: (folder / "job.json").write_text("{}"), ExitCode.DATA_ERROR),
        (lambda folder: (folder / "job.json").write_text(REQUEST.model_dump_json()), ExitCode.CONFIG),
    ],
    ids=["no job.json", "bad job.json", "no bundle"],
)
def test_the_job_ends_with_the_sysexits_code_of_its_cause(arrange, code: int, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    folder_in, folder_out = tmp_path / "in", tmp_path / "out"
    folder_in.mkdir()
    folder_out.mkdir()
    arrange(folder_in)
    done = subprocess.run([sys.executable, "-m", "analysis.run", folder_in, folder_out], capture_output=True)
    assert done.returncode == code
    assert not (folder_out / RESULT_FILE).exists()
