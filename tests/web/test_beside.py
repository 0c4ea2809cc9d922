"""The page beside the node, each in its own process over one spool: a result held for review is released by the API."""

import time
from pathlib import Path

from dicom_node.demo_pacs import DemoPacs
from tests.e2e.node import destination, log_of, send, serving, store_of, wait_for, write_settings
from tests.synthetic import ct_series, rtstruct, save_all
from tests.web.site import started

WORDS = ("PatientName", "PatientID", "PatientBirthDate")


def test_a_result_for_review_waits_in_the_worklist_and_leaves_when_the_api_releases_it(tmp_path: Path) -> None:
    ct = ct_series(16, 40, 40, seed=3)
    sent = save_all([*ct, rtstruct(ct)], tmp_path / "sent")
    folder = tmp_path / "node"
    with DemoPacs(tmp_path / "pacs", "PACS", commitment="same") as pacs:
        write_settings(folder, destination("PACS", pacs.port), web={"port": 0}, deliver={"hold_for_review": True})
        with started(folder) as early:
            assert early.client().get("/ready").status_code == 503, "the node has not made its store yet"
        with serving(folder) as node, started(folder, by_command=True) as site:
            pacs.report_to = ("127.0.0.1", node.port)
            with store_of(folder) as store:
                store.accounts.add_token("a token", "ris", "operator", time.time(), None)
            client = site.with_token("a token")

            def rows(**query: object) -> list[dict[str, object]]:
                found = client.get("/api/v1/worklist", params=query)  # type: ignore[arg-type]
                return list(found.json()["work_items"])

            send(node.port, sent)
            held = wait_for(lambda: rows(held=True), "a result waits for review", folder=folder)
            assert (held[0]["state"], held[0]["outcome"]) == ("REPORTED", "SCORED")
            number = held[0]["id"]
            time.sleep(1.0)
            assert pacs.objects() == []
            answer = client.post(f"/api/v1/work-items/{number}/release")
            assert (answer.status_code, answer.json()["detail"]) == (200, "it goes on")
            done = wait_for(lambda: rows(state="COMPLETED"), "it is delivered and proved", folder=folder)
            deliveries = done[0]["deliveries"]
            assert isinstance(deliveries, dict)
            assert deliveries["proved"] == deliveries["total"] == len(pacs.objects()) > 0
            system = client.get("/api/v1/system").json()
            assert system["worker_alive"] is system["runner_alive"] is True
            assert system["runner"]["facts"]["isolation"]
            assert "golden" in system["runner"]["facts"]
            assert {peer["name"] for peer in system["peers"] if peer["received"]} == {"MODALITY"}
            assert client.get("/api/v1/models").json()[0]["golden"] == system["runner"]["facts"]["golden"] != ""
            # Everything that is read through the API while the node works, and nothing of it in a log.
            assert client.get(f"/api/v1/work-items/{number}/result").json()["outcome"] == "SCORED"
            assert site.stop() == 0
    text = log_of(folder)
    assert "web.request POST /api/v1/work-items/{work_item_id}/release 200" in text
    for word in WORDS:
        value = str(ct[0].get(word, ""))
        assert value
        assert value not in text


def test_it_can_be_started_twice_on_two_ports_over_one_spool(tmp_path: Path) -> None:
    """Sessions are rows: a second process (a restart that overlaps, say) knows them too."""
    from tests.web.site import serving as page

    with page(tmp_path) as first, started(tmp_path) as second:
        client = first.signed_in()
        assert second.client(cookies=dict(client.cookies)).get("/api/v1/me").status_code == 200
