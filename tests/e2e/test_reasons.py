"""Every reason has a way to it, a sentence and a remedy, and both reach whoever reads: SR, page, worklist, CLI."""

import ast
import copy
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pydicom
import pytest
from pydicom import Dataset

from analysis.contract import REASONS, FailureReason, Outcome, Reason, WaitingReason, wording
from config.clinical import Clinical
from config.settings import Job, Peer, Planning
from dicom_node import job, status
from dicom_node.clinical_values import ClinicalEntry
from dicom_node.demo_pacs import DemoPacs
from dicom_node.executors import process
from dicom_node.executors.sandbox import Isolation, confined
from dicom_node.workitem import Permanent, StageError, State, WorkItem
from tests import synthetic
from tests.paths import ROOT
from tests.road import Road, road
from tests.synthetic import ball_contours, rtstruct

Study = list[Dataset]
TABLE = {"Reason": Reason, "WaitingReason": WaitingReason, "FailureReason": FailureReason}
# Where a code may be written: all else is a code that the table does not know.
TAKES_A_CODE = {"wait", "_wait", "_waiting", "wait_for_contour", "NotScorable", "Defect", "NoChoice", "_not_eligible",
                "_failed", "_failure", "Permanent", "Retryable", "StageError"}  # fmt: skip


# -- the table and the code ----------------------------------------------------------------------------------------


def sources() -> Iterator[tuple[Path, ast.Module]]:
    for package in ("analysis", "dicom_node"):
        for path in (ROOT / package).rglob("*.py"):
            if path.name != "reasons.py":
                yield path, ast.parse(path.read_text(encoding="utf-8"))


def named() -> set[str]:
    """Every code that the program names, as `Reason.X` and the like."""
    found = set()
    for path, tree in sources():
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in TABLE:
                assert node.attr in TABLE[node.value.id].__members__, f"{path}: {node.value.id}.{node.attr}"
                found.add(node.attr)
    return found


def test_every_reason_that_is_raised_stands_in_the_table_and_every_one_in_the_table_is_raised() -> None:
    assert named() == {str(code) for code in REASONS}


def test_no_code_is_written_as_a_mere_text() -> None:
    for path, tree in sources():
        for node in ast.walk(tree):
            called = getattr(node, "func", None)
            name = getattr(called, "attr", getattr(called, "id", ""))
            if name not in TAKES_A_CODE or not isinstance(node, ast.Call):
                continue
            for argument in (*node.args, *(keyword.value for keyword in node.keywords)):
                text = argument.value if isinstance(argument, ast.Constant) else None
                looks_like_a_code = isinstance(text, str) and text.isupper() and "_" in text
                assert not looks_like_a_code, f"{path}:{node.lineno} {text}"


def test_a_code_of_another_release_has_no_words_and_ends_nothing() -> None:
    assert wording("OF_ANOTHER_RELEASE") is None
    for code in REASONS:
        assert wording(str(code)) is REASONS[code]


# -- not scored: the real road -------------------------------------------------------------------------------------


def changed(ct: Study, **attributes: object) -> Study:
    made = [copy.deepcopy(image) for image in ct]
    for image in made:
        for keyword, value in attributes.items():
            setattr(image, keyword, value)
    return made


def one_changed(ct: Study, **attributes: object) -> Study:
    return [*ct[:5], *changed(ct[5:6], **attributes), *ct[6:]]


def defect(name: str) -> Callable[[Study], Study]:
    return lambda ct: [*synthetic.DEFECTS[name](ct), rtstruct(synthetic.DEFECTS[name](ct))]


def contour(**options: object) -> Callable[[Study], Study]:
    return lambda ct: [*ct, rtstruct(ct, **options)]  # type: ignore[arg-type]


def images(change: Callable[[Study], Study]) -> Callable[[Study], Study]:
    """Other images under a contour that was drawn on them."""
    return lambda ct: [*change(ct), rtstruct(ct)]


def on_mr(ct: Study) -> Study:
    drawn = rtstruct(ct)
    for item in drawn.iterall():
        if item.keyword == "ReferencedSOPClassUID":
            item.value = "1.2.840.10008.5.1.4.1.1.4"
    return [*ct, drawn]


def two_series(ct: Study) -> Study:
    return images(lambda series: [*series[:8], *changed(series[8:], SeriesInstanceUID="2.25.8")])(ct)


def without_references(ct: Study) -> Study:
    drawn = rtstruct(ct, series_level_references=False, contour_level_references=False, StudyInstanceUID="2.25.7")
    return [*ct, drawn]


