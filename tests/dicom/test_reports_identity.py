"""Whose result it is: patient and study attributes as in the CT, names in every script, no name where none belongs."""

import logging
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset

from analysis.contract import Reason
from reports import build
from reports.context import local_time
from reports.evidence import EvidenceError
from tests.report_inputs import Case, context, header, objects, part10, scored, short, small_case
from tests.synthetic import item_of
from tests.validators import dciodvfy

NAMES = {
    "Latin": ("ISO_IR 100", "Müller-Lüdenscheidt^Jörg", "Thorax nüchtern"),
    "Latin, with extensions": (["ISO 2022 IR 100"], "Müller^Jörg", "Thorax nüchtern"),
    "Cyrillic": ("ISO_IR 144", "Иванов^Пётр", "КТ грудной клетки"),
    "Arabic": ("ISO_IR 127", "قباني^لنزار", "أشعة مقطعية للصدر"),
    "Greek": ("ISO_IR 126", "Παπαδόπουλος^Γιώργος", "Αξονική θώρακος"),
    "Japanese": (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう", "胸部単純"),
    "Korean": (["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동", "흉부"),
    "Chinese": ("GB18030", "Wang^XiaoDong=王^小东", "胸部平扫"),
    "Unicode": ("ISO_IR 192", "Wang^XiaoDong=王^小东", "胸部平扫"),
}
SAME_AS_THE_CT = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "PatientAge", "IssuerOfPatientID",
    "StudyInstanceUID", "StudyDate", "StudyTime", "StudyID", "StudyDescription", "AccessionNumber",
    "ReferringPhysicianName",
)  # fmt: skip
TYPE_2 = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate",
    "StudyTime", "ReferringPhysicianName",
)  # fmt: skip


def without(case: Case, *keywords: str) -> Case:
    for dataset in (*case.ct, case.roi):
        for keyword in keywords:
            if keyword in dataset:
                delattr(dataset, keyword)
    return case


def invalid(folder: Path, dataset: Dataset) -> list[str]:
    path = folder / "object.dcm"
    path.write_bytes(part10(dataset))
    return dciodvfy(path)


def test_patient_and_study_are_those_of_the_ct() -> None:
    case = small_case(IssuerOfPatientID="HOSPITAL A", ReferringPhysicianName="Referrer^Rita")
    for name, dataset in objects(scored(case)).items():
        for keyword in SAME_AS_THE_CT:
            assert dataset.get(keyword) == case.ct[0].get(keyword), f"{name}: {keyword}"


@pytest.mark.parametrize("script", short(NAMES, "Cyrillic", "Japanese", "Chinese"))
def test_a_name_in_any_script_comes_back_intact(script: str, tmp_path: Path) -> None:
    character_set, patient, study = NAMES[script]
    case = small_case(character_set=character_set, patient_name=patient, StudyDescription=study)
    assert str(case.ct[0].PatientName) == patient, "the source itself must hold the name"
    refusal = build.not_scored([*case.ct, case.roi], build.Refusal(Reason.GANTRY_TILT), context())
    for dataset in [*objects(scored(case)).values(), *objects(refusal).values()]:
        assert str(dataset.PatientName) == patient
        assert dataset.StudyDescription == study
        assert dataset.SpecificCharacterSet == "ISO_IR 192"
        assert invalid(tmp_path, dataset) == []


def test_names_inside_sequences_come_back_intact_too() -> None:
    other = item_of(PatientID="OTHER-1", TypeOfPatientID="TEXT")
    physician = item_of(InstitutionName="Клиника")
    case = small_case(
        character_set="ISO_IR 144",
        OtherPatientIDsSequence=[other],
        ReferringPhysicianIdentificationSequence=[physician],
    )
    for dataset in objects(scored(case)).values():
        assert dataset.OtherPatientIDsSequence[0].PatientID == "OTHER-1"
        assert dataset.ReferringPhysicianIdentificationSequence[0].InstitutionName == "Клиника"


def test_missing_type_2_attributes_become_empty_and_nothing_is_invented(tmp_path: Path) -> None:
    case = without(small_case(), *TYPE_2, "SpecificCharacterSet", "SliceThickness", "BodyPartExamined", "PatientAge")
    for dataset in objects(scored(case)).values():
        assert [keyword for keyword in TYPE_2 if dataset.get(keyword, "absent")] == []
        assert invalid(tmp_path, dataset) == []


