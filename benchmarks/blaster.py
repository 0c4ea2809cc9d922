"""A C-STORE SCU that costs next to nothing, so that a receiver is what is measured: whole messages, one call to send.

    python -m benchmarks.blaster PORT CALLED OBJECTS SALT [--tls] [--calling TITLE]

Makes OBJECTS CT slices of 512x512x16 bit in memory (no file is read), asks for an association, says "ready", waits for
a line, sends, and prints what came of it as JSON. Each slice's UIDs hold SALT, so that no receiver sees one twice.
"""

import argparse
import hashlib
import json
import resource
import socket
import ssl
import struct
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np

from tests import wire

CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"  # Explicit VR Little Endian; pydicom takes 0.3 s to import
SIDE = 512
NOISES = 4  # different pixels; slices take turns
ROOT = "1.2.826.0.1.3680043.8.498"
LARGEST_PDU_BYTES = 131_072
RELEASE = bytes.fromhex("05000000000400000000")


@dataclass(frozen=True)
class Slice:
    """One object: its SOP Instance UID, and the bytes of its data set (Explicit VR Little Endian)."""

    uid: str
    data: bytes


@cache
def pixels(number: int) -> bytes:
    """A body and noise, 12 bit, as a CT has it."""
    y, x = np.mgrid[0:SIDE, 0:SIDE]
    body = np.where((x - 256) ** 2 + ((y - 256) * 1.3) ** 2 < 180**2, 1064, 24)
    noise = np.random.default_rng(number).normal(0, 25, (SIDE, SIDE))
    return bytes(np.clip(np.rint(body + noise), 0, 4095).astype("<u2").tobytes())


def _element(tag: int, vr: str, value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    data += (b"\0" if vr == "UI" else b" ") * (len(data) % 2)
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr.encode())
    return head + (struct.pack("<HL", 0, len(data)) if vr == "OW" else struct.pack("<H", len(data))) + data


def ct_slice(salt: int, number: int) -> Slice:
    """A CT slice with the attributes that real ones have outside sequences and private groups."""
    study, uid = f"{ROOT}.{salt}.1", f"{ROOT}.{salt}.2.{number + 1}"
    z = f"{number:.1f}"
    elements = [
        (0x00080005, "CS", "ISO_IR 100"), (0x00080008, "CS", "ORIGINAL\\PRIMARY\\AXIAL"),
        (0x00080012, "DA", "20240105"), (0x00080013, "TM", "101500"), (0x00080016, "UI", CT), (0x00080018, "UI", uid),
        (0x00080020, "DA", "20240105"), (0x00080021, "DA", "20240105"), (0x00080023, "DA", "20240105"),
        (0x00080030, "TM", "101500"), (0x00080031, "TM", "101500"), (0x00080033, "TM", "101500"),
        (0x00080050, "SH", f"ACC{salt}"), (0x00080060, "CS", "CT"), (0x00080070, "LO", "SYNTHETIC"),
        (0x00080090, "PN", ""), (0x00081030, "LO", "CT THORAX BASELINE"), (0x0008103E, "LO", "CT synthetic"),
        (0x00081090, "LO", "benchmark"), (0x00100010, "PN", "Synthetic^Patient"), (0x00100020, "LO", f"SYN{salt}"),
        (0x00100030, "DA", "19600101"), (0x00100040, "CS", "O"), (0x00180015, "CS", "CHEST"),
        (0x00180050, "DS", "1.0"), (0x00180060, "DS", "120"), (0x00181210, "SH", "B30f"), (0x00185100, "CS", "HFS"),
        (0x0020000D, "UI", study), (0x0020000E, "UI", f"{study}.2"), (0x00200010, "SH", "1"), (0x00200011, "IS", "2"),
        (0x00200012, "IS", "1"), (0x00200013, "IS", str(number + 1)), (0x00200032, "DS", f"-175\\-175\\{z}"),
        (0x00200037, "DS", "1\\0\\0\\0\\1\\0"), (0x00200052, "UI", f"{study}.4"), (0x00201040, "LO", ""),
        (0x00201041, "DS", z), (0x00280002, "US", struct.pack("<H", 1)), (0x00280004, "CS", "MONOCHROME2"),
        (0x00280010, "US", struct.pack("<H", SIDE)), (0x00280011, "US", struct.pack("<H", SIDE)),
        (0x00280030, "DS", "0.683594\\0.683594"), (0x00280100, "US", struct.pack("<H", 16)),
        (0x00280101, "US", struct.pack("<H", 12)), (0x00280102, "US", struct.pack("<H", 11)),
        (0x00280103, "US", struct.pack("<H", 0)), (0x00281050, "DS", "40"), (0x00281051, "DS", "400"),
        (0x00281052, "DS", "-1024"), (0x00281053, "DS", "1"), (0x00281054, "LO", "HU"),
        (0x7FE00010, "OW", pixels(number % NOISES)),
    ]  # fmt: skip
    return Slice(uid, b"".join(_element(*one) for one in elements))


