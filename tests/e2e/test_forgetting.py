"""Whose a study was, and the patient's clinical values, are forgotten once nothing else of them is here."""

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from config.keeping import Storage
from dicom_node import backfill
from dicom_node.clinical_values import ClinicalEntry
from dicom_node.identity import Demographics, PatientKey
from dicom_node.storage import Cleaner
from dicom_node.storage_report import report
from tests.kept import DAY, delivered, study
from tests.road import Road
from tests.synthetic import shuffled

LIMITS = Storage(
    warn_free_bytes=0,
    warn_free_percent=0,
    received_days=10,
    results_days=30,
    clinical_days=50,
    identity_days=60,
    copies_days=5,
    quarantine_days=5,
)
PATIENT = str(study()[0].PatientID)
UID = str(study()[0].StudyInstanceUID)
NAME = "Zwetschgenbaum^Ida"


def clean(made: Road) -> list[str]:
    cleaner = Cleaner(made.store, made.spool, made.settings, made.clock)
    return [kind for kind in cleaner.everything() if kind not in ("jobs", "search index")]


def value(made: Road, patient: str, name: str = "ldh") -> None:
    entry = ClinicalEntry(patient, name, 241.0, "csv", "CSV import", unit="U/L", observed_on="2023-11-01")
    made.store.clinical.record([entry], made.clock())


def values(made: Road, patient: str) -> int:
    return len(made.store._db.rows("SELECT id FROM clinical_value WHERE patient_id = ?", [patient]))


def stored_bytes(made: Road) -> bytes:
    made.store._db.rows("PRAGMA wal_checkpoint(TRUNCATE)")
    return made.spool.store.read_bytes()


@pytest.fixture
def made(tmp_path: Path) -> Road:
    """A delivered study whose patient has a clinical value, 40 days later; its files and results are gone."""
    found = delivered(tmp_path, storage=LIMITS)
    found.worker._store.close()
    value(found, PATIENT)
    renamed = Demographics(patient_name=NAME)
    assert found.store.patients.update([PatientKey(PATIENT)], renamed, "HL7 ADT^A08", found.clock()) == [UID]
    found.clock.now += 40 * DAY
    assert clean(found) == ["received", "results"]
    return found


def test_values_and_identity_go_each_after_its_days_and_nothing_of_them_is_left_in_the_file(made: Road) -> None:
    identity = made.store.patients.of_study(UID)
    assert identity is not None
    last_name = NAME.split("^")[0]
    here = stored_bytes(made)
    assert all(word.encode() in here for word in (PATIENT, last_name))
    made.clock.now += 11 * DAY
    assert clean(made) == ["clinical"]
    assert values(made, PATIENT) == 0
    assert made.store.patients.of_study(UID) == identity
    made.clock.now += 10 * DAY
    assert clean(made) == ["identity"]
    assert made.store.patients.of_study(UID) is None
    actions = [entry.action for entry in made.store.audit.newest(2)]
    assert actions == ["identity.removed", "clinical.removed"]
    # The audit has its own days; the last entry of the values names the Patient ID, as the trail must.
    made.store._db.execute("DELETE FROM audit")
    left = stored_bytes(made).lower()
    for word in (PATIENT, last_name, identity.patient_birth_date):
        assert word.lower().encode() not in left, "also in the search index and in freed pages"


def test_the_worklist_keeps_its_row_without_a_name(made: Road) -> None:
    before = made.store.worklist.of_study(UID)
    made.clock.now += 30 * DAY
    clean(made)
    (row,) = made.store.worklist.of_study(UID)
    assert (row.patient_name, row.patient_id) == ("", "")
    assert (row.state, row.outcome) == (before[0].state, before[0].outcome)
    assert not backfill.fill(made.store, made.spool, made.clock), "there is no header here to fill it from"


def test_a_study_that_is_sent_again_is_known_by_its_name_again_and_makes_no_second_result(made: Road) -> None:
    made.clock.now += 30 * DAY
    assert clean(made) == ["clinical", "identity"]
    made.restart()
    made.take(*shuffled(study(), 3))
    made.work()
    made.worker._store.close()
    identity = made.store.patients.of_study(UID)
    assert identity is not None
    assert identity.patient_id == PATIENT
    (item,) = made.items
    assert (item.state, item.revision) == ("COMPLETED", 1)


