"""Each geometry defect of a CT is refused with its own reason and figures; what is harmless is not."""

import math
import warnings
from dataclasses import replace

import pytest

from analysis.contract import Reason
from config.settings import Planning
from dicom_node.gates import Defect, series_defect, slice_order, stack_defect
from dicom_node.instance import Instance
from tests.facts import facts
from tests.synthetic import (
    DEFECTS,
    ct_series,
    drop_slice,
    enhanced_ct,
    gantry_tilt,
    jitter,
    localizer,
    oblique,
    sagittal,
    shuffled,
    two_phases,
    uneven_gap,
)

SETTINGS = Planning()
REASON_OF_DEFECT = {
    "missing slice": Reason.MISSING_SLICE,
    "duplicate position": Reason.DUPLICATE_POSITION,
    "uneven gap": Reason.UNEVEN_SLICE_SPACING,
    "gantry tilt": Reason.GANTRY_TILT,
    "localizer": Reason.LOCALIZER_IN_SERIES,
    "two phases": Reason.SEVERAL_ACQUISITIONS,
    "other pixel spacing": Reason.PIXEL_SPACING_DIFFERS,
    "without rescale": Reason.RESCALE_MISSING,
}


def defect_of(images: list[Instance], settings: Planning = SETTINGS) -> Defect | None:
    return series_defect(images) or stack_defect(images, settings)


def reason_of(images: list[Instance], settings: Planning = SETTINGS) -> Reason | None:
    defect = defect_of(images, settings)
    return defect.reason if defect else None


def changed(images: list[Instance], index: int, **geometry: object) -> list[Instance]:
    made = list(images)
    made[index] = replace(made[index], geometry=replace(made[index].geometry, **geometry))
    return made


@pytest.fixture(scope="module")
def ct() -> list[Instance]:
    return facts(ct_series(seed=1))


def test_a_good_series_passes(ct: list[Instance]) -> None:
    assert defect_of(ct) is None


@pytest.mark.parametrize("name", DEFECTS)
def test_each_defect_has_its_reason_in_any_order(name: str) -> None:
    images = facts(DEFECTS[name](ct_series(seed=1)))
    assert {reason_of(shuffled(images, seed)) for seed in range(5)} == {REASON_OF_DEFECT[name]}


def test_every_defect_of_the_builder_is_expected_here() -> None:
    assert set(REASON_OF_DEFECT) == set(DEFECTS)


def test_the_detail_has_the_figures() -> None:
    assert defect_of(facts(drop_slice(ct_series(seed=1), 6))) == Defect(
        Reason.MISSING_SLICE, "6.00 mm between slices 6 and 7 of 11, where 3.00 mm is usual; 1 missing"
    )
    assert defect_of(facts(uneven_gap(ct_series(seed=1)))) == Defect(
        Reason.UNEVEN_SLICE_SPACING, "3.50 mm between slices 6 and 7 of 12, where 3.00 mm is usual"
    )
    assert defect_of(facts(gantry_tilt(ct_series(seed=1)))) == Defect(
        Reason.GANTRY_TILT, "slices are stacked 15.0 degrees off their normal"
    )


@pytest.mark.parametrize("thickness", [0.5, 1.0, 1.25, 3.0, 5.0])
def test_jitter_of_a_fiftieth_of_a_millimetre_passes(thickness: float) -> None:
    assert defect_of(facts(jitter(ct_series(seed=1, thickness=thickness)))) is None


