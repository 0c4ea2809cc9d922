"""Clinical values on the study page and in the API: what is on hand, entering, taking back."""

import time
from datetime import date
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Depends, Request
from fastapi.responses import RedirectResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from dicom_node import clinical_desk
from dicom_node.clinical_desk import DAY, NotEntered
from dicom_node.local_time import today
from dicom_node.spool import Spool
from dicom_node.store import Store
from dicom_node.web import views
from dicom_node.web.api import PROBLEMS, REFUSED, WorkItemId
from dicom_node.web.clinical_view import FieldView, item_of, labels_of, predictors_of, section, stored_view
from dicom_node.web.deps import Number, Operator, Signed, SpoolDep, StoreDep, Viewer, opened
from dicom_node.web.errors import Problem
from dicom_node.web.pages import NOTICE, keep_cookie, render, row_of
from dicom_node.worklist import Row

MOST_FIELDS = 200

router = APIRouter(include_in_schema=False)
api_router = APIRouter(prefix="/api/v1", responses=PROBLEMS, tags=["clinical values"])


# -- the form ------------------------------------------------------------------------------------------------------


async def _fields(request: Request) -> dict[str, str]:
    """The form's texts by predictor: fields are called "value.<name>"."""
    form = await request.form(max_fields=MOST_FIELDS)
    texts = {name: value for name, value in form.items() if isinstance(value, str)}
    return {name.removeprefix("value."): text for name, text in texts.items() if name.startswith("value.")} | {
        DAY: texts.get(DAY, "")
    }


Fields = Annotated[dict[str, str], Depends(_fields)]


def _page(request: Request, row: Row, store: Store, status: int = 200, **context: Any) -> Response:
    model = request.app.state.models.all(store)[0].manifest
    synthetic = model is not None and model.synthetic
    return render(
        request, "clinical.html", status=status, row=row, view=views.row_view(row), synthetic=synthetic, **context
    )


@router.get("/items/{item_id}/clinical")
def clinical(item_id: Number, request: Request, signed: Viewer, store: StoreDep, spool: SpoolDep) -> Response:
    """The clinical values of a work item's patient, on a page of their own."""
    row = row_of(item_id, store)
    opened(request, store, signed, row.study_instance_uid, row.id, "study.opened")
    return _page(request, row, store, desk=section(request, row, store, spool, signed), withdrawing=None)


@router.post("/items/{item_id}/clinical")
def enter(
    item_id: Number, request: Request, signed: Operator, store: StoreDep, spool: SpoolDep, fields: Fields
) -> Response:
    """Keep what was entered, and go back to the study; or show what is wrong beside each field."""
    row = row_of(item_id, store)
    try:
        names = _keep(request, store, signed, row, fields)
    except NotEntered as refused:
        opened(request, store, signed, row.study_instance_uid, row.id, "study.opened", part=True)
        desk = section(request, row, store, spool, signed, fields, refused.errors)
        return _page(request, row, store, 422, desk=desk, withdrawing=None)
    labels = labels_of(predictors_of(request, store)[0])
    after = section(request, row, store, spool, signed)
    unused = [field.label for field in after["fields"] if field.name in names and not _is_used(field, fields)]
    said = f"Kept: {', '.join(labels[name] for name in names)}."
    if unused:
        said += f" Not used for this CT: {', '.join(unused)}; another value or another day counts."
    return _back(request, row, said)


def _keep(request: Request, store: Store, signed: Signed, row: Row, fields: dict[str, str]) -> list[str]:
    """Names of the predictors whose values are kept. Raises NotEntered, and then nothing is."""
    predictors, _ = predictors_of(request, store)
    return clinical_desk.enter(store, predictors, item_of(store, row), fields, signed.actor, time.time(), today())


def _is_used(field: FieldView, entered: dict[str, str]) -> bool:
    if field.is_day:
        return field.now == entered[field.name].strip()
    return field.source.startswith(clinical_desk.SOURCE) and field.day == entered[DAY].strip()


@router.get("/items/{item_id}/clinical/{number}/withdraw")
def ask_withdraw(
    item_id: Number, number: Number, request: Request, signed: Operator, store: StoreDep, spool: SpoolDep
) -> Response:
    """What taking a value back means, before it is done."""
    row = row_of(item_id, store)
    value = clinical_desk.theirs(store, item_of(store, row), number)
    if value is None:
        raise Problem(404, "there is no such value that counts", "look at the values of the study")
    opened(request, store, signed, row.study_instance_uid, row.id, "study.opened", part=True)
    labels = labels_of(predictors_of(request, store)[0])
    desk = section(request, row, store, spool, signed)
    return _page(request, row, store, desk=desk, withdrawing=stored_view(value, labels))


