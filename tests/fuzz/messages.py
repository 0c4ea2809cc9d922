"""HL7 messages: the reader and what it changes in the store, and the MLLP listener over sockets."""

import socket
from collections.abc import Callable
from itertools import count
from pathlib import Path
from random import Random

from config.settings import Hl7, Settings
from dicom_node.clinical_codes import load
from dicom_node.hl7_ack import NotOurs, Reply, acknowledgement, read_acknowledgement
from dicom_node.hl7_apply import Office, apply
from dicom_node.hl7_in import Listener
from dicom_node.hl7_reader import Refused, header_of, read
from dicom_node.identity import Identity
from dicom_node.mllp import Reader, TooLong, framed
from dicom_node.spool import Spool
from dicom_node.store import Store
from tests.fuzz.bytes_of import WORDS, mutated
from tests.fuzz.engine import Broken, Target
from tests.fuzz.noise import Complaints
from tests.fuzz.stores import renewed
from tests.hl7_inputs import adt, msh
from tests.web.items import Items

FIELDS = (
    "", '""', "^", "~", "^^^^", "~~~", "&&", "\\", "\\X\\", "\\XC3A4\\", "\\XZZ\\", "\\F\\", "\\C2842\\",
    "\\H\\bold\\N\\",
    "A" * 300, "9" * 400, "-1", "1e999", "NaN", "<^5", "20260230", "19991399250000+9999", "99999999999999", "é", "山田",
    "\0", "\x1b$B", "\u2028", "4711^^^HOSPITAL^MR", "4712", "4711~4712~4713", "a" * 70_000, "P", "T", "NE", "AL",
    "ISO IR87", "8859/1", "8859/99", "UNICODE UTF-16", "ORU^R01", "ADT^A40", "ADT^A08^ADT_A01", "MSH|^~\\&|X",
    "1751-7^Albumin^LN", "NM", "CE", "SN", "ED", "F", "W", "D", "g/L",
)  # fmt: skip
OBX = "OBX|1|NM|1751-7^Albumin^LN^ALB^Albumin^L|a|3.9|g/dL^^UCUM|3.5-5||||F|||20260301101500+0100"
MESSAGES = (
    adt("A08"), adt("A31"), adt("A01"), adt("A40", mrg="4712^^^HOSPITAL^MR"),
    adt("A47", mrg="4712^^^HOSPITAL^MR"), msh("ADT^A28") + "PID|1||4713^^^HOSPITAL^MR||X^Y\r",
    f"{msh('ORU^R01')}PID|1||4711^^^HOSPITAL^MR\rOBR|1|P1|F1|CHEM|||20260228\r{OBX}\rNTE|1||text\r",
    f"{msh('ORU^R30', character_set='8859/1')}PID|1||4711\rOBR|1\rOBX|2|CE|x^y^LN||1^yes^L||||||C\rOBX|3|ST|a||b\r",
)  # fmt: skip
CODECS = ("utf-8", "utf-8", "utf-8", "latin-1", "utf-16", "iso2022_jp_ext", "gb18030", "shift_jis")


def message(random: Random) -> bytes:
    """One message with changed segments, fields, delimiters, encoding or bytes."""
    lines = random.choice(MESSAGES).rstrip("\r").split("\r")
    for _ in range(random.randint(1, 4)):
        random.choice(_CHANGES)(lines, random)
    lines[:1] = [_numbered(lines[0], random)] if lines else []
    text = random.choice(("\r", "\r", "\r", "\r", "\n", "\r\n")).join(lines) + "\r"
    if random.random() < 0.1:
        text = text.translate(
            str.maketrans("|^~\\&", random.choice(("^|~\\&", "#!@$%", "|^~\\|", "|||||", "\0\1\2\3\4")))
        )
    data = text.encode(random.choice(CODECS), "replace")
    return mutated(data, random) if random.random() < 0.2 else data


def _numbered(line: str, random: Random) -> str:
    """Mostly a number of its own (MSH-10): a repeat is answered without being applied."""
    fields = line.split("|")
    if len(fields) > 9 and random.random() < 0.9:
        fields[9] = f"{random.getrandbits(60):x}"
    return "|".join(fields)


def _field(lines: list[str], random: Random) -> None:
    at = random.randrange(len(lines))
    fields = lines[at].split("|")
    fields[random.randrange(len(fields))] = random.choice(FIELDS)
    lines[at] = "|".join(fields)


def _component(lines: list[str], random: Random) -> None:
    at = random.randrange(len(lines))
    fields = lines[at].split("|")
    place = random.randrange(len(fields))
    parts = fields[place].split("^")
    parts[random.randrange(len(parts))] = random.choice(FIELDS)
    fields[place] = "^".join(parts)
    lines[at] = "|".join(fields)


def _fewer(lines: list[str], random: Random) -> None:
    if len(lines) > 1:
        del lines[random.randrange(len(lines))]


