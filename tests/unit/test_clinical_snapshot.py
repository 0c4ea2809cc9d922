"""Which clinical value counts: the newest of the baseline, whoever said it, and what the reader is told."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from config.clinical import Clinical
from dicom_node.clinical_snapshot import Snapshot, Snapshots
from dicom_node.clinical_values import ClinicalEntry
from dicom_node.identity import Demographics, Identity, PatientKey
from dicom_node.store import Store
from dicom_node.workitem import Permanent
from models.manifest import Predictor
from tests import synthetic

PREDICTORS = (
    Predictor(name="age", label="Age", type="number", unit="a", minimum=18, maximum=110, fill=66.0),
    Predictor(name="albumin", label="Albumin", type="number", unit="g/L", minimum=10, maximum=60, fill=39.0),
    Predictor(name="nlr", label="NLR", type="number", minimum=0.1, maximum=100, fill=4.0),
    Predictor(name="sex", label="Sex", type="category", categories=("F", "M"), fill="M"),
)
CT_DAY = "2024-03-10"


class Desk:
    """A study of patient P1 with its CT, and the values that were recorded for it."""

    def __init__(self, folder: Path) -> None:
        (self.image, *_) = synthetic.ct_series(2, 8, 8, seed=1)
        self.image.StudyDate, self.image.PatientID = CT_DAY.replace("-", ""), "P1"
        self.folder = folder
        self.store = Store.open(folder / "store.sqlite")
        self.settings = Clinical()
        self.store.patients.received("1.2", Identity(patient_id="P1"), 1.0)

    def header(self, **attributes: str) -> None:
        for keyword, value in {"PatientAge": "", "PatientSex": "", "PatientBirthDate": "", **attributes}.items():
            setattr(self.image, keyword, value)

    def table(self, text: str) -> None:
        path = self.folder / "table.csv"
        path.write_text(text, encoding="utf-8")
        self.settings = replace(self.settings, table=path)

    def record(self, name: str, value: float | str, day: str = "", kind: str = "csv", **more: str) -> None:
        source = {"form": "study page", "hl7": "HL7 ORU^R01", "fhir": "FHIR Observation", "csv": "CSV import"}[kind]
        entry = ClinicalEntry("P1", name, value, kind, source, observed_on=day, **more)  # type: ignore[arg-type]
        self.store.clinical.record([entry], 2.0)

    def take(self) -> Snapshot:
        ct = synthetic.save(self.image, self.folder)
        return Snapshots(self.store, self.settings, PREDICTORS).take("1.2", ct)

    def said(self, name: str = "albumin") -> tuple[float | str, str, str | None]:
        (value,) = [value for value in self.take().values if value.name == name]
        return value.value, value.source, value.date

    def flags(self) -> dict[str, str]:
        return {flag.code: flag.text for flag in self.take().quality}


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    made.header()
    yield made
    made.store.close()


def test_the_newest_value_of_the_baseline_counts(desk: Desk) -> None:
    desk.record("albumin", 30.0, "2024-02-01")
    desk.record("albumin", 35.0, "2024-03-09")
    desk.record("albumin", 20.0, "2024-04-01")  # under therapy, perhaps
    assert desk.said() == (35.0, "CSV import", "2024-03-09")
    assert desk.flags() == {}


@pytest.mark.parametrize(("day", "used"), [("2024-03-17", True), ("2024-03-18", False)])
def test_a_value_of_more_days_after_the_ct_than_the_site_allows_is_not_used(desk: Desk, day: str, used: bool) -> None:
    desk.record("albumin", 35.0, day)
    assert bool(desk.take().values) is used
    assert ("CLINICAL_VALUE_LATE" in desk.flags()) is not used
    desk.settings = replace(desk.settings, used_days_after_ct=8.0)
    assert desk.said()[0] == 35.0


def test_a_late_value_is_not_worth_a_word_where_an_earlier_one_is_used(desk: Desk) -> None:
    desk.record("albumin", 35.0, "2024-03-01")
    desk.record("albumin", 20.0, "2024-09-01")
    assert desk.flags() == {}


def test_an_old_value_is_used_where_there_is_no_other_and_flagged_with_its_age(desk: Desk) -> None:
    desk.record("albumin", 30.0, "2023-12-11")  # 90 days
    assert desk.flags() == {}
    desk.store.clinical.record([], 3.0)
    desk.record("nlr", 3.0, "2023-12-10")
    assert desk.flags() == {"CLINICAL_VALUE_OLD": "Observed more than 90 days before the CT: NLR (91 days)"}


def test_an_undated_value_beats_an_old_one_and_yields_to_one_of_the_baseline_and_is_flagged(desk: Desk) -> None:
    desk.record("albumin", 30.0, "2023-01-01")
    desk.record("albumin", 33.0)
    assert desk.said() == (33.0, "CSV import", None)
    assert desk.flags()["CLINICAL_VALUE_UNDATED"].endswith("before therapy: Albumin")
    desk.record("albumin", 36.0, "2024-01-01", "fhir")
    assert desk.said()[0] == 36.0
    assert desk.flags() == {}


def test_on_the_same_day_the_form_is_believed_first_and_the_rest_in_order(desk: Desk) -> None:
    desk.table("patient_id,albumin,observed_on\nP1,31,2024-03-01\n")
    assert desk.said() == (31.0, "clinical table", "2024-03-01")
    for value, kind, source in (
        (32.0, "csv", "CSV import"),
        (33.0, "fhir", "FHIR Observation"),
        (34.0, "hl7", "HL7 ORU^R01"),
        (35.0, "form", "study page"),
    ):
        desk.record("albumin", value, "2024-03-01", kind)
        said = desk.said()
        assert (said[0], said[1].split(";")[0]) == (value, source)


def test_a_disagreement_of_the_same_day_is_said_and_one_of_another_day_is_not(desk: Desk) -> None:
    desk.record("albumin", 33.0, "2024-03-01", "fhir")
    desk.record("albumin", 35.0, "2024-03-01", "form")
    assert desk.said()[1] == "study page; FHIR Observation differs"
    desk.record("albumin", 36.0, "2024-03-02", "hl7")
    assert desk.said()[1] == "HL7 ORU^R01"
    desk.record("nlr", 3.0, "2024-03-01", "form")
    desk.record("nlr", 3.0, "2024-03-01", "fhir")
    assert desk.said("nlr")[1] == "study page"


def test_the_header_gives_age_and_sex_and_is_believed_last(desk: Desk) -> None:
    desk.header(PatientAge="067Y", PatientSex="F")
    assert desk.said("age") == (67.0, "DICOM PatientAge", None)
    assert desk.said("sex") == ("F", "DICOM PatientSex", None)
    assert desk.flags() == {}
    desk.table("patient_id,age,sex\nP1,68,M\n")
    assert desk.said("age") == (68.0, "clinical table", None)  # a birthday between them
    assert desk.said("sex") == ("M", "clinical table; DICOM PatientSex differs", None)
    desk.table("patient_id,age,sex\nP1,80,unknown\n")
    assert desk.said("age") == (80.0, "clinical table; DICOM PatientAge differs", None)
    assert desk.said("sex")[0] == "F"  # "unknown" is no value


def test_sex_has_no_day(desk: Desk) -> None:
    desk.record("sex", "F", "2019-01-01")
    desk.record("sex", "M", "2025-01-01", "hl7")
    assert desk.said("sex")[:2] == ("M", "HL7 ORU^R01; CSV import differs")
    assert desk.flags() == {}


def test_the_ratio_is_made_of_two_counts_of_one_day_and_one_source(desk: Desk) -> None:
    desk.record("neutrophils", 5.2, "2024-03-01", "hl7", unit="10*9/L")
    assert desk.take().values == ()
    desk.record("lymphocytes", 1300.0, "2024-03-02", "hl7", unit="/uL")
    desk.record("lymphocytes", 1.1, "2024-03-01", "fhir", unit="10*9/L")
    assert desk.take().values == ()
    desk.record("lymphocytes", 1300.0, "2024-03-01", "hl7", unit="/uL", origin="x")
    assert desk.said("nlr") == (4.0, "HL7 ORU^R01, from neutrophils and lymphocytes", "2024-03-01")
    desk.record("nlr", 3.9, "2024-03-01", "hl7")
    assert desk.said("nlr") == (
        3.9, "HL7 ORU^R01; HL7 ORU^R01, from neutrophils and lymphocytes differs", "2024-03-01",
    )  # fmt: skip


def test_no_lymphocytes_make_no_ratio(desk: Desk) -> None:
    desk.record("neutrophils", 5.2, "2024-03-01", "hl7", unit="10*9/L")
    desk.record("lymphocytes", 0.0, "2024-03-01", "hl7", unit="10*9/L")
    assert desk.take().values == ()


def test_a_value_is_given_in_the_predictor_s_unit_and_as_it_was_stated(desk: Desk) -> None:
    desk.record("albumin", 3.9, "2024-03-01", "csv", unit="g/dL")
    value = desk.take().values[0]
    assert (value.value, value.unit, value.source) == (39.0, "g/L", "CSV import, stated as 3.9 g/dL")
    desk.record("albumin", 39.0, "2024-03-02", "csv", unit="g/L", stated="3.9 g/dL")
    assert desk.said()[1] == "CSV import, stated as 3.9 g/dL"


def test_values_recorded_before_a_merge_count_and_the_table_s_old_line_too(desk: Desk) -> None:
    desk.record("albumin", 35.0, "2024-03-01")
    desk.table("patient_id,nlr\nP1,3.5\n")
    desk.store.patients.merge(PatientKey("P1"), PatientKey("P9"), Demographics(), "HL7 ADT^A40", 3.0)
    assert desk.store.patients.of_study("1.2").patient_id == "P9"  # type: ignore[union-attr]
    assert desk.said()[0] == 35.0
    assert desk.said("nlr")[0] == 3.5
    desk.table("patient_id,nlr\nP1,3.5\nP9,3.6\n")
    assert desk.said("nlr")[0] == 3.6


def test_a_patient_id_of_two_issuers_is_flagged_and_nobody_s_values_are_used(desk: Desk) -> None:
    desk.record("albumin", 35.0, "2024-03-01", issuer_of_patient_id="A")
    assert desk.said()[0] == 35.0
    desk.record("albumin", 25.0, "2024-03-01", issuer_of_patient_id="B")
    assert desk.take().values == ()
    assert set(desk.flags()) == {"CLINICAL_ISSUER_AMBIGUOUS"}


def test_a_ct_without_a_day_makes_every_value_undated(desk: Desk) -> None:
    for keyword in ("StudyDate", "SeriesDate", "AcquisitionDate"):
        setattr(desk.image, keyword, "")
    desk.record("albumin", 30.0, "2001-01-01")
    desk.record("albumin", 35.0, "2024-03-01")
    assert desk.said() == (35.0, "CSV import", "2024-03-01")
    assert set(desk.flags()) == {"CLINICAL_VALUE_UNDATED"}


def test_a_day_in_the_table_that_is_none_holds_the_study_with_a_remedy(desk: Desk) -> None:
    desk.table("patient_id,albumin,observed_on\nP1,35,01.03.2024\n")
    with pytest.raises(Permanent, match="observed_on") as error:
        desk.take()
    assert "2024-03-01" in error.value.hint


def test_other_sites_columns_and_patients_without_an_id_say_nothing(desk: Desk) -> None:
    desk.table("patient_id,shoe_size\nP1,43\n,44\n")
    assert desk.take() == Snapshot()
    desk.store.patients.received("1.3", Identity(), 1.0)
    ct = synthetic.save(desk.image, desk.folder)
    assert Snapshots(desk.store, desk.settings, PREDICTORS).take("1.3", ct) == Snapshot()
