"""Bad input ends in a clear refusal or a NOT_SCORED with its reason; the service goes on, and nothing good is lost."""

import copy
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.tag import Tag
from pydicom.uid import JPEG2000Lossless, RLELossless
from typer.testing import CliRunner

from analysis.contract import REASONS, Reason
from dicom_node.cli import app
from dicom_node.demo_pacs import DemoPacs
from tests.e2e.node import (
    NOT_SCORED_OBJECTS,
    SCORED_OBJECTS,
    Node,
    assert_valid,
    completed,
    echo,
    filed,
    items_of,
    kind_of,
    kinds_in,
    log_of,
    node_and_pacs,
    send,
    spool_of,
    storescu,
)
from tests.network import association, data_set_bytes, store_bytes
from tests.synthetic import CT, ball_contours, ct_series, rtstruct, save, save_all
from tests.validators import dsr2text

Study = list[Dataset]
Road = tuple[Node, DemoPacs]


@pytest.fixture(scope="module")
def road(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Road]:
    folder = tmp_path_factory.mktemp("bad")
    with node_and_pacs(folder / "node", folder / "pacs") as running:
        yield running


def _raw(dataset: Dataset, keyword: str, vr: str, value: bytes) -> None:
    """Put bytes into a data set that pydicom would refuse to make."""
    tag = Tag(keyword)
    dataset._dict[tag] = RawDataElement(tag, vr, len(value), value, 0, False, True)


# -- studies that are not scored -------------------------------------------------------------------------------


def _no_contours(ct: Study) -> Study:
    return [*ct, rtstruct(ct, contours=[])]


def _no_contour_sequence(ct: Study) -> Study:
    contour = rtstruct(ct)
    del contour.ROIContourSequence
    return [*ct, contour]


def _two_points(ct: Study) -> Study:
    return [*ct, rtstruct(ct, contours=[points[:2] for points in ball_contours(ct)])]


def _beside_the_image(ct: Study) -> Study:
    return [*ct, rtstruct(ct, centre=[500, 500, -80])]


def _above_the_image(ct: Study) -> Study:
    return [*ct, rtstruct(ct, contours=[points + np.array([0, 0, 300]) for points in ball_contours(ct)])]


def _nan_contour(ct: Study) -> Study:
    return [*ct, rtstruct(ct, contours=[points * np.nan for points in ball_contours(ct)])]


def _nan_spacing(ct: Study) -> Study:
    made = [*ct, rtstruct(ct)]
    for instance in ct:
        _raw(instance, "PixelSpacing", "DS", b"NaN\\NaN ")
    return made


def _endless_position(ct: Study) -> Study:
    made = [*ct, rtstruct(ct)]
    _raw(ct[0], "ImagePositionPatient", "DS", b"1" * 65_000)
    return made


def _other_patient_geometry(ct: Study) -> Study:
    return [*ct, rtstruct(ct, FrameOfReferenceUID="2.25.1")]


REFUSED: dict[Reason, list[Callable[[Study], Study]]] = {
    Reason.ROI_EMPTY: [_no_contours, _no_contour_sequence, _two_points],
    Reason.ROI_OUTSIDE_IMAGE: [_beside_the_image, _above_the_image],
    Reason.ROI_UNREADABLE: [_nan_contour],
    Reason.GEOMETRY_INVALID: [_nan_spacing, _endless_position],
    Reason.ROI_FRAME_OF_REFERENCE_DIFFERS: [_other_patient_geometry],
}
CASES = [(make, reason, 61 + k) for k, (make, reason) in enumerate((m, r) for r, ms in REFUSED.items() for m in ms)]


@pytest.fixture(scope="module")
def sent(road: Road, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Study]:
    """All of them at once, so that the node works on the next ones while a test looks at the first."""
    studies = {seed: make(ct_series(10, 32, 32, seed=seed)) for make, _, seed in CASES}
    for study in studies.values():
        send(road[0].port, save_all(study, tmp_path_factory.mktemp("study")))
    return studies


@pytest.mark.parametrize(("reason", "seed"), [case[1:] for case in CASES], ids=[case[0].__name__[1:] for case in CASES])
def test_a_study_that_cannot_be_scored_gets_a_report_that_says_why_and_what_to_do(
    road: Road, sent: dict[int, Study], reason: Reason, seed: int
) -> None:
    _assert_refused(road, sent[seed], reason)


