"""Results to a FHIR server in another process over real HTTP: what each answer means; nothing is made twice."""

import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from analysis.contract import JobResult
from config.settings import Deliver, FhirServer, Node, Settings
from dicom_node import fhir_out
from dicom_node.answer import Answer, Outgoing, Previous, Withdrawn
from dicom_node.identity import Identity
from dicom_node.workitem import DeliveryState, StoreBusy, WorkItem
from tests.certificates import Authority
from tests.fhir_peer import SYSTEM, FhirPeer, fhir_peer, patient
from tests.hl7.test_sending import ITEM
from tests.hl7_inputs import ANNA, not_scored, scored

PENDING, FAILED, ACKNOWLEDGED = DeliveryState.PENDING, DeliveryState.FAILED, DeliveryState.ACKNOWLEDGED
KINDS = ["Device", "DiagnosticReport", "Observation", "Observation", "Provenance", "RiskAssessment"]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FhirPeer]:
    with fhir_peer(tmp_path_factory.mktemp("ehr")) as made:
        yield made


@pytest.fixture
def peer(running: FhirPeer) -> FhirPeer:
    running.forgets()
    return running


def entry(peer: FhirPeer, **more: Any) -> FhirServer:
    made = FhirServer("EHR", peer.base_url, timeout_seconds=30.0, receives_results=True)
    return replace(made, **{"patient_identifier_system": SYSTEM, **more})


def send(
    server: FhirServer,
    result: JobResult | None = None,
    identity: Identity = ANNA,
    item: WorkItem = ITEM,
    *previous: Previous,
) -> Answer:
    settings = Settings(node=Node(time_zone="Europe/Berlin"), fhir_servers=(server,), deliver=Deliver())
    return fhir_out.send(Outgoing("EHR", item, result or scored(), identity, settings, previous))


def revision(peer: FhirPeer, number: int, *before: str, result: JobResult | None = None) -> Answer:
    """Send revision `number`; `before` are the reports that the server may have, newest first."""
    told = [Previous(one, number - 1 - index, None) for index, one in enumerate(before)]
    item = replace(ITEM, key=f"{number}" * 64, revision=number)
    return send(entry(peer), result, ANNA, item, *told)


def statuses(peer: FhirPeer) -> dict[str, str]:
    """Resource -> its status; Device and Provenance have none of that kind."""
    held = [one for kind in ("DiagnosticReport", "RiskAssessment", "Observation") for one in peer.holds(kind)]
    return {f"{one['resourceType']}/{one['id']}": one["status"] for one in held}


def kinds(peer: FhirPeer) -> list[str]:
    return sorted(one["resourceType"] for one in peer.holds())


def test_a_result_arrives_whole_is_linked_and_is_acknowledged(peer: FhirPeer) -> None:
    answer = send(entry(peer))
    assert (answer.state, answer.message) == (ACKNOWLEDGED, "HTTP 200 by EHR")
    assert kinds(peer) == KINDS
    (report,) = peer.holds("DiagnosticReport")
    assert report["subject"] == {"reference": "Patient/17"}
    assert [one["reference"] for one in report["result"]] == ["Observation/1", "Observation/2"]
    assert report["identifier"][0]["value"] == answer.identifier
    (risk,) = peer.holds("RiskAssessment")
    assert risk["performer"] == {"reference": "Device/1"}
    assert peer.posts[0]["type"] == "application/fhir+json; charset=utf-8"


def test_not_scored_is_sent_like_a_score(peer: FhirPeer) -> None:
    assert send(entry(peer), not_scored()).state is ACKNOWLEDGED
    assert kinds(peer) == ["Device", "DiagnosticReport", "Observation", "Provenance"]


def test_a_resend_makes_no_second_resource(peer: FhirPeer) -> None:
    first, again = send(entry(peer)), send(entry(peer))
    assert (first.state, again.state) == (ACKNOWLEDGED, ACKNOWLEDGED)
    assert first.identifier == again.identifier
    assert kinds(peer) == KINDS
    assert peer.posts[0]["body"] == peer.posts[1]["body"]


