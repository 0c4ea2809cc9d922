"""What the images of a series have in common is read of one of them, and no image gets what is another's."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from config.identity import MANUFACTURER
from dicom_node import headers
from dicom_node.identity import Identity
from dicom_node.instance import Instance
from tests.dicom.test_fast_store import CONTEXTS, answer, message
from tests.dicom.test_fast_store import Object as Sent
from tests.network import data_set_bytes, receiving, settings_for
from tests.synthetic import ct_series, save
from tests.wire import associated

Read = Callable[..., tuple[Instance, Identity]]
FOREIGN, OURS = "1.2.826.0.1.3680043.8.498.7", "2.25.7"


@pytest.fixture(autouse=True)
def _nothing_was_read() -> Iterator[None]:
    headers._in_common.cache_clear()
    yield
    headers._in_common.cache_clear()


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Facts of one slice of a series, changed in some attributes, as its arrival reads them."""

    def facts(syntax: str = ExplicitVRLittleEndian, **changed: Any) -> tuple[Instance, Identity]:
        data = data_set_bytes(save(_slice(**changed), tmp_path, syntax))
        found = headers.read_beginning(data, len(data), syntax, "ab")
        assert found is not None
        return found

    return facts


def _slice(**changed: Any) -> Dataset:
    dataset = ct_series(1, 4, 4, seed=3)[0]
    dataset.SOPInstanceUID = FOREIGN
    dataset.Manufacturer = MANUFACTURER
    for keyword, value in changed.items():
        setattr(dataset, keyword, value)
    return dataset


def test_whether_an_image_is_our_own_is_asked_of_each_image_of_a_series(read: Read) -> None:
    assert [read(SOPInstanceUID=uid)[0].own for uid in (FOREIGN, OURS, FOREIGN, OURS)] == [False, True] * 2
    assert headers._in_common.cache_info().hits == 3, "they have the rest in common"


@pytest.mark.parametrize(
    "changed",
    [
        {"SOPInstanceUID": OURS}, {"AcquisitionNumber": 9}, {"ImagePositionPatient": [1, 2, 3]},
        {"PatientID": "OTHER"}, {"PatientName": "Other^One"}, {"PatientBirthDate": "19010203"},
        {"AccessionNumber": "A7"}, {"StudyInstanceUID": "2.25.8"}, {"SeriesInstanceUID": "2.25.9"},
        {"PixelSpacing": [3, 4]}, {"RescaleSlope": None}, {"RescaleType": "US"}, {"Modality": "PT"},
        {"ImageType": ["DERIVED", "SECONDARY"]}, {"FrameOfReferenceUID": "2.25.10"},
        {"syntax": ImplicitVRLittleEndian},
    ],
    ids=lambda changed: next(iter(changed)),
)  # fmt: skip
def test_an_image_that_differs_from_the_one_before_it_is_read_as_if_it_came_first(
    read: Read, changed: dict[str, Any]
) -> None:
    alone = read(**changed)
    headers._in_common.cache_clear()
    before = read()
    assert read(**changed) == alone != before


def test_the_digest_is_each_image_s_own(tmp_path: Path) -> None:
    data = data_set_bytes(save(_slice(), tmp_path))
    read = [headers.read_beginning(data, len(data), ExplicitVRLittleEndian, digest) for digest in ("ab", "cd")]
    assert [found[0].digest for found in read if found] == ["ab", "cd"]


def test_a_header_with_more_in_common_than_usual_is_read_and_not_kept(read: Read) -> None:
    long = ["ORIGINAL", "PRIMARY", *(f"VALUE{number:03}" for number in range(500))]
    for uid in (FOREIGN, OURS):
        instance, identity = read(SOPInstanceUID=uid, ImageType=long)
        assert (instance.sop_instance_uid, instance.own) == (uid, uid == OURS)
        assert instance.image_type == tuple(long[:16])
        assert identity == read(ImageType=long[:2])[1]
    info = headers._in_common.cache_info()
    assert (info.currsize, info.misses) == (1, 1), "the short one alone"


def test_what_was_read_is_forgotten_when_the_receiver_stops(tmp_path: Path) -> None:
    dataset = _slice()
    sent = Sent(str(dataset.SOPInstanceUID), data_set_bytes(save(dataset, tmp_path)))
    with receiving(tmp_path, settings_for()) as (receiver, _):
        with associated(receiver.port, contexts=CONTEXTS) as connection:
            connection.sendall(message(sent))
            assert answer(connection) == (0x8001, 1, 0)
        assert headers._in_common.cache_info().currsize == 1
    assert headers._in_common.cache_info().currsize == 0
