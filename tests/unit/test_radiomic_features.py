"""The feature set: every feature of the table comes out or is listed with its reason, under its right identity."""

import csv
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from pydicom.sr._concepts_dict import concepts

from analysis.contract import NotScorable, Reason
from analysis.feature_table import load_features
from analysis.preprocess import name_prefixes
from analysis.radiomic import FeatureSet, expected_names, features
from analysis.settings import Discretisation, ExtractionSettings, ExtractionSettingsInvalid
from tests.paths import shared
from tests.volumes import lesion, volume_of

COARSE = ExtractionSettings(spacing_mm=(2.0, 2.0, 2.0))
EVERYTHING = replace(COARSE, image_types=("original", "log-sigma-2.0-mm", "wavelet"))


@pytest.fixture(scope="module")
def everything() -> FeatureSet:
    return features(*lesion(), EVERYTHING)


def names_of(found: FeatureSet) -> list[str]:
    return sorted([item.name for item in found.measurements] + [item.name for item in found.failed])


# The table --------------------------------------------------------------------------------------------------


def test_every_name_of_the_table_is_there_once() -> None:
    names = [row.name for row in load_features()]
    assert len(set(names)) == len(names) == 151


def test_ibsi_codes_are_those_of_the_reference_tables_and_of_dicom() -> None:
    """lifex_map.csv ties codes to the tags of the reference tables; PS3.16 carries the codes it lacks."""
    with shared("data", "ibsi_reference", "lifex_map.csv").open(encoding="utf-8-sig", newline="") as stream:
        by_tag = {row["ibsi_tag"]: row["ibsi_code"] for row in csv.DictReader(stream) if row["ibsi_tag"]}
    in_dicom = {code: meaning for entry in concepts["IBSI"].values() for code, (meaning, _) in entry.items()}
    for row in load_features():
        assert bool(row.ibsi_id) == bool(row.ibsi_tag) == bool(row.ibsi_name), row.name
        if row.ibsi_tag in by_tag:
            assert row.ibsi_id == by_tag[row.ibsi_tag], row.name
        elif row.ibsi_id:
            assert row.ibsi_id in in_dicom, row.name


def words(meaning: str) -> set[str]:
    """What a name says, whatever the spelling and the order."""
    text = meaning.lower().replace("grey", "gray").replace("normalised", "normalized").replace("-", "")
    text = text.replace("first measure", "1").replace("second measure", "2")
    return set(text.split()) - {"of", "in", "3d", "ngldm", "glcm", "runs"}


def test_codes_that_lifex_lacks_mean_in_dicom_what_they_name_here() -> None:
    in_dicom = {code: meaning for entry in concepts["IBSI"].values() for code, (meaning, _) in entry.items()}
    rows = [row for row in load_features() if row.ibsi_id and not row.lifex_name]
    assert len(rows) == 26
    assert [row.name for row in rows if words(row.ibsi_name) != words(in_dicom[row.ibsi_id])] == []


def test_ibsi_names_are_those_of_the_reference_tables() -> None:
    table = shared("data", "ibsi_reference", "ibsi_1_digital_phantom.csv")
    with table.open(encoding="utf-8-sig", newline="") as stream:
        names = {row["tag"].removesuffix("_avg").removesuffix("_3D"): row["feature"] for row in csv.DictReader(stream)}
    assert {row.ibsi_tag: row.ibsi_name for row in load_features() if row.ibsi_tag} == {
        row.ibsi_tag: names[row.ibsi_tag] for row in load_features() if row.ibsi_tag
    }


def test_no_two_features_share_an_ibsi_code_but_the_median() -> None:
    codes = [row.ibsi_id for row in load_features() if row.ibsi_id]
    twice = {code for code in codes if codes.count(code) > 1}
    assert twice == {"Y12H"}  # LIFEx lists the 50th percentile beside the median


def test_lifex_columns_are_covered_but_for_those_that_need_other_methods() -> None:
    with shared("data", "ibsi_reference", "lifex_map.csv").open(encoding="utf-8-sig", newline="") as stream:
        columns = {row["lifex7_name"] for row in csv.DictReader(stream)}
    ours = {row.lifex_name for row in load_features() if row.lifex_name}
    assert ours <= columns
    assert columns - ours == {
        "MORPHOLOGICAL_Compacity",
        "MORPHOLOGICAL_SphereDiameter",  # LIFEx's own, formula not published
        "INTENSITY-BASED_TotalLesionGlycolysis",
        "INTENSITY-BASED_TotalCalciumScore",  # PET, calcium
        "INTENSITY-BASED_AreaUnderCurveCIVH",
        "INTENSITY-HISTOGRAM_AreaUnderCurveCIVH",  # volume histogram
        "LOCAL_INTENSITY_BASED_GlobalIntensityPeak",
        "LOCAL_INTENSITY_BASED_LocalIntensityPeak",
    }