def test_a_resend_after_a_lost_answer_makes_no_second_resource(peer: FhirPeer) -> None:
    peer.is_in("drop")
    lost = send(entry(peer))
    assert (lost.state, lost.dead) == (PENDING, True)
    assert lost.identifier  # it may be there: the next revision must be able to name it
    peer.is_in("")
    assert send(entry(peer)).state is ACKNOWLEDGED
    assert kinds(peer) == KINDS


def test_two_results_share_the_device_and_nothing_else(peer: FhirPeer) -> None:
    send(entry(peer))
    other = replace(ITEM, key="j" * 64)
    assert send(entry(peer), item=other).state is ACKNOWLEDGED
    assert sorted(kinds(peer)) == sorted(KINDS + KINDS[1:])


def test_a_revision_names_the_report_before_it(peer: FhirPeer) -> None:
    first = send(entry(peer))
    assert revision(peer, 2, first.identifier).state is ACKNOWLEDGED
    reports = peer.holds("DiagnosticReport")
    replaces = [
        e["valueReference"]["identifier"]["value"] for r in reports for e in r["extension"] if "replaces" in e["url"]
    ]
    assert replaces == [first.identifier]


def test_what_a_revision_replaces_is_no_longer_preliminary(peer: FhirPeer) -> None:
    first = send(entry(peer))
    before = peer.holds("Observation")[0]
    assert revision(peer, 2, first.identifier, result=not_scored()).state is ACKNOWLEDGED
    old = ("DiagnosticReport/1", "RiskAssessment/1", "Observation/1", "Observation/2")
    assert {name: statuses(peer)[name] for name in old} == dict.fromkeys(old, "cancelled")
    assert statuses(peer)["DiagnosticReport/2"] == "preliminary"
    after = peer.holds("Observation")[0]
    assert after["meta"]["tag"][-1]["code"] == "REPLACED"
    for name in ("status", "meta"):
        del before[name], after[name]
    assert after == before, "its numbers and words stay as they were"


def test_what_people_have_made_of_a_replaced_report_stays(peer: FhirPeer) -> None:
    first = send(entry(peer))
    held = json.loads((peer.folder / "held.json").read_text())
    for one in held:
        if one["resourceType"] == "DiagnosticReport":
            one["status"] = "final"
        if one["resourceType"] == "Observation":
            one["meta"]["tag"] = []
    peer.knows(*held)
    assert revision(peer, 2, first.identifier).state is ACKNOWLEDGED
    assert [statuses(peer)[name] for name in ("DiagnosticReport/1", "Observation/1")] == ["final", "preliminary"]
    assert statuses(peer)["RiskAssessment/1"] == "cancelled"


def test_every_report_that_may_be_there_is_withdrawn_and_one_that_never_came_is_no_matter(peer: FhirPeer) -> None:
    first = send(entry(peer))
    lost = f"urn:uuid:{'0' * 8}-0000-4000-8000-{'0' * 12}"
    assert revision(peer, 3, lost, first.identifier).state is ACKNOWLEDGED
    assert {statuses(peer)[name] for name in ("DiagnosticReport/1", "Observation/1")} == {"cancelled"}


def test_a_revision_that_is_sent_again_changes_nothing_more(peer: FhirPeer) -> None:
    first = send(entry(peer))
    peer.is_in("drop")
    assert revision(peer, 2, first.identifier).state is PENDING
    held = peer.holds()
    peer.is_in("")
    assert revision(peer, 2, first.identifier).state is ACKNOWLEDGED
    assert peer.holds() == held
    assert [one["meta"]["versionId"] for one in peer.holds("DiagnosticReport")] == ["2", "1"]


def test_a_report_that_somebody_changes_meanwhile_is_looked_at_again(peer: FhirPeer) -> None:
    first = send(entry(peer))
    peer.is_in("changes")
    answer = revision(peer, 2, first.identifier)
    assert (answer.state, "HTTP 412" in answer.message) == (PENDING, True)
    assert len(peer.holds("DiagnosticReport")) == 1, "all of a transaction or nothing"
    peer.is_in("")
    assert revision(peer, 2, first.identifier).state is ACKNOWLEDGED
    assert statuses(peer)["DiagnosticReport/1"] == "cancelled"


