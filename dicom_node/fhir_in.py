"""Clinical values from one FHIR R4 server: Observation and Condition of one patient, by the codes of the mapping.

Knows no store. Everything that a server says is hostile: sizes, pages and time are limited, only its own origin is
asked, and only resources that name the patient are read. No URL, identifier or value is in a log or an error.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from config.settings import FhirServer
from dicom_node.clinical_codes import Codes
from dicom_node.fhir_client import ID, Session, open_client
from dicom_node.fhir_resources import BadResource, condition, observations
from dicom_node.observation import Observation
from dicom_node.workitem import Permanent

COUNT = 200  # resources of a page, as asked for
UNKNOWN, SEVERAL, TOO_MUCH = (
    "it does not know the patient",
    "it has several patients with this ID",
    "it has more than is read; the newest are taken",
)


@dataclass(frozen=True)
class Answer:
    """What a server has of a patient. `detail`: what is odd about it, in words of ours."""

    observations: tuple[Observation, ...] = ()
    conditions: tuple[Observation, ...] = ()
    detail: str = ""


def ask(server: FhirServer, patient_id: str, issuer: str, codes: Codes) -> Answer:
    """Everything of a patient that the mapping has codes for, newest first.

    Raises
    ------
    Retryable
        The server does not answer, is busy, or says that it has failed.
    Permanent
        It refuses us, is no FHIR server, or the settings (token, certificate, address) cannot be used.
    """
    with open_client(server) as client:
        search = Session(server, client)
        ids = search.patients(patient_id)
        if len(ids) != 1:
            return Answer(detail=SEVERAL if ids else UNKNOWN)
        (fhir_id,) = ids
        of_patient = {"patient": fhir_id, "_count": str(COUNT)}
        seen, cut = _coded(search, "Observation", of_patient | {"_sort": "-date"}, codes.searched("codes"))
        told, cut_too = _coded(search, "Condition", of_patient, codes.searched("conditions"))
    whose = _Whose(patient_id, issuer, fhir_id, server.name)
    return Answer(
        observations=tuple(one for resource in seen for one in whose.read(observations, resource)),
        conditions=tuple(one for resource in told for one in whose.read(condition, resource)),
        detail=TOO_MUCH if cut or cut_too else "",
    )


def _coded(
    search: Session, kind: str, parameters: dict[str, str], codes: list[str]
) -> tuple[list[dict[str, Any]], bool]:
    """Resources with any of these codes; nothing is asked for where there is none, for that would mean all."""
    return search.all(kind, parameters | {"code": ",".join(codes)}) if codes else ([], False)


def look(server: FhirServer) -> str:
    """What a server says of itself, for `prognode check`. Raises as `ask`."""
    with open_client(server) as client:
        statement = Session(server, client).get("metadata", {})
    if statement.get("resourceType") != "CapabilityStatement":
        raise Permanent("its /metadata is no CapabilityStatement", "correct base_url of the [[fhir_servers]] entry")
    version = str(statement.get("fhirVersion", ""))[:16]
    if not version.startswith("4."):
        raise Permanent("it does not speak FHIR R4", "give the server's R4 endpoint as base_url")
    return f"FHIR {re.sub(r'[^0-9.]', '', version)} at {server.base_url}"


@dataclass(frozen=True)
class _Whose:
    """The patient that was asked about; a resource of anybody else is left aside."""

    patient_id: str
    issuer: str
    fhir_id: str
    server: str

    def read(
        self, reader: Callable[[dict[str, Any], str, str], list[Observation]], resource: dict[str, Any]
    ) -> list[Observation]:
        subject = resource.get("subject")
        reference = subject.get("reference") if isinstance(subject, dict) else None
        fhir_id = resource.get("id")
        ours = isinstance(reference, str) and f"/{reference}".endswith(f"/Patient/{self.fhir_id}")
        if not ours or not isinstance(fhir_id, str) or not ID.fullmatch(fhir_id):
            return []
        try:
            read = reader(resource, self.patient_id, self.issuer)
        except BadResource:
            return []
        return [_placed(one, f"{self.server} {resource['resourceType']}/{fhir_id}") for one in read]


def _placed(one: Observation, origin: str) -> Observation:
    return Observation(**(vars(one) | {"origin": origin}))
