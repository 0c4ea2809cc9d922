"""The study page and the SR as text without a browser, over real results: what is shown is what was computed."""

import html
import re
import time
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from pydicom import Dataset, dcmread
from pydicom.sequence import Sequence

from analysis.contract import Endpoint
from dicom_node import status
from dicom_node.web import results, sr_text, study_view
from dicom_node.web.sr_text import Item, ReportUnreadable
from dicom_node.workitem import DeliveryState
from reports import words
from tests.web import hospital as building
from tests.web.hospital import Hospital


@pytest.fixture
def client(address: str) -> httpx.Client:
    return building.sign_in(address)


def text_of(page: str) -> str:
    """What a person reads, without tags."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page)).split())


def test_the_numbers_are_those_of_the_result(client: httpx.Client, hospital: Hospital) -> None:
    item = hospital.item("main")
    result = results.result_of(item, hospital.road.spool)
    assert result is not None
    page = text_of(client.get(f"/items/{item.id}").text)
    for score in result.scores:
        assert f"{words.risk(score)} {words.percent(score.event_probability)} ({words.interval(score)})" in page
        assert words.natural_frequency(score) in page
    for flag in result.quality:
        assert flag.text in page
    for value in result.clinical:
        assert value.source in page
    assert result.bundle.digest in page


def test_contributions_are_bars_that_sum_to_the_score(hospital: Hospital) -> None:
    result = results.result_of(hospital.item("main"), hospital.road.spool)
    assert result is not None
    shown = study_view.bars(result)
    assert [endpoint.title for endpoint in shown] == ["Overall survival", "Progression-free survival"]
    for endpoint, name in zip(shown, Endpoint, strict=True):
        mine = [part for part in result.contributions if part.endpoint is name]
        every = [*endpoint.top, *endpoint.rest]
        assert len(every) == len(mine)
        longest = max(abs(part.contribution) for part in result.contributions)
        for bar, part in zip(every, sorted(mine, key=lambda part: -abs(part.contribution)), strict=True):
            assert bar.length == pytest.approx(50 * abs(part.contribution) / longest, abs=0.01)
            assert bar.direction == (
                "raises" if part.contribution > 0 else "lowers" if part.contribution else "no influence"
            )
            assert bar.start == pytest.approx(50 if part.contribution > 0 else 50 - bar.length, abs=0.01)
            assert 0 <= bar.start <= bar.start + bar.length <= 100.01


def test_the_ten_stops_of_the_page_are_those_of_the_print(hospital: Hospital) -> None:
    store, spool, item = hospital.road.store, hospital.road.spool, hospital.item("main")
    way = status.stops(item, store.details(item.id), store.deliveries.of_item(item.id), spool)
    assert [stop.name for stop in way] == list(status.STOPS)
    printed = status.of_study(store, spool, item.study_instance_uid) or ""
    shown = study_view.stops(way, store.deliveries.of_item(item.id))
    for stop in shown:
        assert stop.done
        assert stop.time == "" or stop.time in printed
    failed = hospital.item("refused")
    deliveries = store.deliveries.of_item(failed.id)
    way = status.stops(failed, store.details(failed.id), deliveries, spool)
    if failed.state == "FAILED":  # another test of this run may have had it sent again
        assert [stop.done for stop in study_view.stops(way, deliveries)] == [True] * 8 + [False] * 2


def test_a_refusal_is_a_sentence_with_its_detail_and_its_remedy(client: httpx.Client, hospital: Hospital) -> None:
    page = text_of(client.get(f"/items/{hospital.item('not scored').id}").text)
    assert "Not scored At least one slice of the CT series is missing. (6.00 mm between slices" in page
    assert "Imaging team: send the complete original axial series" in page
    assert "Reason code MISSING_SLICE" in page
    waits = text_of(client.get(f"/items/{hospital.item('waiting').id}").text)
    assert "No result yet The CT has no tumour contour yet." in waits


def test_revisions_of_one_contour_lead_to_each_other(client: httpx.Client, hospital: Hospital) -> None:
    newest = hospital.item("revised")
    older = next(item for item in hospital.road.store.items(newest.study_instance_uid) if item.revision == 1)
    page = client.get(f"/items/{newest.id}").text
    assert f'href="/items/{older.id}"' in page
    assert "Revision 2, replaces revision 1. Changed: contour." in text_of(page)
    assert "(not the newest)" not in page
    before = client.get(f"/items/{older.id}").text
    assert "(not the newest)" in before
    assert f'href="/items/{newest.id}"' in before


def test_opening_a_study_leaves_an_audit_entry(client: httpx.Client, hospital: Hospital) -> None:
    item = hospital.item("main")
    client.get(f"/items/{item.id}")
    client.get(f"/items/{item.id}/documents/risk-sr")
    entries = hospital.road.store.audit.of_item(item.id)
    assert [entry.action for entry in entries[:2]] == ["result.opened", "study.opened"]
    assert {entry.actor for entry in entries[:2]} == {"olga"}
    assert entries[0].study_instance_uid == item.study_instance_uid


def test_the_delivery_of_each_object_is_shown_with_its_proof(client: httpx.Client, hospital: Hospital) -> None:
    item = hospital.item("main")
    page = client.get(f"/items/{item.id}").text
    table = page[page.index('id="deliveries"') :]
    rows = hospital.road.store.deliveries.of_item(item.id)
    for row in rows:
        assert f"<span>{study_view.document(row.document)}</span>" in table
    assert table.count("storage commitment") == sum(row.state == "COMMITTED" for row in rows) > 3


def test_what_all_objects_wait_for_is_said_once_for_each_destination(hospital: Hospital) -> None:
    one = hospital.road.store.deliveries.of_item(hospital.item("main").id)[0]
    down = replace(one, state=DeliveryState.PENDING, final=0, run_after=65.0, detail="no association")
    rows = [
        replace(down, document=name, destination=place)
        for name in ("risk-sr", "page-1") for place in ("PACS", "RESEARCH")
    ]  # fmt: skip
    shown = study_view.sendings([*rows, replace(down, detail="out of resources"), replace(one, detail="")], 0.0)
    assert [(row.destination, row.detail, row.next_try) for row in shown[:4]] == [
        ("PACS", "no association", "in 1 min"), ("RESEARCH", "no association", "in 1 min"),
        ("PACS", "as for Risk report (SR)", ""), ("RESEARCH", "as for Risk report (SR)", ""),
    ]  # fmt: skip
    assert [(row.detail, row.next_try) for row in shown[4:]] == [("out of resources", "in 1 min"), ("", "")]


def test_what_the_store_calls_a_delivery_has_words() -> None:
    from dicom_node.web import views
    from dicom_node.workitem import State

    assert {views.proof(state).text for state in DeliveryState}
    assert set(views.STAGES) == set(State)


# -- the SR as text --------------------------------------------------------------------------------------------------


def leaves(item: Item) -> list[tuple[str, str]]:
    return [(item.label, item.value), *(pair for child in item.children for pair in leaves(child))]


def test_every_label_of_a_report_has_its_value_beside_it(hospital: Hospital) -> None:
    item = hospital.item("main")
    path = results.report_file(item, "risk-sr", hospital.road.spool)
    assert path is not None
    said = dict(leaves(sr_text.read(path)))
    assert re.fullmatch(r"\d+\.\d %", said["Predicted probability of death within 12 months"])
    assert said["Model risk group, overall survival"] in {"Low risk", "Uncertain risk", "High risk"}
    document = dcmread(path)

    def count(dataset: Dataset) -> int:
        return 1 + sum(count(child) for child in dataset.get("ContentSequence", []))

    assert len(leaves(sr_text.read(path))) == count(document), "no content item is left out"


def test_units_and_references_are_in_words(hospital: Hospital) -> None:
    path = results.report_file(hospital.item("main"), "radiomics-sr", hospital.road.spool)
    assert path is not None
    every = leaves(sr_text.read(path))
    assert any(value.endswith(" mm³") for _, value in every)
    assert any(value.endswith(" HU") for _, value in every)
    assert any("Segmentation Storage" in value for _, value in every)
    assert not any("hnsf" in value for _, value in every)


def test_the_report_is_on_the_page_and_on_a_page_of_its_own(client: httpx.Client, hospital: Hospital) -> None:
    item = hospital.item("main")
    page = client.get(f"/items/{item.id}").text
    assert "Predicted probability of death within 12 months:" in text_of(page).replace(" :", ":")
    own = client.get(f"/items/{item.id}/documents/radiomics-sr")
    assert own.status_code == 200
    assert "Volume" in own.text


@pytest.mark.parametrize("name", ["page-1", "..%2F..%2Fanalysis%2Fresult", "risk-sr.dcm", "segmentation", "x" * 300])
def test_only_reports_are_shown_as_reports(client: httpx.Client, hospital: Hospital, name: str) -> None:
    assert client.get(f"/items/{hospital.item('main').id}/documents/{name}").status_code == 404


def nested(levels: int) -> Dataset:
    top = Dataset()
    top.ValueType = "CONTAINER"
    if levels:
        top.ContentSequence = Sequence([nested(levels - 1)])
    return top


@pytest.mark.parametrize("kind", ["cut", "no DICOM", "gone", "too deep"])
@pytest.mark.filterwarnings("ignore:.*:UserWarning:pydicom")
def test_a_report_that_cannot_be_read_says_so(tmp_path: Path, hospital: Hospital, kind: str) -> None:
    source = results.report_file(hospital.item("main"), "risk-sr", hospital.road.spool)
    assert source is not None
    path = tmp_path / "report.dcm"
    path.write_bytes(source.read_bytes())
    if kind == "cut":
        path.write_bytes(source.read_bytes()[:100])
    if kind == "no DICOM":
        path.write_bytes(b"not at all")
    if kind == "gone":
        path.unlink()
    if kind == "too deep":
        document = dcmread(source)
        document.ContentSequence = Sequence([nested(40)])
        document.save_as(path)
    with pytest.raises(ReportUnreadable) as why:
        sr_text.read(path)
    assert str(why.value).startswith("The report ")


def test_values_of_every_kind_can_be_read() -> None:
    def item(kind: str, **values: object) -> Dataset:
        made, name = Dataset(), Dataset()
        name.CodeMeaning = "Name"
        made.ValueType, made.ConceptNameCodeSequence = kind, [name]
        for keyword, value in values.items():
            setattr(made, keyword, value)
        return made

    kinds = [
        (item("DATE", Date="20260302"), "2026-03-02"),
        (item("TIME", Time="091530.5"), "09:15:30.5"),
        (item("DATETIME", DateTime="20260302091530"), "2026-03-02 09:15:30"),
        (item("PNAME", PersonName="Yamada^Tarou=山田^太郎"), "Yamada^Tarou=山田^太郎"),
        (item("UIDREF", UID="1.2.3"), "1.2.3"),
        (item("NUM"), "no value"),
        (item("SCOORD", GraphicType="POLYLINE"), "polyline on the image"),
        (item("NEWKIND"), "(NEWKIND)"),
    ]
    for dataset, value in kinds:
        assert sr_text.item_of(dataset) == Item("Name", value)


# -- model and system ------------------------------------------------------------------------------------------------


def test_the_model_page_shows_the_bundle_that_is_in_use(client: httpx.Client, hospital: Hospital) -> None:
    manifest = hospital.road.bundle.manifest
    page = client.get("/models").text
    shown = text_of(page)
    assert hospital.road.bundle.digest in shown
    assert manifest.intended_use in shown
    for model in manifest.sub_models:
        assert " + ".join(model.modalities) in shown
        for figures in model.performance:
            if figures.auc is not None:
                assert f"{figures.auc:.2f}" in shown
    assert page.count("<h1") == 1
    assert "Golden case" in shown


def test_a_model_card_cannot_bring_its_own_html() -> None:
    from dicom_node.web.node_pages import markdown

    made = markdown(
        "# T\n\n<script>alert(1)</script>\n\n<img src=x onerror=alert(1)>\n\n[a](javascript:alert(1))"
        " [b](data:text/html,x)\n\n![c](http://elsewhere/c.png)\n\n| a | b |\n|---|---|\n| 1 | <b>2</b> |\n"
    )
    assert not re.search(r"<(script|img|b)\b", made)
    assert 'href="javascript' not in made
    assert 'href="data' not in made
    assert "<td>1</td>" in made
    assert made.startswith("<h2>T</h2>")


def test_the_system_page_shows_disk_queue_and_peers(client: httpx.Client, hospital: Hospital) -> None:
    shown = text_of(client.get("/system").text)
    counts = hospital.road.store.counts()
    assert f"Completed delivered {counts['COMPLETED']}" in shown
    assert re.search(r"[\d.]+ GB free of [\d.]+ GB: enough", shown)
    assert re.search(r"PACS 127\.0\.0\.1:104 gets results never .* ago well", shown)
    assert "has never run here" in shown


def test_the_system_page_says_how_jobs_are_isolated_and_when_nobody_works(
    client: httpx.Client, hospital: Hospital
) -> None:
    told = {
        "executor": "process",
        "isolation": "no network, nothing of the host",
        "isolated": True,
        "bundle": "ab" * 32,
    }
    vitals, now = hospital.road.store.vitals, time.time()
    try:
        vitals.beat("work", "0.1.0", now - 60, now, {"jobs": "apart"})
        vitals.beat("run", "0.1.0", now - 60, now, told)
        shown = text_of(client.get("/system").text)
        assert "Worker at work" in shown
        assert "Jobs at work" in shown
        assert "Isolation of jobs no network, nothing of the host" in shown
        vitals.beat("run", "0.1.0", now - 7200, now - 3600, {**told, "isolated": False})
        page = client.get("/system").text
        assert "not heard of; see that it runs" in page
        assert 'class="badge warn">no network' in page
    finally:
        hospital.road.store._db.execute("DELETE FROM node_status")