def across_the_slices(ct: Study) -> Study:
    tilted = [points + [[0, 0, 2.5 * (k % 3)] for k in range(len(points))] for points in ball_contours(ct)]
    return [*ct, rtstruct(ct, contours=tilted)]


def closer(ct: Study, thickness: float, spacing: tuple[float, float] = (0.9, 0.9)) -> Study:
    made = synthetic.ct_series(16, 40, 40, spacing, thickness, seed=int(str(ct[0].PatientID).removeprefix("SYN-")))
    return [*made, rtstruct(made, radius=3.0)]


TURNED = [1, 0, 0, 0, 0.9962, 0.0872]
CASES: dict[Reason, Callable[[Study], Study]] = {
    Reason.ROI_REFERENCES_NOT_CT: on_mr,
    Reason.ROI_WITHOUT_REFERENCES: without_references,
    Reason.ROI_REFERENCES_SEVERAL_SERIES: two_series,
    Reason.ROI_FRAME_OF_REFERENCE_DIFFERS: contour(FrameOfReferenceUID="2.25.1"),
    Reason.ROI_NOT_FOUND: contour(roi_names=["Heart", "Lung"]),
    Reason.ROI_AMBIGUOUS: contour(roi_names=["GTV-1", "GTV-2"]),
    Reason.ROI_EMPTY: contour(contours=[]),
    Reason.ROI_OUTSIDE_IMAGE: contour(centre=[500, 500, -80]),
    Reason.ROI_GEOMETRY_UNSUPPORTED: across_the_slices,
    Reason.ROI_TOO_SMALL: contour(radius=2.0),
    Reason.ROI_UNREADABLE: lambda ct: [*ct, rtstruct(ct, contours=[p * float("nan") for p in ball_contours(ct)])],
    Reason.ROI_PATIENT_DIFFERS: contour(PatientID="SOMEBODY-ELSE"),
    Reason.REFERENCED_CT_INCOMPLETE: lambda ct: [*ct[:-2], rtstruct(ct)],
    Reason.IDENTITY_DIFFERS: images(lambda ct: one_changed(ct, PatientID="SOMEBODY-ELSE")),
    Reason.CT_NOT_BASELINE: contour(),
    Reason.LOCALIZER_IN_SERIES: defect("localizer"),
    Reason.MISSING_SLICE: defect("missing slice"),
    Reason.DUPLICATE_POSITION: defect("duplicate position"),
    Reason.UNEVEN_SLICE_SPACING: defect("uneven gap"),
    Reason.GANTRY_TILT: defect("gantry tilt"),
    Reason.SEVERAL_ACQUISITIONS: defect("two phases"),
    Reason.PIXEL_SPACING_DIFFERS: defect("other pixel spacing"),
    Reason.ORIENTATION_DIFFERS: images(
        lambda ct: one_changed(ct, ImageOrientationPatient=[1, 0, 0, 0, 0.9962, 0.0872])
    ),
    Reason.NOT_AXIAL: lambda ct: [*synthetic.sagittal(ct), rtstruct(synthetic.sagittal(ct))],
    Reason.GEOMETRY_INVALID: images(lambda ct: one_changed(ct, PixelSpacing=None)),
    Reason.RESCALE_MISSING: defect("without rescale"),
    Reason.RESCALE_NOT_HU: images(lambda ct: changed(ct, RescaleType="US")),
    Reason.SLICE_SPACING_OUT_OF_RANGE: lambda ct: closer(ct, 0.2),
    Reason.PIXEL_SPACING_OUT_OF_RANGE: lambda ct: closer(ct, 1.0, (0.2, 0.2)),
    Reason.TOO_FEW_SLICES: images(lambda ct: ct),  # of five, below
    Reason.PIXEL_DATA_UNDECODABLE: images(lambda ct: one_changed(ct, SamplesPerPixel=3)),
    Reason.PIXEL_DATA_TRUNCATED: images(lambda ct: one_changed(ct, PixelData=ct[5].PixelData[:-100])),
    Reason.CLINICAL_VALUES_INVALID: contour(),
}
# The demo bundle has a sub-model for every combination and all features; tests/science/test_ensemble_score.py has both.
# A study without any contour waits, and is only told so where nothing more comes (`prognode score`), below.
ELSEWHERE = {Reason.FEATURES_FAILED, Reason.NO_SUB_MODEL, Reason.NO_CONTOUR}
SEEDS = {reason: 700 + number for number, reason in enumerate(Reason)}


