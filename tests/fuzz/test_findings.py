"""What fuzzing has found, each as a test by itself."""

import gzip
import struct
import zlib
from io import BytesIO
from pathlib import Path

import httpx
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset

from analysis import nifti
from analysis.contract import NotScorable, Reason
from analysis.segment import mask_from_seg
from analysis.volume import read_ct
from config.settings import FhirServer, load, parse
from config.toml_values import SettingsError
from dicom_node import compose
from dicom_node.commitment import read_report
from dicom_node.elements import UnreadableHeader
from dicom_node.fhir_client import Session
from dicom_node.workitem import Permanent
from tests.fuzz.api import TOKEN, Api
from tests.fuzz.dicom_of import Element, encoded, meta_header, part10, tree_of
from tests.synthetic import CT, ct_series, save_all, seg

CT_FILE = ct_series(1, 8, 8, seed=1)[0]


def refused(path: Path, data: bytes) -> NotScorable:
    path.write_bytes(data)
    with pytest.raises(NotScorable) as caught:
        read_ct([path])
    return caught.value


def test_a_deflated_file_that_is_damaged_is_an_answer_of_the_job(tmp_path: Path) -> None:
    data = part10([], meta_header(CT, "1.2", "1.2.840.10008.1.2.1.99")) + b"no deflate stream"
    assert refused(tmp_path / "x.dcm", data).reason is Reason.PIXEL_DATA_UNDECODABLE
    with pytest.raises(zlib.error):
        zlib.decompress(b"no deflate stream", -15)


def test_an_attribute_under_another_vr_whose_length_does_not_fit_is_an_answer_of_the_job(tmp_path: Path) -> None:
    tree = tree_of(CT_FILE)
    next(element for element in tree if element.tag == 0x00080018).vr = "UV"
    next(element for element in tree if element.tag == 0x00080018).value = b"2.25.123456"
    data = part10(tree, meta_header(CT, "1.2", "1.2.840.10008.1.2.1"))
    assert refused(tmp_path / "x.dcm", data).reason is Reason.GEOMETRY_INVALID


@pytest.mark.parametrize("syntax", ["", "1.2.3", "1.2.840.10008.5.1.4.1.1.2"])
def test_a_transfer_syntax_that_is_none_is_an_answer_of_the_job(tmp_path: Path, syntax: str) -> None:
    paths = save_all(ct_series(4, 8, 8, seed=1), tmp_path)
    for path in paths:
        dataset = dcmread(path)
        tree = tree_of(dataset)
        path.write_bytes(part10(tree, meta_header(CT, dataset.SOPInstanceUID, syntax)))
    with pytest.raises(NotScorable) as caught:
        read_ct(paths)
    assert caught.value.reason is Reason.PIXEL_DATA_UNDECODABLE


@pytest.mark.filterwarnings("ignore")
def test_a_seg_that_highdicom_cannot_put_into_its_tables_is_an_answer_of_the_job(tmp_path: Path) -> None:
    """It has no dimension index: highdicom then asks SQLite for a column that is not there."""
    ct = ct_series(6, 8, 8, seed=5, radius=3.0, thickness=1.0)
    volume, made = read_ct(save_all(ct, tmp_path / "ct")), seg(ct)
    del made.DimensionIndexSequence
    with pytest.raises(NotScorable, match="OperationalError"):
        mask_from_seg(save_all([made], tmp_path)[0], [1], "single", volume)


@pytest.mark.parametrize("number", [2**63, -(10**400), 10**400])
def test_a_number_that_is_too_large_is_a_settings_error(number: int) -> None:
    with pytest.raises(SettingsError, match="too large a number"):
        parse({"plan": {"quiet_seconds": number}}, Path())
    with pytest.raises(SettingsError, match="too large a number"):
        parse({"node": {"port": number}}, Path())


@pytest.mark.parametrize("text", [f"[node]\nport = {'9' * 5000}", f"a = {'[' * 5000}"])
def test_toml_that_python_cannot_hold_is_a_settings_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "prognode.toml"
    path.write_text(text)
    with pytest.raises(SettingsError, match="is not TOML"):
        load(path)


@pytest.mark.parametrize("url", ["http://[", "//[::1", "http://[x]/"])
def test_a_fhir_server_whose_next_page_is_no_address_is_refused(url: str) -> None:
    page = {"resourceType": "Bundle", "link": [{"relation": "next", "url": url}]}
    # A stream: what httpx has read already cannot be read raw again.
    body = httpx.Response(200, json=page).content
    transport = httpx.MockTransport(lambda _: httpx.Response(200, stream=httpx.ByteStream(body)))
    with httpx.Client(transport=transport) as client, pytest.raises(Permanent):
        Session(FhirServer("EHR", "http://127.0.0.1:9/r4"), client).all("Patient", {})


def test_a_commitment_report_whose_sequence_cannot_be_parsed_is_unreadable() -> None:
    report = Dataset()
    report.TransactionUID = "2.25.1"
    torn = Element(0x00081199, "SQ", b"\xfe\xff\x00\xe0")
    data = encoded([torn, *tree_of(report)])
    with pytest.raises(UnreadableHeader, match="ReferencedSOPSequence"):
        read_report(read_dataset(BytesIO(data), False, True))


@pytest.mark.parametrize("path", ["/items/9223372036854775808", f"/items/{10**30}/documents/risk-sr"])
@pytest.mark.filterwarnings("ignore")
def test_a_work_item_number_that_the_store_cannot_hold_is_no_server_error(tmp_path: Path, path: str) -> None:
    web = Api(tmp_path)
    try:
        answer = web._answered({"method": "GET", "path": path, "query": [], "body": "", "token": TOKEN, "headers": {}})
    finally:
        web.close()
    assert answer is not None
    assert answer.status_code in (404, 422)


def test_a_mask_that_claims_to_unpack_to_gigabytes_is_not_unpacked(tmp_path: Path) -> None:
    import nibabel

    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.uint8)
    header.set_data_shape((30_000, 30_000, 100))
    header["vox_offset"] = 352
    path = tmp_path / "mask.nii.gz"
    path.write_bytes(gzip.compress(header.binaryblock + b"\0" * 10_004))
    with pytest.raises(ValueError, match="claims more than"):
        nifti.read(path, compose.MAXIMUM_UNPACKED_BYTES)


def test_pictures_that_claim_to_unpack_to_gigabytes_are_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "pictures.npz"
    np.savez_compressed(path, axial=np.zeros((4, 4), np.uint8))
    data = bytearray(path.read_bytes())
    at = data.rfind(b"PK\1\2")  # the central directory says how large an entry is
    data[at + 24 : at + 28] = struct.pack("<I", 0xF0000000)
    path.write_bytes(data)
    with pytest.raises(ValueError, match="unpacks to more than"):
        compose._pictures(path)