def test_nothing_is_forgotten_while_files_or_results_are_here_or_kept_for_ever(tmp_path: Path) -> None:
    for name, limits in (
        ("files", replace(LIMITS, received_days=0)),
        ("results", replace(LIMITS, results_days=0)),
        ("both for ever", replace(LIMITS, clinical_days=0, identity_days=0)),
    ):
        (folder := tmp_path / name).mkdir()
        made = delivered(folder, storage=limits)
        value(made, PATIENT)
        made.clock.now += 9000 * DAY
        assert not {"clinical", "identity"} & set(clean(made)), name
        assert values(made, PATIENT) == 1
        assert made.store.patients.of_study(UID)


def test_open_work_of_another_study_keeps_the_patient_s_values(made: Road) -> None:
    made.restart()
    again = [each.copy() for each in study()[:16]]
    for number, each in enumerate(again):
        each.StudyInstanceUID, each.SeriesInstanceUID = "1.2.3.4.5", "1.2.3.4.5.1"
        each.SOPInstanceUID = f"1.2.3.4.5.1.{number}"
    made.take(*again)
    made.work()
    made.worker._store.close()
    made.clock.now += 9000 * DAY
    assert clean(made) == ["identity"], "that of the study that is done"
    assert values(made, PATIENT) == 1
    assert made.store.patients.of_study("1.2.3.4.5")


def test_values_under_a_merged_patient_id_stay_as_long_as_the_study_is_here(tmp_path: Path) -> None:
    made = delivered(tmp_path, storage=replace(LIMITS, received_days=100))
    value(made, "OLD-1")
    made.store.patients.merge(
        PatientKey("OLD-1", ""), PatientKey(PATIENT, ""), Demographics(), "HL7 ADT^A40", made.clock()
    )
    value(made, "NOBODY-7")
    made.clock.now += 70 * DAY
    assert clean(made) == ["results", "clinical"]
    assert (values(made, "OLD-1"), values(made, "NOBODY-7")) == (1, 0)
    made.clock.now += 100 * DAY
    assert clean(made) == ["received", "clinical", "identity"]
    assert values(made, "OLD-1") == 0
    assert made.store._db.rows("SELECT * FROM patient_merge") == []


def test_a_question_under_an_id_that_no_study_has_any_more_is_forgotten(made: Road) -> None:
    made.store.pulls.ask(("OLD-9", ""), "EHR", made.clock(), 0.0)
    made.clock.now += 1000 * DAY
    clean(made)
    assert made.store._db.rows("SELECT patient_id FROM clinical_pull") == []


def test_values_that_come_before_their_study_wait_for_it(made: Road) -> None:
    made.clock.now += 1000 * DAY
    value(made, "SOON-1")
    made.clock.now += 49 * DAY
    clean(made)
    assert values(made, "SOON-1") == 1


def test_what_was_set_aside_and_copies_of_the_store_go_when_they_are_old(made: Road) -> None:
    made.settings = replace(made.settings, storage=replace(LIMITS, clinical_days=0, identity_days=0))
    odd = made.spool.root / "instances" / "00" / "odd.dcm"
    odd.write_bytes(b"what nobody knows")
    os.utime(odd, (1.0, 1.0))  # the time of its content, not of its being set aside
    place = made.spool.quarantined(odd)
    copy = made.spool.root / "store.sqlite.schema-1"
    copy.write_bytes(b"a copy")
    made.clock.now = time.time() + 4 * DAY
    assert clean(made) == []
    found = {kind.name: kind for kind in report(made.store, made.spool, made.settings, made.clock).kinds}
    assert found["quarantine"].stays.keys() == found["copies"].stays.keys() == {"is not old enough"}
    made.clock.now += 2 * DAY
    found = {kind.name: kind for kind in report(made.store, made.spool, made.settings, made.clock).kinds}
    assert found["quarantine"].goes.objects == found["copies"].goes.objects == 1
    made.settings = replace(made.settings, storage=replace(made.settings.storage, quarantine_days=0))
    assert clean(made) == ["copies"]
    assert place.exists(), "the quarantine is nobody's but the administrator's, unless a setting says otherwise"
    made.settings = replace(made.settings, storage=replace(made.settings.storage, quarantine_days=1))
    assert clean(made) == ["quarantine"]
    assert not place.exists()
    assert not copy.exists()
    assert [entry.action for entry in made.store.audit.newest(2)] == ["quarantine.removed", "copies.removed"]


def test_the_report_counts_what_would_be_forgotten(made: Road) -> None:
    found = {kind.name: kind for kind in report(made.store, made.spool, made.settings, made.clock).kinds}
    assert (found["clinical"].all.objects, found["clinical"].goes.objects) == (1, 0)
    made.clock.now += 30 * DAY
    found = {kind.name: kind for kind in report(made.store, made.spool, made.settings, made.clock).kinds}
    assert (found["clinical"].goes.objects, found["identity"].goes.objects) == (1, 1)