def test_units_are_those_of_ucum() -> None:
    assert {row.unit for row in load_features()} == {
        "1",
        "mm",
        "mm2",
        "mm3",
        "/mm",
        "[hnsf'U]",
        "[hnsf'U]2",
        "[hnsf'U].mm3",
        "[hnsf'U]2.mm3",
    }


# Nothing drops out ------------------------------------------------------------------------------------------


def test_every_image_type_gives_every_feature_of_the_table(everything: FeatureSet) -> None:
    assert everything.failed == ()
    assert [item.name for item in everything.measurements] == list(expected_names(EVERYTHING))
    assert len(everything.measurements) == 151 + 9 * (151 - 21)


def test_ibsi_and_lifex_identities_are_claimed_on_the_original_image_only(everything: FeatureSet) -> None:
    for item in everything.measurements:
        if not item.name.startswith("original_"):
            assert (item.ibsi_id, item.ibsi_name, item.lifex_name) == (None, None, None)
    claimed = {item.name: item.ibsi_id for item in everything.measurements if item.ibsi_id}
    assert len(claimed) == 135
    assert claimed["original_glszm_LowGrayLevelZoneEmphasis"] == "XMSY"
    assert claimed["original_firstorder_Kurtosis"] == "IPH6"


@pytest.mark.parametrize(
    "where",
    [np.s_[10, 20, 20], np.s_[10, 20, 20:22], np.s_[10, 18:24, 18:24], np.s_[8:14, 20, 20]],
    ids=["one voxel", "two voxels", "one slice", "one column of voxels"],
)
@pytest.mark.parametrize("dimension", ["3D", "2.5D"])
@pytest.mark.parametrize("aggregation", ["avg", "merged"])
def test_a_degenerate_region_lists_what_failed_and_why(where: object, dimension: str, aggregation: str) -> None:
    volume, _ = lesion()
    mask = np.zeros(volume.array.shape, bool)
    mask[where] = True  # type: ignore[call-overload]
    settings = replace(COARSE, spacing_mm=None, dimension=dimension, aggregation=aggregation)  # type: ignore[arg-type]
    found = features(volume, mask, settings)
    assert names_of(found) == sorted(expected_names(settings))
    assert all(math.isfinite(item.value) for item in found.measurements)
    assert all(item.why for item in found.failed)


def test_a_flat_region_gives_no_infinite_value() -> None:
    mask = np.zeros((12, 12, 12), bool)
    mask[3:9, 3:9, 3:9] = True
    settings = replace(COARSE, spacing_mm=None)
    found = features(volume_of(np.full((12, 12, 12), 40)), mask, settings)
    assert names_of(found) == sorted(expected_names(settings))
    values = found.values()
    assert values["original_firstorder_Skewness"] == 0
    assert values["original_firstorder_Entropy"] == 0
    assert all(math.isfinite(value) for value in values.values())


def test_bins_far_too_narrow_fail_by_name_instead_of_filling_the_memory() -> None:
    volume, mask = lesion()
    fine = replace(COARSE, spacing_mm=None, discretisation=Discretisation("FBS", 0.1, -1000.0))
    found = features(volume, mask, fine)
    groups = {item.name.split("_")[1] for item in found.failed}
    assert groups == {"firstorder", "histogram", "glcm", "glrlm", "glszm", "gldm", "ngtdm"}
    assert all("wider bins" in item.why for item in found.failed)
    assert [item.name for item in found.failed if "firstorder" in item.name] == [
        "original_firstorder_Entropy",
        "original_firstorder_Uniformity",
    ]


def test_a_region_outside_the_intensity_range_is_refused() -> None:
    volume, mask = lesion()
    with pytest.raises(NotScorable) as caught:
        features(volume, mask, replace(COARSE, resegment_hu=(2000.0, 3000.0)))
    assert caught.value.reason is Reason.ROI_TOO_SMALL


def test_a_region_that_interpolation_leaves_nothing_of_is_refused() -> None:
    mask = np.zeros((8, 8, 8), bool)
    mask[3, 3, 3] = True
    with pytest.raises(NotScorable) as caught:
        features(volume_of(np.zeros((8, 8, 8))), mask, replace(COARSE, spacing_mm=(5.0, 5.0, 5.0)))
    assert caught.value.reason is Reason.ROI_TOO_SMALL