def test_every_reason_not_to_score_has_a_case() -> None:
    assert set(CASES) | ELSEWHERE == set(Reason)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Road:
    folder = tmp_path_factory.mktemp("reasons")
    made = road(folder, plan=Planning(quiet_seconds=30.0, missing_instances_hours=0.01))
    values = [
        ClinicalEntry(f"SYN-{SEEDS[Reason.CLINICAL_VALUES_INVALID]}", "ecog", 9.0, "fhir", "FHIR Observation"),
        ClinicalEntry(f"SYN-{SEEDS[Reason.CT_NOT_BASELINE]}", "therapy_start", "2001-01-01", "csv", "CSV import"),
    ]
    made.store.clinical.record(values, 1.0)
    return made


@pytest.mark.parametrize("reason", CASES)
def test_it_is_reached_on_the_real_road_and_its_words_reach_the_reader(node: Road, reason: Reason) -> None:
    slices = 5 if reason is Reason.TOO_FEW_SLICES else 16
    study = CASES[reason](synthetic.ct_series(slices, 40, 40, seed=SEEDS[reason]))
    node.take(*study)
    node.later(0.0)
    node.later(60.0)
    item = next(item for item in node.items if item.roi_sop_instance_uid == study[-1].SOPInstanceUID)
    assert (item.state, item.outcome, item.reason) == (State.COMPLETED, Outcome.NOT_SCORED, str(reason))

    text = REASONS[reason]
    report = _texts(pydicom.dcmread(node.report(item)))
    assert text.sentence in report
    assert text.remedy in report
    shown = status.of_study(node.store, node.spool, item.study_instance_uid) or ""
    assert f"{text.sentence} {text.remedy}" in shown


def _texts(dataset: Dataset) -> str:
    inner = "\n".join(_texts(child) for child in dataset.get("ContentSequence", ()))
    return f"{dataset.get('TextValue', '')}\n{inner}"


def test_a_ct_without_a_contour_waits_and_says_for_what(node: Road) -> None:
    ct = synthetic.ct_series(16, 40, 40, seed=SEEDS[Reason.NO_CONTOUR])
    node.take(*ct)
    node.later(0.0)
    shown = status.of_study(node.store, node.spool, ct[0].StudyInstanceUID) or ""
    assert REASONS[Reason.NO_CONTOUR].sentence in shown
    assert REASONS[Reason.NO_CONTOUR].remedy in shown


# -- waiting -------------------------------------------------------------------------------------------------------

CT = synthetic.ct_series(16, 40, 40, seed=690)


def _item(made: Road) -> WorkItem:
    (item,) = made.items
    return item


def _shows(made: Road, code: WaitingReason | FailureReason, sentence: bool = True) -> None:
    shown = status.of_study(made.store, made.spool, CT[0].StudyInstanceUID) or ""
    assert not sentence or REASONS[code].sentence in shown
    assert REASONS[code].remedy in shown


def test_a_table_that_is_not_there_is_waited_for(tmp_path: Path) -> None:
    made = road(tmp_path, clinical=Clinical(table=tmp_path / "absent.csv"))
    made.take(*CT, rtstruct(CT))
    made.worker.step_plan()
    assert _item(made).reason == WaitingReason.CLINICAL_VALUES_UNAVAILABLE
    _shows(made, WaitingReason.CLINICAL_VALUES_UNAVAILABLE)


def test_a_planner_that_stumbles_keeps_the_contour_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = road(tmp_path)
    made.take(*CT, rtstruct(CT))
    monkeypatch.setattr("dicom_node.plan.decide", lambda *_, **__: 1 / 0)
    made.worker.step_plan()
    assert _item(made).reason == WaitingReason.PLANNING_FAILED
    _shows(made, WaitingReason.PLANNING_FAILED)


# -- failed --------------------------------------------------------------------------------------------------------


def _failed_with(made: Road, code: FailureReason) -> None:
    item = _item(made)
    assert item.state is State.FAILED
    assert item.hint == REASONS[code].remedy
    last = made.store.details(item.id)["events"][-1]
    assert last["name"] == "failed"
    assert last["detail"].startswith(f"{code}: ")
    _shows(made, code, sentence=False)


@pytest.mark.parametrize(
    ("limits", "code"),
    [
        ({"wall_clock_seconds": 0.01}, FailureReason.JOB_OUT_OF_TIME),
        ({"cpu_seconds": 1}, FailureReason.JOB_KILLED),
    ],
)
def test_a_job_beyond_its_limits_fails_with_the_limit_to_raise(
    tmp_path: Path, limits: dict, code: FailureReason, monkeypatch: pytest.MonkeyPatch
) -> None:
    def endless(folder_in: Path, folder_out: Path, job_limits: Job, isolation: Isolation) -> list[str]:
        program = ["sh", "-c", "while :; do :; done"]  # the phantom may take less than the second that is the least
        root = os.geteuid() == 0
        readable = [folder_in]
        return confined(isolation, job_limits, readable=readable, writable=folder_out, program=program, root=root)

    monkeypatch.setattr(process, "command", endless)
    made = road(tmp_path, job=Job(attempts=1, **limits))
    made.take(*CT, rtstruct(CT))
    made.work()
    _failed_with(made, code)


