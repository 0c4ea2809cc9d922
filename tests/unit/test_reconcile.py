"""What a PACS says of a patient against what is known: news, old news, and answers that say less than they seem to."""

from dataclasses import replace

import pytest
from pydicom import Dataset

from dicom_node.headers import identity_of
from dicom_node.identity import Identity
from dicom_node.reconcile import reconciled

KNOWN = Identity(
    patient_id="4711",
    issuer_of_patient_id="HOSPITAL",
    patient_name="Dvořák^Jiří",
    patient_birth_date="19500101",
    patient_sex="M",
    accession_number="ACC",
    study_description="Thorax",
)


def test_news_is_taken_for_the_objects_and_for_who_the_patient_is() -> None:
    answer = Identity("4712", "OTHER", "Novák^Petr", "19510202", "F", "ACC2", study_description="ignored")
    both = reconciled(KNOWN, answer, [])
    assert both.filed == both.current == replace(answer, study_description="Thorax")


@pytest.mark.parametrize(
    "answer",
    [
        Identity(),
        Identity("4711", patient_name="Dvořák^Jiří^^^"),
        Identity("4711", patient_name="Dvoák^Jií"),
        Identity("4711", patient_name="Dvo?ák^Ji?í"),
        Identity("4711", patient_name="Dvo\ufffdák^Jiří"),
        Identity("4711", patient_name="^"),
        Identity("4711", patient_birth_date="1950", patient_sex="U"),
    ],
)
def test_an_answer_that_says_less_changes_nothing(answer: Identity) -> None:
    both = reconciled(KNOWN, answer, [])
    assert both.filed == both.current == KNOWN


@pytest.mark.parametrize(
    "answer",
    [
        Identity("A\\B"),
        Identity("4" * 65),
        Identity(issuer_of_patient_id="H" * 65),
        Identity(patient_name="N" * 65),
        Identity(patient_name="Novák\\Petr"),
        Identity(patient_name="A=B=C=D"),
        Identity(accession_number="A" * 17),
    ],
)
def test_a_value_that_breaks_its_vr_is_no_answer(answer: Identity) -> None:
    both = reconciled(KNOWN, answer, [])
    assert both.filed == both.current == KNOWN


@pytest.mark.filterwarnings("ignore:The value length")
def test_a_patient_id_that_is_too_long_is_not_cut_to_that_of_somebody_else() -> None:
    answer = Dataset()
    answer.PatientID = "4" * 70
    assert reconciled(KNOWN, identity_of(answer, over=1), []).filed == KNOWN
    assert identity_of(answer).patient_id == "4" * 64


def test_values_of_the_greatest_length_are_news() -> None:
    answer = Identity("4" * 64, "H" * 64, "=".join(["N" * 64] * 3), "19510202", "F", "A" * 16)
    assert reconciled(KNOWN, answer, []).filed == replace(answer, study_description="Thorax")


def test_a_pacs_without_issuers_does_not_take_the_issuer_away() -> None:
    both = reconciled(KNOWN, Identity("4712"), [])
    assert (both.filed.patient_id, both.filed.issuer_of_patient_id) == ("4712", "HOSPITAL")


@pytest.mark.parametrize(
    ("name", "answer"),
    [("Müller^Jörg", "Muller^Jorg"), ("Möller", "Müller"), ("Muller", "Müller"), ("Doe^John", "Doe^Jon")],
)
def test_a_name_that_is_spelled_otherwise_is_news(name: str, answer: str) -> None:
    both = reconciled(replace(KNOWN, patient_name=name), Identity(patient_name=answer), [])
    assert both.current.patient_name == answer


def test_what_hl7_has_replaced_is_old_news_field_by_field() -> None:
    """The PACS has not heard of the merge, but its accession number and birth date are news all the same."""
    before = replace(KNOWN, patient_id="OLD", patient_name="Old^Name")
    answer = replace(before, accession_number="ACC2", patient_birth_date="19990101")
    both = reconciled(KNOWN, answer, [before])
    assert (both.filed.patient_id, both.filed.patient_name) == ("OLD", "Old^Name"), "it files the objects there"
    assert (both.current.patient_id, both.current.patient_name) == ("4711", "Dvořák^Jiří")
    assert both.current.accession_number == "ACC2"
    assert both.current.patient_birth_date == "19990101"
