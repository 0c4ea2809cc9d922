"""Results read by FHIR clients from a running `prognode web`: what is found, of whom, and who is told nothing."""

import contextlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import fhirkit
import httpx
import pytest
from fhir.resources.R4B import get_fhir_model_class

from analysis.contract import RESULT_FILE, JobResult
from dicom_node.accounts import Role
from dicom_node.fhir_out import context_of
from dicom_node.identity import Identity
from dicom_node.store import Store
from dicom_node.workitem import DeliveryState, State, WorkItem
from reports.fhir_context import identifiers_of
from tests.hl7_inputs import not_scored, scored
from tests.web.items import YAMADA, Items
from tests.web.site import VIEWER, Site, serving

KINDS = ("DiagnosticReport", "RiskAssessment", "Observation")
OID = "1.2.276.0.76"
ANNA = Identity(patient_id="PAT-0012", issuer_of_patient_id=OID, patient_name="Schmidt^Anna", study_date="20260201")


@dataclass
class Hospital:
    """A running page and the hand that makes its results."""

    site: Site
    items: Items
    client: httpx.Client
    numbers: Iterator[int]

    def result(
        self,
        person: Identity = YAMADA,
        made: JobResult | None = None,
        state: State = State.REPORTED,
        roi: str = "",
        study: str = "",
    ) -> WorkItem:
        """A study whose result is in the spool."""
        number = next(self.numbers)
        key = f"{number:04d}{'c0ffee':0>60}"
        study = study or f"1.2.840.10.{number}"
        self.items.study(study, person)
        made = made or scored()
        group = "HIGH" if made.outcome == "SCORED" else ""
        item = self.items.at(state, group, study=study, key=key, roi=roi)
        folder = self.site.folder / "spool" / "results" / key / "analysis"
        folder.mkdir(parents=True)
        (folder / RESULT_FILE).write_text(made.model_copy(update={"key": key}).model_dump_json())
        return item

    def get(self, path: str, status: int = 200, **parameters: str | list[str]) -> Any:
        """The body of GET /fhir/<path>, valid FHIR whatever its status."""
        answer = self.client.get(f"/fhir/{path}", params=parameters)
        assert answer.status_code == status, answer.text
        assert answer.headers["content-type"] == "application/fhir+json"
        assert answer.headers["cache-control"] == "no-store"
        return valid(answer.json())

    def found(self, kind: str, **parameters: str | list[str]) -> list[dict[str, Any]]:
        bundle = self.get(kind, **parameters)
        return [entry["resource"] for entry in bundle.get("entry", ()) if entry["search"]["mode"] == "match"]

    def studies(self, **parameters: str) -> list[str]:
        """Studies of the reports that a search finds."""
        return [study_of(report) for report in self.found("DiagnosticReport", **parameters)]


def study_of(report: dict[str, Any]) -> str:
    (study,) = (one for one in report["contained"] if one["resourceType"] == "ImagingStudy")
    return str(study["identifier"][0]["value"]).removeprefix("urn:oid:")


def valid(resource: dict[str, Any]) -> dict[str, Any]:
    """The same, if the R4 validator and the R4B models have nothing against it."""
    assert fhirkit.validate(resource) == []
    get_fhir_model_class(resource["resourceType"]).model_validate_json(json.dumps(resource))
    return resource


def token(store: Store, role: Role = "viewer") -> dict[str, str]:
    secret = f"the token of a {role}"
    store.accounts.add_token(secret, f"fhir-{role}", role, time.time(), None)
    return {"Authorization": f"Bearer {secret}"}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospital]:
    with serving(tmp_path_factory.mktemp("fhir"), node={"time_zone": "Europe/Berlin"}) as site:
        store = site.store
        with site.client(headers=token(store)) as client:
            yield Hospital(site, Items(store), client, iter(range(1, 10_000)))
        store.close()


@pytest.fixture
def hospital(running: Hospital) -> Hospital:
    """The same page for all tests; each begins with a store without work items."""
    database = running.items.store._db
    for table in ("delivery", "event", "audit", "work_item", "identity_change", "instance", "study"):
        database.execute(f"DELETE FROM {table}")
    return running


# -- reading ---------------------------------------------------------------------------------------------------


