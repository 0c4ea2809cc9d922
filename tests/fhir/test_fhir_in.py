"""Clinical values from a FHIR server in another process: what is read, what is left aside, and what goes wrong."""

import logging
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from config.clinical import Clinical
from config.settings import FhirServer as Entry
from config.settings import Settings
from dicom_node import fhir_client, fhir_in
from dicom_node.check import _clinical
from dicom_node.clinical_codes import load
from dicom_node.clinical_intake import Feed, Taken, take, take_diagnoses
from dicom_node.store import Store
from dicom_node.workitem import Permanent, Retryable
from tests.certificates import Authority
from tests.fhir_server import (
    LOINC,
    SNOMED,
    SYSTEM,
    FhirServer,
    concept,
    diagnosis,
    fhir_server,
    observation,
    patient,
)  # fmt: skip

CODES = load(None)
FEED = Feed("fhir", "FHIR Observation", "EHR")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FhirServer]:
    with fhir_server(tmp_path_factory.mktemp("fhir")) as running:
        yield running


def entry(server: FhirServer, **more: object) -> Entry:
    made = Entry("EHR", server.base_url, timeout_seconds=30.0, clinical_values=True, patient_identifier_system=SYSTEM)
    return replace(made, **more)  # type: ignore[arg-type]


def read(server: FhirServer, tmp_path: Path, patient_id: str = "P1", **more: object) -> tuple[Store, Taken, Taken, str]:
    answer = fhir_in.ask(entry(server, **more), patient_id, "", CODES)
    store = Store.open(tmp_path / "store.sqlite")
    seen = take(store.clinical, CODES, answer.observations, FEED, 1.0)
    told = take_diagnoses(store.clinical, CODES, answer.conditions, FEED, 1.0)
    return store, seen, told, answer.detail


def values(store: Store) -> dict[str, tuple[float | str, str, str]]:
    return {value.name: (value.value, value.unit, value.observed_on) for value in store.clinical.current("P1")}


def test_observations_and_diagnoses_of_the_patient_become_values(server: FhirServer, tmp_path: Path) -> None:
    others = [observation(f"a{n}", "751-8", 4.0 + n, "10*9/L", effectiveDateTime=f"2023-01-0{n + 1}") for n in range(7)]
    component = [
        {"code": concept("751-8"), "valueQuantity": {"value": 5.2, "unit": "10*9/L"}},
        {"code": concept("731-0"), "valueQuantity": {"value": 1.3, "unit": "x10^9/L"}},
    ]
    server.has(
        patient(),
        observation("alb", "1751-7", 3.95, "g/dL"),
        observation("ecog", "89247-1", valueInteger=1, effectiveDateTime="2024-01-02"),
        observation("cbc", "58410-2", component=component),
        observation("tps", "83053-9", 60, "%", effectiveDateTime="2023-12"),
        diagnosis("liver", "94381002"),
        *others,
    )
    store, seen, told, detail = read(server, tmp_path)
    assert (seen.recorded, told.recorded, seen.refused, detail) == (5 + 7, 1, (), "")
    kept = values(store)
    assert kept["albumin"] == (39.5, "g/L", "2024-01-01")
    assert kept["ecog"] == (1.0, "", "2024-01-02")
    assert kept["lymphocytes"] == (1.3, "10*9/L", "2024-01-01")
    assert kept["pdl1"] == (60.0, "%", "")  # a month is no day
    assert kept["liver_metastases"] == ("yes", "", "2023-05-01")
    assert sum(1 for value in store.clinical.current("P1") if value.name == "neutrophils") == 8  # all three pages
    assert take(store.clinical, CODES, fhir_in.ask(entry(server), "P1", "", CODES).observations, FEED, 2.0) == Taken(
        unchanged=12
    )


@pytest.mark.parametrize(
    "resource",
    [
        observation("x", "1751-7", 39, "g/L", status="preliminary"),
        observation("x", "1751-7", 39, "g/L", status="registered"),
        observation("x", "1751-7", 39, ""),
        observation("x", "1751-7", 590, "umol/L"),
        observation("x", "1751-7", valueQuantity={"value": 20, "comparator": "<", "unit": "g/L"}),
        observation("x", "1751-7", valueString="39 g/L"),
        observation("x", "1751-7", dataAbsentReason=concept("unknown", "x")),
        observation("x", "1751-7", 39, "g/L", subject={"reference": "Patient/p2"}),
        observation("x", "1751-7", 39, "g/L", subject="Patient/p1"),
        observation("../x", "1751-7", 39, "g/L"),
        observation("x", "1751-7", 39, "g/L", code={"coding": "1751-7"}),
        observation("x", "1751-7", 39, "g/L", component=[1]),
        observation("x", "1751-7", 39, "g/L", code=concept("9" * 1000)),
        diagnosis("x", "94381002", verificationStatus=concept("provisional", "x")),
        diagnosis("x", "94381002", clinicalStatus=concept("resolved", "x")),
        diagnosis("x", "254637007"),  # the lung cancer itself
    ],
)
def test_what_is_not_final_not_sure_not_theirs_or_not_readable_is_not_taken(
    server: FhirServer, tmp_path: Path, resource: dict
) -> None:
    server.has(patient(), resource, mood="lenient")  # a server that ignores the search and gives all it has
    store, _, _, _ = read(server, tmp_path)
    assert store.clinical.history("P1") == []