def _assert_refused(road: Road, study: Sequence[Dataset], reason: Reason) -> None:
    node, pacs = road
    item = completed(node.folder, study[0].StudyInstanceUID)
    assert (item.outcome, item.reason) == ("NOT_SCORED", reason)
    there = filed(pacs, study[0].StudyInstanceUID)
    assert sorted(kind_of(dataset) for dataset, _ in there) == sorted(NOT_SCORED_OBJECTS)
    assert {dataset.PatientID for dataset, _ in there} == {study[0].PatientID}
    assert_valid([path for _, path in there])
    text = dsr2text(next(path for dataset, path in there if dataset.Modality == "SR"))
    assert " ".join(REASONS[reason].sentence.split()) in text
    assert " ".join(REASONS[reason].remedy.split()) in text


def _garbled(instance: Dataset, syntax: str, fragment: bytes, folder: Path) -> Path:
    """The instance as a file whose pixels are called compressed, and are not."""
    path = save(instance, folder)
    dataset = dcmread(path)
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = encapsulate([fragment])
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(path, enforce_file_format=True)
    return path


@pytest.mark.parametrize(
    ("syntax", "option", "fragment", "seed"),
    [
        (RLELossless, "-xr", b"\x02" + b"\xff" * 301, 75),
        (JPEG2000Lossless, "-xv", b"\xff\x4f\xff\x51" + b"\0" * 200, 76),
    ],
    ids=["RLE", "JPEG 2000"],
)
def test_pixels_that_cannot_be_decoded_are_not_taken_or_not_scored(
    road: Road, tmp_path: Path, syntax: str, option: str, fragment: bytes, seed: int
) -> None:
    """Where the node has a decoder it takes the object, and the job finds out; else the syntax is not negotiated."""
    node, _ = road
    ct = ct_series(10, 32, 32, seed=seed)
    send(node.port, [*save_all(ct[1:], tmp_path), save(rtstruct(ct), tmp_path)])
    done = storescu(node.port, [_garbled(ct[0], syntax, fragment, tmp_path)], option)
    if done.returncode == 0:
        _assert_refused(road, ct, Reason.PIXEL_DATA_UNDECODABLE)
    else:
        assert "No presentation context" in done.stderr
        assert [item.state for item in items_of(node.folder, ct[0].StudyInstanceUID)] == ["WAITING"]


# -- objects that are not taken --------------------------------------------------------------------------------


def test_objects_that_cannot_be_taken_are_refused_one_by_one_and_the_rest_is_scored(road: Road, tmp_path: Path) -> None:
    """All on one association: what is refused must not take the good objects beside it along."""
    node, pacs = road
    ct = ct_series(12, 36, 36, seed=77)
    paths = [*save_all(ct, tmp_path), save(rtstruct(ct), tmp_path)]
    data = data_set_bytes(paths[0])
    study = str(ct[0].StudyInstanceUID).encode()
    series = str(ct[0].SeriesInstanceUID).encode()
    evil = b"../../../../tmp/x"
    hostile = {
        "cut short in the pixels": data[:-600],
        "cut short in the header": data[:300],
        "a UID with path characters": data.replace(study, evil + b"1" * (len(study) - len(evil))),
        "an empty UID": data.replace(series, b" " * len(series)),
        "another SOP instance": data.replace(
            str(ct[0].SOPInstanceUID).encode(), str(ct[1].SOPInstanceUID).encode()[::-1]
        ),
        "an attribute of 65,000 characters": _with(ct[0], "SeriesInstanceUID", "1." * 32_500),
        "noise": bytes(range(256)) * 40,
        "nothing but zeros": bytes(10_000),
    }
    kept = len(list(spool_of(node.folder).root.glob("instances/*/*.dcm")))
    with association(node.port, [CT]) as made:
        for name, bad in hostile.items():
            status, comment = store_bytes(made, CT, ct[0].SOPInstanceUID, bad)
            assert status in (0xA900, 0xC000, 0x0117), (name, status)
            assert comment, name
            assert len(comment) <= 64, name
            assert not any(piece in comment for piece in ("../", "tmp", ct[0].PatientID)), name
    assert len(list(spool_of(node.folder).root.glob("instances/*/*.dcm"))) == kept
    assert list(spool_of(node.folder).incoming.iterdir()) == []
    assert not Path("/tmp/x").exists()
    send(node.port, paths)
    assert completed(node.folder, ct[0].StudyInstanceUID).outcome == "SCORED"
    assert kinds_in(pacs, ct[0].StudyInstanceUID) == SCORED_OBJECTS


