"""Numbers in the SRs: finite, plain, coded once, and nothing that failed is silently gone."""

from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset

from analysis.contract import Measurement
from reports import codes
from reports.sr_content import ReportError, number
from tests.report_inputs import objects, scored, small_case


def items(item: Dataset, value_type: str) -> list[Dataset]:
    below = [found for child in item.get("ContentSequence", []) for found in items(child, value_type)]
    return [item, *below] if item.get("ValueType") == value_type else below


@pytest.fixture(scope="module")
def radiomics() -> Dataset:
    return objects(scored(small_case()))["radiomics_sr"]


def name_of(item: Dataset) -> tuple[str, str, str]:
    concept = item.ConceptNameCodeSequence[0]
    return concept.CodeValue, concept.CodingSchemeDesignator, concept.CodeMeaning


def values_of(document: Dataset) -> dict[tuple[str, str, str], tuple[float, str]]:
    group = [item for item in items(document, "CONTAINER") if name_of(item)[0] == "125007"][0]  # noqa: RUF015
    found = {}
    for item in items(group, "NUM"):
        measured = item.MeasuredValueSequence[0]
        found[name_of(item)] = float(measured.NumericValue), measured.MeasurementUnitsCodeSequence[0].CodeValue
    return found


def test_features_carry_ibsi_codes_where_claimed_and_private_ones_elsewhere(radiomics: Dataset) -> None:
    found = values_of(radiomics)
    assert found["RNU0", "IBSI", "Volume (mesh)"] == (358080.1, "mm3")
    assert found["Q4LE", "IBSI", "Mean intensity"] == (-46.9, "[hnsf'U]")
    private = [key for key in found if key[1] == codes.SCHEME]
    assert "log-sigma-2-0-mm-3D_glszm_SmallAreaLowGrayLevelEmphasis" in [key[2] for key in private]


def test_one_code_never_means_two_numbers(radiomics: Dataset) -> None:
    found = values_of(radiomics)
    assert len(found) == 4
    assert len({key[:2] for key in found}) == 4
    assert [key[1] for key in found if key[2] == "second_firstorder_Mean"] == [codes.SCHEME]


def test_a_very_small_number_keeps_its_digits(radiomics: Dataset) -> None:
    small = [value for key, (value, _) in values_of(radiomics).items() if "log-sigma" in key[2]]
    assert small == [pytest.approx(1.234567890123e-7, rel=1e-9)]


def test_failed_features_settings_and_lifex_names_are_listed(radiomics: Dataset) -> None:
    texts = {(name_of(item)[2], item.TextValue) for item in items(radiomics, "TEXT")}
    assert ("Feature not computed", "original_ngtdm_Coarseness: division by zero") in texts
    assert ("Extraction setting", "discretisation = fixed bins of 25 HU from -1000 HU") in texts
    assert ("Software version", "Prognode 0.1.0, pyradiomics 3.0.1") in texts
    assert ("Names in LIFEx 7", "Morphology: MORPHOLOGICAL_Volume = original_shape_MeshVolume") in texts


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), np.float32("nan"), True, np.True_])
def test_what_is_no_number_never_becomes_one(value: Any) -> None:
    with pytest.raises(ReportError, match="original_glcm_Contrast"):
        number(value, "original_glcm_Contrast")


@pytest.mark.parametrize("value", [1, 2.5, np.float32(2.5), np.float64(2.5), np.int64(3)])
def test_numpy_scalars_become_plain_floats(value: Any) -> None:
    plain = number(value, "feature")
    assert type(plain) is float
    assert plain == float(value)


def test_private_feature_codes_differ_for_a_thousand_names() -> None:
    names = [f"wavelet-{band}_glcm_Feature{k}" for band in ("LLH", "HHH") for k in range(500)]
    values = {codes.feature(Measurement(name=name, family="f", value=1.0)).value for name in names}
    assert len(values) == 1000
    assert max(map(len, values)) <= 16


def test_an_unknown_unit_is_sent_as_its_own_meaning() -> None:
    assert codes.unit("g/L").meaning == "g/L"
    assert codes.unit("1").meaning == "no units"
