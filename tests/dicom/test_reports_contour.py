"""The presentation state draws, on the CT, exactly the outline of the voxels that were scored."""

import shutil
import subprocess
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from skimage.draw import polygon

from analysis.contract import Combine
from analysis.roi import mask_from_rtstruct
from analysis.volume import read_ct
from reports import build
from reports.context import Change, Changed
from tests.paths import shared
from tests.report_inputs import Case, context, header, objects, part10, phantom_case, result, scored, small_case
from tests.synthetic import ball_mask, ct_series, enhanced_ct, rtstruct, seg
from tests.validators import dciodvfy


def presentation_state(case: Case, **changes: object) -> Dataset:
    return objects(scored(case, **changes))["presentation_state"]


def drawn(state: Dataset, rows: int, columns: int) -> dict[tuple[str, int], NDArray[np.bool_]]:
    """What is inside the polylines, by image and frame, worked out from the standard alone.

    PS3.3 C.10.5.1.2: the origin of PIXEL units is the outer corner of the first pixel, so that pixel centres lie at
    halves; pixels whose centre is inside an odd number of lines are inside.
    """
    found: dict[tuple[str, int], NDArray[np.bool_]] = {}
    for annotation in state.GraphicAnnotationSequence:
        (image,) = annotation.ReferencedImageSequence
        inside = np.zeros((rows, columns), bool)
        for line in annotation.GraphicObjectSequence:
            points = np.reshape(line.GraphicData, (-1, 2))  # column, row
            assert (line.GraphicAnnotationUnits, line.GraphicType, line.GraphicFilled) == ("PIXEL", "POLYLINE", "N")
            assert len(points) == line.NumberOfGraphicPoints
            assert (points[0] == points[-1]).all(), "closed"
            assert (points >= 0).all()
            assert (points <= [columns, rows]).all()
            filled = polygon(points[:, 1] - 0.5, points[:, 0] - 0.5, (rows, columns))
            one = np.zeros_like(inside)
            one[filled] = True
            inside ^= one
        found[str(image.ReferencedSOPInstanceUID), int(image.get("ReferencedFrameNumber", 1))] = inside
    return found


def assert_draws_the_mask(case: Case, state: Dataset) -> None:
    rows, columns = case.mask.shape[1:]
    found = drawn(state, rows, columns)
    expected = {
        (str(one.SOPInstanceUID), 1): plane for one, plane in zip(case.ct, case.mask, strict=True) if plane.any()
    }
    assert found.keys() == expected.keys(), "the slices with any of the mask, and no others"
    for key, plane in expected.items():
        assert np.array_equal(found[key], plane)


def test_the_lines_enclose_the_voxels_that_were_scored_and_no_others() -> None:
    case = small_case()
    assert_draws_the_mask(case, presentation_state(case))


def test_a_hole_an_island_and_a_corner_are_drawn_as_they_are() -> None:
    case = small_case()
    mask = case.mask.copy()
    middle = int(mask.sum(axis=(1, 2)).argmax())
    rows, columns = (round(where.mean()) for where in np.nonzero(mask[middle]))
    mask[middle, rows - 2 : rows + 2, columns - 1 : columns + 2] = False  # a hole
    mask[middle, 0, 0] = mask[middle, 1, 1] = True  # at the image's corner, touching by a corner
    mask[middle, -1, -1] = True
    shaped = Case(case.ct, case.roi, mask)
    assert_draws_the_mask(shaped, presentation_state(shaped))


def test_on_a_real_lung_ct_the_lines_lie_where_the_voxels_do(tmp_path: Path) -> None:
    case = phantom_case()
    state = presentation_state(case)
    assert_draws_the_mask(case, state)
    assert len(part10(state)) < 100_000


def test_the_outline_of_a_chest_stays_small() -> None:
    case = small_case(60, rows=128, columns=128, radius=45.0)
    state = presentation_state(case)
    assert_draws_the_mask(case, state)
    assert len(part10(state)) < 200_000


