"""DCMTK's storescu is the modality: any order, one object per association; the results come back into the study."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from analysis.contract import Reason
from dicom_node.demo_pacs import DemoPacs
from tests.e2e.node import (
    NOT_SCORED_OBJECTS,
    SCORED_OBJECTS,
    Node,
    assert_same_content,
    assert_valid,
    completed,
    deliveries_of,
    ended,
    filed,
    items_of,
    kind_of,
    kinds_in,
    log_of,
    node_and_pacs,
    send,
    send_singly,
    spool_of,
    storescu,
    wait_for,
)
from tests.paths import shared
from tests.synthetic import ct_series, enhanced_ct, rtstruct, save, save_all, seg, shuffled

Road = tuple[Node, DemoPacs]


@pytest.fixture(scope="module")
def road(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Road]:
    """One node for the module: it must serve one study after the other anyway."""
    folder = tmp_path_factory.mktemp("road")
    patient = {"commitment_wait_seconds": 60.0}  # a report that is slow to come still comes
    with node_and_pacs(folder / "node", folder / "pacs", commitment="new", deliver=patient) as running:
        yield running


def _assert_scored(road: Road, source: Dataset) -> None:
    """One SR of each kind, page and SEG: in the CT's study, of its patient, valid, and proved."""
    node, pacs = road
    item = completed(node.folder, source.StudyInstanceUID)
    assert (item.outcome, item.reason) == ("SCORED", None)
    assert kinds_in(pacs, source.StudyInstanceUID) == SCORED_OBJECTS
    there = filed(pacs, source.StudyInstanceUID)
    for dataset, _ in there:
        for keyword in ("PatientID", "PatientName", "StudyInstanceUID", "AccessionNumber"):
            assert dataset[keyword].value == source[keyword].value, (kind_of(dataset), keyword)
    series = {dataset.SeriesInstanceUID for dataset, _ in there}
    assert len(series) == len(SCORED_OBJECTS) - 1, "the pages share one"
    assert {str(row.state) for row in deliveries_of(node.folder, item)} == {"COMMITTED"}
    assert_valid([path for _, path in there])
    assert_same_content(pacs, node.folder, item)


def test_the_phantom_goes_through_in_shuffled_order_one_object_per_association(road: Road) -> None:
    study = shared("data", "ibsi_1_ct_phantom", "dicom")
    paths = sorted(path for path in study.rglob("*.dcm"))
    send_singly(road[0].port, shuffled(paths, seed=1))
    source = dcmread(paths[0], stop_before_pixels=True)
    _assert_scored(road, source)


@pytest.mark.parametrize(
    ("place", "seed"), [("first", 11), ("last", 13), pytest.param("middle", 12, marks=pytest.mark.exhaustive)]
)
def test_the_contour_may_come_first_in_the_middle_or_last(road: Road, tmp_path: Path, place: str, seed: int) -> None:
    ct = ct_series(16, 40, 40, seed=seed)
    paths = shuffled(save_all(ct, tmp_path), seed=seed)
    paths.insert({"first": 0, "middle": 8, "last": 16}[place], save(rtstruct(ct), tmp_path))
    send_singly(road[0].port, paths)
    _assert_scored(road, ct[0])


def test_what_is_sent_again_does_not_run_again(road: Road, tmp_path: Path) -> None:
    node, pacs = road
    ct = ct_series(16, 40, 40, seed=14)
    paths = [*save_all(ct, tmp_path), save(rtstruct(ct), tmp_path)]
    send(node.port, [*paths, *shuffled(paths, seed=14)])
    first = completed(node.folder, ct[0].StudyInstanceUID)
    arrived = len(pacs.received)
    send(node.port, shuffled(paths, seed=15))
    # A study that comes after the duplicates ends after whatever they might have started.
    later = ct_series(16, 40, 40, seed=16)
    send(node.port, [*save_all(later, tmp_path / "later"), save(rtstruct(later), tmp_path / "later")])
    _assert_scored(road, later[0])
    again = items_of(node.folder, ct[0].StudyInstanceUID)
    assert [(item.id, item.key, item.revision) for item in again] == [(first.id, first.key, 1)]
    assert len(pacs.received) == arrived + len(SCORED_OBJECTS)


