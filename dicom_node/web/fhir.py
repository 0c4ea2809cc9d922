"""Results for programs that speak FHIR R4: read and search, as /fhir/metadata and docs/fhir.md say."""

import time
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

from fastapi import APIRouter, Depends, Request, Response

from config.settings import Settings
from dicom_node.audit import AuditEntry
from dicom_node.store import Store
from dicom_node.web import fhir_capability
from dicom_node.web.deps import SettingsDep, Signed, SpoolDep, StoreDep, Viewer
from dicom_node.web.errors import Problem
from dicom_node.web.fhir_outcome import PREFIX, resource
from dicom_node.web.fhir_seal import PARAMETER
from dicom_node.web.fhir_search import KINDS, Position, Search, search_of, work_item_of

if TYPE_CHECKING:
    from dicom_node.web.fhir_view import Page

JSON = frozenset({"*/*", "application/*", "application/fhir+json", "application/json", "text/json", "json"})
FORM = "application/x-www-form-urlencoded"
MOST_PARAMETERS = 30


async def _parameters(request: Request, signed: Viewer) -> list[tuple[str, str]]:
    """Of the URL, and of a form: there a Patient ID stays out of the logs of what lies between, and of our links."""
    _wants_json(request)
    pairs = request.query_params.multi_items()
    for sealed in request.query_params.getlist(PARAMETER)[:1]:
        kept = request.app.state.seal.opened(signed.account, sealed)
        pairs = [*kept, *(pair for pair in pairs if pair != (PARAMETER, sealed))]
    if request.method == "POST":
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != FORM:
            raise Problem(415, "a search is posted as a form", f"send it as {FORM}")
        form = await request.form(max_files=0, max_fields=MOST_PARAMETERS)
        pairs = pairs + [(name, str(value)) for name, value in form.multi_items()]
    if len(pairs) > MOST_PARAMETERS:
        raise Problem(400, "these are too many parameters", f"give at most {MOST_PARAMETERS}")
    return pairs


def _wants_json(request: Request) -> None:
    """Raises Problem 406 for who takes nothing but XML."""
    accepted = request.query_params.get("_format") or request.headers.get("accept", "*/*")
    kinds = {one.partition(";")[0].strip().lower().replace(" ", "+") for one in accepted.split(",")}
    if not kinds & JSON:
        raise Problem(406, "FHIR is spoken here as JSON only", "accept application/fhir+json")


Parameters = Annotated[list[tuple[str, str]], Depends(_parameters)]
router = APIRouter(prefix=PREFIX)


@router.get("/metadata")
def metadata(request: Request, settings: SettingsDep, asked: Parameters) -> Response:
    """What can be asked here."""
    return resource(fhir_capability.statement(settings, _base(request, settings)))


@router.get("/{kind}/{logical_id}")
def read(
    store: StoreDep,
    spool: SpoolDep,
    settings: SettingsDep,
    signed: Viewer,
    asked: Parameters,
    kind: str,
    logical_id: str,
) -> Response:
    """One resource. The audit trail has who read it."""
    from dicom_node.web.fhir_view import Unreadable, View  # noqa: PLC0415 - coded concepts, 0.1 s; few ask for FHIR

    number = work_item_of(logical_id) if _known(kind) else None
    stored = store.results.of_item(number) if number is not None else None
    if stored is None:
        raise Problem(404, "this is not known here", "search for it; the id of a result is given by a search only")
    if stored.removed:
        raise Problem(410, "the files of this result have been removed", "see [storage]; the PACS has its report")
    try:
        made = View(store, spool, settings).resources(kind, stored)
    except Unreadable:
        raise Problem(500, "the files of this result are damaged or gone", "restore the spool from a backup") from None
    found = next((one for one in made if one["id"] == logical_id), None)
    if found is None:
        raise Problem(404, "this is not known here", "a result without a score has no RiskAssessment")
    with store.transaction():
        _audit(store, signed, kind, [found])
    return resource(found)


@router.get("/{kind}")
@router.post("/{kind}/_search")
def search(
    request: Request,
    store: StoreDep,
    spool: SpoolDep,
    settings: SettingsDep,
    signed: Viewer,
    asked: Parameters,
    kind: str,
) -> Response:
    """A Bundle of what matches. The audit trail has who searched, and each result that was found."""
    from dicom_node.web.fhir_view import View, searchset  # noqa: PLC0415 - as above

    _known(kind)
    zone = ZoneInfo(settings.node.time_zone) if settings.node.time_zone else None
    wanted = search_of(kind, asked, zone)
    page = View(store, spool, settings).page(kind, wanted)
    with store.transaction():
        _audit_search(store, signed, kind, wanted, len(page.resources))
        _audit(store, signed, kind, page.resources)
    return resource(searchset(page, _base(request, settings), _links(request, settings, signed, kind, wanted, page)))


def _known(kind: str) -> bool:
    if kind not in KINDS:
        raise Problem(404, "this type of resource is not served here", f"ask for {', '.join(KINDS)}")
    return True


def _base(request: Request, settings: Settings) -> str:
    return f"{settings.web.public_url.rstrip('/') or str(request.base_url).rstrip('/')}{PREFIX}"


def _links(
    request: Request, settings: Settings, signed: Signed, kind: str, wanted: Search, page: "Page"
) -> dict[str, str]:
    """What was understood, and where it goes on; what was posted, sealed."""
    where = f"{_base(request, settings)}/{kind}"
    asked = list(wanted.asked)
    if request.method == "POST" or PARAMETER in request.query_params:
        asked = [(PARAMETER, request.app.state.seal.closed(signed.account, asked))]

    def link(position: Position | None) -> str:
        pairs = [*asked, ("page", f"{position.work_item_id}.{position.index}")] if position is not None else asked
        return f"{where}?{urlencode(pairs)}" if pairs else where

    links = {"self": link(wanted.begin)}
    return links | ({"next": link(page.following)} if page.following is not None else {})


# -- audit -------------------------------------------------------------------------------------------------------


def _audit(store: Store, signed: Signed, kind: str, read: list[dict[str, Any]]) -> None:
    """One entry for each result of which anything was read."""
    for number in dict.fromkeys(work_item_of(one["id"]) for one in read):
        item = store.item(number) if number is not None else None
        if item is not None:
            store.audit.add(
                AuditEntry(
                    time.time(),
                    signed.account,
                    signed.origin,
                    "fhir.read",
                    address=signed.address,
                    work_item_id=item.id,
                    study_instance_uid=item.study_instance_uid,
                    detail=kind,
                )
            )


def _audit_search(store: Store, signed: Signed, kind: str, wanted: Search, found: int) -> None:
    """Who was looked for, also where nothing was found: an entry for each, as an audit message is about one patient."""
    for patient_id, issuer in wanted.query.patients or [("", None)]:
        facts = {"patient_id": patient_id, "issuer_of_patient_id": issuer}
        store.audit.add(
            AuditEntry(
                time.time(),
                signed.account,
                signed.origin,
                "fhir.searched",
                address=signed.address,
                detail=f"{kind}: {found} found",
                facts={name: value for name, value in facts.items() if value},
            )
        )
