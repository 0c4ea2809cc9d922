"""Late contours, late images, several contours and several CT series: what is chosen, when, and what is said of it.

Planned on the real road, not analysed: the job is shown elsewhere.
"""

import copy
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import generate_uid

from analysis.contract import JobResult, Reason, Severity
from config.settings import Planning
from dicom_node import status
from dicom_node.operations import Actor, Refused, act
from dicom_node.ticket import ticket_of
from dicom_node.workitem import State, WorkItem
from tests import synthetic
from tests.road import Road, road

CT = synthetic.ct_series(16, 40, 40, seed=42)
STUDY = str(CT[0].StudyInstanceUID)
HOUR = 3600.0


@pytest.fixture
def node(tmp_path: Path) -> Road:
    return road(tmp_path, plan=Planning(quiet_seconds=30.0, missing_instances_hours=24.0))


def plan(node: Road, seconds: float = 0.0) -> list[WorkItem]:
    """Plan after so many seconds; the work items of contours, newest first."""
    node.clock.now += seconds
    while node.worker.step_plan():
        pass
    return [item for item in node.items if item.roi_sop_instance_uid]


def another_series(ct: list[Dataset], description: str = "Lung 1 mm") -> list[Dataset]:
    """The same scan, reconstructed once more: same study and frame of reference."""
    made = copy.deepcopy(ct)
    series = generate_uid()
    for image in made:
        image.SeriesInstanceUID, image.SeriesDescription = series, description
        image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    return made


def chosen(node: Road, item: WorkItem) -> str:
    """What the history says of the choice."""
    return next(e["detail"] for e in node.store.details(item.id)["events"] if e["name"] == "scheduled")


@pytest.mark.parametrize("hours", [1.0, 30.0, 24.0 * 30])
def test_a_contour_that_comes_hours_or_days_after_its_ct_starts_at_once(node: Road, hours: float) -> None:
    node.take(*CT)
    plan(node)
    assert [(item.state, item.reason) for item in node.items] == [(State.WAITING, Reason.NO_CONTOUR)]
    node.clock.now += hours * HOUR
    node.take(synthetic.rtstruct(CT))
    (item,) = plan(node)
    assert (item.state, item.revision) == (State.SCHEDULED, 1)
    assert [item.state for item in node.items] == [State.SCHEDULED]  # the CT waits for nothing any more