@pytest.mark.parametrize(
    ("exit_code", "code"),
    [
        (127, FailureReason.JOB_NOT_STARTED),
        (os.EX_CONFIG, FailureReason.BUNDLE_MISMATCH),
        (os.EX_NOINPUT, FailureReason.JOB_INPUT_UNREADABLE),
        (os.EX_SOFTWARE, FailureReason.JOB_FAILED),
        (os.EX_OK, FailureReason.JOB_FAILED),  # without a result
    ],
)
def test_each_ending_of_a_job_has_its_code(tmp_path: Path, exit_code: int, code: FailureReason) -> None:
    with pytest.raises(StageError) as caught:
        job.classify(exit_code, tmp_path, "k" * 64)
    assert (caught.value.code, caught.value.hint) == (code, REASONS[code].remedy)


def test_a_job_engine_that_is_gone_costs_no_study_its_attempts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = road(tmp_path, job=Job(attempts=1))
    made.take(*CT, rtstruct(CT))
    with monkeypatch.context() as gone:
        gone.setattr(process, "command", lambda *_: ["/nowhere/bwrap"])
        for _ in range(3):
            made.later(3600.0)
        item = _item(made)
        assert (item.state, item.attempts) == (State.SCHEDULED, 0)
        last = made.store.details(item.id)["events"][-1]
        assert last["name"] == "postponed"
        assert "the job could not be started" in last["detail"]
        assert REASONS[FailureReason.JOB_NOT_STARTED].remedy in last["detail"]
    made.later(3600.0)
    assert _item(made).outcome == "SCORED"


def test_a_host_without_isolation_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = road(tmp_path)
    probe = replace(process.probe(), missing=("network",))
    monkeypatch.setattr("dicom_node.executors.process.probe", lambda: probe)
    with pytest.raises(Permanent) as caught:
        job.Runner(made.spool, Job(isolation="required"), made.bundle)
    assert caught.value.code == FailureReason.JOB_NOT_ISOLATED


def test_a_bundle_that_says_other_numbers_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = road(tmp_path)
    monkeypatch.setattr("dicom_node.executors.process.ask_module", lambda *_: (78, "other numbers"))
    with pytest.raises(StageError) as caught:
        job.verify_golden(made.bundle, job.executor_of(Job()))
    assert caught.value.code == FailureReason.BUNDLE_GOLDEN_CASE_FAILED


def test_a_stage_that_stumbles_fails_its_work_item_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = road(tmp_path)
    made.take(*CT, rtstruct(CT))
    monkeypatch.setattr(made.worker.analyst._runner, "analyse", lambda *_, **__: 1 / 0)
    made.work()
    _failed_with(made, FailureReason.STAGE_FAILED)


def test_a_disk_that_fails_is_tried_again_and_then_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error")

    made = road(tmp_path, job=Job(attempts=1))
    made.take(*CT, rtstruct(CT))
    monkeypatch.setattr(made.worker.analyst._runner, "analyse", broken)
    made.work()
    _failed_with(made, FailureReason.DISK_FAILED)


def test_a_study_that_ends_the_node_each_time_is_given_up(tmp_path: Path) -> None:
    made = road(tmp_path, job=Job(attempts=1))
    made.take(*CT, rtstruct(CT))
    made.worker.step_plan()
    assert made.store.claim(State.SCHEDULED, "a worker that died", 1.0, made.clock()) is not None
    made.clock.now += 60
    made.worker.step_analyse()
    _failed_with(made, FailureReason.NODE_ENDED)


def test_a_destination_that_refuses_is_named(tmp_path: Path) -> None:
    with DemoPacs(tmp_path / "pacs", "PACS", commitment="none", status=lambda _: 0xA900) as pacs:
        peer = Peer("PACS", port=pacs.port, sends=False, receives_results=True, proof="find")
        made = road(tmp_path, peers=(peer,))
        made.settings = replace(made.settings, deliver=replace(made.settings.deliver, reread_demographics=False))
        made.restart()
        gap = synthetic.drop_slice(CT)
        made.take(*gap, rtstruct(gap))
        made.later(0.0)
        made.later(60.0)
    _failed_with(made, FailureReason.DELIVERY_REFUSED)