@pytest.mark.parametrize("backwards", [False, True])
def test_a_multi_frame_ct_is_drawn_frame_by_frame(backwards: bool, tmp_path: Path) -> None:
    full = enhanced_ct(ct_series(10, seed=3))
    mask = ball_mask(full)
    mask[1, 3, 4] = True
    frames = list(range(10, 0, -1)) if backwards else list(range(1, 11))
    planes = mask[::-1] if backwards else mask
    case = Case((header(full),), header(rtstruct(full)), planes)
    made = build.scored(
        case.ct, case.roi, case.mask, None, result(case.mask), context(), frame_numbers=frames,
        optional=build.Optional(presentation_state=True),
    )  # fmt: skip
    assert made.presentation_state is not None
    found = drawn(made.presentation_state, *mask.shape[1:])
    expected = {(str(full.SOPInstanceUID), k + 1): plane for k, plane in enumerate(mask) if plane.any()}
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[key], plane) for key, plane in expected.items())
    (series,) = made.presentation_state.ReferencedSeriesSequence
    (image,) = series.ReferencedImageSequence
    listed = image.ReferencedFrameNumber
    assert sorted(listed) == sorted(frame for _, frame in expected)
    path = tmp_path / "state.dcm"
    path.write_bytes(part10(made.presentation_state))
    assert dciodvfy(path) == []


def test_a_seg_as_input_is_drawn_like_a_contour() -> None:
    full = ct_series(12, seed=7)
    case = Case(tuple(header(one) for one in full), header(seg(full)), ball_mask(full))
    assert_draws_the_mask(case, presentation_state(case))


def test_grey_values_become_hu_and_the_window_is_that_of_the_ct() -> None:
    state = presentation_state(small_case(WindowCenter=[40, -600], WindowWidth=[400, 1600]))
    assert (state.RescaleSlope, state.RescaleIntercept, state.RescaleType) == (1, -1024, "HU")
    (window,) = state.SoftcopyVOILUTSequence
    assert (window.WindowCenter, window.WindowWidth) == (40, 400)
    assert state.PresentationLUTShape == "IDENTITY"


def test_a_ct_without_a_usable_window_gets_the_page_s() -> None:
    for attributes in ({}, {"WindowCenter": "40", "WindowWidth": "0"}):
        (window,) = presentation_state(small_case(**attributes)).SoftcopyVOILUTSequence
        assert (window.WindowCenter, window.WindowWidth) == (-500, 1500)


def test_the_whole_image_is_displayed_in_its_true_proportions() -> None:
    (area,) = presentation_state(small_case(spacing=(0.9, 0.7))).DisplayedAreaSelectionSequence
    assert list(area.DisplayedAreaTopLeftHandCorner) == [1, 1]
    assert list(area.DisplayedAreaBottomRightHandCorner) == [32, 32]
    assert list(area.PresentationPixelSpacing) == [0.9, 0.7]
    assert area.PresentationSizeMode == "SCALE TO FIT"
    assert "PresentationPixelAspectRatio" not in area


@pytest.mark.parametrize(
    ("language", "note"),
    [
        ("en", "Prognode: scored contour - research use only"),
        ("de", "Prognode: bewertete Kontur - nur für die Forschung"),
        ("ja", "Prognode:評価した輪郭 - 研究専用"),
    ],
)
def test_each_slice_says_what_the_line_is_and_names_nobody(language: str, note: str) -> None:
    state = presentation_state(small_case(patient_name="MARKEDNAME^X", patient_id="MARKEDID"), language=language)
    for annotation in state.GraphicAnnotationSequence:
        (text,) = annotation.TextObjectSequence
        assert text.UnformattedTextValue == note
        corners = (*text.BoundingBoxTopLeftHandCorner, *text.BoundingBoxBottomRightHandCorner)
        assert all(0 <= value <= 1 for value in corners)
    assert "MARKED" not in str(state.GraphicAnnotationSequence)


def test_it_tracks_what_the_seg_tracks_and_names_its_revision() -> None:
    case = small_case()
    made = objects(scored(case, revision=3, changes=(Changed(Change.CONTOUR),)))
    segment = made["segmentation"].SegmentSequence[0]
    for annotation in made["presentation_state"].GraphicAnnotationSequence:
        for line in annotation.GraphicObjectSequence:
            assert (line.TrackingID, line.TrackingUID) == (segment.TrackingID, segment.TrackingUID)
    for name in ("presentation_state", "segmentation"):
        assert made[name].ContentDescription.endswith(", revision 3")
        assert "rev 3" in made[name].SeriesDescription