def test_each_resource_of_a_result_can_be_read_and_is_that_which_servers_are_sent(hospital: Hospital) -> None:
    item = hospital.result()
    for kind, number in (("DiagnosticReport", 1), ("RiskAssessment", 1), ("Observation", 2)):
        listed = hospital.found(kind)
        assert len(listed) == number
        for resource in listed:
            assert hospital.get(f"{kind}/{resource['id']}") == resource
    sent = identifiers_of(scored(), YAMADA, context_of(item, settings_of(hospital)))
    (report,), (risk,) = hospital.found("DiagnosticReport"), hospital.found("RiskAssessment")
    assert report["identifier"][0]["value"] == f"urn:uuid:{sent['report']}"
    assert risk["identifier"][0]["value"] == f"urn:uuid:{sent['risk']}"


def settings_of(hospital: Hospital) -> Any:
    from config.settings import load

    return load(hospital.site.folder / "prognode.toml")


def test_a_resource_stands_alone_and_what_it_refers_to_is_in_it_or_can_be_read(hospital: Hospital) -> None:
    hospital.result()
    for kind in KINDS:
        for resource in hospital.found(kind):
            held = {one["id"]: one["resourceType"] for one in resource["contained"]}
            assert held["patient"] == "Patient"
            for reference in references(resource):
                if reference.startswith("#"):
                    assert reference[1:] in held
                else:
                    assert hospital.get(reference)["resourceType"] == reference.partition("/")[0]


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("reference"), str):
            yield value["reference"]
        for inner in value.values():
            yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def test_the_patient_is_the_one_of_now(hospital: Hospital) -> None:
    item = hospital.result()
    before = hospital.found("DiagnosticReport")[0]
    corrected = replace(YAMADA, patient_name="Yamada^Hanako", patient_id="PAT-0099")
    hospital.items.store.patients.change(item.study_instance_uid, corrected, "HL7 ADT^A08", time.time())
    after = hospital.get(f"DiagnosticReport/{before['id']}")
    (person,) = (one for one in after["contained"] if one["resourceType"] == "Patient")
    assert person["name"][0]["family"] == "Yamada"
    assert person["identifier"][0]["value"] == "PAT-0099"
    assert after["meta"]["lastUpdated"] > before["meta"]["lastUpdated"]
    assert hospital.studies(**{"patient.identifier": "PAT-0012"}) == []
    assert hospital.studies(**{"patient.identifier": "PAT-0099"}) == [item.study_instance_uid]


def test_a_result_without_a_score_says_why_and_has_no_assessment(hospital: Hospital) -> None:
    hospital.result(made=not_scored())
    (report,) = hospital.found("DiagnosticReport")
    assert "Not scored" in report["conclusion"]
    (why,) = hospital.found("Observation")
    assert (why["status"], "valueCodeableConcept" in why) == ("cancelled", False)
    assert why["dataAbsentReason"]["coding"][0]["code"] == "not-performed"
    assert hospital.found("RiskAssessment") == []
    said = hospital.get(f"RiskAssessment/{report['id']}", 404)
    assert said["issue"][0]["code"] == "not-found"


def test_only_what_has_been_reported_and_is_not_held_is_a_result(hospital: Hospital) -> None:
    held = hospital.result()
    for state in (State.FAILED, State.CANCELED, State.ANALYSED, State.SCHEDULED, State.WAITING):
        hospital.items.at(state)
    hospital.items.store.hold(held.id, True, time.time(), "by a test")
    assert hospital.found("DiagnosticReport") == []
    hospital.get(f"DiagnosticReport/{held.id}-{(held.key or '')[:16]}", 404)
    hospital.items.store.hold(held.id, False, time.time(), "by a test")
    assert len(hospital.found("DiagnosticReport")) == 1


def test_a_result_that_a_destination_has_refused_is_one_all_the_same(hospital: Hospital) -> None:
    item = hospital.result()
    hospital.items.store.made_under(item.id, YAMADA.to_json())
    hospital.items.deliver(item, DeliveryState.FAILED)
    failed = hospital.items.store.item(item.id)
    assert failed is not None
    assert failed.state is State.FAILED
    assert hospital.studies() == [item.study_instance_uid]


