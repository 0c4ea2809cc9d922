"""Objects larger than memory, and data sets made to fill it: the receiver stays small, and goes on."""

import os
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ImplicitVRLittleEndian

from dicom_node.instance import RTSTRUCT
from dicom_node.spool import Spool
from tests import wire
from tests.dicom.test_receive_faults import child, resident, until
from tests.network import (
    association,
    data_set_bytes,
    files,
    receiving,
    rows,
    store_bytes,
    storescu,
)
from tests.synthetic import ct_series, enhanced_ct, rtstruct, save

MEGABYTE = 1_000_000


class Watched:
    """A receiver in a process of its own, and how far its memory has grown at the most since `begin`."""

    def __init__(self, pid: int, port: int, spool: Spool) -> None:
        self.pid, self.port, self.spool = pid, port, spool

    def begin(self) -> None:
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")  # VmHWM from now on (proc(5))
        self._before = resident(self.pid, "VmRSS")

    @property
    def growth(self) -> int:
        return resident(self.pid, "VmHWM") - self._before


@pytest.fixture(scope="module")
def receiver_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("watched")
    with child(folder / "spool") as (process, port):
        for dataset in (ct_series(1, seed=24)[0], rtstruct(ct_series(8, seed=24))):
            assert storescu(port, [save(dataset, folder / "warm")]).returncode == 0
        yield Watched(process.pid, port, Spool(folder / "spool"))


@pytest.fixture
def watched(receiver_process: Watched) -> Watched:
    """One process for all: what needs most memory comes last, for what it has had once is no growth any more."""
    receiver_process.begin()
    return receiver_process


def of_frames(frames: int, folder: Path) -> Path:
    """An Enhanced CT of 512 x 512 x `frames`; its zero pixels take no room on the disk."""
    dataset = enhanced_ct(ct_series(frames, 4, 4, seed=23))
    dataset.Rows = dataset.Columns = 512
    dataset.PixelData = b"\0" * 4
    path = save(dataset, folder)
    size = frames * 512 * 512 * 2
    with path.open("r+b") as stream:  # a sparse file: the pixel data grows to its true length
        stream.seek(-8, os.SEEK_END)
        stream.write(size.to_bytes(4, "little"))
        stream.truncate(path.stat().st_size - 4 + size)
    return path


@pytest.mark.parametrize(
    ("megabytes", "growth"), [(150, 50), pytest.param(600, 100, marks=pytest.mark.exhaustive)]
)  # fmt: skip
def test_an_enhanced_ct_of_any_size_takes_little_memory(
    tmp_path: Path, watched: Watched, megabytes: int, growth: int
) -> None:
    path = of_frames(2 * megabytes, tmp_path / "out")
    size = path.stat().st_size
    assert size > megabytes * MEGABYTE
    assert storescu(watched.port, [path], "--max-send-pdu", "131072").returncode == 0
    assert max(kept.stat().st_size for kept in files(watched.spool)) >= size
    print(f"Enhanced CT of {size / MEGABYTE:.0f} MB: {watched.growth / MEGABYTE:.0f} MB of memory")
    assert watched.growth < growth * MEGABYTE


def drawn(contours: int, points: int) -> Dataset:
    """An RTSTRUCT whose one ROI has so many contours of so many points."""
    dataset = rtstruct(ct_series(8, seed=25))
    (roi,) = dataset.ROIContourSequence
    contour = roi.ContourSequence[0]
    contour.NumberOfContourPoints = points
    contour.ContourData = [f"{(k * 37) % 4000 / 10:.1f}" for k in range(3 * points)]
    roi.ContourSequence = [contour] * contours
    return dataset


@pytest.mark.parametrize(
    ("contours", "growth"), [(1_000, 50), pytest.param(5_000, 100, marks=pytest.mark.exhaustive)]
)  # fmt: skip
def test_an_rtstruct_of_millions_of_points_takes_little_memory(
    tmp_path: Path, watched: Watched, contours: int, growth: int
) -> None:
    path = save(drawn(contours, 1_000), tmp_path / "out")
    with association(watched.port, [RTSTRUCT], max_pdu=0) as made:
        assert store_bytes(made, RTSTRUCT, path.stem, data_set_bytes(path))[0] == 0x0000
    print(f"RTSTRUCT of {contours * 1_000:,} points, {path.stat().st_size / MEGABYTE:.0f} MB: "
          f"{watched.growth / MEGABYTE:.0f} MB of memory")  # fmt: skip
    assert watched.growth < growth * MEGABYTE
    assert [roi.contours for one in rows(watched.spool) for roi in one.rois].count(contours) == 1


