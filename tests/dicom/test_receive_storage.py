"""What a sender gets acknowledged lies in the spool, as it came, and has its row."""

import hashlib
import random
import subprocess
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEG2000Lossless, RLELossless

from config.settings import Peer
from dicom_node import headers
from dicom_node.entity import transfer_syntaxes
from dicom_node.instance import CT, ENHANCED_CT, LABEL_MAP_SEG, LEGACY_CONVERTED_CT, RTSTRUCT, SEG
from tests.network import association, data_set_bytes, files, receiving, rows, settings_for, store_file, storescu
from tests.synthetic import ct_series, enhanced_ct, rtstruct, save, seg


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One file of every SOP class that the node takes."""
    folder = tmp_path_factory.mktemp("objects")
    ct = ct_series(8, seed=3)
    legacy = enhanced_ct(ct, sop_instance_uid="1.2.3.4.5")
    legacy.SOPClassUID = LEGACY_CONVERTED_CT
    legacy.file_meta.MediaStorageSOPClassUID = LEGACY_CONVERTED_CT
    made = {
        CT: ct[0],
        ENHANCED_CT: enhanced_ct(ct),
        LEGACY_CONVERTED_CT: legacy,
        RTSTRUCT: rtstruct(ct),
        SEG: seg(ct),
        LABEL_MAP_SEG: seg(ct, segmentation_type="LABELMAP"),
    }
    return {uid: save(dataset, folder) for uid, dataset in made.items()}


def test_every_sop_class_is_taken_from_dcmtk_and_its_bytes_are_as_they_came(
    tmp_path: Path, objects: dict[str, Path]
) -> None:
    with receiving(tmp_path) as (receiver, spool):
        # DCMTK 3.6.7 does not know the label map class and re-encodes what it reads; for it and for bytes, raw sending
        known = [path for uid, path in objects.items() if uid != LABEL_MAP_SEG]
        result = storescu(receiver.port, known)
        assert result.returncode == 0, result.stderr
        with association(receiver.port, list(objects)) as made:
            assert {store_file(made, path)[0] for path in objects.values()} == {0x0000}
        stored = rows(spool)
        assert {instance.sop_class_uid for instance in stored} == set(objects)
        for path in objects.values():
            digest = hashlib.sha256(data_set_bytes(path)).hexdigest()
            uid = str(dcmread(path, stop_before_pixels=True).SOPInstanceUID)
            kept = spool.instance_path(uid, digest)
            assert data_set_bytes(kept) == data_set_bytes(path)
            assert any(i.digest == digest and i.sop_instance_uid == uid for i in stored)
            meta = dcmread(kept, stop_before_pixels=True).file_meta
            assert (meta.MediaStorageSOPInstanceUID, meta.TransferSyntaxUID) == (uid, ExplicitVRLittleEndian)
        assert list(spool.incoming.iterdir()) == []


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, RLELossless])
def test_each_transfer_syntax_is_kept_as_it_came(tmp_path: Path, syntax: str) -> None:
    path = save(ct_series(1, seed=4)[0], tmp_path / "out", syntax)
    option = {ImplicitVRLittleEndian: "-xi", ExplicitVRLittleEndian: "-xe", RLELossless: "-xr"}[syntax]
    with receiving(tmp_path) as (receiver, spool):
        result = storescu(receiver.port, [path], option)
        assert result.returncode == 0, result.stderr
        (instance,) = rows(spool)
        assert instance.transfer_syntax_uid == syntax
        (kept,) = files(spool)
        assert np.array_equal(dcmread(kept).pixel_array, dcmread(path).pixel_array)


def test_only_compressed_syntaxes_with_a_decoder_are_offered() -> None:
    from pydicom.pixels import get_decoder

    offered = transfer_syntaxes()
    assert offered[:2] == [ExplicitVRLittleEndian, ImplicitVRLittleEndian]
    assert RLELossless in offered
    assert all(get_decoder(syntax).is_available for syntax in offered if syntax.is_compressed)
    assert (JPEG2000Lossless in offered) == get_decoder(JPEG2000Lossless).is_available


def test_an_object_in_pdus_of_every_size_is_whole(tmp_path: Path, objects: dict[str, Path]) -> None:
    path = objects[ENHANCED_CT]
    digest = hashlib.sha256(data_set_bytes(path)).hexdigest()
    with receiving(tmp_path, settings_for(maximum_pdu_bytes=4096)) as (receiver, spool):
        for size in ("4096", "16384", "131072"):
            assert storescu(receiver.port, [path], "--max-send-pdu", size).returncode == 0
        with association(receiver.port, [ENHANCED_CT]) as made:
            assert store_file(made, path)[0] == 0x0000
        assert digest in {instance.digest for instance in rows(spool)}


def test_a_resent_object_is_one_file_and_one_row_and_other_bytes_are_kept_beside_it(tmp_path: Path) -> None:
    first = ct_series(1, seed=5)[0]
    path = save(first, tmp_path / "a")
    first.StudyDescription = "corrected"
    other = save(first, tmp_path / "b")
    with receiving(tmp_path) as (receiver, spool), association(receiver.port, [CT]) as made:
        assert [store_file(made, p)[0] for p in (path, path, path, other, path)] == [0x0000] * 5
        assert len(files(spool)) == 2


def test_a_resent_object_leaves_the_file_as_it_came_first(tmp_path: Path) -> None:
    path = save(ct_series(1, seed=5)[0], tmp_path / "a")
    with receiving(tmp_path, settings_for(Peer("RESEARCH"))) as (receiver, spool):
        for calling in ("RESEARCH", "MODALITY"):
            assert storescu(receiver.port, [path], calling=calling).returncode == 0
        (kept,) = files(spool)
        assert headers.sender(kept) == "RESEARCH"
        assert not list(spool.incoming.iterdir())
        kept.unlink()  # lost: then what comes is taken
        assert storescu(receiver.port, [path]).returncode == 0
        assert [headers.sender(one) for one in files(spool)] == ["MODALITY"]


def test_objects_from_several_associations_at_once_are_all_kept(tmp_path: Path) -> None:
    paths = [save(dataset, tmp_path / "out") for dataset in ct_series(40, seed=6)]
    random.Random(0).shuffle(paths)
    with receiving(tmp_path) as (receiver, spool):
        command = ["storescu", "-R", "-aet", "MODALITY", "-aec", "PROGNODE", "127.0.0.1", str(receiver.port)]
        senders = [subprocess.Popen([*command, *map(str, paths[k::4])]) for k in range(4)]
        assert [sender.wait(60) for sender in senders] == [0, 0, 0, 0]
        assert len(rows(spool)) == len(files(spool)) == 40


def test_a_sender_that_opens_an_association_for_each_object_is_served(tmp_path: Path) -> None:
    paths = [save(dataset, tmp_path / "out") for dataset in ct_series(5, seed=7)]
    with receiving(tmp_path, settings_for(Peer("OTHER"))) as (receiver, spool):
        for path in paths:
            assert storescu(receiver.port, [path], calling="OTHER").returncode == 0
        assert len(rows(spool)) == 5


def test_dcmtk_gets_its_echo(tmp_path: Path) -> None:
    with receiving(tmp_path) as (receiver, _):
        command = ["echoscu", "-aet", "MODALITY", "-aec", "PROGNODE", "127.0.0.1", str(receiver.port)]
        assert subprocess.run(command, timeout=30, check=False).returncode == 0