def test_a_search_gives_the_revision_and_not_what_it_has_replaced(hospital: Hospital) -> None:
    first = hospital.result(roi="1.3.77", study="1.2.840.77", state=State.COMPLETED)
    (old,) = hospital.found("DiagnosticReport")
    second = hospital.result(roi="1.3.77", study="1.2.840.77", made=not_scored())
    assert (second.revision, second.predecessor_key) == (2, first.key)
    (new,) = hospital.found("DiagnosticReport")
    assert new["id"] != old["id"]
    (replaces,) = (one for one in new["extension"] if one["url"].endswith("diagnosticReport-replaces"))
    assert replaces["valueReference"]["identifier"] == old["identifier"][0]
    assert "Revision 2, replaces revision 1." in new["conclusion"]
    assert hospital.found("RiskAssessment") == []
    again = hospital.get(f"DiagnosticReport/{old['id']}")
    assert "REPLACED" in [tag["code"] for tag in again["meta"]["tag"]]
    assert "REPLACED" not in [tag["code"] for tag in new["meta"]["tag"]]
    (asked,) = hospital.found("DiagnosticReport", _id=old["id"])
    assert asked == again


def test_files_that_retention_has_removed_are_gone_and_damaged_ones_are_said(hospital: Hospital) -> None:
    item, other, third = hospital.result(), hospital.result(), hospital.result()
    ids = {one.study_instance_uid: f"{one.id}-{(one.key or '')[:16]}" for one in (item, other, third)}
    hospital.items.store._db.execute("UPDATE work_item SET results_removed = 1 WHERE id = ?", [item.id])
    path = hospital.site.folder / "spool" / "results" / str(other.key) / "analysis" / RESULT_FILE
    path.write_text("{")
    said = hospital.get(f"DiagnosticReport/{ids[item.study_instance_uid]}", 410)
    assert said["issue"][0]["code"] == "deleted"
    hospital.get(f"DiagnosticReport/{ids[other.study_instance_uid]}", 500)
    entries = hospital.get("DiagnosticReport")["entry"]
    assert [entry["search"]["mode"] for entry in entries] == ["match", "outcome"]
    assert study_of(entries[0]["resource"]) == third.study_instance_uid
    assert entries[1]["resource"]["issue"][0]["diagnostics"].startswith("1 results are left out")


# -- searching -------------------------------------------------------------------------------------------------


def test_a_patient_is_found_by_identifier_and_nobody_else_is(hospital: Hospital) -> None:
    yamada = hospital.result(YAMADA).study_instance_uid
    anna = hospital.result(ANNA).study_instance_uid
    hospital.result(replace(YAMADA, patient_id="PAT-00123"))
    for name in ("patient.identifier", "subject.identifier", "patient:identifier", "subject:Patient.identifier"):
        assert hospital.studies(**{name: "PAT-0012"}) == [anna, yamada]
        assert hospital.studies(**{name: f"urn:oid:{OID}|PAT-0012"}) == [anna]
        assert hospital.studies(**{name: "|PAT-0012"}) == [yamada]
        assert hospital.studies(**{name: "urn:oid:1.2.3|PAT-0012"}) == []
    for kind, number in (("RiskAssessment", 2), ("Observation", 4)):
        assert len(hospital.found(kind, **{"patient.identifier": "PAT-0012"})) == number
    assert hospital.studies(**{"patient.identifier": "pat-0012"}) == []
    assert hospital.studies(**{"patient.identifier": "PAT-%"}) == []
    assert len(hospital.studies(**{"patient.identifier": "PAT-0012,PAT-00123"})) == 3


def test_an_identifier_with_separators_is_found_when_they_are_escaped(hospital: Hospital) -> None:
    odd = hospital.result(replace(YAMADA, patient_id="A,B|C$\\D")).study_instance_uid
    hospital.result(replace(YAMADA, patient_id="A"))
    assert hospital.studies(**{"patient.identifier": r"A\,B\|C\$\\D"}) == [odd]


def test_a_study_is_found_by_its_uid_however_it_is_written(hospital: Hospital) -> None:
    hospital.result()
    uid = hospital.result().study_instance_uid
    for written in (uid, f"urn:oid:{uid}", f"urn:dicom:uid|urn:oid:{uid}"):
        assert hospital.studies(study=written) == [uid]
    assert hospital.studies(study=f"{uid}.1") == []
    assert hospital.studies(study=uid, **{"patient.identifier": "PAT-0099"}) == []


