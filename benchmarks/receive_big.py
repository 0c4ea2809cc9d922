"""An Enhanced CT of 1200 frames of 512x512 (629 MB), made and sent in pieces: neither side holds it in memory."""

import hashlib
import struct
from io import BytesIO

from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import ExplicitVRLittleEndian

from benchmarks.blaster import LARGEST_PDU_BYTES, ROOT, SIDE, Sender, pixels
from dicom_node.instance import ENHANCED_CT
from tests import wire
from tests.network import NODE, SENDER
from tests.synthetic import ct_series, enhanced_ct

FRAMES = 1200
ENHANCED_BYTES = FRAMES * SIDE * SIDE * 2


def _header(uid: str) -> bytes:
    """Everything before the pixels, and the head of their element."""
    dataset = enhanced_ct(ct_series(FRAMES, 2, 2, seed=1), sop_instance_uid=uid)
    dataset.Rows = dataset.Columns = SIDE
    del dataset.PixelData
    stream = DicomBytesIO()
    stream.is_little_endian, stream.is_implicit_VR = True, False
    write_dataset(stream, dataset)
    return stream.getvalue() + struct.pack("<HH2sHL", 0x7FE0, 0x0010, b"OW", 0, ENHANCED_BYTES)


def send_enhanced(port: int, salt: int) -> tuple[int, str]:
    """C-STORE it: the status of the answer, and the SHA-256 of what was sent."""
    uid = f"{ROOT}.{salt}.9"
    sender = Sender(port, NODE, SENDER, sop_class_uid=ENHANCED_CT, syntax=ExplicitVRLittleEndian)
    named = (0x1000, uid.encode() + b"\0" * (len(uid) % 2))
    sender.connection.sendall(
        wire.data(
            wire.command(0x0001, ENHANCED_CT, (0x0700, b"\0\0"), named, has_data_set=True), command=True, last=True
        )
    )
    digest, room, frame = hashlib.sha256(), min(sender.longest, LARGEST_PDU_BYTES) - 6, pixels(0)
    left = BytesIO(_header(uid))
    for _ in range(FRAMES + 1):
        while part := left.read(room):
            digest.update(part)
            sender.connection.sendall(wire.data(part))
        left = BytesIO(frame)
    sender.connection.sendall(wire.data(b"", last=True))
    status = sender.answer()
    sender.release()
    return status, digest.hexdigest()
