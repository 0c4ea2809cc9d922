"""Clinical values by patient: nothing is overwritten, nothing is taken twice, and nobody gets another one's."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from dicom_node import clinical_intake
from dicom_node.audit import AuditEntry
from dicom_node.clinical_codes import load
from dicom_node.clinical_intake import Feed
from dicom_node.clinical_values import ClinicalEntry
from dicom_node.identity import Demographics, Identity, PatientKey
from dicom_node.observation import CodedValue, Observation
from dicom_node.store import Store

ALBUMIN = ClinicalEntry("P1", "albumin", 39.0, "csv", "CSV import", unit="g/L", observed_on="2024-03-01")
AUDIT = AuditEntry(5.0, "anna", "cli", "clinical.withdrawn")
ISSUED = {"issuer_of_patient_id": "HOSP"}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(tmp_path / "store.sqlite")
    yield opened
    opened.close()


def values(store: Store, patient: str = "P1", issuer: str = "") -> list[float | str]:
    return [value.value for value in store.clinical.current(patient, issuer)]


def merge(store: Store, prior: PatientKey, now: PatientKey) -> None:
    store.patients.merge(prior, now, Demographics(), "HL7 ADT^A40", 1.0)


def test_the_same_value_from_the_same_place_is_the_same_row(store: Store) -> None:
    assert store.clinical.record([ALBUMIN], 1.0) == {"new": 1}
    assert store.clinical.record([ALBUMIN], 2.0) == {"unchanged": 1}
    (row,) = store.clinical.history("P1")
    assert (row.value, row.recorded_at, row.observed_on, row.source) == (39.0, 1.0, "2024-03-01", "CSV import")


def test_a_corrected_value_takes_the_place_and_the_old_one_stays_in_the_history(store: Store) -> None:
    store.clinical.record([ALBUMIN], 1.0)
    assert store.clinical.record([replace(ALBUMIN, value=29.0)], 2.0) == {"changed": 1}
    assert values(store) == [29.0]
    assert store.clinical.record([ALBUMIN], 3.0) == {"changed": 1}  # and back again
    assert values(store) == [39.0]
    assert [(row.value, row.ended_how) for row in store.clinical.history("P1")] == [
        (39.0, ""), (29.0, "replaced"), (39.0, "replaced"),
    ]  # fmt: skip


def test_another_day_and_another_source_are_other_places(store: Store) -> None:
    other_day = replace(ALBUMIN, value=35.0, observed_on="2024-03-08")
    other_source = replace(ALBUMIN, value=36.0, kind="hl7", origin="RIS|1|1")
    assert store.clinical.record([ALBUMIN, other_day, other_source], 1.0) == {"new": 3}
    assert sorted(values(store)) == [35.0, 36.0, 39.0]


def test_an_older_word_of_the_source_does_not_take_the_place_of_a_newer_one(store: Store) -> None:
    first = replace(ALBUMIN, kind="hl7", origin="RIS|1|1", as_of=100.0)
    store.clinical.record([first], 1.0)
    store.clinical.record([replace(first, value=29.0, as_of=200.0)], 2.0)
    assert store.clinical.record([first], 3.0) == {"outdated": 1}
    assert values(store) == [29.0]


def test_a_withdrawn_value_stays_withdrawn_until_a_person_enters_it_again(store: Store) -> None:
    store.clinical.record([ALBUMIN], 1.0)
    (row,) = store.clinical.current("P1")
    assert store.clinical.withdraw(row.id, 5.0, AUDIT)
    assert not store.clinical.withdraw(row.id, 6.0, AUDIT)
    assert values(store) == []
    assert store.clinical.record([ALBUMIN], 7.0) == {"withdrawn": 1}
    assert values(store) == []
    assert store.clinical.record([replace(ALBUMIN, value=38.0)], 8.0) == {"new": 1}
    (kept,) = store.clinical.current("P1")
    store.clinical.withdraw(kept.id, 9.0, AUDIT)
    assert store.clinical.record([replace(ALBUMIN, value=38.0)], 10.0, again=True) == {"new": 1}
    assert [entry.action for entry in store.audit.newest()] == ["clinical.withdrawn"] * 2
    withdrawn = [each for each in store.clinical.history("P1") if each.ended_how == "withdrawn"]
    assert {each.ended_by for each in withdrawn} == {"anna"}


def test_all_or_nothing(store: Store) -> None:
    with pytest.raises(ValueError, match="JSON"):
        store.clinical.record([ALBUMIN, replace(ALBUMIN, value=float("nan"))], 1.0)
    assert store.clinical.history("P1") == []
    assert store.clinical.changes() == []


def test_a_rehearsal_writes_nothing(store: Store) -> None:
    store.clinical.record([ALBUMIN], 1.0)
    changed, added = replace(ALBUMIN, value=30.0), replace(ALBUMIN, name="ecog", value=1.0, unit="")
    assert store.clinical.rehearse([changed, added]) == []
    assert store.clinical.verdicts() == {("albumin", "changed"): 1, ("ecog", "new"): 1}
    assert values(store) == [39.0]
    assert store.clinical.settle(2.0) == {"changed": 1, "new": 1}
    assert sorted(map(str, values(store))) == ["1.0", "30.0"]


def test_two_entries_of_one_place_that_differ_are_pointed_at(store: Store) -> None:
    day_after = replace(ALBUMIN, observed_on="2024-03-02")
    assert store.clinical.rehearse([ALBUMIN, day_after, replace(ALBUMIN, value=30.0), ALBUMIN, day_after]) == [1, 3, 4]


def test_values_under_an_id_that_was_merged_count_for_the_patient_now(store: Store) -> None:
    store.clinical.record([ALBUMIN, replace(ALBUMIN, patient_id="P0", name="ecog", value=2.0)], 1.0)
    merge(store, PatientKey("P0", ""), PatientKey("P1", ""))
    merge(store, PatientKey("P1", ""), PatientKey("P2", ""))
    for patient in ("P0", "P1", "P2"):
        assert sorted(map(str, values(store, patient))) == ["2.0", "39.0"]
    merge(store, PatientKey("P2", ""), PatientKey("P0", ""))  # a circle, as interface engines make them
    assert len(values(store, "P2")) == 2


def test_two_issuers_of_one_id_are_two_patients(store: Store) -> None:
    ours = replace(ALBUMIN, **ISSUED)
    store.clinical.record([ours, replace(ALBUMIN, value=30.0)], 1.0)
    assert sorted(values(store, "P1", "HOSP")) == sorted(values(store, "P1")) == [30.0, 39.0]
    assert not store.clinical.is_ambiguous("P1")

    store.patients.received("1.2", Identity(patient_id="P1", issuer_of_patient_id="CLINIC"), 2.0)
    assert values(store, "P1", "HOSP") == [39.0]
    assert values(store, "P1", "CLINIC") == []
    assert values(store, "P1") == [30.0]  # only what does not say whose it is either
    assert store.clinical.is_ambiguous("P1")


def test_a_merge_of_one_issuer_does_not_move_the_other_s_values(store: Store) -> None:
    store.clinical.record([replace(ALBUMIN, patient_id="P0", issuer_of_patient_id="A", value=1.0)], 1.0)
    store.clinical.record([replace(ALBUMIN, patient_id="P0", issuer_of_patient_id="B", value=2.0)], 1.0)
    merge(store, PatientKey("P0", "A"), PatientKey("P1", "A"))
    assert values(store, "P1", "A") == [1.0]
    assert values(store, "P1", "B") == []
    assert values(store, "P0", "B") == [2.0]


def test_nobody_without_an_id_has_values(store: Store) -> None:
    store.clinical.record([replace(ALBUMIN, patient_id="")], 1.0)
    assert values(store, "") == []


def test_a_change_is_remembered_until_it_was_looked_at(store: Store) -> None:
    store.clinical.record([ALBUMIN], 1.0)
    (change,) = store.clinical.changes()
    assert change == ("P1", "", 1.0)
    store.clinical.record([ALBUMIN], 2.0)  # nothing new
    assert store.clinical.changes() == [change]
    store.clinical.record([replace(ALBUMIN, value=38.0)], 3.0)
    store.clinical.looked_at(change)
    assert store.clinical.changes() == [("P1", "", 3.0)]
    store.clinical.looked_at(("P1", "", 3.0))
    assert store.clinical.changes() == []


def test_everything_is_exported_once_and_in_order(store: Store) -> None:
    entries = [
        replace(ALBUMIN, patient_id=f"P{n:04d}", name=name, value=float(n)) for n in range(700) for name in ("b", "a")
    ]
    store.clinical.record(entries, 1.0)
    exported = [(value.patient_id, value.name) for value in store.clinical.everything()]
    assert exported == sorted((entry.patient_id, entry.name) for entry in entries)
    (line, _) = store.clinical.summary()
    assert (line["name"], line["n"], line["patients"], line["newest"]) == ("a", 700, 700, "2024-03-01")


# -- feeds ---------------------------------------------------------------------------------------------------------

FEED = Feed("hl7", "HL7 ORU^R01", "LAB")
OBX = Observation(
    "P1", "", (CodedValue("1751-7", "LN"),), "3.9", unit="g/dL", observed_on="2024-03-01", status="F", origin="LAB|1|1"
)


def test_a_feed_s_observation_becomes_a_value_and_a_correction_takes_its_place(store: Store) -> None:
    codes = load(None)
    done = clinical_intake.take(store.clinical, codes, [OBX], FEED, 1.0, as_of=10.0)
    assert (done.recorded, done.refused) == (1, ())
    (value,) = store.clinical.current("P1")
    assert (value.value, value.unit, value.stated, value.source) == (39.0, "g/L", "3.9 g/dL", "HL7 ORU^R01")
    assert clinical_intake.take(store.clinical, codes, [OBX], FEED, 2.0, as_of=10.0).unchanged == 1
    corrected = replace(OBX, value="3.5", status="C")
    assert clinical_intake.take(store.clinical, codes, [corrected], FEED, 3.0, as_of=20.0).recorded == 1
    assert values(store) == [35.0]


def test_what_the_source_takes_back_does_not_count_and_may_come_again(store: Store) -> None:
    codes = load(None)
    clinical_intake.take(store.clinical, codes, [OBX], FEED, 1.0)
    wrong = replace(OBX, status="W", value="", unit="")
    assert clinical_intake.take(store.clinical, codes, [wrong], FEED, 2.0).retracted == 1
    assert values(store) == []
    assert clinical_intake.take(store.clinical, codes, [OBX], FEED, 3.0).recorded == 1


def test_after_a_merge_a_source_corrects_and_takes_back_what_it_said_before(store: Store) -> None:
    codes = load(None)
    clinical_intake.take(store.clinical, codes, [OBX], FEED, 1.0, as_of=10.0)
    merge(store, PatientKey("P1", ""), PatientKey("P2", ""))
    corrected = replace(OBX, patient_id="P2", value="3.5", observed_on="2024-02-01", status="C")
    clinical_intake.take(store.clinical, codes, [corrected], FEED, 2.0, as_of=20.0)
    assert values(store, "P2") == [35.0], "not beside the one that it corrects"
    wrong = replace(corrected, status="W", value="", unit="")
    assert clinical_intake.take(store.clinical, codes, [wrong], FEED, 3.0, as_of=30.0).retracted == 1
    assert values(store, "P2") == values(store, "P1") == []


def test_what_was_said_again_meanwhile_is_newer_than_a_late_correction(store: Store) -> None:
    codes = load(None)
    for as_of in (10.0, 30.0):
        clinical_intake.take(store.clinical, codes, [OBX], FEED, as_of, as_of=as_of)
    clinical_intake.take(store.clinical, codes, [replace(OBX, value="3.0")], FEED, 40.0, as_of=20.0)
    assert values(store) == [39.0]


def test_what_is_not_final_or_of_nobody_is_refused_and_what_is_not_mapped_is_no_fault(store: Store) -> None:
    preliminary, nobody = replace(OBX, status="P"), replace(OBX, patient_id="")
    creatinine = replace(OBX, codes=(CodedValue("2160-0", "LN"),))
    done = clinical_intake.take(store.clinical, load(None), [preliminary, nobody, creatinine], FEED, 1.0)
    assert [(each.name, each.why) for each in done.refused] == [
        ("albumin", "it is not final"), ("albumin", "its patient is not named"),
    ]  # fmt: skip
    assert (done.recorded, done.unmapped) == (0, 1)
    assert store.clinical.history("P1") == []
