"""A real PACS: Orthanc holds the study, forwards CT and contour by a rule, and gets the results back into the study."""

import hashlib
import urllib.error
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import dcmread

from dicom_node.instance import SEG
from tests.e2e.node import (
    NODE,
    SCORED_OBJECTS,
    Node,
    assert_valid,
    completed,
    deliveries_of,
    destination,
    events_of,
    items_of,
    kind_of,
    log_of,
    peer,
    report_digests,
    serving,
    spool_of,
    wait_for,
    write_settings,
)
from tests.e2e.orthanc import AE_TITLE, DICOM_PORT, FORWARD_EVERYTHING, NODE_PORT, Orthanc, orthanc
from tests.paths import shared
from tests.synthetic import ct_series, rtstruct, save, save_all
from tests.validators import pixelmed

pytestmark = pytest.mark.orthanc
OURS = {"SR": 2, "OT": 1, "SEG": 1, "PR": 1}
PATIENT = {"commitment_wait_seconds": 60.0}  # Orthanc reports when it has time
Road = tuple[Orthanc, Node]


def _settings(folder: Path) -> Path:
    return write_settings(folder, destination(AE_TITLE, DICOM_PORT) | {"sends": True}, port=NODE_PORT, deliver=PATIENT)


@pytest.fixture
def road(tmp_path: Path) -> Iterator[Road]:
    with orthanc(tmp_path / "orthanc") as pacs:
        _settings(tmp_path / "node")
        with serving(tmp_path / "node") as node:
            yield pacs, node


def test_the_phantom_study_gets_two_srs_a_page_and_a_seg_back_from_the_node(road: Road, tmp_path: Path) -> None:
    pacs, node = road
    paths = sorted(shared("data", "ibsi_1_ct_phantom", "dicom").rglob("*.dcm"))
    source = dcmread(paths[0], stop_before_pixels=True)
    for path in paths:
        pacs.upload(path)
    item = completed(node.folder, source.StudyInstanceUID)
    assert item.outcome == "SCORED"
    assert pacs.modalities(source.StudyInstanceUID) == {"CT": 1, "RTSTRUCT": 1, **OURS}
    assert len(pacs.find("Study")) == 1, "another PatientID would make another study in Orthanc"
    assert len(pacs.find("Instance", StudyInstanceUID=source.StudyInstanceUID)) == len(paths) + len(SCORED_OBJECTS)
    assert {row.document: str(row.state) for row in deliveries_of(node.folder, item)} == dict.fromkeys(
        SCORED_OBJECTS, "COMMITTED"
    )
    back = [path for modality in OURS for path in pacs.files(source.StudyInstanceUID, modality, tmp_path / "back")]
    for path in back:
        dataset = dcmread(path, stop_before_pixels=True)
        for keyword in ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyID", "AccessionNumber"):
            assert dataset.get(keyword) == source.get(keyword, dataset.get(keyword)), keyword
    assert_valid(back)
    risk = next(path for path in back if kind_of(dcmread(path, stop_before_pixels=True)) == "risk-sr")
    assert pixelmed(risk) == []
    _own_results_sent_back_do_not_trigger(road, source.StudyInstanceUID)


def _own_results_sent_back_do_not_trigger(road: Road, study: str) -> None:
    """The loop guard, the hard way: everything of the study goes to the node again, and our own SEG with it."""
    pacs, node = road
    before = [(item.id, item.key) for item in items_of(node.folder)]
    instances = len(pacs.find("Instance"))
    for series in pacs.series_of(study):
        modality = series["MainDicomTags"]["Modality"]
        if modality in ("SR", "OT", "PR"):
            with pytest.raises(urllib.error.HTTPError):  # a SOP class that the node does not take
                pacs.send_series(series["ID"])
        else:
            pacs.send_series(series["ID"])
    assert len(_own_segs(node.folder)) == 1, "the SEG came back and was kept"
    # A study that comes afterwards ends after anything that the loop might have started.
    ct = ct_series(16, 40, 40, seed=21)
    folder = node.folder / "sent"
    for path in [*save_all(ct, folder), save(rtstruct(ct), folder)]:
        pacs.upload(path)
    later = completed(node.folder, ct[0].StudyInstanceUID)
    assert [(item.id, item.key) for item in items_of(node.folder)] == [*before, (later.id, later.key)]
    assert len(pacs.find("Instance")) == instances + len(ct) + 1 + len(SCORED_OBJECTS)


