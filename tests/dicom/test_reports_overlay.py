"""The current identity over headers in any character set: nothing is lost between them, or left of somebody else."""

from dataclasses import replace
from pathlib import Path

import pytest

from dicom_node.headers import identity_of
from dicom_node.identity import Identity
from dicom_node.overlay import digest_of, overlay_of, with_identity
from reports import build
from tests.dicom.test_reports_identity import NAMES, invalid
from tests.report_inputs import Case, context, objects, pictures, result, small_case
from tests.synthetic import item_of


def under(case: Case, identity: Identity) -> build.Documents:
    """The objects of a case under another identity, as the report stage makes them."""
    overlay = overlay_of(identity_of(case.ct[0]), identity)
    ct = [with_identity(header, overlay) for header in case.ct]
    roi = with_identity(case.roi, overlay)
    about = context(identity=digest_of(overlay))
    return build.scored(ct, roi, case.mask, pictures(case.mask), result(case.mask), about)


def carried(case: Case) -> Identity:
    return identity_of(case.ct[0])


@pytest.mark.parametrize("script", NAMES)
def test_a_new_name_in_any_script_over_images_in_any_script(script: str, tmp_path: Path) -> None:
    scripts = list(NAMES)
    character_set, old, description = NAMES[script]
    new = NAMES[scripts[(scripts.index(script) + 3) % len(scripts)]][1]
    case = small_case(character_set=character_set, patient_name=old, StudyDescription=description)
    assert carried(case).patient_name == old
    for dataset in objects(under(case, replace(carried(case), patient_name=new))).values():
        assert str(dataset.PatientName) == new
        assert dataset.StudyDescription == description
        assert dataset.SpecificCharacterSet == "ISO_IR 192"
        assert invalid(tmp_path, dataset) == []


def test_the_identity_of_the_images_changes_nothing_at_all() -> None:
    case = small_case()
    plain = objects(build.scored(case.ct, case.roi, case.mask, pictures(case.mask), result(case.mask), context()))
    same = objects(under(case, carried(case)))
    assert {name: dataset.SOPInstanceUID for name, dataset in plain.items()} == {
        name: dataset.SOPInstanceUID for name, dataset in same.items()
    }
    assert plain == same


def test_every_object_of_another_identity_has_another_uid() -> None:
    first = {d.SOPInstanceUID for d in objects(under(small_case(), Identity("A"))).values()}
    second = {d.SOPInstanceUID for d in objects(under(small_case(), Identity("B"))).values()}
    assert len(first) == len(second)
    assert not first & second


def test_under_another_patient_id_nothing_of_the_other_person_is_left(tmp_path: Path) -> None:
    case = small_case(
        OtherPatientIDsSequence=[item_of(PatientID="OLD-OTHER", TypeOfPatientID="TEXT")],
        PatientComments="of the other",
        PatientAge="074Y",
        IssuerOfPatientID="ISSUER",
        Allergies="penicillin",
    )
    new = replace(carried(case), patient_id="NEW", issuer_of_patient_id="", patient_birth_date="19991231")
    for dataset in objects(under(case, new)).values():
        assert (dataset.PatientID, dataset.PatientBirthDate) == ("NEW", "19991231")
        gone = {"OtherPatientIDsSequence", "PatientComments", "PatientAge", "IssuerOfPatientID", "Allergies"}
        assert not gone & set(dataset.dir())
        assert invalid(tmp_path, dataset) == []


def test_a_value_that_was_taken_away_is_empty(tmp_path: Path) -> None:
    case = small_case()
    bare = replace(carried(case), patient_name="", patient_birth_date="", patient_sex="", accession_number="")
    for dataset in objects(under(case, bare)).values():
        assert [dataset.get(k) or "" for k in ("PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber")] == [
            "",
            "",
            "",
            "",
        ]
        assert invalid(tmp_path, dataset) == []
