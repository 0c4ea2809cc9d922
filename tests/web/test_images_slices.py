"""Slices as pictures: the right voxels in the right grey, in the order of the mask; what cannot be shown says why."""

import copy
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom import Dataset
from pydicom.uid import RLELossless

from dicom_node.web import images, results
from dicom_node.web.cache import Cache
from dicom_node.web.images import WINDOWS, SliceUnreadable, Window, etag
from dicom_node.web.stack import Slice, edge_letters
from tests.synthetic import ct_series, enhanced_ct, save
from tests.web import hospital as building
from tests.web.hospital import Hospital

CT = ct_series(4, 24, 32, seed=21)


def hounsfield(instance: Dataset) -> NDArray[Any]:
    """By hand from the bytes: no decoder of ours or of pydicom."""
    stored = np.frombuffer(instance.PixelData, "<u2").reshape(instance.Rows, instance.Columns)
    return stored * float(instance.RescaleSlope) + float(instance.RescaleIntercept)


def grey(data: bytes) -> NDArray[Any]:
    return np.asarray(Image.open(io.BytesIO(data)))


def test_a_slice_is_decoded_to_hounsfield_units(tmp_path: Path) -> None:
    for instance in CT:
        decoded = images.decode(Slice(save(instance, tmp_path), 0, None))
        assert (decoded == hounsfield(instance)).all()


def test_a_frame_of_an_enhanced_ct_is_the_slice_that_it_was_made_of(tmp_path: Path) -> None:
    path = save(enhanced_ct(CT), tmp_path)
    for frame, instance in enumerate(CT):
        assert (images.decode(Slice(path, frame, None)) == hounsfield(instance)).all()
    with pytest.raises(SliceUnreadable, match="not in its file"):
        images.decode(Slice(path, len(CT), None))


def test_a_compressed_slice_is_the_same_picture(tmp_path: Path) -> None:
    plain, packed = save(CT[1], tmp_path / "a"), save(CT[1], tmp_path / "b", RLELossless)
    window = WINDOWS["lung"]
    assert images.png(Slice(plain, 0, None), window) == images.png(Slice(packed, 0, None), window)


@pytest.mark.parametrize("window", WINDOWS.values(), ids=WINDOWS)
def test_a_window_is_linear_between_its_ends(tmp_path: Path, window: Window) -> None:
    """PS3.3 C.11.2.1.2: the formula of the standard, value by value."""
    ramp = ct_series(1, 64, 64, seed=5)[0]
    ramp.PixelData = (np.arange(64 * 64) % 4096).astype("<u2").tobytes()
    shown = grey(images.png(Slice(save(ramp, tmp_path), 0, None), window)).astype(float).ravel()
    x = hounsfield(ramp).ravel()
    y = np.clip(((x - (window.centre - 0.5)) / (window.width - 1) + 0.5) * 255, 0, 255)
    assert np.abs(shown - y).max() <= 0.51
    assert shown.max() - shown.min() > 150


def damaged(path: Path, kind: str) -> Slice:
    """A file as a disk or a sender may leave it."""
    instance = ct_series(1, 24, 32, seed=9)[0]
    if kind == "claims a huge size":
        instance.Rows = instance.Columns = 65535
    if kind == "colour":
        instance.SamplesPerPixel, instance.PhotometricInterpretation, instance.PlanarConfiguration = 3, "RGB", 0
        instance.BitsAllocated, instance.BitsStored, instance.HighBit = 8, 8, 7
        instance.PixelData = bytes(24 * 32 * 3)
    if kind == "rescale is text":
        instance.add_new(0x00281053, "LO", "one")
    written = save(instance, path)
    if kind == "cut":
        written.write_bytes(written.read_bytes()[:-500])
    if kind == "no DICOM":
        written.write_bytes(b"not at all")
    if kind == "gone":
        written.unlink()
    return Slice(written, 0, None)


@pytest.mark.parametrize("kind", ["cut", "no DICOM", "gone", "claims a huge size", "colour", "rescale is text"])
@pytest.mark.filterwarnings("ignore:.*:UserWarning:pydicom")
def test_a_slice_that_cannot_be_shown_says_why(tmp_path: Path, kind: str) -> None:
    with pytest.raises(SliceUnreadable) as why:
        images.png(damaged(tmp_path, kind), WINDOWS["lung"])
    said = str(why.value)
    assert said.endswith(".")
    assert said[0].isupper()
    assert "SYN-" not in said
    assert str(tmp_path) not in said


