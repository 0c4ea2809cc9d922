"""Uncompressed CT files without pydicom: the same planes and voxels, and hands off what is unusual."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from analysis import volume
from analysis.contract import NotScorable, Reason
from analysis.native import read_header
from analysis.volume import read_ct
from tests.paths import shared
from tests.synthetic import ct_series, item_of, save, save_all


@pytest.fixture
def ct() -> list[Dataset]:
    return ct_series(5, 20, 24, (0.7, 0.9), 2.5, seed=3)


def by_pydicom(path: Path) -> Any:
    return next(volume._planes_of(path))


def stored_as(instance: Dataset, values: np.ndarray, *, signed: bool, bits: int = 16) -> Dataset:
    instance.PixelData = values.astype("<i2" if signed else "<u2").tobytes()
    instance.PixelRepresentation, instance.BitsStored, instance.HighBit = int(signed), bits, bits - 1
    return instance


def sequences(instance: Dataset) -> None:
    inner = item_of(CodeValue="1", CodeMeaning="x" * 9)
    instance.ProcedureCodeSequence = [item_of(RequestedProcedureID="7", ReferencedStudySequence=[inner, inner]), inner]
    instance.ReferencedImageSequence = []


SAME: dict[str, Callable[[Dataset], object]] = {
    "as it is": lambda _: None,
    "sequences": sequences,
    "private elements": lambda one: one.private_block(0x0009, "ACME", create=True).add_new(1, "UN", b"\1" * 31),
    "contrast agent": lambda one: setattr(one, "ContrastBolusAgent", "Iomeprol 400"),
    "no kernel": lambda one: delattr(one, "ConvolutionKernel"),
    "two kernels": lambda one: setattr(one, "ConvolutionKernel", ["B30f", "3"]),
    "no frame of reference": lambda one: setattr(one, "FrameOfReferenceUID", None),
    "compressed with loss": lambda one: setattr(one, "LossyImageCompression", "01"),
    "not compressed with loss": lambda one: setattr(one, "LossyImageCompression", "00"),
    "a long header": lambda one: one.private_block(0x0009, "ACME", create=True).add_new(1, "UN", b"\1" * 20_001),
    "a name that is not ASCII": lambda one: setattr(one, "PatientName", "Müller"),
}


@pytest.mark.parametrize("undefined", [False, True], ids=["defined", "undefined length"])
@pytest.mark.parametrize("implicit", [False, True], ids=["explicit", "implicit"])
@pytest.mark.parametrize("change", SAME)
def test_the_plane_is_the_one_that_pydicom_reads(
    ct: list[Dataset], tmp_path: Path, change: str, implicit: bool, undefined: bool
) -> None:
    ct[0].SpecificCharacterSet = "ISO_IR 192"
    SAME[change](ct[0])
    for element in ct[0].iterall():
        element.is_undefined_length = undefined and element.VR == "SQ"
    path = save(ct[0], tmp_path, *([ImplicitVRLittleEndian] if implicit else []))
    header = read_header(path)
    assert header is not None
    assert header[0] == by_pydicom(path)


@pytest.mark.parametrize(
    "series",
    [("ibsi_1_ct_phantom", "dicom", "image"), ("sts_005", "CT", "image")],
    ids=["phantom", "sts_005"],
)
def test_planes_of_scanners_are_the_ones_that_pydicom_reads(series: tuple[str, ...]) -> None:
    for path in sorted(shared("data", *series).iterdir())[::7]:
        header = read_header(path)
        assert header is not None, path.name
        assert header[0] == by_pydicom(path)


UNUSUAL: dict[str, Callable[[Dataset], object]] = {
    "another class": lambda one: setattr(one, "SOPClassUID", "1.2.840.10008.5.1.4.1.1.4"),
    "several frames": lambda one: setattr(one, "NumberOfFrames", 2),
    "contrast agent as a sequence": lambda one: setattr(one, "ContrastBolusAgentSequence", [item_of(CodeValue="1")]),
    "too few pixels": lambda one: setattr(one, "PixelData", one.PixelData[:-2]),
    "colour": lambda one: setattr(one, "SamplesPerPixel", 3),
    "a kernel in another character set": lambda one: setattr(one, "ConvolutionKernel", "mou Größe"),
    "two frames of reference": lambda one: setattr(one, "FrameOfReferenceUID", ["1.2", "1.3"]),
}


@pytest.mark.parametrize("change", UNUSUAL)
def test_what_is_unusual_is_left_to_pydicom(ct: list[Dataset], tmp_path: Path, change: str) -> None:
    ct[0].SpecificCharacterSet = "ISO_IR 192"
    UNUSUAL[change](ct[0])
    assert read_header(save(ct[0], tmp_path)) is None


def test_compressed_files_and_other_files_are_left_to_pydicom(ct: list[Dataset], tmp_path: Path) -> None:
    assert read_header(save(ct[0], tmp_path, RLELossless)) is None
    other = tmp_path / "other"
    for content in (b"", b"\0" * 200, b"\0" * 128 + b"DICM", b"\0" * 128 + b"DICM" + b"\xfe\xff\x00\xe0" * 99):
        other.write_bytes(content)
        assert read_header(other) is None


def test_whole_hounsfield_units_take_two_bytes_and_others_four(ct: list[Dataset], tmp_path: Path) -> None:
    assert read_ct(save_all(ct, tmp_path / "whole")).array.dtype == np.int16
    ct[2].RescaleIntercept = -1024.5
    assert read_ct(save_all(ct, tmp_path / "half")).array.dtype == np.float32


@pytest.mark.parametrize(
    ("low", "high", "intercept", "signed", "whole"),
    [
        (0, 65535, 0, False, False), (0, 33791, -1024, False, True), (0, 33792, -1024, False, False),
        (-32768, 100, 0, True, True), (-32768, 100, -1, True, False), (-5, 32767, 1, True, False),
    ],
)  # fmt: skip
def test_values_that_do_not_fit_into_two_bytes_are_the_same_in_four(
    ct: list[Dataset], tmp_path: Path, low: int, high: int, intercept: int, signed: bool, whole: bool
) -> None:
    values = np.linspace(low, high, 480).astype(np.int64).reshape(20, 24)
    for instance in ct:
        instance.RescaleIntercept = intercept
        stored_as(instance, values, signed=signed)
    array = read_ct(save_all(ct, tmp_path)).array
    assert (array.dtype == np.int16) is whole
    assert (array == values + intercept).all()


def test_something_else_in_the_upper_bits_is_left_to_pydicom(ct: list[Dataset], tmp_path: Path) -> None:
    values = np.full((20, 24), 1 << 14)
    assert (
        read_ct(save_all([stored_as(one, values, signed=False, bits=12) for one in ct], tmp_path)).array.dtype != "i2"
    )


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless])
def test_pixels_in_the_upper_bits_are_refused_and_not_cut_off(ct: list[Dataset], tmp_path: Path, syntax: str) -> None:
    for instance in ct:
        stored_as(instance, np.full((20, 24), 1024 << 4), signed=False, bits=12).HighBit = 15
    with pytest.raises(NotScorable) as caught:
        read_ct([save(instance, tmp_path, syntax) for instance in ct])
    assert (caught.value.reason, caught.value.detail) == (
        Reason.PIXEL_DATA_UNDECODABLE,
        "12 bits are stored up to bit 15",
    )


@pytest.mark.parametrize(
    ("said", "syntax", "lossy"),
    [
        ("01", ExplicitVRLittleEndian, True), ("00", ExplicitVRLittleEndian, False), (None, RLELossless, False),
        ("01", RLELossless, True), (None, JPEGLSNearLossless, True),
    ],
)  # fmt: skip
def test_one_image_that_lost_something_in_compression_marks_the_volume(
    ct: list[Dataset], tmp_path: Path, said: str | None, syntax: str, lossy: bool
) -> None:
    if said is not None:
        ct[3].LossyImageCompression = said
    if syntax == JPEGLSNearLossless:
        ct[3].compress(JPEGLSNearLossless, jls_error=2, generate_instance_uid=False)
    paths = [save(one, tmp_path, syntax if one is ct[3] else ExplicitVRLittleEndian) for one in ct]
    assert read_ct(paths).lossy is lossy


def test_the_high_bit_of_decoded_pixels_decides_nothing(ct: list[Dataset], tmp_path: Path) -> None:
    expected = read_ct(save_all(ct, tmp_path / "right")).array
    for instance in ct:
        instance.compress(JPEGLSLossless, generate_instance_uid=False)
        instance.HighBit = 15
    paths = [save(instance, tmp_path / "wrong", JPEGLSLossless) for instance in ct]
    assert (read_ct(paths).array == expected).all()


@pytest.mark.filterwarnings("ignore::UserWarning")  # what pydicom says of such values
def test_a_damaged_header_is_read_as_pydicom_reads_it_or_left_to_it(ct: list[Dataset], tmp_path: Path) -> None:
    whole = save(ct[0], tmp_path).read_bytes()
    size = whole.index(ct[0].PixelData[:64])
    dice, path, read = random.Random(1), tmp_path / "damaged.dcm", 0
    for _ in range(150):
        content = bytearray(whole)
        place = dice.randrange(132, size)
        content[place : place + dice.choice((0, 1, 1, 1, 4))] = dice.randbytes(1)
        path.write_bytes(content)
        header = read_header(path)
        if header is not None:
            read += 1
            try:
                assert header[0] == by_pydicom(path)
            except NotScorable:
                pytest.fail(f"pydicom refuses what was read, after a change at {place}")
    assert read > 20
    assert dcmread(tmp_path / f"{ct[0].SOPInstanceUID}.dcm")