def test_what_has_changed_since_is_found_to_the_millisecond(hospital: Hospital) -> None:
    uids = [hospital.result().study_instance_uid for _ in range(3)]
    hospital.items.store._db.execute("UPDATE study SET updated_at = 0")
    for hour, uid in enumerate(uids, start=9):  # an hour apart
        at = datetime(2026, 3, 2, hour, 15, 30, 250_500, tzinfo=UTC).timestamp()
        hospital.items.store._db.execute("UPDATE work_item SET updated_at = ? WHERE study_instance_uid = ?", [at, uid])
    middle = hospital.found("DiagnosticReport")[1]
    assert middle["meta"]["lastUpdated"] == "2026-03-02T10:15:30.250+00:00"
    last = {name: hospital.studies(_lastUpdated=f"{name}2026-03-02T10:15:30.250Z") for name in ("gt", "ge", "lt", "le")}
    assert last == {"gt": [uids[2]], "ge": [uids[2], uids[1]], "lt": [uids[0]], "le": [uids[1], uids[0]]}
    assert hospital.studies(_lastUpdated="2026-03-02T11:15:30+01:00") == [uids[1]]
    assert hospital.studies(_lastUpdated="2026-03-02T11:15") == [uids[1]]  # Berlin, as the node's settings say
    assert hospital.studies(_lastUpdated="2026-03") == uids[::-1]
    assert hospital.studies(_lastUpdated="sa2026-03-01") == uids[::-1]
    assert hospital.studies(_lastUpdated="eb2026") == []
    between = ["ge2026-03-02T10:00:00Z", "lt2026-03-02T11:00:00Z"]
    assert [study_of(one) for one in hospital.found("DiagnosticReport", _lastUpdated=between)] == [uids[1]]


@pytest.mark.parametrize(("kind", "number"), [("DiagnosticReport", 24), ("Observation", 47)])
def test_pages_give_each_resource_once_also_while_results_arrive(hospital: Hospital, kind: str, number: int) -> None:
    for _ in range(23):
        hospital.result()
    hospital.result(made=not_scored())
    met, url, pages = [], f"/fhir/{kind}?_count=5", 0
    while url:
        answer = hospital.client.get(url)
        bundle = valid(answer.json())
        assert len(bundle["entry"]) <= 5
        links = {link["relation"]: link["url"] for link in bundle["link"]}
        assert links["self"].startswith(f"{hospital.site.url}/fhir/{kind}?_count=5")
        met += [entry["resource"]["id"] for entry in bundle["entry"]]
        assert all(entry["fullUrl"].endswith(f"/fhir/{kind}/{entry['resource']['id']}") for entry in bundle["entry"])
        url, pages = links.get("next", ""), pages + 1
        hospital.result()
    assert len(met) == len(set(met)) == number
    assert pages == -(-number // 5)


def test_a_page_has_twenty_resources_unless_asked_for_and_a_hundred_at_most(hospital: Hospital) -> None:
    for _ in range(52):
        hospital.result()
    assert len(hospital.found("Observation")) == 20
    assert len(hospital.found("Observation", _count="100000")) == 100
    assert len(hospital.found("Observation", _count="1")) == 1


def test_a_search_can_be_posted_so_that_no_url_holds_the_patient(hospital: Hospital) -> None:
    uid = hospital.result().study_instance_uid
    hospital.result(replace(YAMADA, patient_id="OTHER"))
    answer = hospital.client.post("/fhir/DiagnosticReport/_search", data={"patient.identifier": "PAT-0012"})
    assert answer.status_code == 200, answer.text
    assert [study_of(entry["resource"]) for entry in valid(answer.json())["entry"]] == [uid]
    assert "PAT-0012" not in str(answer.json()["link"])
    refused = hospital.client.post("/fhir/DiagnosticReport/_search", json={"patient.identifier": "PAT-0012"})
    assert (refused.status_code, valid(refused.json())["resourceType"]) == (415, "OperationOutcome")


def test_the_pages_of_a_posted_search_go_on_without_the_patient_in_a_url(hospital: Hospital) -> None:
    mine = {hospital.result().study_instance_uid for _ in range(5)}
    hospital.result(replace(YAMADA, patient_id="OTHER"))
    asked = {"patient.identifier": "PAT-0012", "_count": "2"}
    answer, met = hospital.client.post("/fhir/DiagnosticReport/_search", data=asked), []
    while True:
        bundle = valid(answer.json())
        links = {link["relation"]: link["url"] for link in bundle["link"]}
        assert "0012" not in str(links)
        met += [study_of(entry["resource"]) for entry in bundle["entry"]]
        again = hospital.client.get(links["self"]).json()
        assert [one["fullUrl"] for one in again["entry"]] == [one["fullUrl"] for one in bundle["entry"]]
        if "next" not in links:
            break
        answer = hospital.client.get(links["next"])
    assert (len(met), set(met)) == (5, mine)
    other = hospital.site.signed_in(VIEWER)
    assert "another account" in other.get(links["self"]).text
    other.close()
    damaged = hospital.client.get(links["self"].replace("search=", "search=x"))
    assert (damaged.status_code, valid(damaged.json())["resourceType"]) == (400, "OperationOutcome")


# -- what is refused -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "parameters",
    [
        {"name": "Yamada"}, {"patient": "Patient/1"}, {"patient.name": "Yamada"}, {"_include": "*"}, {"_count": "0"},
        {"_count": "x"}, {"_lastUpdated": "yesterday"}, {"_lastUpdated": "ne2026"}, {"_lastUpdated": "2026-13"},
        {"_lastUpdated": "2026-02-30"}, {"_lastUpdated": "9999"}, {"study": "1.2' OR 1=1"}, {"study": ""},
        {"patient.identifier": ""}, {"patient.identifier": "a|b|c"}, {"patient.identifier": "http://x|1"},
        {"patient.identifier": "urn:oid:1.2|"}, {"page": "../../etc"}, {"_id": ""}, {"_id": ",".join(["1-a"] * 51)},
        {"patient.identifier": "1", "subject.identifier": "2"}, {"study": ["1.2", "1.3"]},
    ],
)  # fmt: skip
def test_what_is_not_understood_is_refused_and_finds_nobody(
    hospital: Hospital, parameters: dict[str, str | list[str]]
) -> None:
    hospital.result()
    said = hospital.get("DiagnosticReport", 400, **parameters)
    assert said["resourceType"] == "OperationOutcome"
    assert said["issue"][0]["code"] == "invalid"


