"""Results as FHIR resources that can be read on their own: patient and device are contained in each."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from config.settings import Settings
from dicom_node import fhir_out
from dicom_node.answer import Previous
from dicom_node.result_index import StoredResult
from dicom_node.spool import Spool
from dicom_node.store import Store
from dicom_node.web import results
from dicom_node.web.fhir_outcome import outcome
from dicom_node.web.fhir_search import Position, Search, logical_id
from reports.fhir import device, withdrawn
from reports.fhir_context import Making, Place, identifiers_of, names_of, report_identifier
from reports.fhir_report import report
from reports.fhir_risk import observation, risk
from reports.fhir_types import patient, patient_identifier

Resource = dict[str, Any]


class Unreadable(Exception):
    """The file of a result is damaged or not there."""


@dataclass(frozen=True)
class Page:
    """Resources of one page; `unreadable` results have none. `following`: where the next page begins."""

    resources: list[Resource]
    unreadable: int
    following: Position | None


@dataclass(frozen=True)
class View:
    """Makes resources of results in the store."""

    store: Store
    spool: Spool
    settings: Settings

    def resources(self, kind: str, stored: StoredResult) -> list[Resource]:
        """Resources of one type: two Observations at most, one of the others at most. Raises Unreadable."""
        making = self._making(stored)
        key, number = making.context.key, stored.item.id
        if kind == "Observation":
            made = {logical_id(number, key, name): observation(making, name) for name in names_of(making.result)}
        elif kind == "DiagnosticReport":
            made = {logical_id(number, key): report(making)}
        else:
            made = {logical_id(number, key): risk(making)} if making.scored else {}
        return [_finished(resource, fhir_id, stored) for fhir_id, resource in made.items()]

    def page(self, kind: str, search: Search) -> Page:
        """One page of a search, newest result first; what arrives meanwhile moves nothing to another page."""
        found: list[tuple[Position, Resource]] = []
        unreadable = 0
        for stored in self._results(search):
            try:
                made = self.resources(kind, stored)
            except Unreadable:
                unreadable += 1
                continue
            for index, resource in enumerate(made):
                place = Position(stored.item.id, index)
                before = search.begin is not None and place.work_item_id == search.begin.work_item_id
                if before and search.begin is not None and index < search.begin.index:
                    continue
                if search.ids is None or resource["id"] in search.ids:
                    found.append((place, resource))
            if len(found) > search.count:
                break
        following = found[search.count][0] if len(found) > search.count else None
        return Page([resource for _, resource in found[: search.count]], unreadable, following)

    def _results(self, search: Search) -> Iterator[StoredResult]:
        last_id = search.begin.work_item_id if search.begin is not None else None
        while some := self.store.results.find(search.query, search.count + 1, last_id):
            yield from some
            last_id = some[-1].item.id - 1

    def _making(self, stored: StoredResult) -> Making:
        item, person = stored.item, stored.identity
        result = results.result_of(item, self.spool)
        if result is None:
            raise Unreadable
        before = self.store.results.before(item)
        previous = (Previous(report_identifier(before[0], person), before[1], None),) if before is not None else ()
        context = fhir_out.context_of(item, self.settings, previous)
        key, uuids = context.key, identifiers_of(result, person, context)
        references = {name: f"Observation/{logical_id(item.id, key, name)}" for name in names_of(result)}
        references |= {"device": "#device", "risk": f"RiskAssessment/{logical_id(item.id, key)}"}
        subject: Resource = {"reference": "#patient"}
        if person.patient_id:
            subject["identifier"] = patient_identifier(person)
        installed = {**device(result, context, uuids["device"]), "id": "device"}
        return Making(result, person, context, Place(subject, references, patient(person, "patient"), installed))


def searchset(page: Page, base: str, links: dict[str, str]) -> Resource:
    """A Bundle of what a search has found; `links` by relation."""
    entries = [
        {
            "fullUrl": f"{base}/{resource['resourceType']}/{resource['id']}",
            "resource": resource,
            "search": {"mode": "match"},
        }
        for resource in page.resources
    ]
    if page.unreadable:
        text = f"{page.unreadable} results are left out: their files are damaged or gone"
        entries.append({"resource": outcome("incomplete", text, "warning"), "search": {"mode": "outcome"}})
    bundle: Resource = {
        "resourceType": "Bundle",
        "type": "searchset",
        "link": [{"relation": relation, "url": url} for relation, url in links.items()],
    }
    return bundle | ({"entry": entries} if entries else {})


def _finished(resource: Resource, fhir_id: str, stored: StoredResult) -> Resource:
    if stored.replaced:
        resource = withdrawn(resource)
    meta = resource["meta"] | {"lastUpdated": _instant(stored.last_updated)}
    return {"resourceType": resource["resourceType"], "id": fhir_id, **resource, "meta": meta}


def _instant(seconds: float) -> str:
    return datetime.fromtimestamp(int(seconds * 1000) / 1000, UTC).isoformat(timespec="milliseconds")
