"""Settings of HL7 and FHIR: what would only show when somebody calls is said at start."""

import tomllib
from pathlib import Path

import pytest

from config.settings import SettingsError, parse

FHIR = "[[fhir_servers]]\nname = 'EHR'\nbase_url = 'https://ehr.example/r4'\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[hl7]\nallowed_hosts = ['ris']", "'ris' in allowed_hosts is no network; write 10.1.2.3 or 10.1.2.0/24"),
        ("[hl7]\ncertificate = 'a.pem'", "certificate and private_key go together"),
        ("[hl7]\nclient_ca = 'a.pem'", "client_ca needs certificate and private_key"),
        ("[hl7]\nlisten = true\nhost = '0.0.0.0'", "anybody could rename patients; name the senders in allowed_hosts"),
        ("[hl7]\nlisten = true\nhost = 'node.hospital.example'", "anybody could rename patients"),
        ("[hl7]\nprocessing_id = 'X'", "processing_id"),
        ("[hl7]\nmessage_timeout_seconds = 0", "'hl7.message_timeout_seconds' must be a number above 0"),
        ("[hl7]\nport = 70000", "'hl7.port' must be from 0 to 65535"),
        ("[[hl7_peers]]\nname = 'RIS'\nca = 'a.pem'", "RIS: ca and certificate are for MLLPS; set tls = true"),
        ("[[hl7_peers]]\nname = 'RIS'\ntls = true\ncertificate = 'a'", "RIS: certificate and private_key go together"),
        ("[[hl7_peers]]\nname = 'RIS'\ntimeout_seconds = 0", "RIS: timeout_seconds must be a number above 0"),
        (FHIR + "receives_results = true", "EHR: patient_identifier_system is missing"),
        (FHIR + "clinical_values = true\npatient_identifier_system = ' '", "EHR: patient_identifier_system is missing"),
        ("[[hl7_peers]]\nname = 'R I S'", "name 'R I S': use 1 to 32 letters"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused_with_the_remedy(text: str, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse(tomllib.loads(text), Path("/site"))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "[hl7]\nlisten = true",
        "[hl7]\nlisten = true\nhost = '::1'",
        FHIR,
        FHIR + "receives_results = true\npatient_identifier_system = 'http://hospital.example/mrn'",
        "[hl7]\nlisten = true\nhost = '0.0.0.0'\nallowed_hosts = ['10.1.0.0/16']",
        "[hl7]\nlisten = true\nhost = '0.0.0.0'\ncertificate = 'a'\nprivate_key = 'b'\nclient_ca = 'c'",
        "[[hl7_peers]]\nname = 'RIS'\ntls = true\nca = 'a.pem'",
    ],
)
def test_what_is_meant_is_taken(text: str) -> None:
    parse(tomllib.loads(text), Path("/site"))