def test_a_contour_in_a_seg_is_scored_like_one_in_an_rtstruct(road: Road, tmp_path: Path) -> None:
    ct = ct_series(16, 40, 40, seed=17)
    send_singly(road[0].port, shuffled([*save_all(ct, tmp_path), save(seg(ct), tmp_path)], seed=17))
    _assert_scored(road, ct[0])


def test_an_enhanced_ct_is_scored(road: Road, tmp_path: Path) -> None:
    volume = enhanced_ct(ct_series(16, 40, 40, seed=18))
    send(road[0].port, [save(rtstruct(volume), tmp_path), save(volume, tmp_path)])
    _assert_scored(road, volume)


def test_a_corrected_contour_makes_the_next_revision_which_names_the_old_report(road: Road, tmp_path: Path) -> None:
    node, pacs = road
    ct = ct_series(16, 40, 40, seed=19)
    contour = rtstruct(ct)
    send(node.port, [*save_all(ct, tmp_path), save(contour, tmp_path)])
    first = completed(node.folder, ct[0].StudyInstanceUID)
    corrected = rtstruct(ct, radius=8.0)
    assert corrected.SOPInstanceUID == contour.SOPInstanceUID
    send(node.port, [save(corrected, tmp_path / "corrected")])
    _, second = ended(node.folder, ct[0].StudyInstanceUID, count=2)
    assert (second.revision, second.predecessor_key, second.outcome) == (2, first.key, "SCORED")
    assert kinds_in(pacs, ct[0].StudyInstanceUID) == dict.fromkeys(SCORED_OBJECTS, 2)
    reports = {
        path.parent.parent.name: dcmread(path)
        for path in spool_of(node.folder).root.glob("results/*/report/risk-sr.dcm")
    }
    old, new = reports[first.key or ""], reports[second.key or ""]
    named = new.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
    assert named.ReferencedSOPInstanceUID == old.SOPInstanceUID


def test_of_three_contours_on_ct_mr_and_pet_the_ct_s_is_scored_and_the_others_say_why_not(road: Road) -> None:
    node, pacs = road
    patient = shared("data", "sts_005")
    paths = sorted(path for path in patient.rglob("*.dcm"))
    headers = {
        path: dcmread(path, stop_before_pixels=True, specific_tags=["Modality", "StudyInstanceUID"]) for path in paths
    }
    done = storescu(node.port, shuffled(paths, seed=5), "--no-halt")
    for kind in ("MR", "PI"):
        assert f"No presentation context for: ({kind})" in done.stderr  # the node offers none for MR and PET
    ct_study = next(str(header.StudyInstanceUID) for header in headers.values() if header.Modality == "CT")
    contours = {
        str(dcmread(p).SOPInstanceUID): p.parts for p, header in headers.items() if header.Modality == "RTSTRUCT"
    }
    assert len(contours) == 3

    def all_ended() -> bool:
        mine = [item for item in items_of(node.folder) if item.roi_sop_instance_uid in contours]
        return len(mine) == 3 and all(item.state == "COMPLETED" for item in mine)

    wait_for(all_ended, "three work items are completed", folder=node.folder)
    outcome = {}
    for item in items_of(node.folder):
        if item.roi_sop_instance_uid in contours:
            modality = next(m for m in ("CT", "MR_T1", "PET") if m in contours[item.roi_sop_instance_uid])
            outcome[modality] = (item.outcome, item.reason)
            documents = [row.document for row in deliveries_of(node.folder, item)]
            assert sorted(documents) == sorted(SCORED_OBJECTS if modality == "CT" else NOT_SCORED_OBJECTS)
    refused = ("NOT_SCORED", Reason.ROI_REFERENCES_NOT_CT)
    assert outcome == {"CT": ("SCORED", None), "MR_T1": refused, "PET": refused}
    stored = {
        dcmread(path, specific_tags=["Modality"]).Modality
        for path in spool_of(node.folder).root.glob("instances/*/*.dcm")
    }
    assert stored <= {"CT", "RTSTRUCT", "SEG"}
    assert_valid([path for dataset, path in filed(pacs) if dataset.StudyInstanceUID == ct_study])


def test_nothing_of_all_this_was_an_error_to_the_node(road: Road) -> None:
    assert not [line for line in log_of(road[0].folder).splitlines() if " ERROR " in line]
