"""What a person sees and does about the clinical values of one work item. Page and API use these.

Each change is one transaction with its audit entry, which names the predictors and never a value.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from analysis.contract import ClinicalValue, QualityFlag
from config.clinical import Clinical
from dicom_node.audit import AuditEntry
from dicom_node.clinical_codes import day_of, plain_number
from dicom_node.clinical_snapshot import THERAPY_START, Snapshots, TherapyStart
from dicom_node.clinical_values import ClinicalEntry, StoredValue
from dicom_node.decision import Plan
from dicom_node.identity import Identity
from dicom_node.operations import Actor
from dicom_node.spool import Spool
from dicom_node.store import Store
from dicom_node.ticket import ticket_of
from dicom_node.workitem import StageError, WorkItem
from models.clinical_value import ValueRefused, coerce, is_blank
from models.manifest import Predictor

SOURCE = "study page"
DAY = "observed_on"  # the field of the observation's day
LONGEST = 64
_OLDEST = date(1900, 1, 1)
_PLANNED = timedelta(days=366)  # the start of therapy may lie ahead


@dataclass(frozen=True)
class OnHand:
    """Values as a rescore would use them now, what was recorded for the patient, and why it cannot be told."""

    values: tuple[ClinicalValue, ...] = ()
    quality: tuple[QualityFlag, ...] = ()
    stored: tuple[StoredValue, ...] = ()
    newer: str = ""  # names of predictors whose value is another one than was used
    problem: str = ""
    therapy_start: TherapyStart | None = None


class NotEntered(ValueError):
    """What was entered cannot be kept: a sentence per field, without the value."""

    def __init__(self, errors: Mapping[str, str]) -> None:
        super().__init__(", ".join(errors))
        self.errors = dict(errors)


def on_hand(store: Store, spool: Spool, settings: Clinical, predictors: Sequence[Predictor], item: WorkItem) -> OnHand:
    """What is on hand for the patient of a work item, and what of it counts for its CT."""
    whose = store.patients.of_study(item.study_instance_uid) or Identity()
    stored = tuple(store.clinical.current(whose.patient_id, whose.issuer_of_patient_id))
    newer = store.clinical.newer(item.id).get(item.id, "")
    ct = _first_image(store, item)
    if ct is None:
        return OnHand(stored=stored, newer=newer, problem="no CT image is here yet")
    try:
        snapshots = Snapshots(store, settings, predictors)
        taken = snapshots.take(item.study_instance_uid, spool.instance_path(*ct))
        began = snapshots.therapy_start(item.study_instance_uid)
    except StageError as error:
        return OnHand(stored=stored, newer=newer, problem=f"{error}; {error.hint}")
    except OSError:
        return OnHand(stored=stored, newer=newer, problem="the CT images have been removed from this node")
    return OnHand(taken.values, taken.quality, stored, newer, therapy_start=began)


def _first_image(store: Store, item: WorkItem) -> tuple[str, str] | None:
    """SOP Instance UID and digest of an image of the CT: of those that were planned, else of the series."""
    ticket = ticket_of(item.plan)
    if ticket is not None and isinstance(ticket.decision, Plan):
        uid = ticket.decision.ct_sop_instance_uids[0]
        return uid, ticket.digests[uid]
    series = store.arrivals.series(item.ct_series_instance_uid or "")
    return (series[0].sop_instance_uid, series[0].digest) if series else None


def enter(
    store: Store,
    predictors: Sequence[Predictor],
    item: WorkItem,
    entered: Mapping[str, str],
    actor: Actor,
    now: float,
    today: date,
) -> list[str]:
    """Keep what a person has entered: text by predictor, or the day of THERAPY_START, which may be planned; and the day
    of the observations in the field DAY. Gives the names that were kept.

    What is blank is left as it is. Raises NotEntered where anything cannot be right; then nothing is kept.
    """
    whose = store.patients.of_study(item.study_instance_uid) or Identity()
    known = {predictor.name: predictor for predictor in predictors}
    errors = {name: "is no predictor of the model" for name in entered if name not in {*known, DAY, THERAPY_START}}
    values, refused = _values(known, entered)
    errors |= refused
    began = _day(entered, THERAPY_START, today + _PLANNED, errors)
    day = _day(entered, DAY, today + timedelta(days=1), errors)
    if (values or refused) and day is None and DAY not in errors:
        errors[DAY] = "is needed: the day on which the values were observed"
    if not whose.patient_id:
        errors[""] = "The study has no Patient ID: values cannot be kept for it"
    elif not values and began is None and not errors:
        errors[""] = "Nothing was entered"
    if errors:
        raise NotEntered(errors)
    given = [(name, value, known[name].unit, day.isoformat() if day else "") for name, value in values.items()]
    if began is not None:  # of no day: another one takes its place
        given.append((THERAPY_START, began.isoformat(), "", ""))
    entries = [
        ClinicalEntry(
            patient_id=whose.patient_id,
            issuer_of_patient_id=whose.issuer_of_patient_id,
            name=name,
            value=value,
            unit=unit,
            observed_on=observed_on,
            kind="form",
            source=SOURCE,
            recorded_by=actor.name,
        )
        for name, value, unit, observed_on in given
    ]
    names = [entry.name for entry in entries]
    store.clinical.record(
        entries, now, again=True, audit=_audit("clinical.recorded", ", ".join(names), actor, item, now)
    )
    return names


def _values(
    known: Mapping[str, Predictor], entered: Mapping[str, str]
) -> tuple[dict[str, float | str], dict[str, str]]:
    """Values of the predictors, and what is wrong with those that are none."""
    values: dict[str, float | str] = {}
    errors: dict[str, str] = {}
    for name, predictor in known.items():
        try:
            value = _value(predictor, entered.get(name, ""))
        except ValueRefused as refusal:
            errors[name] = str(refusal).removeprefix(f"{name} ")
        else:
            if value is not None:
                values[name] = value
    return values, errors


def _day(entered: Mapping[str, str], name: str, latest: date, errors: dict[str, str]) -> date | None:
    """The day in a field; None where it is blank or `errors` says what is wrong with it."""
    text = entered.get(name, "").strip()
    day = day_of(text)
    if text and day is None:
        errors[name] = "is no date such as 2024-03-01"
    elif day is not None and not _OLDEST <= day <= latest:
        errors[name] = (
            "lies before 1900 or in the future" if name == DAY else "lies before 1900 or too far in the future"
        )
        return None
    return day


def _value(predictor: Predictor, text: str) -> float | str | None:
    text = text.strip()
    if is_blank(text):
        return None
    if len(text) > LONGEST:
        raise ValueRefused("is too long")
    if predictor.type == "number" and plain_number(text) is None:
        raise ValueRefused("is not a plain number" + ("; write a decimal point" if "," in text else ""))
    value = coerce(predictor, text)
    return ("yes" if value else "no") if predictor.type == "boolean" else value


def withdraw(store: Store, item: WorkItem, value_id: int, actor: Actor, now: float) -> StoredValue | None:
    """Take a value of the work item's patient back; None where it is not theirs or does not count (any more)."""
    value = theirs(store, item, value_id)
    if value is None:
        return None
    audit = _audit("clinical.withdrawn", value.name, actor, item, now)
    return value if store.clinical.withdraw(value.id, now, audit) else None


def theirs(store: Store, item: WorkItem, value_id: int) -> StoredValue | None:
    """A value that counts for the patient of a work item."""
    whose = store.patients.of_study(item.study_instance_uid) or Identity()
    stored = store.clinical.current(whose.patient_id, whose.issuer_of_patient_id)
    return next((value for value in stored if value.id == value_id), None)


def _audit(action: str, names: str, actor: Actor, item: WorkItem, now: float) -> AuditEntry:
    return AuditEntry(
        now,
        actor.name,
        actor.origin,
        action,
        address=actor.address,
        work_item_id=item.id,
        study_instance_uid=item.study_instance_uid,
        detail=names,
    )