def test_what_was_entered_in_error_is_taken_back(server: FhirServer, tmp_path: Path) -> None:
    taken = [observation("alb", "1751-7", 39, "g/L"), diagnosis("liver", "94381002")]
    server.has(patient(), *taken)
    store, _, _, _ = read(server, tmp_path)
    assert set(values(store)) == {"albumin", "liver_metastases"}
    wrong = concept("entered-in-error", "x")
    server.has(
        patient(), observation("alb", "1751-7", status="entered-in-error"),
        diagnosis("liver", "94381002", verificationStatus=wrong),
    )  # fmt: skip
    store.close()
    store, seen, told, _ = read(server, tmp_path)
    assert (seen.retracted, told.retracted) == (1, 1)
    assert values(store) == {}
    assert {value.ended_how for value in store.clinical.history("P1")} == {"retracted"}


def test_an_amended_observation_takes_the_place_of_the_first(server: FhirServer, tmp_path: Path) -> None:
    server.has(patient(), observation("alb", "1751-7", 39, "g/L"))
    read(server, tmp_path)[0].close()
    server.has(patient(), observation("alb", "1751-7", 29, "g/L", status="amended", effectiveDateTime="2024-01-03"))
    store, _, _, _ = read(server, tmp_path)
    assert values(store) == {"albumin": (29.0, "g/L", "2024-01-03")}


@pytest.mark.parametrize(
    ("resources", "detail"),
    [
        ([], fhir_in.UNKNOWN),
        ([patient("P11")], fhir_in.UNKNOWN),
        ([patient(), patient(fhir_id="p2")], fhir_in.SEVERAL),
        ([patient(identifier=[{"system": "http://elsewhere.example/mrn", "value": "P1"}])], fhir_in.UNKNOWN),
        ([patient(), patient(fhir_id="p2", active=False)], ""),
        ([patient(), patient(fhir_id="p2", link=[{"type": "replaced-by", "other": {"reference": "Patient/p1"}}])], ""),
    ],
)
def test_only_the_one_patient_who_has_the_identifier_is_read(
    server: FhirServer, tmp_path: Path, resources: list, detail: str
) -> None:
    server.has(*resources, observation("alb", "1751-7", 39, "g/L"), mood="lenient")
    store, _, _, said = read(server, tmp_path)
    assert said == detail
    assert bool(values(store)) is (detail == "")


def test_a_server_without_end_is_read_to_the_limit_and_that_is_said(
    server: FhirServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fhir_client, "MAXIMUM_PAGES", 3)
    server.has(patient(), observation("alb", "1751-7", 39, "g/L"), mood="endless")
    store, _, _, detail = read(server, tmp_path)
    assert detail == fhir_in.TOO_MUCH
    assert values(store)["albumin"][0] == 39.0


@pytest.mark.parametrize(
    ("mood", "kind", "says"),
    [
        ("500", Retryable, "cannot answer just now"),
        ("503", Retryable, "cannot answer just now"),
        ("429", Retryable, "cannot answer just now"),
        ("hang", Retryable, "in time"),
        ("drip", Retryable, "too long"),
        ("401", Permanent, "refuses us"),
        ("403", Permanent, "refuses us"),
        ("404", Permanent, "HTTP 404"),
        ("redirect", Permanent, "HTTP 302"),
        ("huge", Permanent, "more than 5000000 bytes"),
        ("text", Permanent, "no JSON"),
        ("deep", Permanent, "no JSON"),
        ("nan", Permanent, "no JSON"),
        ("gzip", Permanent, "compresses"),
        ("elsewhere", Permanent, "another server"),
    ],
)
def test_a_server_that_misbehaves_is_named_and_quoted_nowhere(
    server: FhirServer, mood: str, kind: type[Exception], says: str, caplog: pytest.LogCaptureFixture
) -> None:
    many = [observation(f"a{n}", "751-8", 4.0, "10*9/L") for n in range(9)]
    server.has(patient("SECRET-ID"), *many, mood=mood)
    with caplog.at_level(logging.DEBUG), pytest.raises(kind, match=says) as error:
        fhir_in.ask(entry(server, timeout_seconds=2.0 if mood in ("hang", "drip") else 30.0), "SECRET-ID", "", CODES)
    assert error.value.hint  # type: ignore[attr-defined]
    assert "SECRET-ID" not in f"{error.value} {error.value.hint} {caplog.text}"  # type: ignore[attr-defined]