@pytest.mark.filterwarnings("ignore:Invalid value for VR CS:UserWarning")  # the point of the test
@pytest.mark.parametrize(("given", "kept"), [("m", "M"), ("F ", "F"), ("U", ""), ("UNKNOWN", ""), ("O", "O")])
def test_patient_sex_is_brought_to_the_enumeration(given: str, kept: str, tmp_path: Path) -> None:
    page = objects(scored(small_case(PatientSex=given)))["page_1"]
    assert (page.PatientSex or "") == kept
    assert invalid(tmp_path, page) == []


@pytest.mark.filterwarnings("ignore:(The value length|Invalid value|Value):UserWarning")  # the point of the test
def test_illegal_study_values_do_not_make_our_objects_illegal(tmp_path: Path) -> None:
    case = small_case(
        StudyID="1.2.840.113619.2.55",
        StudyDate="20241399",
        StudyTime="noon",
        PatientBirthDate="1950-01-01",
        PatientAge="74",
        StudyDescription="d" * 5000,
    )
    for dataset in objects(scored(case)).values():
        assert (dataset.StudyID, dataset.StudyDescription) == ("1.2.840.113619.2", "d" * 64)
        assert [dataset.get(k) or "" for k in ("StudyDate", "StudyTime", "PatientBirthDate")] == ["", "", ""]
        assert "PatientAge" not in dataset
        assert invalid(tmp_path, dataset) == []


@pytest.mark.filterwarnings("ignore:The value length:UserWarning")  # the point of the test
def test_what_a_pacs_files_by_is_never_changed_and_nothing_else_is_illegal(tmp_path: Path) -> None:
    """Identity before validity: the attributes that are too long in the CT are the only ones in our objects."""
    long_id, long_number = "p" * 70, "a" * 30
    for name, dataset in objects(scored(small_case(patient_id=long_id, accession_number=long_number))).items():
        assert (dataset.PatientID, dataset.AccessionNumber) == (long_id, long_number)
        findings = invalid(tmp_path, dataset)
        assert findings, name
        assert all("(0010,0020)" in finding or "(0008,0050)" in finding for finding in findings), (name, findings)


def test_times_are_in_the_zone_of_the_evidence_and_say_so() -> None:
    made = objects(scored(small_case(TimezoneOffsetFromUTC="+0530")))  # created 09:15:30 UTC
    for dataset in made.values():
        assert dataset.TimezoneOffsetFromUTC == "+0530"
        assert (dataset.SeriesDate, dataset.SeriesTime) == ("20260302", "144530")
        assert dataset.InstanceCreationTime == "144530"


def test_without_an_offset_times_are_in_the_site_zone_and_claim_none() -> None:
    made = objects(scored(small_case(), zone=timezone(timedelta(hours=-8))))
    for dataset in made.values():
        assert "TimezoneOffsetFromUTC" not in dataset
        assert dataset.get("ContentTime", dataset.get("PresentationCreationTime")) == "011530"


@pytest.mark.parametrize("offset", ["", "0530", "+05:30", "east"])
def test_a_malformed_offset_is_ignored(offset: str) -> None:
    source = Dataset()
    source.TimezoneOffsetFromUTC = offset
    created = datetime(2026, 3, 2, 9, 15, tzinfo=UTC)
    assert local_time(context(created=created), source) == datetime(2026, 3, 2, 9, 15)  # noqa: DTZ001


def test_no_name_or_identifier_reaches_a_log_or_a_warning(
    caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    caplog.set_level(logging.DEBUG)
    marked: dict[str, Any] = {"patient_name": "MARKEDNAME", "patient_id": "MARKEDID", "accession_number": "MARKEDACC"}
    scored(small_case(**marked))
    assert "MARKED" not in caplog.text
    assert not [warning for warning in recwarn if "MARKED" in str(warning.message)]


def test_no_name_stands_in_the_text_of_an_sr_or_an_error() -> None:
    case = small_case(patient_name="MARKEDNAME^X", patient_id="MARKEDID")
    made = objects(scored(case))
    texts = [str(element.value) for element in made["risk_sr"].iterall() if element.VR in {"UT", "LO"}]
    assert [text for text in texts if "MARKED" in text] == ["MARKEDID"], "Patient ID itself, and nothing else"
    del case.ct[0].SeriesInstanceUID
    with pytest.raises(EvidenceError, match="SeriesInstanceUID") as caught:
        scored(case)
    assert "MARKED" not in str(caught.value)


def test_the_source_headers_are_left_as_they_were() -> None:
    case = small_case(character_set="ISO_IR 144", patient_name="Иванов^Пётр")
    before = [part10(header(dataset)) for dataset in case.ct]
    scored(case)
    assert [part10(header(dataset)) for dataset in case.ct] == before