@pytest.mark.parametrize("path", ["Patient", "Patient/1", "nothing", "DiagnosticReport/1", "DiagnosticReport/9-abc",
                                  "DiagnosticReport/x/_history", "DiagnosticReport/..%2f1", "Observation/1-0001-XX",
                                  "DiagnosticReport/99999999999999999999-a"])  # fmt: skip
def test_what_is_not_here_is_not_found(hospital: Hospital, path: str) -> None:
    hospital.result()
    assert hospital.get(path, 404)["issue"][0]["code"] == "not-found"


def test_the_number_of_a_work_item_is_not_enough_to_read_it(hospital: Hospital) -> None:
    item = hospital.result()
    hospital.get(f"DiagnosticReport/{item.id}-{(item.key or '')[:15]}", 404)
    hospital.get(f"DiagnosticReport/{item.id}-ffffffffffffffff", 404)
    hospital.get(f"Observation/{item.id}-{(item.key or '')[:16]}", 404)


def test_nothing_can_be_written(hospital: Hospital) -> None:
    hospital.result()
    (report,) = hospital.found("DiagnosticReport")
    one = f"DiagnosticReport/{report['id']}"
    for method, path in (("POST", "DiagnosticReport"), ("POST", ""), ("PUT", one), ("DELETE", one), ("PATCH", one)):
        answer = hospital.client.request(method, f"/fhir/{path}", json=report)
        assert answer.status_code in (404, 405), (method, path)
        assert valid(answer.json())["resourceType"] == "OperationOutcome"
    assert hospital.found("DiagnosticReport") == [report]


def test_json_is_the_only_format(hospital: Hospital) -> None:
    for accept in (
        "application/fhir+json",
        "application/json",
        "*/*",
        "text/html, */*;q=0.1",
        "application/fhir+json; fhirVersion=4.0",
    ):
        assert hospital.client.get("/fhir/metadata", headers={"Accept": accept}).status_code == 200
    refused = hospital.client.get("/fhir/metadata", headers={"Accept": "application/fhir+xml"})
    assert (refused.status_code, valid(refused.json())["issue"][0]["code"]) == (406, "not-supported")
    assert hospital.client.get("/fhir/metadata?_format=xml").status_code == 406
    assert hospital.client.get("/fhir/metadata?_format=application/fhir%2Bjson").status_code == 200
    assert hospital.client.get("/fhir/metadata?_format=application/fhir+json").status_code == 200  # + as a blank


