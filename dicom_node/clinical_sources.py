"""Whether the FHIR servers have answered for a patient, before a study is planned. No socket here: `fhir_in` asks.

A study waits at most [clinical] fhir_wait_seconds, and then goes on with what is on hand and says so.
"""

import math
from dataclasses import dataclass

from analysis.contract import QualityFlag, Severity
from config.settings import FhirServer, Settings
from dicom_node.clinical_pulls import Pull
from dicom_node.identity import Identity
from dicom_node.store import Store


@dataclass(frozen=True)
class Asked:
    """Names of servers whose answer is still worth waiting for, and what the reader should know of the others."""

    awaited: tuple[str, ...] = ()
    quality: tuple[QualityFlag, ...] = ()


def servers_for(settings: Settings, whose: Identity) -> list[FhirServer]:
    """Servers that can say something about a patient."""
    if not whose.patient_id:
        return []
    issuers = ("", whose.issuer_of_patient_id) if whose.issuer_of_patient_id else None
    return [
        server
        for server in settings.fhir_servers
        if server.clinical_values and (issuers is None or server.issuer_of_patient_id in issuers)
    ]


def ask(store: Store, settings: Settings, study_instance_uid: str, now: float, asked_again_at: float | None) -> Asked:
    """Ask what a study needs to know. `asked_again_at`: when an operator wanted a rescore, with what is true then."""
    whose = store.patients.of_study(study_instance_uid) or Identity()
    patient = (whose.patient_id, whose.issuer_of_patient_id)
    newer_than = max(now - settings.clinical.fhir_fresh_minutes * 60, asked_again_at or -math.inf)
    pulls = [store.pulls.ask(patient, server.name, now, newer_than) for server in servers_for(settings, whose)]
    waits = [pull for pull in pulls if pull.is_open and now - pull.wanted_at < settings.clinical.fhir_wait_seconds]
    return Asked(tuple(pull.server for pull in waits), tuple(_flag(pull) for pull in pulls if _is_odd(pull)))


def _is_odd(pull: Pull) -> bool:
    return pull.is_open or bool(pull.detail)


def _flag(pull: Pull) -> QualityFlag:
    why = "it has not answered in time" if pull.is_open else pull.detail
    return QualityFlag(
        code="CLINICAL_SOURCE_UNAVAILABLE",
        severity=Severity.WARNING,
        text=f"Scored without clinical values of {pull.server}: {why}",
    )