@pytest.mark.parametrize(
    ("orientation", "edges"),
    [
        ((1, 0, 0, 0, 1, 0), ("R", "L", "A", "P")),
        ((-1, 0, 0, 0, -1, 0), ("L", "R", "P", "A")),  # prone
        ((0, 1, 0, 0, 0, -1), ("A", "P", "H", "F")),  # sagittal
        ((0.9, 0.436, 0, -0.436, 0.9, 0), ("RA", "LP", "AL", "PR")),  # turned by 26 degrees
        ((0.999, 0.04, 0, -0.04, 0.999, 0), ("R", "L", "A", "P")),
        (None, ("", "", "", "")),
    ],
)
def test_the_letters_say_where_the_patient_is(
    orientation: tuple[float, ...] | None, edges: tuple[str, str, str, str]
) -> None:
    assert edge_letters(orientation) == edges


def test_the_cache_holds_no_more_than_it_may_and_never_an_error() -> None:
    cache: Cache[bytes] = Cache(100, len)
    made: list[int] = []

    def make(key: int, size: int = 40) -> bytes:
        made.append(key)
        if key < 0:
            raise KeyError(key)
        return bytes(size)

    for key in (1, 2, 1, 3, 1, 2):
        cache.get(key, lambda key=key: make(key))  # type: ignore[misc]
        assert cache.used <= 100
    assert made == [1, 2, 3, 2], "1 was used last and stays; 2 had to go for 3"
    for _ in range(2):
        with pytest.raises(KeyError):
            cache.get(-1, lambda: make(-1))
    assert made.count(-1) == 2
    cache.get(9, lambda: make(9, 500))
    assert cache.used <= 100


def test_scrolling_through_a_chest_keeps_memory_bounded(tmp_path: Path) -> None:
    """A hundred and fifty slices of 512 x 512 are 79 MB; the process keeps at most what the cache may."""
    instance = ct_series(1, 512, 512, seed=3)[0]
    path = save(instance, tmp_path)
    for frame in range(150):  # the same file under other names: what is held is by path and frame
        other = tmp_path / f"{frame}.dcm"
        other.symlink_to(path)
        images.png(Slice(other, 0, None), WINDOWS["lung"])
    assert images._decoded.used <= images.CACHE_BYTES


# -- over the real store ---------------------------------------------------------------------------------------------


def test_slices_come_in_the_order_of_the_mask_with_what_was_scored(hospital: Hospital) -> None:
    """The brightest slice is the one with most of the contour, and positions rise along the normal."""
    item = hospital.item("enhanced")
    result = results.result_of(item, hospital.road.spool)
    assert result is not None
    assert result.roi is not None
    stack = results.stack(item, result, hospital.road.store, hospital.road.spool)
    assert stack is not None
    heights = [one.z for one in stack.slices]
    assert heights == sorted(heights)  # type: ignore[type-var]
    means = [images.decode(one).mean() for one in stack.slices]
    assert abs(int(np.argmax(means)) - result.roi.largest_slice) <= 1
    assert stack.largest == result.roi.largest_slice
    assert len(stack.slices) == result.geometry.shape[0]  # type: ignore[union-attr]


def test_the_order_of_a_scored_stack_has_a_name_of_its_own(hospital: Hospital) -> None:
    """Before the result, slices stand by position: a browser that kept those must not show them by number."""
    item, spool, store = hospital.item("main"), hospital.road.spool, hospital.road.store
    before = results.stack(item, None, store, spool)
    after = results.stack(item, results.result_of(item, spool), store, spool)
    assert before is not None
    assert after is not None
    assert before.name != after.name
    assert etag(before, 1, "lung") != etag(after, 1, "lung")


def test_newer_bytes_of_an_image_do_not_change_what_a_scored_study_shows(hospital: Hospital) -> None:
    """The pages show the content that was scored, by its digest, also when the PACS has corrected the image since."""
    objects = building.ball(41, "Novak^Petra")
    hospital.bring("corrected", *objects)
    store, spool, item = hospital.road.store, hospital.road.spool, hospital.item("corrected")
    before = results.stack_of(item, results.result_of(item, spool), store, spool)
    newer = copy.deepcopy(objects[0])
    newer.PixelData = bytes(len(newer.PixelData))
    hospital.road.take(newer)
    after = results.stack_of(item, results.result_of(item, spool), store, spool)
    assert before is not None
    assert before == after


def test_an_unscored_series_is_shown_by_position(hospital: Hospital) -> None:
    item = hospital.item("not scored")
    stack = results.stack(item, results.result_of(item, hospital.road.spool), hospital.road.store, hospital.road.spool)
    assert stack is not None
    gaps = np.diff([one.z for one in stack.slices])  # type: ignore[arg-type]
    assert (gaps > 0).all()
    assert gaps.max() == 2 * gaps.min(), "the missing slice shows in the positions"
    assert stack.largest is None