def test_step_and_shoot_numbers_each_step_and_passes(ct: list[Instance]) -> None:
    images = [replace(image, acquisition_number=str(1 + k // 4)) for k, image in enumerate(ct)]
    assert defect_of(images) is None


def test_interleaved_acquisitions_are_refused(ct: list[Instance]) -> None:
    images = [replace(image, acquisition_number=str(1 + k % 2)) for k, image in enumerate(ct)]
    assert defect_of(images) == Defect(Reason.SEVERAL_ACQUISITIONS, "2 acquisitions overlap in space")


def test_two_phases_that_share_an_acquisition_number_are_refused() -> None:
    images = [replace(image, acquisition_number="") for image in facts(two_phases(ct_series(seed=1)))]
    assert defect_of(images) == Defect(Reason.SEVERAL_ACQUISITIONS, "2 images at each position")


@pytest.mark.parametrize(("extra", "passes"), [(0.04, True), (0.07, False), (-0.07, False)])
def test_the_spacing_tolerance_is_a_twentieth_of_a_millimetre(extra: float, passes: bool) -> None:
    assert (defect_of(facts(uneven_gap(ct_series(seed=1), extra))) is None) is passes


def test_an_oblique_reformat_is_not_axial_and_not_a_gantry_tilt() -> None:
    assert reason_of(facts(oblique(ct_series(seed=1), 15.0))) is Reason.NOT_AXIAL
    assert reason_of(facts(oblique(ct_series(seed=1), 5.0))) is None
    assert reason_of(facts(sagittal(ct_series(seed=1)))) is Reason.NOT_AXIAL


def test_a_tilt_of_one_degree_is_refused() -> None:
    assert reason_of(facts(gantry_tilt(ct_series(seed=1), 1.0))) is Reason.GANTRY_TILT


def test_feet_first_series_are_axial_too(ct: list[Instance]) -> None:
    turned = [replace(i, geometry=replace(i.geometry, orientation=(-1.0, 0.0, 0.0, 0.0, 1.0, 0.0))) for i in ct]
    assert defect_of(turned) is None
    assert slice_order(turned) == tuple(reversed(turned))


def test_a_scout_without_its_image_type_is_another_orientation() -> None:
    series = localizer(ct_series(seed=1))
    series[0].ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    assert defect_of(facts(series)) == Defect(Reason.ORIENTATION_DIFFERS, "1 of 13 images are oriented otherwise")


def test_a_slice_shifted_in_its_plane_is_refused(ct: list[Instance]) -> None:
    x, y, z = ct[5].geometry.positions[0]
    defect = defect_of(changed(ct, 5, positions=((x + 5.0, y, z),)))
    assert defect == Defect(Reason.GEOMETRY_INVALID, "slice 6 is shifted 5.0 mm in its plane")


@pytest.mark.parametrize(
    "geometry",
    [
        {"positions": ()},
        {"positions": ((0.0, math.nan, 0.0),)},
        {"positions": ((0.0, math.inf, 0.0),)},
        {"positions": ((0.0, 0.0),)},
        {"orientation": None},
        {"orientation": (0.0,) * 6},
        {"orientation": (1.0, 0.0, 0.0, 1.0, 0.0, 0.0)},
        {"orientation": (1.0, 0.0, 0.0)},
        {"pixel_spacing": None},
        {"pixel_spacing": (0.0, 0.0)},
        {"pixel_spacing": (-0.9, -0.9)},
        {"pixel_spacing": (math.nan, 0.9)},
        {"rows": None},
        {"columns": 0},
    ],
    ids=str,
)
def test_absent_and_unusable_geometry_is_refused(ct: list[Instance], geometry: dict[str, object]) -> None:
    assert series_defect(changed(ct, 3, **geometry)) == Defect(
        Reason.GEOMETRY_INVALID, "1 of 12 images lack a usable position, orientation, pixel spacing or matrix"
    )


def test_nan_in_a_header_reaches_the_gate_as_unusable() -> None:
    series = ct_series(seed=1)
    with warnings.catch_warnings(action="ignore"):  # pydicom knows that these are wrong
        series[4].PixelSpacing = ["nan", "nan"]
        series[5].ImagePositionPatient = [0, 0, "inf"]
        images = facts(series)
    assert reason_of(images) is Reason.GEOMETRY_INVALID


def test_two_frames_of_reference_in_a_series_are_refused(ct: list[Instance]) -> None:
    images = [replace(ct[0], frame_of_reference_uid="1.2.3"), *ct[1:]]
    assert series_defect(images) == Defect(Reason.GEOMETRY_INVALID, "the series has 2 frames of reference")


def test_other_matrix_sizes_are_refused(ct: list[Instance]) -> None:
    defect = series_defect(changed(ct, 0, rows=64))
    assert defect == Defect(
        Reason.PIXEL_SPACING_DIFFERS, "pixel spacing from 0.900 to 0.900 mm, matrix from 32x32 to 64x32"
    )


def test_bounds_are_inclusive_and_name_the_figures() -> None:
    thick = facts(ct_series(seed=1, thickness=5.0, spacing=(2.0, 2.0)))
    assert defect_of(thick) is None
    assert defect_of(facts(ct_series(seed=1, thickness=6.0))) == Defect(
        Reason.SLICE_SPACING_OUT_OF_RANGE, "6.00 mm between slices; 0.3 to 5 mm are accepted"
    )
    assert reason_of(facts(ct_series(seed=1, thickness=0.2))) is Reason.SLICE_SPACING_OUT_OF_RANGE
    assert defect_of(facts(ct_series(seed=1, spacing=(0.9, 2.5)))) == Defect(
        Reason.PIXEL_SPACING_OUT_OF_RANGE, "pixel spacing 0.900 x 2.500 mm; 0.3 to 2 mm are accepted"
    )
    assert reason_of(facts(ct_series(seed=1, spacing=(0.2, 0.2)))) is Reason.PIXEL_SPACING_OUT_OF_RANGE


def test_slice_thickness_is_not_taken_for_slice_spacing() -> None:
    """Thick slices reconstructed at small steps overlap: the positions count, not (0018,0050)."""
    assert defect_of(facts(ct_series(seed=1, thickness=3.0, SliceThickness=10.0, SpacingBetweenSlices=10.0))) is None


def test_too_few_slices_are_refused(ct: list[Instance]) -> None:
    assert defect_of(ct[:7]) == Defect(Reason.TOO_FEW_SLICES, "7 slices; at least 8 are needed")
    assert defect_of(ct[:8]) is None
    assert reason_of(ct[:1], Planning(minimum_slices=1)) is Reason.TOO_FEW_SLICES


@pytest.mark.parametrize(("rescale_type", "passes"), [("HU", True), ("", True), ("hu ", True), ("US", False)])
def test_rescale_type_must_be_hounsfield_or_unsaid(ct: list[Instance], rescale_type: str, passes: bool) -> None:
    images = [replace(image, rescale_type=rescale_type) for image in ct]
    assert (reason_of(images) is None) is passes
    assert passes or reason_of(images) is Reason.RESCALE_NOT_HU


def test_one_image_without_rescale_is_enough() -> None:
    series = ct_series(seed=1)
    del series[7].RescaleSlope
    assert defect_of(facts(series)) == Defect(
        Reason.RESCALE_MISSING, "1 of 12 images have no usable rescale slope and intercept"
    )


def test_two_missing_slices_are_counted(ct: list[Instance]) -> None:
    assert defect_of([*ct[:3], *ct[5:]]) == Defect(
        Reason.MISSING_SLICE, "9.00 mm between slices 3 and 4 of 10, where 3.00 mm is usual; 2 missing"
    )


def test_a_missing_slice_is_seen_where_every_other_pair_lacks_one(ct: list[Instance]) -> None:
    kept = [image for k, image in enumerate(ct) if k % 3 != 2]
    assert [len(kept), reason_of(kept)] == [8, Reason.MISSING_SLICE]
    kept.append(replace(kept[-1], geometry=replace(kept[-1].geometry, positions=((-14.4, -14.4, -64.0),))))
    assert defect_of(kept) == Defect(
        Reason.MISSING_SLICE, "6.00 mm between slices 2 and 3 of 9, where 3.00 mm is usual; 4 missing"
    )


def test_rounding_across_a_short_stack_is_no_tilt(ct: list[Instance]) -> None:
    thin = [
        replace(image, geometry=replace(image.geometry, positions=((0.05 * (k > 3), 0.0, 0.3 * k),)))
        for k, image in enumerate(ct[:8])
    ]
    assert defect_of(thin) is None


def test_an_enhanced_ct_passes_by_its_frames() -> None:
    assert defect_of(facts([enhanced_ct(ct_series(seed=1))])) is None


@pytest.mark.parametrize("name", ["missing slice", "duplicate position", "uneven gap", "gantry tilt"])
def test_an_enhanced_ct_is_refused_by_its_frames(name: str) -> None:
    images = facts([enhanced_ct(DEFECTS[name](ct_series(seed=1)))])
    assert reason_of(images) is REASON_OF_DEFECT[name]


def test_frames_of_several_orientations_are_refused() -> None:
    assert reason_of(facts([enhanced_ct_with_a_turned_frame()])) is Reason.ORIENTATION_DIFFERS


def enhanced_ct_with_a_turned_frame() -> object:
    import copy

    multi_frame = enhanced_ct(ct_series(seed=1))
    plane = multi_frame.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence
    del multi_frame.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence
    for frame in multi_frame.PerFrameFunctionalGroupsSequence:
        frame.PlaneOrientationSequence = copy.deepcopy(plane)
    turned = multi_frame.PerFrameFunctionalGroupsSequence[0].PlaneOrientationSequence[0]
    turned.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]
    return multi_frame


def test_two_multi_frame_objects_in_a_series_are_refused() -> None:
    first = enhanced_ct(ct_series(seed=1))
    upper = ct_series(seed=1)
    for k, instance in enumerate(upper):
        instance.ImagePositionPatient = [*instance.ImagePositionPatient[:2], -64 + 3 * k]
    second = enhanced_ct(upper, sop_instance_uid="2.25.4711")
    assert defect_of(facts([first, second])) == Defect(
        Reason.SEVERAL_ACQUISITIONS, "2 objects in the series, 2 of them multi-frame"
    )


def test_slices_are_ordered_along_the_normal_whatever_their_instance_numbers() -> None:
    series = ct_series(seed=1)
    for k, instance in enumerate(series):
        instance.InstanceNumber = 100 - k
    images = facts(series)
    assert slice_order(shuffled(images, 3)) == tuple(images)
