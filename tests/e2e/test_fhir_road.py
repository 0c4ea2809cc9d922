"""Results on their way to a FHIR server in another process that is down, busy, forgetful and up again: each once.

Stages run in this process, jobs do not; `test_fhir_node` does the same with `prognode serve`.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from config.settings import Deliver, FhirServer
from dicom_node.deliveries import Delivery
from dicom_node.workitem import DeliveryState, State, WorkItem
from tests import synthetic
from tests.fhir_peer import SYSTEM, FhirPeer, fhir_peer, patient
from tests.road import Road, road

CT = synthetic.ct_series(16, 40, 40, seed=1)
QUICK = Deliver(first_delay_seconds=1.0, longest_delay_seconds=4.0, connect_timeout_seconds=2.0)
WHOLE = {"Device": 1, "DiagnosticReport": 1, "RiskAssessment": 1, "Observation": 2, "Provenance": 1}


@dataclass
class Site:
    """A node with a FHIR server and no PACS."""

    node: Road
    ehr: FhirPeer

    def row(self, item: WorkItem | None = None) -> Delivery:
        rows = self.node.store.deliveries.of_item((item or self.node.items[0]).id)
        (found,) = [row for row in rows if row.destination == "fhir:EHR"]
        return found

    def score(self, radius: float = 10.0) -> WorkItem:
        self.node.take(*CT, synthetic.rtstruct(CT, radius=radius))
        self.node.later()
        return self.node.items[0]

    @property
    def held(self) -> dict[str, int]:
        return dict(Counter(one["resourceType"] for one in self.ehr.holds()))


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FhirPeer]:
    with fhir_peer(tmp_path_factory.mktemp("ehr")) as ehr:
        yield ehr


@pytest.fixture
def site(running: FhirPeer, tmp_path: Path) -> Site:
    running.forgets()
    running.knows(patient(CT[0].PatientID, "17"))
    server = FhirServer(
        "EHR", running.base_url, timeout_seconds=30.0, receives_results=True, patient_identifier_system=SYSTEM
    )
    return Site(road(tmp_path, fhir_servers=(server,), deliver=QUICK), running)


def test_a_server_that_is_down_busy_and_killed_holds_each_result_once_when_it_is_up(site: Site) -> None:
    site.ehr.stop()
    item = site.score()
    assert item.state is State.REPORTED
    assert (site.row().state, site.row().sop_instance_uid) == (DeliveryState.PENDING, None)

    site.ehr.start()
    site.ehr.is_in("503")
    site.node.later(5.0)
    assert "answered HTTP 503" in site.row().detail

    site.ehr.is_in("drop")  # it takes everything, and its answer is lost
    site.node.later(5.0)
    assert (site.row().state, site.held) == (DeliveryState.PENDING, WHOLE)
    known = site.row().sop_instance_uid
    assert known

    site.ehr.stop()
    site.node.restart()
    site.node.later(5.0)
    site.ehr.start()
    site.ehr.is_in("partial")
    site.node.later(10.0)
    assert "1 of 6 resources have not been created (status 422)" in site.row().detail

    site.ehr.is_in("")
    site.node.later(5.0)
    assert (site.row().state, site.node.items[0].state) == (DeliveryState.ACKNOWLEDGED, State.COMPLETED)
    assert site.held == WHOLE
    (report,) = site.ehr.holds("DiagnosticReport")
    assert report["identifier"][0]["value"] == known
    site.node.later(3600.0)
    assert len(site.ehr.posts) == 4


def test_a_server_that_asks_for_time_is_left_alone_so_long(site: Site) -> None:
    site.ehr.is_in("retry 900")
    site.score()
    assert len(site.ehr.posts) == 1
    site.ehr.is_in("")
    site.node.later(800.0)
    assert (len(site.ehr.posts), site.row().state) == (1, DeliveryState.PENDING)
    site.node.restart()
    site.node.later(50.0)
    assert len(site.ehr.posts) == 1
    site.node.later(100.0)
    assert site.row().state is DeliveryState.ACKNOWLEDGED


def test_what_the_server_refuses_is_for_an_operator_and_not_sent_again_by_itself(site: Site) -> None:
    site.ehr.is_in("422")
    item = site.score()
    assert item.state is State.FAILED
    assert "its log says why; then: prognode retry" in site.row().detail
    site.node.later(3600.0)
    assert len(site.ehr.posts) == 1
    site.ehr.is_in("")
    assert site.node.store.retry(item.id, site.node.clock())
    site.node.work()
    assert site.node.items[0].state is State.COMPLETED
    assert site.held == WHOLE


def test_a_patient_that_the_server_does_not_know_yet_is_waited_for(site: Site) -> None:
    site.ehr.knows()
    item = site.score()
    assert (item.state, site.ehr.posts) == (State.REPORTED, [])
    assert "does not know the patient (yet)" in site.row().detail
    site.ehr.knows(patient(CT[0].PatientID, "17"))
    site.node.later(5.0)
    assert site.row().state is DeliveryState.ACKNOWLEDGED
    assert {report["subject"]["reference"] for report in site.ehr.holds("DiagnosticReport")} == {"Patient/17"}


def test_a_revision_is_another_report_that_names_the_one_before(site: Site) -> None:
    site.score()
    site.score(radius=8.0)
    first, second = site.ehr.holds("DiagnosticReport")
    (replaces,) = [one for one in second["extension"] if one["url"].endswith("diagnosticReport-replaces")]
    assert replaces["valueReference"]["identifier"] == first["identifier"][0]
    assert not [one for one in first["extension"] if one["url"].endswith("diagnosticReport-replaces")]
    assert site.held == {**{kind: 2 * number for kind, number in WHOLE.items()}, "Device": 1}
    assert [report["status"] for report in (first, second)] == ["cancelled", "preliminary"]


def test_a_revision_names_what_may_have_arrived(site: Site) -> None:
    site.ehr.is_in("drop")
    site.score()
    site.ehr.is_in("503")
    second = site.score(radius=8.0)
    site.ehr.is_in("")
    site.node.later(10.0)
    site.node.later(10.0)
    assert site.row(second).state is DeliveryState.ACKNOWLEDGED
    first, last = site.ehr.holds("DiagnosticReport")
    assert last["extension"][0]["valueReference"]["identifier"] == first["identifier"][0]


def test_after_a_merge_the_result_is_filed_under_the_surviving_patient(site: Site) -> None:
    site.ehr.is_in("503")
    item = site.score()
    known = site.node.store.patients.of_study(item.study_instance_uid)
    assert known is not None
    site.node.store.patients.change(
        item.study_instance_uid, replace(known, patient_id="SURVIVING"), "HL7 ADT^A40", site.node.clock()
    )
    site.ehr.knows(patient(CT[0].PatientID, "17"), patient("SURVIVING", "18"))
    site.ehr.is_in("")
    site.node.later(5.0)
    (report,) = site.ehr.holds("DiagnosticReport")
    assert report["subject"]["reference"] == "Patient/18"


def test_a_result_without_a_score_is_sent_too(site: Site) -> None:
    site.node.take(*CT[:2], synthetic.rtstruct(CT[:2]))
    site.node.later(60.0)
    assert site.node.items[0].outcome == "NOT_SCORED"
    assert site.held == {"Device": 1, "DiagnosticReport": 1, "Observation": 1, "Provenance": 1}
    (report,) = site.ehr.holds("DiagnosticReport")
    assert "Not scored" in report["conclusion"]
