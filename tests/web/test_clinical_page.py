"""Clinical values on the page and in the API: entered, refused beside the field, taken back, and never by a viewer."""

import copy
import time
from collections.abc import Iterator

import httpx
import pytest

from config.settings import Node, Settings
from dicom_node.audit import AuditEntry
from dicom_node.clinical_values import ClinicalEntry
from tests import synthetic
from tests.road import Road
from tests.web.site import OPERATOR, VIEWER, Site, form_of, serving

CT = synthetic.ct_series(16, 40, 40, seed=1)
PATIENT = CT[0].PatientID
DAY = "2024-01-01"  # the day before the CT


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Site, Road]]:
    """A page over a node with one planned study; nothing has to run for its values."""
    folder = tmp_path_factory.mktemp("site")
    node = Road(folder, Settings(node=Node(site="test")))
    node.take(*CT, synthetic.rtstruct(CT))
    nameless = [copy.deepcopy(image) for image in synthetic.ct_series(16, 40, 40, seed=2)]
    for image in nameless:
        image.PatientID = ""
    node.take(*nameless)
    node.worker.step_plan()
    with serving(folder) as running:
        yield running, node


@pytest.fixture
def node(site: tuple[Site, Road]) -> Iterator[Road]:
    """The node without any recorded value."""
    yield site[1]
    store = site[1].store
    for value in store.clinical.current(PATIENT):
        if not store.clinical.retract(value.kind, value.origin.partition(" ")[2], 1.0, "test", (PATIENT, "")):
            store.clinical.withdraw(value.id, 1.0, AuditEntry(1.0, "test", "cli", "clinical.withdrawn"))


@pytest.fixture
def operator(site: tuple[Site, Road]) -> Iterator[httpx.Client]:
    client = site[0].signed_in(OPERATOR)
    yield client
    client.close()


def item_of(node: Road) -> int:
    return next(item.id for item in node.store.items() if item.roi_sop_instance_uid)


def post(client: httpx.Client, where: str, **fields: str) -> httpx.Response:
    csrf = form_of(client.get("/").text)
    return client.post(where, data={"csrf": csrf, **fields}, headers={"accept": "text/html"})


def values(node: Road) -> dict[str, float | str]:
    return {value.name: value.value for value in node.store.clinical.current(PATIENT)}


def test_what_is_entered_is_kept_with_who_when_and_for_which_day(node: Road, operator: httpx.Client) -> None:
    item = item_of(node)
    form = {"value.albumin": "39.5", "value.ecog": "1", "value.liver_metastases": "yes", "value.nlr": ""}
    done = post(operator, f"/items/{item}/clinical", observed_on=DAY, **form)
    assert (done.status_code, done.headers["location"]) == (303, f"/items/{item}/clinical")
    assert values(node) == {"albumin": 39.5, "ecog": 1.0, "liver_metastases": "yes"}
    kept = node.store.clinical.current(PATIENT)[0]
    assert (kept.source, kept.recorded_by, kept.observed_on) == ("study page", OPERATOR, DAY)
    (entry,) = [each for each in node.store.audit.of_item(item) if each.action == "clinical.recorded"]
    assert (entry.actor, entry.origin, entry.detail) == (OPERATOR, "web", "ecog, albumin, liver_metastases")

    page = operator.get(done.headers["location"]).text
    assert "Kept: ECOG performance status, Albumin, Liver metastases." in page
    assert "39.5 g/L" in page
    study = operator.get(f"/items/{item}").text
    assert "39.5 g/L" in study
    assert f'action="/items/{item}/clinical"' in study


@pytest.mark.parametrize(
    ("form", "says"),
    [
        ({"value.albumin": "3.9"}, "Albumin lies outside the plausible range 10 to 60 g/L."),
        ({"value.albumin": "39,5"}, "Albumin is not a plain number; write a decimal point."),
        ({"value.albumin": "<20"}, "Albumin is not a plain number."),
        ({"value.sex": "X"}, "Sex must be one of F, M."),
        ({"value.ecog": "5"}, "ECOG performance status lies outside the plausible range 0 to 4."),
        ({"value.ecog": "9" * 65}, "ECOG performance status is too long."),
        ({"value.ecog": "1", "observed_on": ""}, "The day is needed"),
        ({"value.ecog": "1", "observed_on": "2999-01-01"}, "in the future"),
        ({"value.ecog": "1", "observed_on": "01.03.2024"}, "The day is no date"),
        ({"value.therapy_start": "in March"}, "Start of therapy is no date such as 2024-03-01."),
        ({"value.therapy_start": "2204-03-01"}, "Start of therapy lies before 1900 or too far in the future."),
        ({}, "Nothing was entered."),
    ],
)
def test_what_cannot_be_right_is_said_beside_the_field_and_nothing_is_kept(
    node: Road, operator: httpx.Client, form: dict[str, str], says: str
) -> None:
    fields = {"observed_on": DAY, "value.nlr": "3.2"} | form if form else {"observed_on": DAY}
    done = post(operator, f"/items/{item_of(node)}/clinical", **fields)
    assert done.status_code == 422
    assert says in done.text
    assert 'aria-invalid="true"' in done.text or not form
    if form:
        assert 'value="3.2"' in done.text  # what was right stands there still
    assert values(node) == {}


