"""Results to one FHIR R4 server: a transaction Bundle of conditional creates, so that a resend makes nothing twice; a
revision withdraws what it replaces in the same transaction.

Knows no store. Of what the server says only status, Retry-After and coded issue types are ever told; its texts may
quote the patient.
"""

import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from itertools import islice
from typing import Any
from zoneinfo import ZoneInfo

from config.identity import VERSION
from config.settings import FhirServer, Settings
from dicom_node.answer import Answer, Outgoing, Previous
from dicom_node.fhir_client import ID, NotReached, Reply, Session, open_client
from dicom_node.identity import Identity, PatientKey
from dicom_node.workitem import DeliveryState, Permanent, Retryable, StoreBusy, WorkItem
from reports.fhir import is_open, linked_to, transaction
from reports.fhir_context import FhirContext, ReplacedReport, report_identifier
from reports.fhir_types import URI
from reports.uids import device_uid

PENDING, FAILED, ACKNOWLEDGED = DeliveryState.PENDING, DeliveryState.FAILED, DeliveryState.ACKNOWLEDGED
LONGEST_WAIT_SECONDS = 86_400.0  # of a Retry-After: a server that says more is asked again after a day
MOST_LINKED = 10  # resources of one replaced result that are looked at; ours have three
_LATER = frozenset({408, 409, 412, 425, 429})
_CODE = re.compile(r"[a-z][a-z-]{1,30}")  # IssueType and IssueSeverity


def send(going: Outgoing) -> Answer:
    """Send a result to an entry of [[fhir_servers]]; never raises for what the peer does; raises Withdrawn."""
    identity, settings = going.identity, going.settings
    server = next((one for one in settings.fhir_servers if one.name == going.name), None)
    if server is None:
        return Answer(FAILED, f"no [[fhir_servers]] entry {going.name}; add it, then: prognode retry")
    refused = _why_not_there(server, identity)
    if refused:
        return Answer(FAILED, refused)
    context = context_of(going.item, settings, going.previous)
    identifier = report_identifier(context.key, identity)
    try:
        with open_client(server) as client:
            session = Session(server, client)
            patients = session.patients(identity.patient_id)
            if len(patients) != 1:
                return Answer(PENDING, _unknown(server, len(patients)))
            (fhir_id,) = patients
            replaced = [one for told in going.previous for one in _held(session, told)]
            bundle = transaction(going.result, identity, context, {"reference": f"Patient/{fhir_id}"}, replaced)
            return _posted(server, session, bundle, identifier, going.leaving)
    except NotReached as error:
        return Answer(PENDING, f"{server.name}: {error}; {error.hint}", dead=True)
    except Retryable as error:
        return Answer(PENDING, f"{server.name}: {error}; {error.hint}")
    except Permanent as error:
        return Answer(FAILED, f"{server.name}: {error}; {error.hint}, then: prognode retry")


def context_of(item: WorkItem, settings: Settings, previous: Sequence[Previous] = ()) -> FhirContext:
    """What enters the resources beside result and patient; times are of the job's record, not of this moment."""
    node = settings.node
    replaced = ReplacedReport(previous[0].identifier, previous[0].revision) if previous else None
    return FhirContext(
        key=item.key or "",
        created=datetime.fromtimestamp(item.scheduled_at or item.created_at, UTC),
        study_instance_uid=item.study_instance_uid,
        ct_series_instance_uid=item.ct_series_instance_uid or "",
        contour=item.roi_sop_instance_uid or "",
        software_version=VERSION,
        device_uid=device_uid(node.ae_title, node.site),
        revision=item.revision,
        replaced=replaced,
        language=settings.report.language,
        zone=ZoneInfo(node.time_zone) if node.time_zone else None,
    )


def _why_not_there(server: FhirServer, identity: Identity) -> str:
    if not identity.patient_id:
        return "the study has no Patient ID, and no FHIR server could file it; correct it, then: prognode retry"
    key = PatientKey(identity.patient_id, server.issuer_of_patient_id)
    if not key.means(identity.patient_id, identity.issuer_of_patient_id):
        return f"the patient is of another issuer than those of {server.name} (issuer_of_patient_id)"
    return ""


