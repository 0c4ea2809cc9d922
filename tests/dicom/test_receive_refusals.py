"""Who and what is refused, with which status and which words, and that nothing is left behind."""

import logging
import os
import sqlite3
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from config.settings import Node, Peer, Receive, Settings
from dicom_node.arrivals import Arrivals
from dicom_node.instance import CT, ENHANCED_CT, RTSTRUCT
from dicom_node.limits import refusal_words
from dicom_node.spool import Spool
from tests.dicom.test_receive_faults import until
from tests.network import (
    association,
    data_set_bytes,
    files,
    receiving,
    rows,
    settings_for,
    store_bytes,
    store_file,
    storescu,
)
from tests.synthetic import ct_series, rtstruct, save


@pytest.fixture(scope="module")
def ct(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(ct_series(1, seed=11)[0], tmp_path_factory.mktemp("ct"))


def is_empty(spool: Spool) -> bool:
    return not files(spool) and not rows(spool) and not list(spool.incoming.iterdir())


def gets_in(port: int) -> bool:
    with association(port, [CT]) as made:
        return bool(made.is_established)


# -- who ---------------------------------------------------------------------------------------------------------


def test_an_unknown_caller_is_refused_and_the_log_says_what_to_put_where(
    tmp_path: Path, ct: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with receiving(tmp_path) as (receiver, spool):
        result = storescu(receiver.port, [ct], calling="STRANGER")
        assert result.returncode != 0
        assert "Calling AE Title Not Recognized" in result.stderr
        assert is_empty(spool)
    (line,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert line.startswith('association.refused calling AE title "STRANGER" at 127.0.0.1 is not a known sender')
    assert '[[peers]] with ae_title = "STRANGER" and host = "127.0.0.1"' in line
    assert "[receive] known_callers_only = false" in line


def test_with_no_peers_at_all_nobody_is_let_in(tmp_path: Path) -> None:
    with (
        receiving(tmp_path, Settings(node=Node(port=0))) as (receiver, _),
        association(receiver.port, [CT], calling="ANYBODY") as made,
    ):
        assert made.is_rejected


def test_everybody_is_let_in_when_the_settings_say_so(tmp_path: Path, ct: Path) -> None:
    with receiving(tmp_path, settings_for(known_callers_only=False)) as (receiver, spool):
        assert storescu(receiver.port, [ct], calling="STRANGER").returncode == 0
        assert len(rows(spool)) == 1


def test_a_wrong_called_ae_title_is_refused_with_its_own_words(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with receiving(tmp_path) as (receiver, _), association(receiver.port, [CT], called="prognode") as made:
        assert made.is_rejected
    assert 'called AE title "prognode"' in caplog.text
    assert "case counts" in caplog.text


def test_a_destination_may_call_but_not_store(tmp_path: Path, ct: Path) -> None:
    peer = Peer("PACS", sends=False, receives_results=True)
    with receiving(tmp_path, settings_for(peer)) as (receiver, spool):
        with association(receiver.port, [CT], calling="PACS") as made:
            assert store_file(made, ct)[0] == 0x0124
        assert is_empty(spool)


@pytest.mark.parametrize(
    ("calling", "called", "expected"),
    [
        ("ct1", "PROGNODE", 'the settings have "CT1" (case counts)'),
        ("SILENT", "PROGNODE", "set sends = true in the [[peers]] entry"),
        ('X"\n\x1b[31m', "PROGNODE", r'ae_title = "X\"\u000a\u001b[31m"'),
        ("CT1", "OTHER", 'this node\'s AE title to "PROGNODE"'),
        ("CT1", "PROGNODE", "all 50 associations are in use"),
    ],
)
def test_each_refusal_names_its_remedy_and_escapes_the_title(calling: str, called: str, expected: str) -> None:
    settings = Settings(peers=(Peer("CT1"), Peer("SILENT", sends=False)))
    words = refusal_words(settings, calling, called, "10.0.0.1")
    assert expected in words
    assert words.isprintable()


def test_too_many_associations_are_refused_with_the_setting_to_raise(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with receiving(tmp_path, settings_for(maximum_associations=1)) as (receiver, _):
        with association(receiver.port, [CT]) as first, association(receiver.port, [CT]) as second:
            assert (first.is_established, second.is_rejected) == (True, True)
        assert until(lambda: gets_in(receiver.port))  # the place is free when the first one's thread has ended
    assert "raise [receive] maximum_associations" in caplog.text


# -- what --------------------------------------------------------------------------------------------------------


def test_no_room_on_the_disk_is_a700_and_nothing_is_written(tmp_path: Path, ct: Path) -> None:
    with receiving(tmp_path, settings_for(reserve_disk_bytes=1 << 60)) as (receiver, spool):
        with association(receiver.port, [CT]) as made:
            assert store_file(made, ct) == (0xA700, "disk space is below the reserve")
            assert made.is_established
        assert is_empty(spool)


def test_a_full_disk_in_mid_object_is_a700_and_leaves_nothing(
    tmp_path: Path, ct: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dicom_node import incoming

    monkeypatch.setattr(incoming, "BUFFER_BYTES", 0)
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    really = os.open

    def full(path: str | Path, flags: int, *mode: int) -> int:
        """The kernel's own ENOSPC at the first write to a file of an object."""
        begins = flags & os.O_EXCL and Path(path).parent.name == "incoming"
        return really("/dev/full", os.O_WRONLY) if begins else really(path, flags, *mode)

    with receiving(tmp_path) as (receiver, spool):
        monkeypatch.setattr(os, "open", full)
        with association(receiver.port, [CT]) as made:
            status, comment = store_file(made, ct)
            assert (status, comment) == (0xA700, "disk: No space left on device")
        assert is_empty(spool)


def test_a_store_that_cannot_be_written_is_a700(
    tmp_path: Path, ct: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> bool:
        raise sqlite3.OperationalError("disk I/O error on PATIENT^NAME")

    with receiving(tmp_path) as (receiver, spool):
        with monkeypatch.context() as patch, association(receiver.port, [CT]) as made:
            patch.setattr(Arrivals, "add", broken)
            assert store_file(made, ct) == (0xA700, "the node's store cannot be written")
        assert rows(spool) == []
        with association(receiver.port, [CT]) as made:
            assert store_file(made, ct)[0] == 0x0000
        assert len(rows(spool)) == 1
    assert "store.failed OperationalError" in caplog.text
    assert "PATIENT" not in caplog.text


def test_a_read_only_incoming_folder_is_a700(tmp_path: Path, ct: Path) -> None:
    with receiving(tmp_path) as (receiver, spool):
        spool.incoming.rename(spool.root / "away")  # root may write to a read-only folder, so it is taken away
        with association(receiver.port, [CT]) as made:
            assert store_file(made, ct) == (0xA700, "disk: No such file or directory")
        (spool.root / "away").rename(spool.incoming)
        assert is_empty(spool)


def test_a_data_set_of_another_instance_or_class_is_a900(tmp_path: Path, ct: Path) -> None:
    data, uid = data_set_bytes(ct), str(dcmread(ct).SOPInstanceUID)
    with receiving(tmp_path) as (receiver, spool):
        with association(receiver.port, [CT, ENHANCED_CT]) as made:
            assert store_bytes(made, CT, "1.2.3", data)[0] == 0xA900
            assert store_bytes(made, ENHANCED_CT, uid, data)[0] == 0xA900
        assert is_empty(spool)


@pytest.mark.parametrize(
    "uid", ["../../../etc/passwd", "1.2/3", "1.2.3;rm -rf .", "1..2", "1.2.", "abc", "1.2\\1.3", "' OR 1=1 --"]
)
def test_a_uid_that_is_none_is_0117_and_makes_no_path(tmp_path: Path, ct: Path, uid: str) -> None:
    with receiving(tmp_path) as (receiver, spool):
        with association(receiver.port, [CT]) as made:
            status, comment = store_bytes(made, CT, uid, data_set_bytes(ct))
            assert status == 0x0117
            assert uid not in comment
        assert is_empty(spool)


def test_bytes_that_are_no_dicom_are_c000_and_the_association_goes_on(tmp_path: Path, ct: Path) -> None:
    good = data_set_bytes(ct)
    noise = bytes(range(256)) * 40
    with receiving(tmp_path) as (receiver, spool):
        with association(receiver.port, [CT]) as made:
            for data in (noise, None, b"\0" * 5000, good[: len(good) // 2], good[:-1], b"\xff" * 99):
                status, comment = store_bytes(made, CT, "1.2.3", data)
                assert status == 0xC000, comment
                assert 0 < len(comment) <= 64
            assert store_file(made, ct)[0] == 0x0000
        assert len(rows(spool)) == 1
        assert list(spool.incoming.iterdir()) == []


def test_a_data_set_in_another_encoding_than_negotiated_is_c000(tmp_path: Path) -> None:
    dataset = ct_series(1, seed=12)[0]
    implicit = save(dataset, tmp_path / "i", ImplicitVRLittleEndian)
    explicit = save(dataset, tmp_path / "e", ExplicitVRLittleEndian)
    with receiving(tmp_path) as (receiver, spool):
        for syntax, path in ((ExplicitVRLittleEndian, implicit), (ImplicitVRLittleEndian, explicit)):
            with association(receiver.port, [CT], syntax) as made:
                status, comment = store_file(made, path)
                assert status == 0xC000
                assert "encoding" in comment
        assert is_empty(spool)


def test_an_attribute_of_65000_characters_is_c000_and_one_that_nobody_needs_does_not_matter(tmp_path: Path) -> None:
    dataset = ct_series(1, seed=13)[0]
    dataset.ImageComments = "x" * 65_000  # a free text that the node does not read
    harmless = save(dataset, tmp_path / "a")
    dataset.add_new("SeriesInstanceUID", "UT", "1." * 32_500)
    harmful = save(dataset, tmp_path / "b")
    with receiving(tmp_path) as (receiver, spool), association(receiver.port, [CT]) as made:
        assert store_file(made, harmless)[0] == 0x0000
        assert store_file(made, harmful)[0] == 0xC000
        assert len(rows(spool)) == 1


def test_a_spacing_that_is_no_number_is_stored_as_absent_for_the_planner_to_refuse(tmp_path: Path) -> None:
    dataset = ct_series(1, seed=14)[0]
    path = save(dataset, tmp_path / "out")
    spacing = "\\".join(str(v) for v in dataset.PixelSpacing).encode()
    data = data_set_bytes(path)
    assert data.count(spacing) == 1
    data = data.replace(spacing, b"NaN\\NaN".ljust(len(spacing)))
    with receiving(tmp_path) as (receiver, spool):
        with association(receiver.port, [CT]) as made:
            assert store_bytes(made, CT, dataset.SOPInstanceUID, data)[0] == 0x0000
        (instance,) = rows(spool)
        assert instance.geometry.pixel_spacing is None
        assert instance.geometry.positions != ()


def test_an_unwanted_sop_class_is_not_negotiated(tmp_path: Path) -> None:
    with (
        receiving(tmp_path) as (receiver, _),
        association(receiver.port, ["1.2.840.10008.5.1.4.1.1.4", CT]) as made,
    ):
        assert [cx.abstract_syntax for cx in made.accepted_contexts] == [CT]


def test_a_compressed_syntax_without_a_decoder_is_not_negotiated_and_the_log_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    unknown = "1.2.840.10008.1.2.4.52"  # JPEG Extended (processes 3 and 5), retired: nobody decodes it
    with receiving(tmp_path) as (receiver, _), association(receiver.port, [CT], unknown) as made:
        assert made.accepted_contexts == []
    assert 'association.useless "MODALITY"' in caplog.text
    assert 'association.syntax_refused "MODALITY" offers CT Image Storage' in caplog.text


def test_the_log_counts_what_an_association_brought(tmp_path: Path, ct: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with receiving(tmp_path) as (receiver, _), association(receiver.port, [CT]) as made:
        store_file(made, ct)
        store_bytes(made, CT, "1.2.3", data_set_bytes(ct))
    assert 'association.ended "MODALITY": 1 stored, 1 refused' in caplog.text


def test_no_patient_data_reaches_the_log_whatever_is_sent(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    marks = ("MARKEDNAME", "MARKEDID", "MARKEDACC", "19330303")
    dataset = ct_series(1, seed=15)[0]
    dataset.PatientName, dataset.PatientID, dataset.AccessionNumber = "MARKEDNAME^X", "MARKEDID", "MARKEDACC"
    dataset.PatientBirthDate = "19330303"
    good = save(dataset, tmp_path / "a")
    contour = save(rtstruct(ct_series(8, seed=15)), tmp_path / "a")
    data = data_set_bytes(good)
    series = str(dataset.SeriesInstanceUID).encode()
    bad_uid = data.replace(series, b"MARKEDNAME".ljust(len(series), b"^"))
    with receiving(tmp_path) as (receiver, _), association(receiver.port, [CT, RTSTRUCT]) as made:
        assert store_file(made, good)[0] == 0x0000
        assert store_file(made, contour)[0] == 0x0000
        assert store_bytes(made, CT, dataset.SOPInstanceUID, bad_uid)[0] == 0xC000
        assert store_bytes(made, CT, "MARKEDNAME", data)[0] == 0x0117
        assert store_bytes(made, CT, dataset.SOPInstanceUID, data[:700])[0] == 0xC000
        assert store_bytes(made, CT, dataset.SOPInstanceUID, data[130:])[0] == 0xC000
    assert "instance.stored" in caplog.text
    assert "instance.refused" in caplog.text
    assert not [mark for mark in marks if mark in caplog.text]


def test_the_reserve_is_that_of_the_settings() -> None:
    assert Receive().reserve_disk_bytes == 2_000_000_000