def test_all_that_is_wrong_is_said_at_once(node: Road, operator: httpx.Client) -> None:
    done = post(operator, f"/items/{item_of(node)}/clinical", observed_on="", **{"value.ecog": "9"})
    assert "ECOG performance status lies outside the plausible range" in done.text
    assert "The day is needed" in done.text


def test_a_value_that_this_ct_does_not_use_is_kept_and_that_is_said(node: Road, operator: httpx.Client) -> None:
    item = item_of(node)
    post(operator, f"/items/{item}/clinical", observed_on="2024-06-01", **{"value.albumin": "39.5"})
    assert "Not used for this CT: Albumin" in operator.get(f"/items/{item}/clinical").text
    assert values(node) == {"albumin": 39.5}


def test_the_start_of_therapy_is_a_day_of_its_own_that_another_takes_the_place_of(
    node: Road, operator: httpx.Client
) -> None:
    item = item_of(node)
    where = f"/items/{item}/clinical"
    assert 'type="date" min="1900-01-01" value=""' in operator.get(where).text
    done = post(operator, where, **{"value.therapy_start": "2024-01-20"})
    assert done.status_code == 303
    assert "Kept: Start of therapy." in operator.get(where).text
    post(operator, where, **{"value.therapy_start": "2024-01-21"})
    page = operator.get(where).text
    assert values(node) == {"therapy_start": "2024-01-21"}
    assert "Start of therapy = 2024-01-21" in page
    assert 'On hand"><span class="nowrap">2024-01-21</span>' in page
    earlier = ClinicalEntry(PATIENT, "therapy_start", "2024-01-03", "csv", "CSV import")
    node.store.clinical.record([earlier], 1.0)
    post(operator, where, observed_on=DAY, **{"value.therapy_start": "2024-01-22", "value.ecog": "1"})
    page = operator.get(where).text
    assert "Kept: ECOG performance status, Start of therapy. Not used for this CT: Start of therapy" in page
    assert 'On hand"><span class="nowrap">2024-01-03</span>' in page
    entry = next(each for each in node.store.audit.of_item(item) if each.detail == "ecog, therapy_start")
    assert "2024" not in entry.detail


def test_a_value_is_taken_back_after_a_question_and_only_a_value_of_this_patient(
    node: Road, operator: httpx.Client
) -> None:
    item = item_of(node)
    post(operator, f"/items/{item}/clinical", observed_on=DAY, **{"value.albumin": "39.5"})
    (value,) = node.store.clinical.current(PATIENT)
    question = operator.get(f"/items/{item}/clinical/{value.id}/withdraw", headers={"accept": "text/html"}).text
    assert "Take this value back?" in question
    assert values(node) == {"albumin": 39.5}
    foreign = ClinicalEntry("SOMEBODY-ELSE", "albumin", 20.0, "csv", "CSV import", observed_on=DAY)
    node.store.clinical.record([foreign], 1.0)
    (other,) = node.store.clinical.current("SOMEBODY-ELSE")
    assert post(operator, f"/items/{item}/clinical/{other.id}/withdraw").status_code == 409
    assert post(operator, f"/items/{item}/clinical/{value.id}/withdraw").status_code == 303
    assert values(node) == {}
    assert post(operator, f"/items/{item}/clinical/{value.id}/withdraw").status_code == 409
    assert len(node.store.clinical.current("SOMEBODY-ELSE")) == 1
    done = [each for each in node.store.audit.of_item(item) if each.action == "clinical.withdrawn"]
    assert [(each.actor, each.detail) for each in done] == [(OPERATOR, "albumin")]


def test_a_viewer_sees_the_values_and_can_change_none(site: tuple[Site, Road], node: Road) -> None:
    item = item_of(node)
    node.store.clinical.record([ClinicalEntry(PATIENT, "ecog", 2.0, "csv", "CSV import", observed_on=DAY)], 1.0)
    (value,) = node.store.clinical.current(PATIENT)
    client = site[0].signed_in(VIEWER)
    page = client.get(f"/items/{item}/clinical").text
    assert "ECOG performance status = 2" in page
    assert "New value" not in page
    assert "withdraw" not in page
    assert post(client, f"/items/{item}/clinical", observed_on=DAY, **{"value.ecog": "1"}).status_code == 403
    assert post(client, f"/items/{item}/clinical/{value.id}/withdraw").status_code == 403
    client.close()
    assert values(node) == {"ecog": 2.0}


def test_a_form_of_another_site_is_refused(node: Road, operator: httpx.Client) -> None:
    where = f"/items/{item_of(node)}/clinical"
    assert operator.post(where, data={"observed_on": DAY, "value.ecog": "1"}).status_code == 403
    csrf = form_of(operator.get("/").text)
    foreign = {"origin": "https://evil.example"}
    fields = {"csrf": csrf, "observed_on": DAY, "value.ecog": "1"}
    assert operator.post(where, data=fields, headers=foreign).status_code == 403
    assert values(node) == {}