def test_the_identifier_is_known_before_anything_leaves(peer: FhirPeer) -> None:
    noted: list[tuple[str, int]] = []
    settings = Settings(fhir_servers=(entry(peer),))
    going = Outgoing("EHR", ITEM, scored(), ANNA, settings, leaving=lambda one: noted.append((one, len(peer.posts))))
    answer = fhir_out.send(going)
    assert noted == [(answer.identifier, 0)]


def test_what_is_withdrawn_when_the_connection_stands_does_not_leave(peer: FhirPeer) -> None:
    def withdrawn(identifier: str) -> None:
        raise Withdrawn

    settings = Settings(fhir_servers=(entry(peer),))
    with pytest.raises(Withdrawn):
        fhir_out.send(Outgoing("EHR", ITEM, scored(), ANNA, settings, leaving=withdrawn))
    assert peer.posts == []
    assert send(entry(peer)).state is ACKNOWLEDGED


def test_a_store_that_is_busy_when_the_connection_stands_is_no_message_that_may_be_there(peer: FhirPeer) -> None:
    def busy(identifier: str) -> None:
        raise StoreBusy("the store is locked", "it is tried again")

    settings = Settings(fhir_servers=(entry(peer),))
    answer = fhir_out.send(Outgoing("EHR", ITEM, scored(), ANNA, settings, leaving=busy))
    assert (answer.state, answer.dead, answer.identifier, peer.posts) == (PENDING, False, "", [])


@pytest.mark.parametrize("status", [400, 403, 404, 405, 410, 415, 422])
def test_a_refusal_is_for_an_operator(peer: FhirPeer, status: int) -> None:
    peer.is_in(str(status))
    answer = send(entry(peer))
    assert answer.state is FAILED
    assert answer.message.startswith(f"EHR answered HTTP {status} (error: processing)")
    assert "prognode retry" in answer.message
    assert not answer.identifier


@pytest.mark.parametrize("status", [408, 409, 412, 429, 500, 502, 503])
def test_what_may_pass_is_tried_again(peer: FhirPeer, status: int) -> None:
    peer.is_in(str(status))
    answer = send(entry(peer))
    assert (answer.state, answer.retry_after) == (PENDING, 0.0)
    assert f"HTTP {status}" in answer.message


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("120", 120.0), ("99999999", 86_400.0), ("soon", 0.0), ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0), ("-5", 0.0)],
)
def test_retry_after_is_honoured_within_reason(peer: FhirPeer, header: str, seconds: float) -> None:
    peer.is_in(f"retry {header}")
    answer = send(entry(peer))
    assert (answer.state, answer.retry_after) == (PENDING, seconds)


@pytest.mark.parametrize(
    ("mood", "words"),
    [
        ("partial", "1 of 6 resources have not been created (status 422)"),
        ("short", "it answered for 5 of 6 resources"),
        ("text", "its answer is no transaction-response"),
    ],
)
def test_a_success_is_believed_only_when_every_entry_says_so(peer: FhirPeer, mood: str, words: str) -> None:
    peer.is_in(mood)
    answer = send(entry(peer))
    assert answer.state is PENDING
    assert words in answer.message
    peer.is_in("")
    assert send(entry(peer)).state is ACKNOWLEDGED
    assert kinds(peer) == KINDS


def test_a_redirect_is_not_followed_with_a_patient_s_result(peer: FhirPeer) -> None:
    peer.is_in("elsewhere")
    answer = send(entry(peer))
    assert answer.state is FAILED
    assert "correct base_url" in answer.message


