"""A running node asks a FHIR server by itself, and the value is in the report that the PACS gets."""

from pathlib import Path

from dicom_node.demo_pacs import DemoPacs
from tests import synthetic
from tests.e2e.node import PACS, SETTINGS, completed, destination, filed, kind_of, log_of, send, serving, write_settings
from tests.fhir_server import SYSTEM, fhir_server, observation, patient
from tests.validators import dsr2text

CT = synthetic.ct_series(16, 40, 40, seed=1, patient_id="SECRET-ID")


def test_the_fhir_server_s_value_is_in_the_report_and_the_patient_in_no_log(tmp_path: Path) -> None:
    folder = tmp_path / "node"
    with fhir_server(tmp_path / "ehr") as ehr, DemoPacs(tmp_path / "pacs", PACS, commitment="same") as pacs:
        ehr.has(patient("SECRET-ID"), observation("alb", "1751-7", 3.9, "g/dL"))
        write_settings(folder, destination(PACS, pacs.port))
        with (folder / SETTINGS).open("a") as settings:
            settings.write(
                f'\n[[fhir_servers]]\nname = "EHR"\nbase_url = "{ehr.base_url}"\nclinical_values = true\n'
                f'patient_identifier_system = "{SYSTEM}"\n'
            )
        with serving(folder) as node:
            pacs.report_to = ("127.0.0.1", node.port)
            send(node.port, synthetic.save_all([*CT, synthetic.rtstruct(CT)], tmp_path / "sent"))
            completed(folder)
        report = next(path for dataset, path in filed(pacs) if kind_of(dataset) == "risk-sr")
        assert "albumin = 39 g/L (FHIR Observation, stated as 3.9 g/dL, 2024-01-01)" in dsr2text(report)
        assert len(ehr.requests) == 3  # Patient, Observation, Condition
    assert "fhir.read EHR: 1 values new" in log_of(folder)
    assert "SECRET-ID" not in log_of(folder)
