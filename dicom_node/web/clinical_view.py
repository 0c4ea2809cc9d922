"""What the study page shows of a patient's clinical values: those on hand, the form's fields, and what is recorded."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import Request

from analysis.contract import ClinicalValue
from dicom_node import clinical_desk
from dicom_node.clinical_desk import DAY, OnHand
from dicom_node.clinical_snapshot import THERAPY_START
from dicom_node.clinical_values import StoredValue
from dicom_node.local_time import today
from dicom_node.spool import Spool
from dicom_node.store import Store
from dicom_node.web import views
from dicom_node.web.deps import Signed
from dicom_node.workitem import WorkItem
from dicom_node.worklist import Row
from models.clinical_value import plausible
from models.manifest import Predictor
from reports import particulars, words


@dataclass(frozen=True)
class FieldView:
    """One field of the form: what it may be, what is on hand, what was entered and what is wrong with it."""

    name: str
    label: str
    unit: str
    allowed: str
    choices: tuple[str, ...]
    now: str
    source: str
    day: str
    entered: str
    error: str
    is_day: bool = False


@dataclass(frozen=True)
class StoredView:
    """One recorded value that counts."""

    id: int
    label: str
    value: str
    day: str
    source: str
    by: str


def section(
    request: Request,
    row: Row,
    store: Store,
    spool: Spool,
    signed: Signed,
    entered: Mapping[str, str] | None = None,
    errors: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """What clinical_form.html shows of a work item, as the context variable `desk`."""
    entered, errors = entered or {}, errors or {}
    predictors, problem = predictors_of(request, store)
    hand = clinical_desk.on_hand(store, spool, request.app.state.settings.clinical, predictors, item_of(store, row))
    labels = labels_of(predictors)
    fields = [_field(each, hand, entered, errors) for each in predictors]
    return {
        "fields": [*fields, _therapy_start(hand, entered, errors)] if fields else [],
        "flags": [flag.text for flag in hand.quality],
        "stored": [stored_view(value, labels) for value in hand.stored],
        "newer": ", ".join(labels.get(name, name) for name in hand.newer.split(", ") if name),
        "problem": words.capital(problem or hand.problem),
        "day": entered.get(DAY, ""),
        "today": today().isoformat(),  # the day on which people write
        "errors": errors,
        "may_enter": signed.may_act and bool(row.patient_id) and bool(predictors),
        "revise": request.app.state.settings.clinical.revise,
    }


def predictors_of(request: Request, store: Store) -> tuple[Sequence[Predictor], str]:
    """Of the node's bundle, then what those of routing rules have beside."""
    own, *others = (model.manifest for model in request.app.state.models.all(store))
    if own is None:
        return (), "the model bundle cannot be used"
    found = {one.name: one for manifest in (*others, own) if manifest for one in manifest.clinical}
    known = {one.name for one in own.clinical}
    return (*own.clinical, *(one for name, one in found.items() if name not in known)), ""


def labels_of(predictors: Sequence[Predictor]) -> dict[str, str]:
    """What people call the values of the form."""
    return {predictor.name: predictor.label for predictor in predictors} | {THERAPY_START: "Start of therapy"}


def _therapy_start(hand: OnHand, entered: Mapping[str, str], errors: Mapping[str, str]) -> FieldView:
    began = hand.therapy_start
    return FieldView(
        name=THERAPY_START,
        label=labels_of(())[THERAPY_START],
        unit="",
        allowed="the day; it may be planned",
        choices=(),
        now=began.day.isoformat() if began else "",
        source=began.source if began else "",
        day="",
        entered=entered.get(THERAPY_START, ""),
        error=errors.get(THERAPY_START, ""),
        is_day=True,
    )


def _field(predictor: Predictor, hand: OnHand, entered: Mapping[str, str], errors: Mapping[str, str]) -> FieldView:
    now: ClinicalValue | None = next((each for each in hand.values if each.name == predictor.name), None)
    choices = {"category": predictor.categories, "boolean": ("yes", "no")}.get(predictor.type, ())
    return FieldView(
        name=predictor.name,
        label=predictor.label,
        unit=views.unit(predictor.unit),
        allowed=plausible(predictor).removesuffix(predictor.unit).strip(),
        choices=choices,
        now=particulars.value(now.value, views.unit(now.unit)) if now else "",
        source=now.source if now else "",
        day=(now.date or "no date") if now else "",
        entered=entered.get(predictor.name, ""),
        error=errors.get(predictor.name, ""),
    )


def stored_view(value: StoredValue, labels: Mapping[str, str]) -> StoredView:
    stated = f", stated as {value.stated}" if value.stated else ""
    return StoredView(
        id=value.id,
        label=labels.get(value.name, words.capital(value.name.replace("_", " "))),
        value=particulars.value(value.value, views.unit(value.unit)),
        day=value.observed_on or ("" if value.name == THERAPY_START else "no date"),
        source=f"{value.source}{stated}",
        by=value.recorded_by,
    )


def item_of(store: Store, row: Row) -> WorkItem:
    item = store.item(row.id)
    assert item is not None  # rows are never deleted
    return item