@pytest.fixture
def signed_in(address: str) -> httpx.Client:
    return building.sign_in(address)


def test_pictures_may_be_kept_by_the_browser_and_are_asked_for_each_time(
    signed_in: httpx.Client, hospital: Hospital
) -> None:
    place = f"/items/{hospital.item('main').id}/slices/28.png?window=soft"
    first = signed_in.get(place)
    assert first.headers["content-type"] == "image/png"
    assert first.headers["cache-control"] == "private, no-cache"
    assert "Cookie" in first.headers["vary"]
    again = signed_in.get(place, headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    other = signed_in.get(place.replace("soft", "bone"))
    assert other.headers["etag"] != first.headers["etag"]
    out = httpx.get(f"{signed_in.base_url}{place}", headers={"If-None-Match": first.headers["etag"]})
    assert out.status_code == 401, "whoever is signed out is not told that the picture is the same"


@pytest.mark.parametrize("place", ["0.png", "81.png", "-1.png", "28.png?window=liver", "99999999999999999999.png"])
def test_a_slice_that_does_not_exist_is_not_found(signed_in: httpx.Client, hospital: Hospital, place: str) -> None:
    answer = signed_in.get(f"/items/{hospital.item('main').id}/slices/{place}")
    assert answer.status_code in (404, 422), answer.text
    assert "Not " in answer.text


def test_a_slice_whose_file_is_damaged_is_a_sentence_and_no_error(signed_in: httpx.Client, hospital: Hospital) -> None:
    """By picture and by page: the study stays readable."""
    hospital.bring("damaged", *building.ball(42, "Ito^Ken"))
    item, spool = hospital.item("damaged"), hospital.road.spool
    assert (item.state, item.outcome) == ("COMPLETED", "SCORED"), (item.reason, item.hint)
    stack = results.stack(item, results.result_of(item, spool), hospital.road.store, spool)
    assert stack is not None
    assert stack.largest is not None
    broken = stack.slices[stack.largest].path
    whole = broken.read_bytes()
    try:
        broken.write_bytes(whole[:-700])
        answer = signed_in.get(f"/items/{item.id}/slices/{stack.largest + 1}.png")
        assert (answer.status_code, answer.headers["content-type"].partition(";")[0]) == (422, "text/plain")
        assert answer.text.startswith("The pixel data of this slice cannot be decoded")
        page = signed_in.get(f"/items/{item.id}")
        assert page.status_code == 200
        assert answer.text in page.text
        assert signed_in.get(f"/items/{item.id}/slices/{stack.largest + 2}.png").status_code == 200
    finally:
        broken.write_bytes(whole)


def test_the_facts_of_a_stack_bear_no_name(signed_in: httpx.Client, hospital: Hospital) -> None:
    answer = signed_in.get(f"/items/{hospital.item('main').id}/slices.json")
    facts = answer.json()
    assert facts.keys() == {"z", "headLast", "largest", "contours", "said"}
    assert (len(facts["z"]), facts["headLast"], facts["largest"]) == (80, True, 27)
    assert all(path.startswith("M") and path.endswith("Z") for path in facts["contours"].values())
    assert "27" in facts["contours"]


def test_the_picture_of_a_page_is_the_file(signed_in: httpx.Client, hospital: Hospital) -> None:
    item = hospital.item("main")
    page = signed_in.get(f"/items/{item.id}/pages/1.png")
    assert page.content == results.page_picture(item, 1, hospital.road.spool).read_bytes()
    assert signed_in.get(f"/items/{item.id}/pages/77.png").status_code == 404
    assert signed_in.get(f"/items/{hospital.item('waiting').id}/pages/1.png").status_code == 404


def test_the_letters_and_the_ratio_of_odd_pixels_reach_the_page(hospital: Hospital) -> None:
    """Pixels twice as high as wide are drawn so; picture and outline share the box."""
    item, spool = hospital.item("main"), hospital.road.spool
    stack = results.stack(item, results.result_of(item, spool), hospital.road.store, spool)
    assert stack is not None
    assert stack.ratio == pytest.approx(1.0)
    from dicom_node.web import study_page

    tall = replace(stack, ratio=2.0)
    shown = study_page.shown(tall, {27: "M0 0H1V1H0Z"}, 28, "lung", "")
    assert (shown["columns"], shown["height"], shown["ratio"]) == (256, 512.0, 2.0)