def test_a_turn_of_the_planner_wakes_jobs_where_something_came_or_what_waits_was_looked_at(
    node: Road, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan(node)
    woken: list[State | None] = []
    monkeypatch.setattr(node.worker._loop, "wake", woken.append)
    plan(node, 0.2)
    assert woken == []
    node.take(*CT, synthetic.rtstruct(CT))
    plan(node, 0.2)
    assert woken == [State.SCHEDULED]
    plan(node, 6.0)
    assert woken == [State.SCHEDULED] * 2


def test_a_clock_that_is_set_back_does_not_keep_what_waits_from_being_looked_at(node: Road) -> None:
    plan(node)
    node.clock.now -= HOUR
    node.take(*CT, synthetic.rtstruct(CT, series_level_references=False))
    (item,) = plan(node)
    assert item.state is State.WAITING
    (item,) = plan(node, 40.0)
    assert item.state is State.SCHEDULED


def test_a_contour_that_comes_before_its_ct_waits_for_it_and_the_shortfall_is_stated_after_a_day(node: Road) -> None:
    node.take(synthetic.rtstruct(CT), *CT[:10])
    (item,) = plan(node, 23 * HOUR)
    assert (item.state, item.hint) == (State.WAITING, "10 of 16 images are here")
    (item,) = plan(node, 2 * HOUR)
    assert (item.state, item.reason) == (State.SCHEDULED, Reason.REFERENCED_CT_INCOMPLETE)
    node.work()  # the report says so
    assert node.items[0].state is State.COMPLETED

    node.clock.now += 72 * HOUR
    node.take(*CT[10:])
    newest, before = plan(node)
    assert (newest.state, newest.reason, newest.revision) == (State.SCHEDULED, None, 2)
    assert newest.predecessor_key == before.key


def test_an_operator_who_knows_that_nothing_more_will_come_has_a_contour_planned_at_once(node: Road) -> None:
    node.take(synthetic.rtstruct(CT), *CT[:10])
    (item,) = plan(node, 1.0)
    assert item.state is State.WAITING
    assert act(node.store, "plan", item.id, Actor("anna", "cli"), node.clock()).startswith("it is planned with what")
    (item,) = plan(node, 6.0)
    assert (item.state, item.reason) == (State.SCHEDULED, Reason.REFERENCED_CT_INCOMPLETE)
    assert [event["name"] for event in node.store.details(item.id)["events"]][-2:] == ["planned at once", "scheduled"]
    (entry,) = [entry for entry in node.store.audit.of_item(item.id) if entry.actor == "anna"]
    assert (entry.action, entry.outcome) == ("workitem.plan", "done")
    with pytest.raises(Refused, match="it does not wait"):
        act(node.store, "plan", item.id, Actor("anna", "cli"), node.clock())


def test_what_came_under_other_uids_is_planned_at_once_when_somebody_asks_for_it(node: Road) -> None:
    for image in copy.deepcopy(CT[:12]):
        image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        node.take(image)
    node.take(synthetic.rtstruct(CT))
    (item,) = plan(node, 45.0)
    assert item.state is State.WAITING, "fewer slices than the contour lists: ten times as long"
    act(node.store, "plan", item.id, Actor("anna", "cli"), node.clock())
    (item,) = plan(node, 6.0)
    assert (item.state, item.reason) == (State.SCHEDULED, None)


@pytest.mark.parametrize("named", ["nothing", "the contoured images"])
def test_a_contour_that_has_waited_long_goes_on_with_images_that_it_does_not_name(node: Road, named: str) -> None:
    contour = synthetic.rtstruct(
        CT, series_level_references=False, contour_level_references=named == "the contoured images"
    )
    contour.StudyInstanceUID, contour.FrameOfReferenceUID = CT[0].StudyInstanceUID, CT[0].FrameOfReferenceUID
    node.take(contour)
    (item,) = plan(node, 12 * HOUR)
    assert item.state is State.WAITING
    for part in (CT[:10], CT[10:]):
        node.take(*part)
        plan(node, 0.2)
    (item,) = plan(node, 45.0)
    assert item.state is State.SCHEDULED


def test_a_contour_that_is_drawn_anew_is_a_revision_by_its_uid_and_else_a_result_of_its_own(node: Road) -> None:
    first, corrected, other = (synthetic.rtstruct(CT, radius=radius) for radius in (10.0, 8.0, 6.0))
    other.SOPInstanceUID = other.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    node.take(*CT, first)
    assert len(plan(node)) == 1
    node.take(corrected)  # before the first has run: it takes its place
    node.take(other)
    items = plan(node)
    assert {item.roi_sop_instance_uid for item in items} == {first.SOPInstanceUID, other.SOPInstanceUID}
    assert [(item.state, item.revision) for item in items] == [(State.SCHEDULED, 1)] * 2
    superseded = [item for item in node.store.items() if item.state is State.CANCELED and item.key]
    assert [node.store.details(item.id)["events"][-1]["detail"] for item in superseded] == ["superseded"]


def test_of_several_series_the_contour_s_own_is_chosen_and_the_history_says_why(node: Road) -> None:
    thin, thick = another_series(CT), another_series(CT, "Soft 5 mm")
    node.take(*thin, *CT, *thick, synthetic.rtstruct(CT))
    (item,) = plan(node)
    assert (item.state, item.ct_series_instance_uid) == (State.SCHEDULED, CT[0].SeriesInstanceUID)
    assert chosen(node, item) == "the 16 images that the contour references; 2 other CT series of the study not used"
    assert "2 other CT series of the study not used" in (status.of_study(node.store, node.spool, STUDY) or "")


def test_of_several_series_that_a_contour_might_mean_none_is_guessed_at(node: Road) -> None:
    bare = {"series_level_references": False, "contour_level_references": False}
    contour = synthetic.rtstruct(CT, **bare)
    contour.StudyInstanceUID, contour.FrameOfReferenceUID = STUDY, CT[0].FrameOfReferenceUID
    node.take(*CT, *another_series(CT), contour)
    (item,) = plan(node, 60.0)
    assert (item.state, item.reason) == (State.SCHEDULED, Reason.ROI_WITHOUT_REFERENCES)
    ticket = ticket_of(item.plan)
    assert ticket is not None
    assert "2 CT series of its study and frame of reference are here" in str(ticket.decision)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "the 16 images that the contour references"),
        ({"series_level_references": False}, "all 16 images of the series that the contour references"),
    ],
)
def test_the_history_says_by_what_the_ct_was_chosen(node: Road, options: dict[str, bool], words: str) -> None:
    node.take(*CT, synthetic.rtstruct(CT, **options))
    plan(node)
    (item,) = plan(node, 60.0)
    assert chosen(node, item) == words


def test_a_contour_named_nothing_of_the_sites_is_scored_with_its_name_and_a_warning_everywhere(tmp_path: Path) -> None:
    node = road(tmp_path)
    ct = synthetic.ct_series(24, 64, 64, seed=42)
    node.take(*ct, synthetic.rtstruct(ct, roi_names=("Herd \u00e4\x1b<b>",), SpecificCharacterSet="ISO_IR 100"))
    node.work()
    (item,) = node.items
    analysis, report = (node.spool.results(item.key or "", part) for part in ("analysis", "report"))
    result = JobResult.model_validate_json((analysis / "result.json").read_bytes())
    assert result.roi is not None
    name = "Herd \u00e4\N{REPLACEMENT CHARACTER}<b>"
    assert result.roi.names == (name,)
    assert [flag.severity for flag in result.quality if flag.code == "ROI_NOT_NAMED_AS_TUMOUR"] == [Severity.WARNING]
    for document in ("risk-sr.dcm", "radiomics-sr.dcm"):
        said = "\n".join(element.value for element in dcmread(report / document).iterall() if element.VR == "UT")
        assert f'RTSTRUCT ROI 1 "{name}": ' in said
        assert "Warning: Check that this is the tumour" in said
    assert dcmread(report / "segmentation.dcm").SegmentSequence[0].SegmentDescription == name
