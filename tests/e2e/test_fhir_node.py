"""`prognode serve` and a FHIR server, two processes, killed in turn: nothing is lost, nothing comes twice."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from dicom_node.deliveries import Delivery
from dicom_node.demo_pacs import DemoPacs
from dicom_node.workitem import DeliveryState, State
from tests import synthetic
from tests.e2e.node import (
    PACS,
    SETTINGS,
    completed,
    deliveries_of,
    destination,
    items_of,
    log_of,
    send,
    serving,
    store_of,
    wait_for,
    write_settings,
)  # fmt: skip
from tests.fhir_peer import SYSTEM, FhirPeer, fhir_peer, patient
from tests.web.site import started

CT = synthetic.ct_series(16, 40, 40, seed=1, patient_id="SECRET-ID", patient_name="Secret^Name")
WHOLE = {"Device": 1, "DiagnosticReport": 1, "RiskAssessment": 1, "Observation": 2, "Provenance": 1}


def settings(folder: Path, pacs: DemoPacs, ehr: FhirPeer, **sections: Any) -> None:
    write_settings(folder, destination(PACS, pacs.port), **sections)
    with (folder / SETTINGS).open("a") as file:
        file.write(
            f'\n[[fhir_servers]]\nname = "EHR"\nbase_url = "{ehr.base_url}"\nreceives_results = true\n'
            f'timeout_seconds = 20.0\npatient_identifier_system = "{SYSTEM}"\n'
        )


def row_of(folder: Path) -> Delivery | None:
    rows = [row for item in items_of(folder) for row in deliveries_of(folder, item, "fhir:EHR")]
    return rows[0] if rows else None


def row_says(folder: Path, text: str) -> bool:
    row = row_of(folder)
    return row is not None and text in row.detail


def held(ehr: FhirPeer) -> dict[str, int]:
    return dict(Counter(one["resourceType"] for one in ehr.holds()))


@pytest.mark.exhaustive
def test_node_and_server_killed_in_turn_end_with_each_resource_once(tmp_path: Path) -> None:
    folder = tmp_path / "node"
    with fhir_peer(tmp_path / "ehr") as ehr, DemoPacs(tmp_path / "pacs", PACS, commitment="none") as pacs:
        ehr.knows(patient("SECRET-ID", "17"))
        ehr.stop()
        settings(folder, pacs, ehr)
        with serving(folder) as node:
            send(node.port, synthetic.save_all([*CT, synthetic.rtstruct(CT)], tmp_path / "sent"))
            wait_for(lambda: row_says(folder, "cannot be reached"), "the server is found down", folder=folder)
            node.kill()

        ehr.start()
        ehr.is_in("hang")  # it has read the request, and says nothing
        with serving(folder) as node:
            wait_for(lambda: ehr.posts, "the server is asked", folder=folder)
            node.kill()  # the node waits for the answer
        assert held(ehr) == {}

        ehr.is_in("drop")  # it has done what was asked, and the answer is lost
        with serving(folder) as node:
            wait_for(lambda: held(ehr) == WHOLE, "everything is there", folder=folder)
            wait_for(lambda: row_says(folder, "it is sent again"), "the node knows no better", folder=folder)
            ehr.stop()
            node.kill()

        ehr.is_in("")
        ehr.start()
        with serving(folder):
            item = completed(folder)
        row = row_of(folder)
        assert row is not None
        assert row.state is DeliveryState.ACKNOWLEDGED
        assert held(ehr) == WHOLE
        (report,) = ehr.holds("DiagnosticReport")
        assert report["identifier"][0]["value"] == row.sop_instance_uid
        assert report["subject"]["reference"] == "Patient/17"
        with store_of(folder) as store:
            sent = [one for one in store.audit.of_item(item.id) if one.action == "message.sent"]
        assert [(one.outcome, one.facts["peer"]) for one in sent] == [("done", "fhir:EHR")]
    for secret in ("SECRET-ID", "Secret", "Müller", "4711"):
        assert secret not in log_of(folder)


def test_what_a_server_was_sent_is_what_the_page_lets_be_read(tmp_path: Path) -> None:
    folder = tmp_path / "node"
    with fhir_peer(tmp_path / "ehr") as ehr, DemoPacs(tmp_path / "pacs", PACS, commitment="none") as pacs:
        ehr.knows(patient("SECRET-ID", "17"))
        settings(folder, pacs, ehr, web={"port": 0})
        with serving(folder) as node:
            send(node.port, synthetic.save_all([*CT, synthetic.rtstruct(CT)], tmp_path / "sent"))
            assert completed(folder).state is State.COMPLETED
        with store_of(folder) as store:
            store.accounts.add_token("a token", "reader", "viewer", 1.0, None)
        with started(folder) as site, site.with_token("a token") as client:
            for kind in ("DiagnosticReport", "RiskAssessment", "Observation"):
                found = client.get(f"/fhir/{kind}", params={"patient.identifier": "SECRET-ID"}).json()["entry"]
                read = {one["resource"]["identifier"][0]["value"]: one["resource"] for one in found}
                sent = {one["identifier"][0]["value"]: one for one in ehr.holds(kind)}
                assert read.keys() == sent.keys()
                for identifier, resource in read.items():
                    for name in ("status", "code", "conclusion", "note", "text", "valueCodeableConcept", "prediction"):
                        assert resource.get(name) == sent[identifier].get(name)