def _own_segs(folder: Path) -> list[Path]:
    """SEGs of our own that somebody has sent to us."""
    return [path for path in spool_of(folder).root.glob("instances/*/*.dcm") if dcmread(path).SOPClassUID == SEG]


@pytest.mark.exhaustive
def test_a_rule_that_forwards_everything_does_not_make_a_loop(tmp_path: Path) -> None:
    with orthanc(tmp_path / "orthanc", FORWARD_EVERYTHING) as pacs:
        _settings(tmp_path / "node")
        with serving(tmp_path / "node") as node:
            ct = ct_series(16, 40, 40, seed=22)
            for path in [*save_all(ct, tmp_path / "study"), save(rtstruct(ct), tmp_path / "study")]:
                pacs.upload(path)
            item = completed(node.folder, ct[0].StudyInstanceUID)
            wait_for(lambda: _own_segs(node.folder), "our SEG comes back", folder=node.folder)
            assert pacs.modalities(ct[0].StudyInstanceUID) == {"CT": 1, "RTSTRUCT": 1, **OURS}
            # A study that comes afterwards ends after anything that a loop might have started.
            second = ct_series(16, 40, 40, seed=23)
            for path in [*save_all(second, tmp_path / "second"), save(rtstruct(second), tmp_path / "second")]:
                pacs.upload(path)
            completed(node.folder, second[0].StudyInstanceUID)
            assert [one.key for one in items_of(node.folder, ct[0].StudyInstanceUID)] == [item.key]
            assert events_of(node.folder, item).count("scheduled") == 1


@pytest.mark.exhaustive
def test_a_node_killed_before_delivery_delivers_once_to_a_real_pacs(tmp_path: Path) -> None:
    with orthanc(tmp_path / "orthanc") as pacs:
        _settings(tmp_path / "node")
        ct = ct_series(16, 40, 40, seed=24)
        with serving(tmp_path / "node") as node:
            for path in [*save_all(ct, tmp_path / "study"), save(rtstruct(ct), tmp_path / "study")]:
                pacs.upload(path)
            (item,) = wait_for(
                lambda: [one for one in items_of(node.folder) if one.state == "REPORTED"],
                "REPORTED",
                folder=node.folder,
            )
            node.kill()
        before = report_digests(tmp_path / "node", item)
        with serving(tmp_path / "node") as node:
            item = completed(node.folder, ct[0].StudyInstanceUID)
        assert report_digests(node.folder, item) == before
        assert pacs.modalities(ct[0].StudyInstanceUID) == {"CT": 1, "RTSTRUCT": 1, **OURS}
        there = {
            hashlib.sha256(dcmread(path).to_json().encode()).hexdigest()
            for modality in OURS
            for path in pacs.files(ct[0].StudyInstanceUID, modality, tmp_path / "back")
        }
        report = spool_of(node.folder).results(item.key or "", "report")
        here = {
            hashlib.sha256(dcmread(report / f"{name}.dcm").to_json().encode()).hexdigest() for name in SCORED_OBJECTS
        }
        assert there == here
        assert f"stage.failed work item {(item.key or NODE)[:12]}" not in log_of(node.folder)


def test_the_node_s_ae_title_must_be_known_to_the_pacs_or_the_log_says_what_to_do(tmp_path: Path) -> None:
    with orthanc(tmp_path / "orthanc") as pacs:
        write_settings(
            tmp_path / "node",
            destination(AE_TITLE, DICOM_PORT) | {"sends": True},
            peer("UNUSED"),
            port=NODE_PORT,
            node={"ae_title": "STRANGER"},
        )
        # Orthanc calls "PROGNODE", the node is "STRANGER": refused at both ends, in words.
        with serving(tmp_path / "node") as node:
            pacs.upload(save(ct_series(1, seed=25)[0], tmp_path / "study"))
            wait_for(lambda: "association.refused" in log_of(node.folder), "a refusal", folder=node.folder)
            assert 'set this node\'s AE title to "STRANGER"' in log_of(node.folder)
            assert items_of(node.folder) == []
