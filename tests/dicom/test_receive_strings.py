"""Nothing that a header or a caller says reaches a path, a shell, SQL or a log as it came."""

import logging
import re
import sqlite3
from collections.abc import Callable
from copy import deepcopy
from functools import cache
from pathlib import Path

import pytest
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.tag import Tag

from dicom_node.instance import CT, RTSTRUCT
from dicom_node.spool import Spool
from tests import wire
from tests.network import association, data_set_bytes, files, receiving, rows, settings_for, store_bytes
from tests.synthetic import ct_series, rtstruct, save

MARK = "ZQMARK"  # in every hostile value: it may stand in the object that was kept, and nowhere else
HOSTILE = {
    "path": f"../../../../tmp/{MARK}",
    "absolute": f"/tmp/{MARK}/x",
    "lines": f"{MARK}\r\n2026-01-01 INFO forged {MARK}",
    "nul": f"{MARK}\0.dcm",
    "ansi": f"\x1b[2J\x1b[31m{MARK}\x07",
    "format": f"%s%n%x{{0}}{{self.__class__}}{MARK}",
    "sql": f"'; DROP TABLE instance; --{MARK}",
    "shell": f"$(touch /tmp/{MARK});`touch /tmp/{MARK}`|{MARK}",
    "toml": f'"]\n[[peers]]\nae_title = "{MARK}',
    "bidi": f"\u202e{MARK}\u2066",
}
TEXT = frozenset({"AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UR", "UT"})


def texts_of(dataset: Dataset) -> list[tuple[Dataset, int]]:
    """Every text attribute, in the first item of sequences too, by the data set that holds it and its tag."""
    found = []
    for element in dataset:
        if element.VR == "SQ":
            for item in element.value[:1]:
                found += texts_of(item)
        elif element.VR in TEXT and element.keyword != "SpecificCharacterSet":
            found.append((dataset, int(element.tag)))
    return found


@cache
def _ct() -> Dataset:
    dataset = ct_series(1, 8, 8, seed=61)[0]
    for keyword in ("InstitutionName", "StationName", "Manufacturer", "StudyDescription", "SeriesDescription",
                    "ReferringPhysicianName", "IssuerOfPatientID", "AcquisitionNumber", "RescaleType"):  # fmt: skip
        if keyword not in dataset:
            setattr(dataset, keyword, "1")
    dataset.SpecificCharacterSet = "ISO_IR 192"
    return dataset


def ct() -> Dataset:
    return deepcopy(_ct())


@cache
def _contour() -> Dataset:
    dataset = rtstruct(ct_series(3, 8, 8, seed=62))
    dataset.SpecificCharacterSet = "ISO_IR 192"
    return dataset


def contour() -> Dataset:
    return deepcopy(_contour())


def encoded(dataset: Dataset) -> bytes:
    """The data set's bytes as they go over the wire."""
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    write_dataset(buffer, dataset)
    return buffer.getvalue()


def hostile_variants(make: Callable[[], Dataset], value: str) -> list[bytes]:
    """One data set for each of its text attributes, with that one hostile, and one with its character set."""
    raw = value.encode() + b" " * (len(value.encode()) % 2)
    variants = [encoded(make()).replace(b"ISO_IR 192", raw[:10].ljust(10))]
    for number in range(len(texts_of(make()))):
        dataset = make()
        holder, tag = texts_of(dataset)[number]
        # As it would be read from a file: its bytes are written as they are; the node does not ask for the VR.
        holder[tag] = RawDataElement(Tag(tag), "LT", len(raw), raw, 0, False, True)
        variants.append(encoded(dataset))
    return variants


def store_is_whole(spool: Spool) -> None:
    with sqlite3.connect(spool.store) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("SELECT count(*) FROM instance").fetchone()[0] >= 0
    connection.close()


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("make", "sop_class", "kind"),
    [
        pytest.param(make, sop_class, kind, id=f"{name}-{kind}", marks=[] if kind in short else pytest.mark.exhaustive)
        for name, make, sop_class, short in (
            ("CT", ct, CT, ("path", "lines", "nul", "sql")),
            ("RTSTRUCT", contour, RTSTRUCT, ("path", "lines")),
        )
        for kind in HOSTILE
    ],
)
def test_every_text_attribute_made_hostile_stays_inside_its_object(
    tmp_path: Path, make: Callable[[], Dataset], sop_class: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    variants, uid = hostile_variants(make, HOSTILE[kind]), str(make().SOPInstanceUID)
    assert len(variants) > 15
    answers = []
    with receiving(tmp_path) as (receiver, spool):
        with association(receiver.port, [sop_class]) as made:
            for data in variants:
                status, comment = store_bytes(made, sop_class, uid, data)
                answers.append(status)
                assert status in (0x0000, 0xC000, 0xA900, 0x0117), (hex(status or 0), comment)
                assert MARK not in comment
                assert comment.isprintable()
        assert answers.count(0x0000) >= len(variants) // 3
        kept = files(spool)
        assert len({path.name for path in kept}) == len(kept) > 0
        store_is_whole(spool)
        for instance in rows(spool):
            assert instance.to_json().isprintable()
    for path in spool.root.rglob("*"):
        assert re.fullmatch(r"[A-Za-z0-9._-]+", path.name), path
        assert MARK not in str(path.relative_to(tmp_path))
    assert not Path("/tmp", MARK).exists()
    for record in caplog.records:
        line = record.getMessage()
        assert MARK not in line
        assert line.isprintable(), line


TITLES = ["../../etc/passwd", "%s%n{0}", "'; DROP TABLE--", "$(touch /tmp/zq)", 'A"]\n[[peers]]', "\x1b[31mRED", "A\0B"]


@pytest.mark.parametrize("title", TITLES)
def test_a_hostile_ae_title_is_one_escaped_line_in_the_log(
    tmp_path: Path, title: str, caplog: pytest.LogCaptureFixture
) -> None:
    with receiving(tmp_path) as (receiver, _):
        for who in ({"calling": title}, {"called": title}):
            connection, answer = wire.ask(receiver.port, **who)
            connection.close()
            assert answer[:1] in (b"\x03", b"\x07")
    lines = [record.getMessage() for record in caplog.records if "association.refused" in record.getMessage()]
    assert len(lines) == 2
    assert all(line.isprintable() and line.isascii() for line in lines)
    assert caplog.text.count("\n") == len(caplog.records)


@pytest.mark.parametrize("title", ["../../etc/passwd", "%s%n{0}", "'; DROP TABLE--", "$(touch /tmp/zq)"])
def test_a_hostile_ae_title_that_is_let_in_is_a_value_in_the_store_and_nothing_more(tmp_path: Path, title: str) -> None:
    path = save(ct(), tmp_path / "sent")
    with receiving(tmp_path, settings_for(known_callers_only=False)) as (receiver, spool):
        with association(receiver.port, [CT], calling=title) as made:
            assert store_bytes(made, CT, path.stem, data_set_bytes(path))[0] == 0x0000
        store_is_whole(spool)
        assert len(rows(spool)) == 1
        assert not Path("/tmp/zq").exists()
        assert all(re.fullmatch(r"[A-Za-z0-9._-]+", each.name) for each in spool.root.rglob("*"))