@router.post("/items/{item_id}/clinical/{number}/withdraw")
def withdraw(item_id: Number, number: Number, request: Request, signed: Operator, store: StoreDep) -> Response:
    """Take a value back, and go back to the study."""
    row = row_of(item_id, store)
    value = clinical_desk.withdraw(store, item_of(store, row), number, signed.actor, time.time())
    if value is None:
        raise Problem(409, "this value does not count any more", "look at the values of the study")
    return _back(request, row, "Taken back. It stays in the history, and is not taken again from the same source.")


def _back(request: Request, row: Row, said: str) -> Response:
    answer = RedirectResponse(f"/items/{row.id}/clinical", 303)
    keep_cookie(request, answer, NOTICE, quote(said[:300]), 60)
    return answer


# -- the API -------------------------------------------------------------------------------------------------------


class UsedOut(BaseModel):
    """A value as a score would use it."""

    model_config = ConfigDict(from_attributes=True)

    name: str
    value: float | str
    unit: str = Field(description="UCUM")
    source: str
    date: str | None = Field(description="ISO date of the observation")


class StoredOut(BaseModel):
    """A recorded value that counts. `id` is what is taken back."""

    model_config = ConfigDict(from_attributes=True)

    id: int
    name: str
    value: float | str
    unit: str
    stated: str = Field(description="as the source stated it, where that was another unit")
    observed_on: str
    source: str
    recorded_by: str


class ClinicalOut(BaseModel):
    """What is on hand for the patient of a work item."""

    on_hand: list[UsedOut] = Field(description="what a rescore would use now")
    therapy_start: date | None = Field(description="when therapy began, as far as it is known")
    recorded: list[StoredOut]
    newer: list[str] = Field(description="predictors (or therapy_start) whose value gives another answer now")
    quality: list[str]
    problem: str = Field(description="why on_hand cannot be told")


class ClinicalIn(BaseModel):
    """Values of one day, each in its predictor's unit, and the day of therapy_start; all are kept or none."""

    model_config = ConfigDict(extra="forbid")

    observed_on: date | None = Field(None, description="needed for all but therapy_start")
    values: dict[Annotated[str, Field(max_length=100)], float | Annotated[str, Field(max_length=64)]] = Field(
        min_length=1, max_length=MOST_FIELDS
    )


@api_router.get("/work-items/{work_item_id}/clinical-values")
def clinical_values(
    request: Request, store: StoreDep, spool: SpoolDep, signed: Viewer, work_item_id: WorkItemId
) -> ClinicalOut:
    """Clinical values of the patient of a work item. The audit trail has who looked."""
    row = row_of(work_item_id, store)
    opened(request, store, signed, row.study_instance_uid, row.id, "study.opened")
    return _out(request, store, spool, row)


@api_router.post("/work-items/{work_item_id}/clinical-values", responses=REFUSED)
def add_clinical_values(
    request: Request, store: StoreDep, spool: SpoolDep, signed: Operator, work_item_id: WorkItemId, given: ClinicalIn
) -> ClinicalOut:
    """Keep values of the patient of a work item, checked as the model checks them."""
    row = row_of(work_item_id, store)
    fields = {name: str(value) for name, value in given.values.items()} | {
        DAY: given.observed_on.isoformat() if given.observed_on else ""
    }
    try:
        _keep(request, store, signed, row, fields)
    except NotEntered as refused:
        said = "; ".join(f"{name} {why}".strip() for name, why in refused.errors.items())
        raise Problem(422, said, "correct these; nothing has been kept") from None
    return _out(request, store, spool, row)


@api_router.post("/work-items/{work_item_id}/clinical-values/{number}/withdraw", responses=REFUSED)
def withdraw_clinical_value(
    request: Request, store: StoreDep, spool: SpoolDep, signed: Operator, work_item_id: WorkItemId, number: Number
) -> ClinicalOut:
    """Take a value back; it stays in the history."""
    row = row_of(work_item_id, store)
    if clinical_desk.withdraw(store, item_of(store, row), number, signed.actor, time.time()) is None:
        raise Problem(409, "this value does not count (any more)", "read the values again")
    return _out(request, store, spool, row)


def _out(request: Request, store: Store, spool: Spool, row: Row) -> ClinicalOut:
    predictors, problem = predictors_of(request, store)
    hand = clinical_desk.on_hand(store, spool, request.app.state.settings.clinical, predictors, item_of(store, row))
    return ClinicalOut(
        on_hand=[UsedOut.model_validate(value) for value in hand.values],
        therapy_start=hand.therapy_start.day if hand.therapy_start else None,
        recorded=[StoredOut.model_validate(value) for value in hand.stored],
        newer=[name for name in hand.newer.split(", ") if name],
        quality=[flag.text for flag in hand.quality],
        problem=problem or hand.problem,
    )
