"""headers.read on hostile bytes: a fact, or UnreadableHeader with words; never anything else, and never a value."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from dicom_node import references
from dicom_node.elements import ascii_text, escaped, is_uid
from dicom_node.headers import UnreadableHeader, read
from dicom_node.instance import Instance
from dicom_node.references import MAXIMUM_ROIS
from tests.network import data_set_bytes
from tests.synthetic import ct_series, enhanced_ct, item_of, rtstruct, save, seg

MARK = "MARKEDNAME"


def marked(dataset: Dataset) -> Dataset:
    dataset.PatientName, dataset.PatientID, dataset.AccessionNumber = f"{MARK}^X", MARK, MARK
    return dataset


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The bytes of one file of each kind."""
    folder = tmp_path_factory.mktemp("good")
    ct = ct_series(4, 4, 4, seed=71)
    large = ct_series(8, seed=71)
    made = {"ct": ct[0], "enhanced": enhanced_ct(ct), "rtstruct": rtstruct(large), "seg": seg(large)}
    result = {name: save(marked(dataset), folder / name).read_bytes() for name, dataset in made.items()}
    result["implicit"] = save(marked(ct[0]), folder / "implicit", ImplicitVRLittleEndian).read_bytes()
    return result


def outcome(data: bytes, folder: Path) -> Instance | str:
    path = folder / "x"
    path.write_bytes(data)
    try:
        return read(path, "")
    except UnreadableHeader as error:
        words = str(error)
    assert MARK not in words
    return words