def test_a_flood_of_fields_is_refused(node: Road, operator: httpx.Client) -> None:
    many = {f"value.x{n}": "1" for n in range(5000)}
    assert post(operator, f"/items/{item_of(node)}/clinical", observed_on=DAY, **many).status_code in (400, 413, 422)
    assert values(node) == {}


def test_a_study_without_a_patient_id_keeps_no_value(node: Road, operator: httpx.Client) -> None:
    item = next(item.id for item in node.store.items() if item.roi_sop_instance_uid is None)
    assert "New value" not in operator.get(f"/items/{item}/clinical").text
    done = post(operator, f"/items/{item}/clinical", observed_on=DAY, **{"value.ecog": "1"})
    assert done.status_code == 422
    assert "no Patient ID" in done.text


def test_newer_values_are_pointed_at_on_the_page_and_the_worklist(node: Road, operator: httpx.Client) -> None:
    item = item_of(node)
    assert "newer clinical values" not in operator.get("/").text.lower()
    node.store.clinical.note_newer(item, ("ecog", "nlr"), 1.0)
    try:
        assert "newer clinical values on hand" in operator.get("/").text
        page = operator.get(f"/items/{item}").text
        assert "ECOG performance status, Neutrophil-to-lymphocyte ratio" in page
        assert f"/items/{item}/act/rescore" in page
    finally:
        node.store.clinical.note_newer(item, (), 1.0)


# -- API -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def api(site: tuple[Site, Road]) -> Iterator[httpx.Client]:
    store = site[0].store
    store.accounts.add_token("t" * 43, f"robot-{time.time()}", "operator", time.time(), None)
    store.close()
    with site[0].with_token("t" * 43) as client:
        yield client


def test_programs_read_keep_and_take_back_values(node: Road, api: httpx.Client) -> None:
    where = f"/api/v1/work-items/{item_of(node)}/clinical-values"
    given = {"observed_on": DAY, "values": {"albumin": 39.5, "sex": "f"}}
    done = api.post(where, json=given)
    assert done.status_code == 200, done.text
    on_hand = {value["name"]: value for value in done.json()["on_hand"]}
    assert (on_hand["albumin"]["value"], on_hand["albumin"]["source"]) == (39.5, "study page")
    assert on_hand["sex"]["value"] == "F"
    assert api.get(where).json()["recorded"] == done.json()["recorded"]
    number = next(value["id"] for value in done.json()["recorded"] if value["name"] == "albumin")
    assert api.post(f"{where}/{number}/withdraw").status_code == 200
    assert api.post(f"{where}/{number}/withdraw").status_code == 409
    assert values(node) == {"sex": "F"}


def test_whoever_sees_a_value_in_a_question_or_a_refused_form_stands_in_the_audit_trail(
    site: tuple[Site, Road], node: Road
) -> None:
    item = item_of(node)
    node.store.accounts.add_token("l" * 43, "looker", "operator", time.time(), None)
    node.store.clinical.record([ClinicalEntry(PATIENT, "albumin", 38.5, "csv", "CSV import", observed_on=DAY)], 1.0)
    (value,) = node.store.clinical.current(PATIENT)
    page = {"accept": "text/html"}
    with site[0].with_token("l" * 43) as looker:
        assert "38.5" in looker.get(f"/items/{item}/clinical/{value.id}/withdraw", headers=page).text
        assert looker.post(f"/items/{item}/clinical", data={"value.ecog": "99"}, headers=page).status_code == 422
    looks = [each for each in node.store.audit.of_item(item) if each.actor == "token:looker"]
    assert [each.action for each in looks] == ["study.opened"], "one look that goes on"


def test_a_program_says_when_therapy_began_without_a_day_of_observation(node: Road, api: httpx.Client) -> None:
    where = f"/api/v1/work-items/{item_of(node)}/clinical-values"
    done = api.post(where, json={"values": {"therapy_start": "2024-01-20"}})
    assert (done.status_code, done.json()["therapy_start"]) == (200, "2024-01-20")
    assert values(node) == {"therapy_start": "2024-01-20"}


@pytest.mark.parametrize(
    "given",
    [
        {"observed_on": DAY, "values": {"albumin": 3.9}},
        {"observed_on": DAY, "values": {"shoe_size": 43}},
        {"observed_on": DAY, "values": {}},
        {"observed_on": "yesterday", "values": {"ecog": 1}},
        {"values": {"ecog": 1}},
        {"observed_on": DAY, "values": {"ecog": 1}, "patient_id": "X"},
        {"observed_on": DAY, "values": {"ecog": [1]}},
    ],
)
def test_programs_are_refused_what_people_are_refused(node: Road, api: httpx.Client, given: dict) -> None:
    done = api.post(f"/api/v1/work-items/{item_of(node)}/clinical-values", json=given)
    assert done.status_code == 422
    assert done.json()["detail"]
    assert values(node) == {}
