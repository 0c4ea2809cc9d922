"""The short way to read a header ends in what pydicom reads, whatever the file is."""

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
)

from dicom_node import evidence_header
from tests.report_inputs import part10
from tests.synthetic import ct_series, rtstruct

EXPLICIT, IMPLICIT = ExplicitVRLittleEndian, ImplicitVRLittleEndian


def _ct(**more: object) -> Dataset:
    made = ct_series(2, seed=1)[0]
    made.SpecificCharacterSet, made.PatientName = "ISO_IR 192", "Ångström^Åke"
    made.ReferencedImageSequence = [Dataset()]
    made.ReferencedImageSequence[0].ReferencedSOPInstanceUID = "1.2.3"
    made.ImageComments, made.AccessionNumber = "", None
    made.add_new(0x00090010, "LO", "PRIVATE")
    made.add_new(0x00091001, "UN", b"\1\2")
    for keyword, value in more.items():
        setattr(made, keyword, value)
    return made


def _written(syntax: str, **more: object) -> bytes:
    made = _ct(**more)
    made.file_meta.TransferSyntaxUID = syntax
    return part10(made)


def _undefined(syntax: str) -> bytes:
    made = _ct()
    made["ReferencedImageSequence"].is_undefined_length = True
    made.file_meta.TransferSyntaxUID = syntax
    return part10(made)


def _look(read: Callable[[Path], Dataset], path: Path) -> object:
    """Everything that a header says, or how it cannot be read."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            header = read(path)
            raw = {tag: header.get_item(tag)[:4] for tag in list(header.keys())[1:] if header.get_item(tag).is_raw}
            return raw, header.original_character_set, header.original_encoding, header.to_json()
        except Exception as error:  # noqa: BLE001 - of hostile bytes pydicom raises whatever fits
            return type(error)


def _by_pydicom(path: Path) -> Dataset:
    return dcmread(path, stop_before_pixels=True, force=True)


FILES = {
    "explicit": _written(EXPLICIT),
    "implicit": _written(IMPLICIT),
    "no pixels": part10(rtstruct(ct_series(2, seed=1))),
    "several character sets": _written(EXPLICIT, SpecificCharacterSet=["", "ISO 2022 IR 87"], PatientName="A^B"),
    "no character set": _written(EXPLICIT, SpecificCharacterSet=None, PatientName="A^B"),
    "long header": _written(EXPLICIT, ImageComments="x" * 9000, TextValue="y" * 70_000),
    "sequence of undefined length": _undefined(EXPLICIT),
    "the same, implicit": _undefined(IMPLICIT),
    "unknown character set": _written(EXPLICIT).replace(b"ISO_IR 192", b"ISO_IR 999"),
    "a VR that is none": _written(EXPLICIT).replace(b"LO\x07\x00PRIVATE", b"XX\x07\x00PRIVATE"),
    "implicit that says explicit": _written(IMPLICIT).replace(b"1.2.840.10008.1.2\0", b"1.2.840.10008.1.2.1\0"),
    "explicit that says implicit": _written(EXPLICIT).replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2\0\0\0"),
    "encapsulated": _written(EXPLICIT).replace(EXPLICIT.encode(), JPEGLSLossless[:19].encode()),
    "another syntax": _written(EXPLICIT).replace(EXPLICIT.encode(), ExplicitVRBigEndian.encode()),
    "deflated in name": _written(EXPLICIT)[:132] + _written(EXPLICIT)[132:].replace(
        EXPLICIT.encode(), DeflatedExplicitVRLittleEndian[:19].encode()
    ),
    "no preamble": _written(EXPLICIT)[132:],
    "no file": b"",
    "no DICOM": b"x" * 5000,
    "cut in the header": _written(EXPLICIT)[:700],
    "cut in the meta information": _written(EXPLICIT)[:180],
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_a_header_is_what_pydicom_reads(name: str, tmp_path: Path) -> None:
    path = tmp_path / "one.dcm"
    path.write_bytes(FILES[name])
    assert _look(evidence_header.read, path) == _look(_by_pydicom, path)


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
def test_a_plain_header_is_read_without_pydicom(syntax: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "one.dcm"
    path.write_bytes(_written(syntax))
    expected = _by_pydicom(path)
    monkeypatch.delattr(evidence_header, "dcmread")
    assert evidence_header.read(path) == expected


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
def test_damaged_headers_are_what_pydicom_reads(syntax: str, tmp_path: Path) -> None:
    whole, draw = _written(syntax), np.random.default_rng(5)
    path = tmp_path / "one.dcm"
    for place in draw.integers(132, whole.index(b"\xe0\x7f\x10\x00"), 60).tolist():
        damaged = bytearray(whole)
        damaged[place : place + 2] = draw.integers(0, 256, 2, np.uint8).tobytes()
        path.write_bytes(damaged)
        assert _look(evidence_header.read, path) == _look(_by_pydicom, path), place