def _with(instance: Dataset, keyword: str, text: str) -> bytes:
    """The data set's bytes (Explicit VR Little Endian) with one value that is far too long."""
    made = copy.deepcopy(instance)
    _raw(made, keyword, "UI", text.encode())
    stream = DicomBytesIO()
    stream.is_little_endian, stream.is_implicit_VR = True, False
    write_dataset(stream, made)
    return stream.getvalue()


def test_strings_of_65000_characters_neither_stop_the_node_nor_enter_its_log(road: Road, tmp_path: Path) -> None:
    """They are the sender's; the reports carry the patient's attributes as the CT has them."""
    node, pacs = road
    ct = ct_series(12, 36, 36, seed=78, patient_name="N" * 65_000, StudyDescription="D" * 65_000)
    contour = rtstruct(ct)
    contour.StructureSetROISequence[0].ROIName = "GTV" + "x" * 64_990
    send(node.port, [*save_all(ct, tmp_path), save(contour, tmp_path)])
    assert completed(node.folder, ct[0].StudyInstanceUID).outcome == "SCORED"
    there = filed(pacs, ct[0].StudyInstanceUID)
    assert {str(dataset.PatientName) for dataset, _ in there} == {"N" * 65_000}
    assert max(map(len, log_of(node.folder).splitlines())) < 1000


def test_after_all_this_the_node_answers_and_scores(road: Road, tmp_path: Path) -> None:
    node, pacs = road
    assert echo(node.port)
    ct = ct_series(12, 36, 36, seed=79)
    send(node.port, [*save_all(ct, tmp_path), save(rtstruct(ct), tmp_path)])
    assert completed(node.folder, ct[0].StudyInstanceUID).outcome == "SCORED"
    assert kinds_in(pacs, ct[0].StudyInstanceUID) == SCORED_OBJECTS
    assert {str(item.state) for item in items_of(node.folder)} <= {"COMPLETED", "WAITING"}
    log = log_of(node.folder)
    assert "Traceback" not in log
    assert " ERROR " not in log


# -- files ---------------------------------------------------------------------------------------------------


def test_score_names_each_file_it_cannot_use_and_scores_the_rest(tmp_path: Path) -> None:
    ct = ct_series(12, 36, 36, seed=80)
    folder = tmp_path / "in"
    good = [*save_all(ct, folder), save(rtstruct(ct), folder)]
    whole = good[0].read_bytes()
    bad = {
        "no-preamble.dcm": (data_set_bytes(good[0]), "has no DICOM Part 10 header"),
        "wrong-syntax.dcm": (whole.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2\0\0\0"), "not the encoding"),
        "truncated.dcm": (whole[:-600], "cut short in PixelData"),
        "half-a-header.dcm": (whole[:300], ""),
        "path-uid.dcm": (
            whole.replace(str(ct[0].StudyInstanceUID).encode(), b"../" * 14 + b"12"),
            "StudyInstanceUID is not",
        ),
        "empty.dcm": (b"", "has no DICOM Part 10 header"),
        "letter.txt": (b"Dear colleague", "has no DICOM Part 10 header"),
    }
    for name, (data, _) in bad.items():
        (folder / name).write_bytes(data)
    done = CliRunner().invoke(app, ["score", str(folder), "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert [entry["outcome"] for entry in summary["work_items"]] == ["SCORED"]
    ignored = {entry["file"]: entry["why"] for entry in summary["ignored"]}
    assert sorted(ignored) == sorted(bad)
    for name, (_, words) in bad.items():
        assert words in ignored[name], name
        assert ct[0].PatientID not in ignored[name]


def test_score_of_pixels_that_cannot_be_decoded_says_so(tmp_path: Path) -> None:
    ct = ct_series(10, 32, 32, seed=81)
    folder = tmp_path / "in"
    save(rtstruct(ct), folder)
    for instance in ct:
        _garbled(instance, JPEG2000Lossless, b"\xff\x4f\xff\x51" + b"\0" * 200, folder)
    done = CliRunner().invoke(app, ["score", str(folder), "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    (entry,) = json.loads((tmp_path / "out" / "summary.json").read_text())["work_items"]
    assert (entry["outcome"], entry["reason"]) == ("NOT_SCORED", "PIXEL_DATA_UNDECODABLE")
    assert entry["remedy"]