def test_who_is_not_known_gets_an_operation_outcome_and_nothing_else(hospital: Hospital) -> None:
    item = hospital.result()
    for headers in ({}, {"Authorization": "Bearer guessed"}, {"Accept": "text/html"}):
        with hospital.site.client(headers=headers) as nobody:
            for path in ("metadata", "DiagnosticReport", f"DiagnosticReport/{item.id}-{(item.key or '')[:16]}"):
                answer = nobody.get(f"/fhir/{path}")
                assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
                assert valid(answer.json())["issue"][0]["code"] == "login"
                assert "Yamada" not in answer.text


def test_who_is_signed_in_with_a_browser_may_read_too(hospital: Hospital) -> None:
    hospital.result()
    with contextlib.closing(hospital.site.signed_in(VIEWER)) as browser:
        assert browser.get("/fhir/DiagnosticReport").json()["resourceType"] == "Bundle"


# -- what it says of itself, and what is kept of it ------------------------------------------------------------


def test_the_capability_statement_names_what_works(hospital: Hospital) -> None:
    hospital.result()
    said = hospital.get("metadata")
    assert (said["fhirVersion"], said["format"], said["kind"]) == ("4.0.1", ["json"], "instance")
    assert said["implementation"]["url"] == f"{hospital.site.url}/fhir"
    values = {"_id": "1-a", "_lastUpdated": "2026", "study": "1.2"}
    for resource in said["rest"][0]["resource"]:
        assert resource["type"] in KINDS
        assert [one["code"] for one in resource["interaction"]] == ["read", "search-type"]
        for parameter in resource["searchParam"]:
            name = parameter["name"]
            asked = {name: values[name]} if name in values else {f"{name}.identifier": "1"}
            hospital.get(resource["type"], **asked)


def test_the_audit_trail_has_who_searched_and_each_result_that_was_read(hospital: Hospital) -> None:
    first, second = hospital.result(), hospital.result()
    hospital.found("Observation", **{"patient.identifier": "PAT-0012"})
    hospital.found("DiagnosticReport", **{"patient.identifier": "NOBODY"})
    hospital.get(f"DiagnosticReport/{first.id}-{(first.key or '')[:16]}")
    entries = [one for one in hospital.items.store.audit.newest() if one.action.startswith("fhir.")][::-1]
    assert [(one.action, one.work_item_id, one.study_instance_uid, one.detail) for one in entries] == [
        ("fhir.searched", None, "", "Observation: 4 found"),
        ("fhir.read", second.id, second.study_instance_uid, "Observation"),
        ("fhir.read", first.id, first.study_instance_uid, "Observation"),
        ("fhir.searched", None, "", "DiagnosticReport: 0 found"),
        ("fhir.read", first.id, first.study_instance_uid, "DiagnosticReport"),
    ]
    assert {(one.actor, one.origin, one.outcome) for one in entries} == {("token:fhir-viewer", "api", "done")}
    assert entries[3].facts == {"patient_id": "NOBODY"}


def test_a_search_for_several_patients_leaves_an_entry_for_each(hospital: Hospital) -> None:
    hospital.found("Observation", **{"patient.identifier": "A,urn:oid:1.2.3|B"})
    entries = [one for one in hospital.items.store.audit.newest() if one.action == "fhir.searched"]
    assert [one.facts for one in entries][::-1] == [
        {"patient_id": "A"},
        {"patient_id": "B", "issuer_of_patient_id": "1.2.3"},
    ]


def test_the_log_has_no_patient_though_the_url_did(hospital: Hospital) -> None:
    hospital.result()
    hospital.studies(**{"patient.identifier": "PAT-0012"})
    hospital.get("DiagnosticReport", 400, **{"patient.name": "Yamada"})
    hospital.get("Patient/PAT-0012", 404)
    assert "web.request GET /fhir/{kind} 200" in hospital.site.log
    assert "PAT-0012" not in hospital.site.log
    assert "Yamada" not in hospital.site.log