def test_slices_that_one_state_cannot_show_get_none() -> None:
    case = small_case()
    case.ct[6].RescaleIntercept = -1000
    made = scored(case)
    assert made.presentation_state is None, "a presentation state has one modality LUT"
    assert made.segmentation is not None


def test_dcmtk_s_checker_for_presentation_states_passes_it(tmp_path: Path) -> None:
    if shutil.which("dcmpschk") is None:
        pytest.skip("dcmpschk is not here (Debian: dcmtk)")
    for name, case in (("small", small_case()), ("phantom", phantom_case())):
        path = tmp_path / f"{name}.dcm"
        path.write_bytes(part10(presentation_state(case)))
        done = subprocess.run(["dcmpschk", str(path)], capture_output=True, text=True, check=True, timeout=60)
        assert "Test passed" in done.stdout + done.stderr
        assert dciodvfy(path) == []


def test_dcmtk_shows_the_ct_through_it_as_the_page_does(tmp_path: Path) -> None:
    """Modality LUT and window by another program: the grey values of dcmp2pgm are those of HU through the window."""
    if shutil.which("dcmp2pgm") is None:
        pytest.skip("dcmp2pgm is not here (Debian: dcmtk)")
    full = ct_series(12, seed=7)
    case = Case(tuple(header(one) for one in full), header(rtstruct(full)), ball_mask(full))
    state = presentation_state(case)
    middle = int(case.mask.sum(axis=(1, 2)).argmax())
    image, lut, out = tmp_path / "image.dcm", tmp_path / "state.dcm", tmp_path / "out.pgm"
    image.write_bytes(part10(full[middle]))
    lut.write_bytes(part10(state))
    subprocess.run(["dcmp2pgm", "-p", str(lut), str(image), str(out)], check=True, capture_output=True, timeout=60)
    fields = out.read_bytes().split(b"\n", 3)
    shown = np.frombuffer(fields[-1][-32 * 32 :], np.uint8).reshape(32, 32).astype(float)
    hu = full[middle].pixel_array.astype(float) - 1024
    expected = np.clip((hu + 500 - 0.5) / 1499 + 0.5, 0, 1) * 255  # PS3.3 C.11.2.1.2.1
    assert np.abs(shown - expected).max() <= 1.5


def every_half_pixel(corners: NDArray[np.float64]) -> NDArray[np.float64]:
    """Points along a line whose parts run along rows and columns."""
    parts = [np.linspace(start, end, int(2 * np.abs(end - start).max()) + 1) for start, end in pairwise(corners)]
    return np.concatenate(parts)


def test_the_contour_of_the_phantom_s_own_rtstruct_is_where_it_was_drawn() -> None:
    """From the contour's points in mm, by hand, to pixels: each lies within a pixel of one of our lines."""
    folder = shared("data", "ibsi_1_ct_phantom", "dicom")
    volume = read_ct(sorted((folder / "image").glob("*.dcm")))
    contour = next((folder / "mask").glob("*.dcm"))
    scored_mask = mask_from_rtstruct(contour, (1,), Combine.SINGLE, volume).array
    ct = phantom_case().ct
    places = {str(one.SOPInstanceUID): one for one in ct}
    order = [places[uid] for uid in volume.sop_instance_uids]
    whole = dcmread(contour)
    case = Case(tuple(order), whole, scored_mask)
    lines = {
        str(a.ReferencedImageSequence[0].ReferencedSOPInstanceUID): np.concatenate(
            [every_half_pixel(np.reshape(line.GraphicData, (-1, 2))) for line in a.GraphicObjectSequence]
        )
        for a in presentation_state(case).GraphicAnnotationSequence
    }
    assert lines
    checked = 0
    for item in whole.ROIContourSequence[0].ContourSequence:
        points = np.reshape(np.asarray(item.ContourData, float), (-1, 3))
        image = min(order, key=lambda one: abs(float(one.ImagePositionPatient[2]) - points[0, 2]))
        first, spacing = np.asarray(image.ImagePositionPatient[:2], float), np.asarray(image.PixelSpacing, float)
        pixels = (points[:, :2] - first) / spacing[::-1] + 0.5
        near = np.linalg.norm(pixels[:, None] - lines[str(image.SOPInstanceUID)][None], axis=2).min(axis=1)
        assert np.median(near) < 0.6
        assert near.max() < 2, "a tip thinner than a pixel holds no pixel's centre"
        checked += 1
    assert checked >= 20