def test_a_mask_of_another_shape_is_a_mistake_of_the_caller() -> None:
    volume, mask = lesion()
    with pytest.raises(ValueError, match="shape"):
        features(volume, mask[1:], COARSE)


def test_an_empty_mask_is_refused() -> None:
    volume, mask = lesion()
    with pytest.raises(NotScorable) as caught:
        features(volume, np.zeros_like(mask), COARSE)
    assert caught.value.reason is Reason.ROI_EMPTY


def test_a_region_that_is_half_air_is_flagged() -> None:
    volume, mask = lesion()
    wide = np.zeros_like(mask)
    wide[8:14, 10:50, 10:50] = True
    narrow = replace(COARSE, resegment_hu=(-200.0, 400.0), discretisation=Discretisation("FBS", 25.0, -200.0))
    assert [item.code for item in features(volume, wide, narrow).flags] == ["ROI_RESEGMENTED"]
    assert features(volume, mask, COARSE).flags == ()


def test_extraction_writes_nothing_to_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    volume, mask = lesion()
    single = np.zeros_like(mask)
    single[10, 20, 20] = True
    features(volume, mask, EVERYTHING)
    features(volume, single, replace(COARSE, spacing_mm=None))
    assert capfd.readouterr() == ("", "")


def test_the_log_levels_of_pyradiomics_are_what_they_were_afterwards() -> None:
    import logging

    before = [logging.getLogger(name).level for name in ("radiomics", "radiomics.glcm")]
    features(*lesion(), COARSE)
    assert [logging.getLogger(name).level for name in ("radiomics", "radiomics.glcm")] == before


def test_the_same_input_gives_the_same_values_to_the_last_bit(everything: FeatureSet) -> None:
    assert features(*lesion(), EVERYTHING).values() == everything.values()


# Settings ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        ExtractionSettings(),
        EVERYTHING,
        replace(
            COARSE, spacing_mm=(None, 2.0, 2.0), discretisation=Discretisation("FBN", None, None, 32), outlier_sigma=3.0
        ),
    ],
)
def test_settings_survive_the_manifest(settings: ExtractionSettings) -> None:
    assert ExtractionSettings.from_json(json.loads(json.dumps(settings.to_json()))) == settings


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"spacing": [1, 1, 1]}, "unknown"),
        ({"discretisation": {"method": "FBS", "width": 25}}, "width"),
        ({"discretisation": {"method": "FBS", "bin_width_hu": 0}}, "bin_width_hu"),
        ({"discretisation": {"method": "FBN"}}, "bins"),
        ({"discretisation": {"method": "FBX"}}, "FBX"),
        ({"resegment_hu": None}, "origin_hu"),
        ({"resegment_hu": [-1200, 400]}, "origin_hu"),
        ({"resegment_hu": [400, -1000]}, "resegment_hu"),
        ({"image_types": ["original", "square"]}, "square"),
        ({"image_types": ["log-sigma-x-mm"]}, "log-sigma"),
        ({"image_types": ["log-sigma-0-mm"]}, "log-sigma"),
        ({"image_types": []}, "image_types"),
        ({"image_types": ["original", "original"]}, "image_types"),
        ({"image_types": ["wavelet"], "filtered_bin_width": {"log": 5}}, "wavelet"),
        ({"spacing_mm": [0, 1, 1]}, "spacing_mm"),
        ({"outlier_sigma": -1}, "outlier_sigma"),
        ({"dimension": "2D"}, "dimension"),
        ({"aggregation": "mean"}, "aggregation"),
        ({"image_interpolator": "nearest"}, "image_interpolator"),
    ],
)
def test_settings_that_make_no_sense_are_refused_by_name(values: dict[str, object], word: str) -> None:
    with pytest.raises(ExtractionSettingsInvalid, match=word):
        ExtractionSettings.from_json(values)


def test_the_settings_are_told_in_words_for_the_report(everything: FeatureSet) -> None:
    assert everything.extraction == {
        "interpolation": "bspline to 2 x 2 x 2 mm",
        "intensity rounding": "1 HU",
        "re-segmentation": "-1000 to 400 HU",
        "outlier filter": "none",
        "discretisation": "FBS 25 HU from -1000 HU",
        "image types": "original, log-sigma-2.0-mm, wavelet",
        "texture": "3D, avg",
    }


def test_names_of_filtered_images_are_those_the_field_knows() -> None:
    assert name_prefixes("log-sigma-2.0-mm") == ("log-sigma-2-0-mm-3D",)
    assert name_prefixes("wavelet")[0] == "wavelet-LLH"