def _more(lines: list[str], random: Random) -> None:
    line = random.choice(lines)
    at = random.randint(1, len(lines))
    lines[at:at] = [line] * random.choice((1, 1, 1, 300))


def _many_fields(lines: list[str], random: Random) -> None:
    at = random.randrange(len(lines))
    lines[at] += random.choice("|^~&\\") * random.choice((1, 50, 20_000))


def _order(lines: list[str], random: Random) -> None:
    a, b = random.randrange(len(lines)), random.randrange(len(lines))
    lines[a], lines[b] = lines[b], lines[a]


_CHANGES: tuple[Callable[[list[str], Random], None], ...] = (
    _field, _field, _field, _component, _component, _fewer, _more, _many_fields, _order,
)  # fmt: skip


def populate(store: Store) -> None:
    """Studies of the patients that the messages are about."""
    items = Items(store)
    for number, patient in enumerate(("4711", "4712", "4713", "4711")):
        items.study(f"1.2.3.{number}", Identity(patient_id=patient, patient_name="Before^All"))


class Hl7Reader(Target):
    """A message -> the store, or Refused; acknowledgements both ways."""

    name = "HL7 messages"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._store = Store.open(folder / "store.sqlite")
        populate(self._store)
        self._office = Office(Hl7(), load(None))
        self._good = count()

    def make(self, random: Random) -> bytes:
        return message(random)

    def run(self, data: bytes) -> None:
        reader = Reader(100_000)
        try:
            reader.feed(framed(data)[: len(data) // 2])
            reader.feed(framed(data)[len(data) // 2 :])
        except TooLong:
            pass
        try:
            found = read(data)
            reply = apply(self._store, found, data, "127.0.0.1", self._office, 1_800_000_000.0)
        except Refused as error:
            reply = Reply("AR", str(error), error.code)
            try:
                found = header_of(data)
            except Refused:
                return
        answer = acknowledgement(found, reply, "PROGNODE", "", 1.0)
        if answer is not None and b"\x1c" in answer:
            raise Broken("the acknowledgement ends a block in its middle")
        try:
            read_acknowledgement(data, "1")
        except NotOurs:
            return

    def settle(self) -> int:
        before, self._store = self._store, renewed(self._store, self._folder)
        if self._store is not before:
            populate(self._store)
        data = adt("A08", control_id=f"good {next(self._good)}").encode()
        return int(apply(self._store, read(data), data, "127.0.0.1", self._office, 1.0).code != "AA")

    def close(self) -> None:
        self._store.close()


class MllpListener(Target):
    """Blocks and half blocks to a running listener; every good message in between is acknowledged and kept."""

    name = "MLLP listener"
    settle_every = 50
    cheap = False

    def __init__(self, folder: Path) -> None:
        spool = Spool(folder / "spool")
        spool.create()
        self._store = Store.open(spool.store)
        populate(self._store)
        hl7 = Hl7(listen=True, port=0, message_timeout_seconds=3.0, maximum_message_bytes=200_000)
        self._listener = Listener(Settings(hl7=hl7), spool)
        self._listener.start()
        self._complaints = Complaints()
        self._numbers = count()
        self._acknowledged: list[str] = []

    def make(self, random: Random) -> bytes:
        blocks = [framed(message(random)) for _ in range(random.choice((1, 1, 1, 2, 5)))]
        if random.random() < 0.3:
            at = random.randrange(len(blocks))
            blocks[at] = mutated(blocks[at], random)
        if random.random() < 0.1:
            blocks.insert(random.randrange(len(blocks) + 1), random.choice(WORDS) * random.choice((1, 1000)))
        return b"".join(blocks)

    def run(self, data: bytes) -> None:
        with socket.create_connection(("127.0.0.1", self._listener.port), 5) as connection:
            connection.settimeout(4.5)
            try:
                connection.sendall(data)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65_536):
                    continue
            except TimeoutError:
                raise Broken("the connection is neither answered nor closed") from None
            except OSError:
                pass  # closed on us: their right
        self._complaints.check()

    def settle(self) -> int:
        number = f"good{next(self._numbers)}"
        with socket.create_connection(("127.0.0.1", self._listener.port), 5) as connection:
            connection.settimeout(20)
            connection.sendall(framed(adt("A08", control_id=number, pid="1||9999^^^H||Good").encode()))
            blocks: list[bytes] = []
            reader = Reader(1 << 20)
            while not blocks:
                data = connection.recv(65_536)
                if not data:
                    return 1
                blocks = reader.feed(data)
        if read_acknowledgement(blocks[0], number).code != "AA":
            return 1
        self._acknowledged.append(number)
        kept = {str(row["control_id"]) for row in self._store._db.rows("SELECT control_id FROM hl7_message", [])}
        return len(set(self._acknowledged) - kept)

    def close(self) -> None:
        self._listener.stop(grace_seconds=0.5)
        self._store.close()
        self._complaints.close()
