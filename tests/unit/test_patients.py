"""Whose study it is, as messages and the PACS change it: merges, updates, and what comes late."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from dicom_node.identity import Demographics, Identity, PatientKey, patient_digest
from dicom_node.store import Store

NOW = 1_700_000_000.0
ANNA = Identity(patient_id="A", patient_name="Anna^A", patient_birth_date="19500101", patient_sex="F")
NOTHING = Demographics()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(tmp_path / "store.sqlite")
    yield opened
    opened.close()


def merge(store: Store, prior: str, surviving: str, said: Demographics = NOTHING, issuer: str = "") -> list[str]:
    keys = (PatientKey(prior, issuer), PatientKey(surviving, issuer))
    return store.patients.merge(*keys, said, "HL7 ADT^A40", NOW)


def id_of(store: Store, study: str) -> str:
    identity = store.patients.of_study(study)
    assert identity is not None
    return identity.patient_id


def test_a_merge_moves_the_studies_and_keeps_both_sides(store: Store) -> None:
    store.patients.received("1", ANNA, NOW)
    assert merge(store, "A", "B", Demographics(patient_name="Berta^B")) == ["1"]
    assert store.patients.of_study("1") == replace(ANNA, patient_id="B", patient_name="Berta^B")
    assert store.patients.as_received("1") == ANNA
    (change,) = store.patients.changes("1")
    assert (change.source, change.before, change.attributes) == (
        "HL7 ADT^A40",
        ANNA,
        ("patient_id", "patient_name"),
    )


def test_the_same_merge_again_changes_nothing(store: Store) -> None:
    store.patients.received("1", ANNA, NOW)
    merge(store, "A", "B")
    assert merge(store, "A", "B") == []
    assert len(store.patients.changes("1")) == 1


def test_a_study_that_arrives_late_under_the_old_id_belongs_to_the_new_one(store: Store) -> None:
    merge(store, "A", "B")
    merge(store, "B", "C")
    store.patients.received("1", ANNA, NOW)
    assert id_of(store, "1") == "C"
    assert [change.source for change in store.patients.changes("1")] == ["HL7 ADT^A40"]
    store.patients.received("1", ANNA, NOW)  # its next image
    assert id_of(store, "1") == "C"
    assert len(store.patients.changes("1")) == 1


def test_a_merge_out_of_order_ends_at_the_end_of_the_chain(store: Store) -> None:
    merge(store, "B", "C")
    store.patients.received("1", ANNA, NOW)
    assert merge(store, "A", "B", Demographics(patient_name="Berta^B")) == ["1"]
    moved = store.patients.of_study("1")
    assert moved is not None
    assert (moved.patient_id, moved.patient_name) == ("C", "Anna^A"), "the name that came was B's"


def test_a_circle_is_opened_by_the_newest_merge(store: Store) -> None:
    store.patients.received("1", ANNA, NOW)
    merge(store, "A", "B")
    merge(store, "B", "C")
    assert merge(store, "C", "A") == ["1"]
    assert id_of(store, "1") == "A"
    store.patients.received("2", replace(ANNA, patient_id="B"), NOW)
    assert id_of(store, "2") == "A"
    assert merge(store, "A", "A") == []


def test_ids_of_several_issuers_are_several_patients(store: Store) -> None:
    store.patients.received("1", replace(ANNA, issuer_of_patient_id="NORTH"), NOW)
    store.patients.received("2", replace(ANNA, issuer_of_patient_id="SOUTH"), NOW)
    assert merge(store, "A", "B", issuer="NORTH") == ["1"]
    assert (id_of(store, "1"), id_of(store, "2")) == ("B", "A")


def test_a_study_without_issuer_stays_without_one_for_the_pacs_files_it_so(store: Store) -> None:
    store.patients.received("1", ANNA, NOW)
    assert merge(store, "A", "B", issuer="NORTH") == ["1"]
    moved = store.patients.of_study("1")
    assert moved is not None
    assert (moved.patient_id, moved.issuer_of_patient_id) == ("B", "")


def test_an_exact_key_never_means_a_study_without_issuer(store: Store) -> None:
    """An insurance number that happens to be somebody's Patient ID."""
    store.patients.received("1", ANNA, NOW)
    store.patients.received("2", replace(ANNA, issuer_of_patient_id="INSURANCE"), NOW)
    keys = (PatientKey("A", "INSURANCE", exact=True), PatientKey("B", "INSURANCE"))
    assert store.patients.merge(*keys, NOTHING, "HL7 ADT^A40", NOW) == ["2"]
    store.patients.received("3", ANNA, NOW)
    assert id_of(store, "3") == "A"