def _unknown(server: FhirServer, count: int) -> str:
    if count:
        return (
            f"{server.name} has {count} patients with this ID; merge them there, or correct patient_identifier_system"
        )
    return (
        f"{server.name} does not know the patient (yet); if it does, correct patient_identifier_system; it is "
        "asked again"
    )


def _held(session: Session, told: Previous) -> Iterator[dict[str, Any]]:
    """What the server holds of a replaced result, as it has it; not what somebody has given another status."""
    for report_id in sorted(session.known_by("DiagnosticReport", URI, told.identifier))[:MOST_LINKED]:
        report = session.read("DiagnosticReport", report_id)
        if report is None:
            continue
        names = dict.fromkeys(linked_to(report))
        linked = [session.read(kind, name) for kind, name in islice(names, MOST_LINKED) if ID.fullmatch(name)]
        yield from (one for one in [report, *linked] if one is not None and is_open(one))


def _posted(
    server: FhirServer, session: Session, bundle: dict[str, Any], identifier: str, leaving: Callable[[str], None]
) -> Answer:
    try:
        reply = session.post(bundle, lambda: leaving(identifier))
    except (NotReached, StoreBusy):  # nothing of it has left
        raise
    except Retryable as error:  # the request may have arrived
        return Answer(PENDING, f"{server.name}: {error}; it is sent again", identifier, dead=True)
    if 200 <= reply.status < 300:
        wrong = _wrong(reply, len(bundle["entry"]))
        if not wrong:
            return Answer(ACKNOWLEDGED, f"HTTP {reply.status} by {server.name}", identifier)
        return Answer(PENDING, f"{server.name}: {wrong}; it is sent again", identifier)
    said = f"{server.name} answered HTTP {reply.status}{_issues(reply.body)}"
    if reply.status in _LATER or reply.status >= 500:
        return Answer(PENDING, f"{said}; it is sent again", identifier, retry_after=_retry_after(reply))
    if 300 <= reply.status < 400:
        return Answer(FAILED, f"{said}: it sends us elsewhere; correct base_url, then: prognode retry")
    forbidden = reply.status in (401, 403)
    rights = "renew the token in token_file, or grant it the right to create, and to update for revisions"
    remedy = rights if forbidden else "its log says why"
    return Answer(FAILED, f"{said}; {remedy}; then: prognode retry")


def _wrong(reply: Reply, entries: int) -> str:
    """Why a transaction-response is none, or which entries have not succeeded; '' where every one has."""
    said = _object(reply.body)
    if said.get("resourceType") != "Bundle" or said.get("type") != "transaction-response":
        return "its answer is no transaction-response"
    found = said.get("entry")
    responses = [entry.get("response") for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []
    statuses = [str(one.get("status", ""))[:3] if isinstance(one, dict) else "" for one in responses]
    if len(statuses) != entries:
        return f"it answered for {len(statuses)} of {entries} resources"
    bad = [status if status.isdigit() else "?" for status in statuses if not status.startswith("2")]
    return (
        f"{len(bad)} of {entries} resources have not been created (status {', '.join(sorted(set(bad)))})" if bad else ""
    )


def _issues(body: bytes) -> str:
    """The coded parts of an OperationOutcome: " (error: not-found)". Its texts are left out; they may hold PHI."""
    issues = _object(body).get("issue")
    found = []
    for issue in issues[:5] if isinstance(issues, list) else ():
        parts = [str(issue.get(name, "")) for name in ("severity", "code")] if isinstance(issue, dict) else []
        if len(parts) == 2 and all(_CODE.fullmatch(part) for part in parts):
            found.append(": ".join(parts))
    return f" ({', '.join(dict.fromkeys(found))})" if found else ""


def _object(body: bytes) -> dict[str, Any]:
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


def _retry_after(reply: Reply) -> float:
    """Seconds of a Retry-After header (RFC 9110 10.2.3), as a number or a date; 0 where there is none."""
    text = reply.retry_after.strip()
    if re.fullmatch(r"\d{1,9}", text):
        return min(float(text), LONGEST_WAIT_SECONDS)
    try:
        wait = parsedate_to_datetime(text).timestamp() - time.time()
    except (ValueError, TypeError, OverflowError):
        return 0.0
    return min(max(0.0, wait), LONGEST_WAIT_SECONDS)