def message(one: Slice, longest: int, context_id: int = 1) -> bytes:
    """A C-STORE-RQ in P-DATA-TFs of at most `longest` bytes."""
    uid = one.uid.encode() + b"\0" * (len(one.uid) % 2)
    command = wire.command(0x0001, CT, (0x0700, b"\0\0"), (0x1000, uid), has_data_set=True)
    parts = [wire.data(command, context_id=context_id, command=True, last=True)]
    room = longest - 6
    for start in range(0, len(one.data), room):
        part = one.data[start : start + room]
        parts.append(wire.data(part, context_id=context_id, last=start + room >= len(one.data)))
    return b"".join(parts)


class Sender:
    """An association with a receiver. Raises RuntimeError when it is not let in, or not answered."""

    def __init__(
        self,
        port: int,
        called: str,
        calling: str,
        *,
        tls: bool = False,
        sop_class_uid: str = CT,
        syntax: str = EXPLICIT,
    ) -> None:
        self.connection: socket.socket = wire.connect(port)
        self.connection.settimeout(120)
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            self.connection = context.wrap_socket(self.connection)
        contexts = [wire.context(1, sop_class_uid, [syntax])]
        self.connection.sendall(wire.request(calling, called, contexts))
        kind, body = self._pdu()
        if kind != 2:
            raise RuntimeError(f"no association: PDU type {kind}")
        self.longest = _maximum_length(body) or LARGEST_PDU_BYTES

    def store(self, bytes_of_it: bytes) -> int:
        """Send a whole message; gives the status of the answer."""
        self.connection.sendall(bytes_of_it)
        return self.answer()

    def answer(self) -> int:
        """Wait for an answer to C-STORE; gives its status."""
        kind, body = self._pdu()
        at = body.find(b"\0\0\x00\x09\x02\0\0\0")
        if kind != 4 or at < 0:
            raise RuntimeError(f"no answer to C-STORE: PDU type {kind}")
        return int.from_bytes(body[at + 8 : at + 10], "little")

    def release(self) -> None:
        self.connection.sendall(RELEASE)
        self._pdu()
        self.connection.close()

    def _pdu(self) -> tuple[int, bytes]:
        head = self._exactly(6)
        return head[0], self._exactly(int.from_bytes(head[2:6], "big"))

    def _exactly(self, count: int) -> bytes:
        got = b""
        while len(got) < count:
            piece = self.connection.recv(count - len(got))
            if not piece:
                raise RuntimeError("the receiver closed the connection")
            got += piece
        return got


def _maximum_length(body: bytes) -> int:
    """Of an A-ASSOCIATE-AC (PS3.8 annex D.1); 0 for none."""
    at = body.find(b"\x51\x00\x00\x04", 68)
    return int.from_bytes(body[at + 4 : at + 8], "big") if at >= 0 else 0


def slices(salt: int, count: int) -> Iterator[Slice]:
    return (ct_slice(salt, number) for number in range(count))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("called")
    parser.add_argument("objects", type=int)
    parser.add_argument("salt", type=int)
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--calling", default="MODALITY")
    options = parser.parse_args()
    sender = Sender(options.port, options.called, options.calling, tls=options.tls)
    longest = min(sender.longest, LARGEST_PDU_BYTES)
    made = list(slices(options.salt, options.objects))
    messages = [message(one, longest) for one in made]
    print("ready", flush=True)
    sys.stdin.readline()
    before = resource.getrusage(resource.RUSAGE_SELF)
    began = time.time()
    stored = [one.uid for one, whole in zip(made, messages, strict=True) if sender.store(whole) == 0]
    ended = time.time()
    after = resource.getrusage(resource.RUSAGE_SELF)
    sender.release()
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    digests = {one.uid: hashlib.sha256(pixels(number % NOISES)).hexdigest() for number, one in enumerate(made)}
    print(
        json.dumps(
            {"began": began, "ended": ended, "cpu": cpu, "stored": stored, "pixels": [digests[u] for u in stored]}
        )
    )


if __name__ == "__main__":
    main()
