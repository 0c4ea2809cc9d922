"""The baseline rule: is this the CT before therapy, or a prior or a follow-up? Between plan and schedule.

The model speaks of patients who are about to begin therapy; priors and follow-ups arrive at the same AE title.
"""

from dataclasses import dataclass
from datetime import date

from analysis.contract import Reason
from config.settings import Planning
from dicom_node.clinical_codes import day_of
from dicom_node.clinical_snapshot import Snapshots
from dicom_node.gates import Defect
from dicom_node.identity import Identity
from dicom_node.store import Store


@dataclass(frozen=True)
class Days:
    """What is known: of the CT, of the beginning of therapy, and of the patient's earliest CT that is scored here."""

    ct: date | None
    therapy_start: date | None
    first_scored: date | None


def days_of(study_instance_uid: str, store: Store, snapshots: Snapshots, *, shadow: bool) -> Days:
    """What is known of a study now. Raises as `Snapshots.take`.

    `shadow`: it is planned as one. What is sent must not be refused for a score that nobody has seen.
    """
    whose = store.patients.of_study(study_instance_uid) or Identity()
    aliases = store.clinical.aliases(whose.patient_id, whose.issuer_of_patient_id)
    studies = {uid for alias in aliases for uid in store.patients.studies_of(*alias)}
    began = snapshots.therapy_start(study_instance_uid)
    return Days(
        ct=day_of(whose.study_date),
        therapy_start=began.day if began else None,
        first_scored=day_of(store.births.first_planned(studies - {study_instance_uid}, shadows=shadow)),
    )


def objection(days: Days, settings: Planning) -> Defect | None:
    """Why a CT is not the baseline; None where nothing speaks against it. Pure.

    >>> found = objection(Days(date(2024, 5, 1), date(2024, 3, 1), None), Planning())
    >>> found.detail
    'the CT was made 61 days after therapy began, where at most 0 are accepted'
    """
    if days.ct is not None and days.therapy_start is not None:
        return _relative((days.ct - days.therapy_start).days, settings)
    if settings.without_therapy_start == "refuse" and days.therapy_start is None:
        return Defect(Reason.CT_NOT_BASELINE, "it is not known when therapy began")
    if settings.without_therapy_start == "refuse":
        return Defect(Reason.CT_NOT_BASELINE, "it is not known when the CT was made")
    if settings.without_therapy_start == "first" and days.ct and days.first_scored and days.ct > days.first_scored:
        between = (days.ct - days.first_scored).days
        return Defect(Reason.CT_NOT_BASELINE, f"a CT made {between} days before has been taken for the baseline")
    return None


def _relative(after: int, settings: Planning) -> Defect | None:
    most = settings.baseline_days_after_therapy if after >= 0 else settings.baseline_days_before_therapy
    if abs(after) <= most:
        return None
    if after > 0:
        text = f"the CT was made {after} days after therapy began, where at most {most:g} are accepted"
    else:
        text = f"the CT was made {-after} days before therapy began, where at most {most:g} are accepted"
    return Defect(Reason.CT_NOT_BASELINE, text)