@pytest.mark.parametrize("kind", ["ct", "enhanced", "seg", "implicit"])
def test_an_image_cut_short_anywhere_is_refused(tmp_path: Path, good: dict[str, bytes], kind: str) -> None:
    data = good[kind]
    cuts = {*range(0, len(data), max(1, len(data) // 150)), len(data) - 1}
    assert {cut: result for cut in cuts if isinstance(result := outcome(data[:cut], tmp_path), Instance)} == {}
    assert isinstance(outcome(data, tmp_path), Instance)


def test_a_contour_object_cut_short_inside_an_element_is_refused(tmp_path: Path, good: dict[str, bytes]) -> None:
    data = good["rtstruct"]
    kept = [cut for cut in range(0, len(data), 37) if isinstance(outcome(data[:cut], tmp_path), Instance)]
    assert len(kept) <= 3  # at the border of two elements nothing shows that more was to come


@hypothesis_settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(
    kind=st.sampled_from(["ct", "enhanced", "rtstruct", "seg", "implicit"]),
    edits=st.lists(
        st.tuples(st.integers(132, 1 << 20), st.integers(0, 40), st.binary(max_size=12)), min_size=1, max_size=6
    ),
)
def test_mutated_bytes_end_in_facts_or_in_words(
    tmp_path: Path, good: dict[str, bytes], kind: str, edits: list[tuple[int, int, bytes]]
) -> None:
    data = bytearray(good[kind])
    for position, removed, inserted in edits:
        start = position % len(data)
        data[start : start + removed] = inserted
    outcome(bytes(data), tmp_path)


@hypothesis_settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
@given(st.binary(max_size=2000))
def test_any_bytes_end_in_words(tmp_path: Path, data: bytes) -> None:
    assert isinstance(outcome(data, tmp_path), str)
    assert isinstance(outcome(b"\0" * 128 + b"DICM" + data, tmp_path), str)


def test_a_meta_header_that_names_another_encoding_is_refused(tmp_path: Path, good: dict[str, bytes]) -> None:
    explicit, implicit = ExplicitVRLittleEndian.encode(), ImplicitVRLittleEndian.encode() + b"\0\0"
    result = outcome(good["ct"].replace(explicit, implicit, 1), tmp_path)
    assert result == "TransferSyntaxUID of the meta header is not the encoding of the data set"


@pytest.mark.parametrize("syntax", [b"1.2.840.10008.1.2.2", b"1.2.840.10008.9.9.9", b"1.2.840.10008.x.2.1", b"\0" * 19])
def test_a_transfer_syntax_that_is_not_read_is_refused(tmp_path: Path, good: dict[str, bytes], syntax: bytes) -> None:
    result = outcome(good["ct"].replace(ExplicitVRLittleEndian.encode(), syntax, 1), tmp_path)
    assert "TransferSyntaxUID" in str(result)


def test_native_pixels_in_an_encapsulated_syntax_and_the_reverse_are_refused(
    tmp_path: Path, good: dict[str, bytes]
) -> None:
    native, rle = ExplicitVRLittleEndian.encode() + b"\0", RLELossless.encode()
    said = "PixelData is native, which RLE Lossless does not allow"
    assert outcome(good["ct"].replace(native, rle + b"\0" * (len(native) - len(rle)), 1), tmp_path) == said
    data = save(ct_series(1, 4, 4, seed=71)[0], tmp_path / "rle", RLELossless).read_bytes()
    said = "PixelData is encapsulated, which Explicit VR Little Endian does not allow"
    assert outcome(data.replace(rle + b"\0" * (len(rle) % 2), native, 1), tmp_path) == said


def test_a_file_without_a_meta_header_is_refused(tmp_path: Path, good: dict[str, bytes]) -> None:
    assert "DICM" in str(outcome(good["ct"][132:], tmp_path))


@pytest.mark.parametrize("keyword", ["SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"])
def test_a_missing_identifier_is_named(tmp_path: Path, keyword: str) -> None:
    dataset = ct_series(1, 4, 4, seed=72)[0]
    path = save(dataset, tmp_path)
    value = str(getattr(dataset, keyword)).encode()
    head = path.read_bytes()[: -len(data_set_bytes(path))]
    blanked = head + data_set_bytes(path).replace(value, b" " * len(value))
    assert outcome(blanked, tmp_path) == f"{keyword} is absent or empty"
    evil = head + data_set_bytes(path).replace(value, (b"../" * 40)[: len(value)])
    assert str(outcome(evil, tmp_path)).startswith(f"{keyword} is not a UID")


@pytest.mark.parametrize("value", [b"NaN", b"inf", b"-Infinity", b"1e999", b"one", b"", b"1_0"])
def test_a_spacing_that_is_no_finite_number_is_absent(tmp_path: Path, good: dict[str, bytes], value: bytes) -> None:
    spacing = b"0.9\\0.9 "
    data = good["ct"]
    assert data.count(spacing) == 1
    bad = data.replace(spacing, (value[:3] + b"\\0.9").ljust(len(spacing))) if len(value) <= 3 else None
    if bad is None:
        data = data.replace(b"DS\x08\x00" + spacing, b"DS" + (len(value) + 5).to_bytes(2, "little") + value + b"\\0.9 ")
        bad = data
    result = outcome(bad, tmp_path)
    assert isinstance(result, Instance)
    assert result.geometry.pixel_spacing is None


def test_identifiers_of_65000_characters_are_refused_by_their_length(tmp_path: Path) -> None:
    dataset = ct_series(1, 4, 4, seed=73)[0]
    dataset.add_new("FrameOfReferenceUID", "UT", "1." * 40_000)
    assert outcome(save(dataset, tmp_path / "a").read_bytes(), tmp_path) == "FrameOfReferenceUID has 80000 bytes"
    dataset.add_new("FrameOfReferenceUID", "UT", "1." * 32_000)
    assert "is not a UID (64000 bytes" in str(outcome(save(dataset, tmp_path / "a").read_bytes(), tmp_path))


def test_free_text_of_65000_characters_is_cut(tmp_path: Path) -> None:
    dataset = ct_series(1, 4, 4, seed=74)[0]
    dataset.add_new("AcquisitionNumber", "UT", "7" * 65_000)
    dataset.add_new("Modality", "UT", "CT" * 32_000)
    result = outcome(save(dataset, tmp_path / "a").read_bytes(), tmp_path)
    assert isinstance(result, Instance)
    assert (len(result.acquisition_number), len(result.modality)) == (16, 16)


def test_more_rois_than_any_plan_has_are_refused(tmp_path: Path) -> None:
    dataset = rtstruct(ct_series(8, seed=75))
    dataset.StructureSetROISequence = [item_of(ROINumber=k, ROIName="x") for k in range(MAXIMUM_ROIS + 1)]
    result = outcome(save(dataset, tmp_path / "a").read_bytes(), tmp_path)
    assert result == f"StructureSetROISequence has {MAXIMUM_ROIS + 1} items"


def test_contours_of_many_rois_of_one_number_are_walked_over_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_types = []

    def counted(dataset: Dataset, keyword: str, longest: int) -> str:
        read_types.append(keyword)
        return ascii_text(dataset, keyword, longest)

    monkeypatch.setattr(references, "ascii_text", counted)
    dataset = rtstruct(ct_series(8, seed=75))
    contours = len(dataset.ROIContourSequence[0].ContourSequence)
    dataset.StructureSetROISequence = [item_of(ROINumber=1, ROIName="x") for _ in range(100)]
    found = outcome(save(dataset, tmp_path / "a").read_bytes(), tmp_path)
    assert isinstance(found, Instance)
    assert {(roi.contours, roi.geometric_types) for roi in found.rois} == {(contours, ("CLOSED_PLANAR",))}
    assert (len(found.rois), read_types.count("ContourGeometricType")) == (100, contours)


def test_more_references_than_any_series_has_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(references, "MAXIMUM_REFERENCES", 200)  # 20,000 take pydicom half a minute to write
    dataset = rtstruct(ct_series(8, seed=76))
    series = dataset.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0].RTReferencedSeriesSequence[0]
    series.ContourImageSequence = [item_of(ReferencedSOPInstanceUID=f"1.2.{k}") for k in range(201)]
    assert "more than 200 images" in str(outcome(save(dataset, tmp_path / "a").read_bytes(), tmp_path))


@pytest.mark.parametrize("numbers", [(1, 2, 3), (1, 1, 1)], ids=str)
def test_more_images_at_the_contours_of_all_rois_than_any_plan_has_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, numbers: tuple[int, ...]
) -> None:
    dataset = rtstruct(ct_series(8, seed=79), roi_names=("a", "b", "c"), series_level_references=False)
    for number, structure, roi in zip(
        numbers, dataset.StructureSetROISequence, dataset.ROIContourSequence, strict=True
    ):
        structure.ROINumber = roi.ReferencedROINumber = number
    path = save(dataset, tmp_path / "a")
    found = outcome(path.read_bytes(), tmp_path)
    assert isinstance(found, Instance)
    kept = sum(len(roi.unlisted_images) for roi in found.rois)
    assert kept == 3 * len(found.referenced_sop_instance_uids) > 3
    monkeypatch.setattr(references, "MAXIMUM_UNLISTED", kept - 1)
    assert f"more than {kept - 1} images that are not listed" in str(outcome(path.read_bytes(), tmp_path))


def test_frames_that_do_not_agree_with_their_number_are_refused(tmp_path: Path) -> None:
    dataset = enhanced_ct(ct_series(4, 4, 4, seed=77))
    dataset.NumberOfFrames = 5
    assert "NumberOfFrames differs" in str(outcome(save(dataset, tmp_path / "a").read_bytes(), tmp_path))


def test_a_sequence_that_is_none_is_named(tmp_path: Path) -> None:
    dataset = rtstruct(ct_series(8, seed=78))
    dataset.add_new("StructureSetROISequence", "LO", MARK)
    assert outcome(save(dataset, tmp_path / "a").read_bytes(), tmp_path) == "StructureSetROISequence is not a sequence"


def test_sequences_nested_without_end_are_refused(tmp_path: Path, good: dict[str, bytes]) -> None:
    head = good["rtstruct"]
    level = b"\x08\x00\x15\x11SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    position = head.index(b"\x20\x00\x0d\x00UI")  # before the Study Instance UID, in the order of tags
    assert (
        outcome(head[:position] + level * 20_000 + head[position:], tmp_path) == "sequences are nested deeper than 32"
    )
    # As deep as is allowed, and closed: stepped over, for nobody reads it.
    closed = level * 32 + (b"\xfe\xff\x0d\xe0" + b"\0" * 4 + b"\xfe\xff\xdd\xe0" + b"\0" * 4) * 32
    assert isinstance(outcome(head[:position] + closed + head[position:], tmp_path), Instance)


def test_a_sequence_that_ends_in_the_middle_is_refused_and_not_taken_for_a_disk_error(
    tmp_path: Path, good: dict[str, bytes]
) -> None:
    inner = b"\x06\x30\x39\x00SQ\0\0\xff\xff\xff\xff"  # a sequence of undefined length, and nothing in it
    item = b"\xfe\xff\x00\xe0" + len(inner).to_bytes(4, "little") + inner
    tag = b"\x06\x30\x20\x00SQ\0\0"
    data = good["rtstruct"]
    start = data.index(tag)
    end = start + 12 + int.from_bytes(data[start + 8 : start + 12], "little")
    broken = data[:start] + tag + len(item).to_bytes(4, "little") + item + data[end:]
    assert outcome(broken, tmp_path) == "a sequence holds ROIContourSequence where an item should be"


def test_a_file_that_cannot_be_read_is_the_disks_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "absent", "")


def test_an_unknown_character_set_is_read_as_latin_1_and_not_quoted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    dataset = rtstruct(ct_series(8, seed=79))
    dataset.SpecificCharacterSet = "ISO_IR 192"
    data = save(dataset, tmp_path / "a").read_bytes().replace(b"ISO_IR 192", b"MARKEDNAME", 1)
    assert b"MARKEDNAME" in data
    result = outcome(data, tmp_path)
    assert isinstance(result, Instance)
    assert result.rois[0].name == "GTV-1"
    assert MARK not in caplog.text + "".join(capfd.readouterr())


@given(st.text(max_size=40))
def test_what_is_escaped_is_one_printable_ascii_line(text: str) -> None:
    assert escaped(text).isascii()
    assert escaped(text).isprintable()


@given(st.text(max_size=80))
def test_a_uid_can_never_be_a_path(text: str) -> None:
    assert not is_uid(text) or set(text) <= set("0123456789.")
    assert not is_uid(f"{text}/")
    assert not is_uid(f"{text}..")
