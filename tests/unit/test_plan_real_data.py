"""The planner on real objects: the IBSI phantom, and a patient with CT, MR and PET and a contour on each."""

import math
from pathlib import Path

import pytest

from analysis.contract import Combine, Reason, RoiKind
from config.settings import Planning
from dicom_node.decision import Decision, NotEligible, Plan, Waiting
from dicom_node.instance import Instance
from dicom_node.plan import decide
from tests.facts import read
from tests.paths import shared
from tests.synthetic import shuffled


def instances(folder: Path) -> list[Instance]:
    return [read(path) for path in sorted(folder.rglob("*.dcm"))]


def decision_on(roi: Instance, images: list[Instance], waited: float = math.inf) -> Decision:
    return decide(roi, images, Planning(), waited_seconds=waited, quiet=math.isinf(waited))


@pytest.fixture(scope="module")
def phantom() -> list[Instance]:
    return instances(shared("data", "ibsi_1_ct_phantom", "dicom"))


@pytest.fixture(scope="module")
def patient() -> dict[str, list[Instance]]:
    return {name: instances(shared("data", "sts_005", name)) for name in ("CT", "MR_T1", "PET")}


def test_the_phantom_is_planned_when_its_last_image_is_here(phantom: list[Instance]) -> None:
    roi = next(i for i in phantom if i.is_roi)
    images = [i for i in phantom if i.is_ct]
    plan = decision_on(roi, images, waited=0.0)
    assert isinstance(plan, Plan)
    assert (plan.roi_kind, plan.roi_numbers, plan.combine, plan.absent) == (RoiKind.RTSTRUCT, (1,), Combine.SINGLE, 0)
    heights = {i.sop_instance_uid: i.geometry.positions[0][2] for i in images}
    in_order = [heights[uid] for uid in plan.ct_sop_instance_uids]
    assert len(in_order) == 60
    assert in_order == sorted(in_order)
    assert decision_on(roi, shuffled(images, 1), waited=0.0) == plan
    assert isinstance(decision_on(roi, images[1:], waited=0.0), Waiting)


def test_the_phantom_without_two_images_says_so(phantom: list[Instance]) -> None:
    roi = next(i for i in phantom if i.is_roi)
    images = [i for i in phantom if i.is_ct]
    decision = decision_on(roi, images[2:])
    assert isinstance(decision, NotEligible)
    assert (decision.reason, decision.detail) == (Reason.REFERENCED_CT_INCOMPLETE, "58 of 60 images are here")


@pytest.mark.parametrize(("name", "kind"), [("MR_T1", "MR"), ("PET", "PET")])
def test_contours_on_mr_and_pet_are_refused_at_once(patient: dict[str, list[Instance]], name: str, kind: str) -> None:
    roi = next(i for i in patient[name] if i.is_roi)
    everything = [i for series in patient.values() for i in series]
    for images in ([], everything):
        decision = decision_on(roi, images, waited=0.0)
        assert isinstance(decision, NotEligible)
        assert decision.reason is Reason.ROI_REFERENCES_NOT_CT
        assert decision.detail == f"drawn on images of kind {kind}"


def test_the_contour_on_the_cropped_ct_is_planned_on_the_series_it_names_and_not_on_mr_or_pet(
    patient: dict[str, list[Instance]],
) -> None:
    """Whoever cropped this patient gave the 79 images left other UIDs than the 267 that the contour object lists."""
    roi = next(i for i in patient["CT"] if i.is_roi)
    everything = [i for series in patient.values() for i in series]
    assert isinstance(decision_on(roi, everything, waited=0.0), Waiting)
    plan = decision_on(roi, everything)
    assert isinstance(plan, Plan)
    assert (len(plan.ct_sop_instance_uids), plan.absent) == (79, 267)
    assert set(plan.ct_sop_instance_uids) == {i.sop_instance_uid for i in patient["CT"] if i.is_ct}