def test_a_server_that_is_not_there_may_come_back(server: FhirServer) -> None:
    with pytest.raises(Retryable, match="cannot be reached"):
        fhir_in.ask(entry(server, base_url="http://127.0.0.1:9/r4"), "P1", "", CODES)


@pytest.mark.parametrize("base_url", ["ftp://127.0.0.1/r4", "fhir", "http://"])
def test_an_address_that_is_none_is_refused(server: FhirServer, base_url: str) -> None:
    with pytest.raises(Permanent, match="no address"):
        fhir_in.ask(entry(server, base_url=base_url), "P1", "", CODES)


def test_the_token_goes_with_each_request_and_comes_from_a_file_that_nobody_else_can_read(
    server: FhirServer, tmp_path: Path
) -> None:
    token = tmp_path / "fhir.token"
    token.write_text("s3cret\n")
    token.chmod(0o600)
    server.has(patient())
    fhir_in.ask(entry(server, token_file=token), "P1", "", CODES)
    asked = server.requests[-3:]
    assert [one["headers"].get("Authorization") for one in asked] == ["Bearer s3cret"] * 3
    token.chmod(0o644)
    before = len(server.requests)
    with pytest.raises(Permanent, match="others can read"):
        fhir_in.ask(entry(server, token_file=token), "P1", "", CODES)
    assert len(server.requests) == before
    token.chmod(0o600)
    with pytest.raises(Permanent, match="open connection"):
        fhir_in.ask(entry(server, token_file=token, base_url="http://fhir.example/r4"), "P1", "", CODES)


def test_no_proxy_of_the_environment_hears_of_a_patient(server: FhirServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setitem(os.environ, name, "http://127.0.0.1:9")
    server.has(patient())
    assert fhir_in.ask(entry(server), "P1", "", CODES).detail == ""


def test_tls_needs_a_certificate_of_the_authority(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    issued = authority.issue("fhir")
    with fhir_server(tmp_path / "server", issued.certificate, issued.key) as running:
        running.has(patient(), observation("alb", "1751-7", 39, "g/L"))
        assert read(running, tmp_path, ca=authority.path)[1].recorded == 1
        with pytest.raises(Permanent, match="certificate cannot be verified"):
            fhir_in.ask(entry(running), "P1", "", CODES)
        with pytest.raises(Permanent, match="cannot be used"):
            fhir_in.ask(entry(running, ca=tmp_path / "absent.pem"), "P1", "", CODES)


def test_an_identifier_with_a_bar_is_one_identifier(server: FhirServer, tmp_path: Path) -> None:
    server.has(patient("A|1"))
    assert fhir_in.ask(entry(server), "A|1", "", CODES).detail == fhir_in.UNKNOWN  # this server knows no escape
    assert "A%5C%7C1" in server.requests[-1]["path"]


def test_the_search_names_every_code_of_the_mapping(server: FhirServer) -> None:
    server.has(patient())
    fhir_in.ask(entry(server), "P1", "", CODES)
    seen, told = (one["path"] for one in server.requests[-2:])
    assert f"{LOINC}|1751-7" in seen.replace("%3A", ":").replace("%2F", "/").replace("%7C", "|")
    assert f"{SNOMED}|94381002" in told.replace("%3A", ":").replace("%2F", "/").replace("%7C", "|")
    assert max(len(seen), len(told)) < 4000


def test_check_says_which_version_answers(server: FhirServer) -> None:
    server.has()
    assert fhir_in.look(entry(server)) == f"FHIR 4.0.1 at {server.base_url}"
    server.has(version="5.0.0")
    with pytest.raises(Permanent, match="R4"):
        fhir_in.look(entry(server))


def test_check_looks_at_codes_table_and_server(server: FhirServer, tmp_path: Path) -> None:
    server.has()
    table = tmp_path / "table.csv"
    settings = Settings(clinical=Clinical(table=table), fhir_servers=(entry(server), entry(server, name="OFF")))
    found = {finding.name: finding for finding in _clinical(settings)}
    assert found["clinical codes"].well
    assert not found["clinical table"].well
    assert found["FHIR EHR"].text.startswith("FHIR 4.0.1")
    server.has(mood="403")
    table.write_text("patient_id\n")
    found = {finding.name: finding for finding in _clinical(settings)}
    assert found["clinical table"].well
    assert (found["FHIR EHR"].well, "token" in found["FHIR EHR"].remedy) == (False, True)
    broken = replace(settings, clinical=Clinical(codes=tmp_path / "absent.toml"))
    assert not next(_clinical(broken)).well