EMPTY = [struct.pack("<HH2sH", 0x0009, 0x1000 + k, b"LO", 0) for k in range(50_000)]
ITEM, ITEM_END = b"\xfe\xff\x00\xe0\xff\xff\xff\xff", b"\xfe\xff\x0d\xe0" + b"\0" * 4
SEQUENCE, SEQUENCE_END = b"\x08\x00\x15\x11SQ\0\0\xff\xff\xff\xff", b"\xfe\xff\xdd\xe0" + b"\0" * 4
HOSTILE = {
    "ten million empty elements": (b"".join(EMPTY) * 200, 100),
    "ten million empty elements in a sequence": (
        SEQUENCE + ITEM + b"".join(EMPTY) * 200 + ITEM_END + SEQUENCE_END, 100,
    ),
    "two million empty items": (SEQUENCE + (ITEM[:4] + b"\0" * 4) * 2_000_000 + SEQUENCE_END, 100),
    "sequences inside each other a million times": ((SEQUENCE + ITEM) * 1_000_000, 100),
    "the same with known lengths": (
        b"".join(b"\x08\x00\x15\x11SQ\0\0" + struct.pack("<I", n) + b"\xfe\xff\x00\xe0" + struct.pack("<I", n - 8)
                 for n in range(20 * 4000, 20, -20)), 100,
    ),
    "a private element of 100 MB and no known length": (
        b"\x09\x00\x10\x10OB\0\0\xff\xff\xff\xff" + (ITEM[:4] + struct.pack("<I", MEGABYTE) + b"\0" * MEGABYTE) * 100
        + SEQUENCE_END, 100,
    ),
    "what is just allowed": (  # parsed, and refused or not for other reasons
        SEQUENCE + (ITEM + b"".join(EMPTY[:48]) + ITEM_END) * 9_500 + SEQUENCE_END, 250,
    ),
}  # fmt: skip


LONG_FORM = {"ten million empty elements", "two million empty items", "a private element of 100 MB and no known length"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.exhaustive] if name in LONG_FORM else []) for name in HOSTILE]
)
def test_a_data_set_made_to_fill_the_memory_does_not(tmp_path: Path, watched: Watched, name: str) -> None:
    inserted, megabytes = HOSTILE[name]
    good = data_set_bytes(save(rtstruct(ct_series(8, seed=26)), tmp_path / "out"))
    position = good.index(b"\x20\x00\x0d\x00UI")  # before the Study Instance UID, in the order of tags
    with association(watched.port, [RTSTRUCT], max_pdu=0) as made:
        made.dimse_timeout = made.network_timeout = 60
        status, comment = store_bytes(made, RTSTRUCT, "1.2.3", good[:position] + inserted + good[position:])
        assert status in (0xC000, 0xA900), comment  # A900: read to its end, and found to be another instance
        assert (status == 0xA900) == (name == "what is just allowed"), comment
        assert made.is_established
    assert watched.growth < megabytes * MEGABYTE, f"{watched.growth / MEGABYTE:.0f} MB"
    assert wire.answers(watched.port)


@pytest.mark.exhaustive
def test_three_senders_of_what_is_just_allowed_take_little_more_than_one(tmp_path: Path, watched: Watched) -> None:
    good = data_set_bytes(save(rtstruct(ct_series(8, seed=26)), tmp_path / "out"))
    position = good.index(b"\x20\x00\x0d\x00UI")
    data = good[:position] + HOSTILE["what is just allowed"][0] + good[position:]
    found: list[int | None] = []

    def send() -> None:
        with association(watched.port, [RTSTRUCT], max_pdu=0) as made:
            made.dimse_timeout = made.network_timeout = 60
            found.append(store_bytes(made, RTSTRUCT, "1.2.3", data)[0])

    senders = [threading.Thread(target=send) for _ in range(3)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join(100)
    assert found == [0xA900] * 3
    assert watched.growth < 350 * MEGABYTE, f"{watched.growth / MEGABYTE:.0f} MB"


COMMITMENT = "1.2.840.10008.1.20.1"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\x08\x00\x18\x00" + struct.pack("<I", 5 << 20) + b"1" * (5 << 20), "has more than 4194304 bytes"),
        (struct.pack("<HHI", 0x0009, 0x1000, 0) * 200_000, "more than 100000 elements"),
        ((b"\x08\x00\x99\x11" + b"\xff" * 4 + ITEM) * 5_000, "nested deeper than 32"),
    ],
    ids=["long", "many", "deep"],
)
def test_a_message_other_than_c_store_is_bounded_too(
    tmp_path: Path, data: bytes, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    report = wire.command(
        0x0100, COMMITMENT, (0x1000, b"1.2.840.10008.1.20.1.1\0\0"[:22]), (0x1002, b"\1\0"), has_data_set=True
    )
    with receiving(tmp_path) as (receiver, _):
        contexts = [wire.context(1, COMMITMENT, [ImplicitVRLittleEndian])]
        connection = wire.connect(receiver.port)
        with connection:
            connection.sendall(wire.request(contexts=contexts))
            assert connection.recv(1000)[:1] == b"\x02"
            connection.sendall(wire.data(report, command=True, last=True))
            parts = [data[at : at + 100_000] for at in range(0, len(data), 100_000)]
            try:
                for part in parts:
                    connection.sendall(wire.data(part, last=part is parts[-1]))
            except OSError:
                pass  # cut off before it was through
            assert wire.seconds_until_closed(connection) < 60.0
        assert wire.answers(receiver.port)
        assert until(lambda: said in caplog.text)
