"""FHIR servers at work: what goes wrong with one keeps no other from being asked."""

from pathlib import Path

import pytest

from config.settings import FhirServer, Settings
from dicom_node import fhir_in
from dicom_node.clinical_fetch import ClinicalFetch
from dicom_node.store import Store


def test_an_answer_that_breaks_its_reader_is_asked_for_later_and_stops_no_other_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def ask(server: FhirServer, *_: object) -> fhir_in.Answer:
        if server.name == "ODD":
            raise RuntimeError("Doe, John")
        return fhir_in.Answer()

    monkeypatch.setattr(fhir_in, "ask", ask)
    store = Store.open(tmp_path / "store.sqlite")
    servers = tuple(FhirServer(name, "http://127.0.0.1:1/r4", clinical_values=True) for name in ("ODD", "EHR"))
    fetch = ClinicalFetch(Settings(fhir_servers=servers), lambda: 10.0)
    store.pulls.ask(("P1", ""), "ODD", 1.0, 0.0)
    store.pulls.ask(("P1", ""), "EHR", 2.0, 0.0)
    while fetch.fetch_due(store):
        pass
    odd, other = (store.pulls.ask(("P1", ""), name, 10.0, 0.0) for name in ("ODD", "EHR"))
    assert (odd.is_open, odd.attempts, other.is_open) == (True, 1, False)
    assert odd.run_after > 10.0
    assert "its answer cannot be read (RuntimeError)" in odd.detail
    assert "Doe" not in caplog.text
    store.close()