def test_an_old_id_of_two_issuers_that_went_two_ways_is_left_alone(store: Store) -> None:
    merge(store, "A", "B", issuer="NORTH")
    merge(store, "A", "C", issuer="SOUTH")
    store.patients.received("1", ANNA, NOW)
    assert id_of(store, "1") == "A"
    store.patients.received("2", replace(ANNA, issuer_of_patient_id="SOUTH"), NOW)
    assert id_of(store, "2") == "C"


def test_an_update_changes_what_it_says_and_nothing_else(store: Store) -> None:
    store.patients.received("1", ANNA, NOW)
    said = Demographics(patient_name="Anna^Neu", patient_sex="")
    assert store.patients.update([PatientKey("A")], said, "HL7 ADT^A08", NOW) == ["1"]
    assert store.patients.of_study("1") == replace(ANNA, patient_name="Anna^Neu", patient_sex="")
    assert store.patients.update([PatientKey("A")], said, "HL7 ADT^A08", NOW) == []
    assert store.patients.update([PatientKey("UNKNOWN")], said, "HL7 ADT^A08", NOW) == []


def test_a_name_in_fewer_scripts_does_not_take_the_others_away(store: Store) -> None:
    named = replace(ANNA, patient_name="Yamada^Tarou=山田^太郎=やまだ^たろう")
    store.patients.received("1", named, NOW)
    assert store.patients.update([PatientKey("A")], Demographics("Yamada^Tarou"), "HL7 ADT^A08", NOW) == []
    assert store.patients.update([PatientKey("A")], Demographics("Suzuki^Tarou"), "HL7 ADT^A08", NOW) == ["1"]
    assert store.patients.of_study("1") == replace(named, patient_name="Suzuki^Tarou")


def test_a_contour_speaks_for_a_study_only_until_an_image_comes(store: Store) -> None:
    rewritten = replace(ANNA, patient_name="ANNA", accession_number="")
    store.patients.received("1", rewritten, NOW, leading=False)
    assert store.patients.of_study("1") == rewritten
    of_ct = replace(ANNA, accession_number="ACC")
    store.patients.received("1", of_ct, NOW)
    store.patients.received("1", rewritten, NOW, leading=False)
    assert store.patients.of_study("1") == store.patients.as_received("1") == of_ct


def test_what_is_newer_than_the_images_is_not_undone_by_another_image(store: Store) -> None:
    store.patients.received("1", ANNA, NOW)
    store.patients.update([PatientKey("A")], Demographics("Anna^Neu"), "HL7 ADT^A08", NOW)
    store.patients.received("1", ANNA, NOW)
    assert store.patients.changed_since_received("1") == replace(ANNA, patient_name="Anna^Neu")
    assert store.patients.replaced_by_hl7("1") == [ANNA]


def test_digests_of_merged_patients_lead_to_the_same_one(store: Store) -> None:
    merge(store, "A", "B", issuer="NORTH")
    merge(store, "B", "C", issuer="NORTH")

    def digest(patient_id: str, issuer: str = "") -> str:
        return patient_digest(patient_id.encode(), issuer.encode())

    patients = {digest(one, issuer) for one in "ABCD" for issuer in ("", "NORTH", "SOUTH")}
    assert store.patients.same_person(patients) == {
        digest("A"): digest("C"),
        digest("B"): digest("C"),
        digest("A", "NORTH"): digest("C", "NORTH"),
        digest("B", "NORTH"): digest("C", "NORTH"),
    }