@pytest.mark.parametrize(
    ("known", "words"),
    [
        ([], "does not know the patient (yet)"),
        ([patient("4712", "18")], "does not know the patient (yet)"),
        ([patient("4711", "17"), patient("4711", "18")], "has 2 patients with this ID"),
    ],
)
def test_a_result_waits_until_the_server_knows_its_patient_as_one(
    peer: FhirPeer, known: list[dict[str, Any]], words: str
) -> None:
    peer.knows(*known)
    answer = send(entry(peer))
    assert answer.state is PENDING
    assert words in answer.message
    assert peer.posts == []
    peer.knows(patient("4711", "17"))
    assert send(entry(peer)).state is ACKNOWLEDGED


def test_a_study_without_patient_id_or_of_another_issuer_is_not_sent(peer: FhirPeer) -> None:
    assert send(entry(peer), identity=replace(ANNA, patient_id="")).state is FAILED
    answer = send(entry(peer, issuer_of_patient_id="HOSPITAL B"))
    assert (answer.state, "another issuer" in answer.message) == (FAILED, True)
    assert peer.requests == []


def test_a_server_that_is_down_costs_no_time_out_for_each_result(peer: FhirPeer) -> None:
    peer.stop()
    answer = send(entry(peer))
    assert (answer.state, answer.dead, answer.identifier) == (PENDING, True, "")
    peer.start()
    assert send(entry(peer)).state is ACKNOWLEDGED


def test_a_server_that_hangs_may_have_it(peer: FhirPeer) -> None:
    peer.is_in("hang")
    answer = send(entry(peer, timeout_seconds=0.5))
    assert (answer.state, answer.dead) == (PENDING, True)
    assert answer.identifier


def test_what_was_taken_survives_a_kill_of_the_server_and_is_not_made_again(peer: FhirPeer) -> None:
    peer.is_in("drop")
    send(entry(peer))
    peer.stop()
    peer.is_in("")
    peer.start()
    assert send(entry(peer)).state is ACKNOWLEDGED
    assert kinds(peer) == KINDS


def test_nothing_of_the_patient_or_of_what_the_server_says_is_told(
    peer: FhirPeer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    for mood in ("422", "503", "partial", "text", ""):
        peer.is_in(mood)
        answer = send(entry(peer))
        for told in (answer.message, caplog.text):
            assert not any(name in told for name in ("4711", "Müller", "Jörg", "19500101", "not welcome"))


def test_the_token_comes_from_a_file_that_nobody_else_can_read(peer: FhirPeer, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("s3cret\n")
    token.chmod(0o644)
    answer = send(entry(peer, token_file=token))
    assert answer.state is FAILED
    assert "chmod 0600" in answer.message
    assert peer.requests == []
    token.chmod(0o600)
    assert send(entry(peer, token_file=token)).state is ACKNOWLEDGED
    assert {one["token"] for one in peer.requests} == {"Bearer s3cret"}
    assert "s3cret" not in answer.message
    open_connection = send(entry(peer, token_file=token, base_url="http://fhir.example/r4"))
    assert "open connection" in open_connection.message


def test_a_refused_token_is_said_as_such(peer: FhirPeer) -> None:
    peer.is_in("401")
    answer = send(entry(peer))
    assert answer.state is FAILED
    assert "token_file" in answer.message


def test_the_certificate_is_verified_against_the_authority_of_the_settings(tmp_path: Path) -> None:
    authority, other = Authority(tmp_path / "ca"), Authority(tmp_path / "other")
    with fhir_peer(tmp_path / "ehr", *authority.issue("ehr")) as secure:
        assert send(entry(secure, ca=authority.path)).state is ACKNOWLEDGED
        for ca in (other.path, None):
            answer = send(entry(secure, ca=ca))
            assert answer.state is FAILED
            assert "certificate" in answer.message
    with fhir_peer(tmp_path / "wrong", *authority.issue("wrong", hosts=("elsewhere.example",))) as secure:
        assert send(entry(secure, ca=authority.path)).state is FAILED


def test_a_name_in_any_script_arrives_nowhere_and_the_result_does(peer: FhirPeer) -> None:
    """The patient is the server's: only its reference is sent."""
    send(entry(peer), identity=replace(ANNA, patient_name="山田^太郎"))
    assert "山田" not in json.dumps(peer.posts[0]["body"], ensure_ascii=False)
