"""PDUs and DIMSE messages to a running receiver; good objects in between are acknowledged and kept."""

import contextlib
import socket
from collections.abc import Callable
from itertools import count
from pathlib import Path
from random import Random

from pydicom.dataset import Dataset

from config.settings import Node, Peer, Receive, Settings
from dicom_node.receive import Receiver
from dicom_node.spool import Spool
from dicom_node.store import Store
from tests import wire
from tests.fuzz.bytes_of import mutated
from tests.fuzz.dicom_of import Tree, encoded, tree_mutated, tree_of
from tests.fuzz.engine import Broken, Target
from tests.fuzz.files import seeds
from tests.fuzz.noise import Complaints
from tests.synthetic import ct_series, uid

CT = "1.2.840.10008.5.1.4.1.1.2"
COMMITMENT, COMMITMENT_INSTANCE = "1.2.840.10008.1.20.1", "1.2.840.10008.1.20.1.1"
UPS_PULL, UPS_PUSH = "1.2.840.10008.5.1.4.34.6.3", "1.2.840.10008.5.1.4.34.6.1"
CLASSES = (
    wire.VERIFICATION, CT, "1.2.840.10008.5.1.4.1.1.481.3", "1.2.840.10008.5.1.4.1.1.66.4",
    "1.2.840.10008.5.1.4.1.1.2.1", COMMITMENT, UPS_PULL, UPS_PUSH,
)  # fmt: skip
KINDS = (
    0x0001,
    0x0010,
    0x0020,
    0x0021,
    0x0030,
    0x0100,
    0x0110,
    0x0120,
    0x0130,
    0x0140,
    0x0150,
    0x0FFF,
    0x8001,
    0x8030,
    0,
)
USUAL = (0x0001, 0x0001, 0x0001, 0x0100, 0x0020)
RELEASE, ABORT = b"\5\0\0\0\0\4\0\0\0\0", b"\7\0\0\0\0\4\0\0\0\0"
UIDS = ("1.2.3", "", "x", "1." * 40, "../../x", "1.2.3\0", "2.25." + "9" * 59, "\\", "é")
PATIENCE = 0.15  # seconds that the node may think about a message before the end of the stream
GOOD_EVERY = 2  # one good object for so many settlements: each is synced to the disk


def associate(random: Random | None = None) -> bytes:
    """An A-ASSOCIATE-RQ with all our classes; with `random`, some odd items too."""
    contexts = [wire.context(2 * n + 1, one) for n, one in enumerate(CLASSES)]
    if random is None:
        return wire.request(contexts=contexts)
    for _ in range(random.randint(1, 3)):
        odd = (
            wire.context(random.randrange(256), random.choice((*CLASSES, *UIDS)), random.choice(((), ("1.2",), UIDS))),
            wire.item(random.choice((0x10, 0x20, 0x21, 0x40, 0x50, 0xFF)), random.randbytes(random.randrange(40))),
            b"\x20\0\xff\xff", b"\x20\0\0\0",
        )  # fmt: skip
        contexts.insert(random.randrange(len(contexts) + 1), random.choice(odd))
    contexts = contexts * random.choice((1, 1, 1, 20))
    more = [wire.item(random.choice(range(0x51, 0x5A)), random.randbytes(random.randrange(30))) for _ in range(2)]
    called = random.choice(("PROGNODE", "PROGNODE", "OTHER", "", " ", "A" * 16))
    return wire.request(called=called, contexts=contexts, end=wire.user(*more) if random.random() < 0.5 else b"")


class Associations(Target):
    """A conversation of PDUs: an association request, messages, a release; any part of it changed."""

    name = "associations"
    seconds = 12.0
    settle_every = 10
    cheap = False

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._spool = Spool(folder / "spool")
        receive = Receive(
            associations_per_second=1e6, association_burst=1_000_000, acse_timeout_seconds=2.0,
            dimse_timeout_seconds=3.0, network_timeout_seconds=5.0, reserve_disk_bytes=0,
        )  # fmt: skip
        settings = Settings(node=Node(ae_title="PROGNODE", port=0), peers=(Peer("MODALITY"),), receive=receive)
        self._receiver = Receiver(settings, self._spool)
        self._receiver.start()
        self._complaints = Complaints()
        self._trees = seeds().trees
        self._uids = {_text(tree, 0x00080016): _text(tree, 0x00080018) for tree in self._trees.values()}
        self._uids[COMMITMENT] = COMMITMENT_INSTANCE
        self._report = tree_of(_report())
        self._good = ct_series(1, 8, 8, seed=6)[0]
        self._kept: set[str] = set()
        self._numbers = count()

    # -- making --------------------------------------------------------------------------------------------------

    def make(self, random: Random) -> bytes:
        """PDUs, each after its length in four bytes: `run` waits for an answer after the first."""
        pdus = [associate(random if random.random() < 0.12 else None)]
        for _ in range(random.randint(1, 4)):
            pdus += self._message(random)
        pdus.append(random.choice((RELEASE, RELEASE, ABORT)))
        for _ in range(random.choice((0, 0, 0, 0, 1, 2))):
            random.choice(_ORDERS)(pdus, random)
        return b"".join(len(pdu).to_bytes(4, "big") + pdu for pdu in pdus)

    def _message(self, random: Random) -> list[bytes]:
        """A command and its data set, in fragments."""
        kind = random.choice(KINDS if random.random() < 0.2 else USUAL)
        number = random.randrange(len(CLASSES))
        sop_class, data = self._data_set(kind, number, random)
        context = 2 * CLASSES.index(sop_class) + 1 if random.random() < 0.97 else random.randrange(256)
        about = self._uids.get(sop_class, "1.2.34") if random.random() < 0.93 else random.choice(UIDS)
        more = [(0x1000, _even(about)), (0x0700, b"\0\0"), (0x1002, b"\1\0"), (0x1008, b"\1\0")]
        extra = [
            (random.choice((0x0110, 0x0120, 0x0900, 0x1001, 0x1005, 0x1030)), random.randbytes(random.randrange(9)))
        ]
        named = random.choice(UIDS) if random.random() < 0.05 else sop_class
        told = [*more[: random.choice((0, 1, 2, 2, 2, 2, 2, 2, 2, 2, 3, 4))], *extra[random.random() < 0.95 :]]
        command = wire.command(kind, named, *told, has_data_set=random.random() < 0.97)
        if random.random() < 0.05:
            command = mutated(command, random)
        pieces = (
            [(one, True) for one in _fragments(command, random)],
            [(one, False) for one in _fragments(data, random)],
        )
        return [
            wire.data(one, context_id=context, command=is_command, last=at == len(part) - 1)
            for part in pieces for at, (one, is_command) in enumerate(part)
        ]  # fmt: skip

    def _data_set(self, kind: int, number: int, random: Random) -> tuple[str, bytes]:
        if kind == 0x0001:
            name, tree = random.choice(list(self._trees.items()))
            classes = {"ct": CT, "enhanced": CLASSES[4], "rtstruct": CLASSES[2], "seg": CLASSES[3]}
            return classes[name], self._encoded(tree, random)
        if kind == 0x0100:
            return COMMITMENT, self._encoded(self._report, random)
        if kind in (0x0020, 0x0110, 0x0120, 0x0130, 0x0140):
            return random.choice((UPS_PULL, UPS_PUSH)), self._encoded(self._trees["ct"], random)
        return CLASSES[number], self._encoded(self._report, random)

    @staticmethod
    def _encoded(tree: Tree, random: Random) -> bytes:
        data = encoded(tree_mutated(tree, random) if random.random() < 0.8 else tree, implicit=True)
        return mutated(data, random) if random.random() < 0.1 else data

    # -- trying --------------------------------------------------------------------------------------------------

    def run(self, data: bytes) -> None:
        pdus = _pdus(data)
        if not pdus:
            return
        with wire.connect(self._receiver.port) as connection:
            connection.settimeout(8.0)
            try:
                connection.sendall(pdus[0])
                if pdus[0][:1] == b"\1" and int.from_bytes(pdus[0][2:6], "big") == len(pdus[0]) - 6:
                    connection.recv(65_536)
                for pdu in pdus[1:]:
                    connection.sendall(pdu)
                    if pdu[:1] == b"\4" and pdu[11:12] == b"\2":  # the end of a data set: an answer is due
                        _heard(connection)
                _listen(connection)
            except TimeoutError:
                raise Broken("the connection is neither answered nor closed") from None
            except OSError:
                pass  # closed on us: their right
        self._complaints.check()

    def settle(self) -> int:
        number = next(self._numbers)
        if number % GOOD_EVERY:
            return self._sent(wire.VERIFICATION, 0x0030, b"", ()) != 0
        self._good.SOPInstanceUID = uid("good", number)
        data = encoded(tree_of(self._good), implicit=True)
        if self._sent(CT, 0x0001, data, ((0x1000, _even(self._good.SOPInstanceUID)), (0x0700, b"\0\0"))) != 0:
            return 1
        self._kept.add(self._good.SOPInstanceUID)
        return self._lost()

    def _sent(self, sop_class: str, kind: int, data: bytes, more: tuple[tuple[int, bytes], ...]) -> int:
        """Status of the answer to one message on an association of its own."""
        context = 2 * CLASSES.index(sop_class) + 1
        with wire.connect(self._receiver.port) as connection:
            connection.sendall(associate())
            if connection.recv(65_536)[:1] != b"\2":
                raise Broken("a good association is refused")
            command = wire.command(kind, sop_class, *more, has_data_set=bool(data))
            connection.sendall(wire.data(command, context_id=context, command=True, last=True))
            if data:
                connection.sendall(wire.data(data, context_id=context, last=True))
            answer = connection.recv(65_536)
            at = answer.find(b"\0\0\x00\x09\2\0\0\0")  # (0000,0900) Status, US
            connection.sendall(RELEASE)
            connection.recv(100)
        return int.from_bytes(answer[at + 8 : at + 10], "little") if at > 0 else -1

    def _lost(self) -> int:
        store = Store.open(self._spool.store)
        try:
            known = {one: store.arrivals.instance(one) for one in self._kept}
        finally:
            store.close()
        return sum(
            one is None or not self._spool.instance_path(one.sop_instance_uid, one.digest).is_file()
            for one in known.values()
        )

    def close(self) -> None:
        self._receiver.stop(grace_seconds=1.0)
        self._complaints.close()


def _heard(connection: socket.socket) -> None:
    connection.settimeout(PATIENCE)
    with contextlib.suppress(TimeoutError):
        connection.recv(65_536)


def _listen(connection: socket.socket) -> None:
    """Hear it out; one that goes on waiting for us is told that nothing more will come."""
    connection.settimeout(PATIENCE)
    try:
        while connection.recv(65_536):
            continue
    except TimeoutError:
        connection.settimeout(8.0)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65_536):
            continue


def _text(tree: Tree, tag: int) -> str:
    return next(one.value.decode() for one in tree if one.tag == tag and isinstance(one.value, bytes)).rstrip("\0")


def _even(text: str) -> bytes:
    return text.encode() + b"\0" * (len(text) % 2)


def _pdus(data: bytes) -> list[bytes]:
    found = []
    while len(data) >= 4:
        length = int.from_bytes(data[:4], "big")
        found.append(data[4 : 4 + length])
        data = data[4 + length :]
    return found


def _fragments(data: bytes, random: Random) -> list[bytes]:
    size = random.choice((1 << 14, 1 << 14, 100, 1000)) if len(data) < 10_000 else 1 << 14
    return [data[at : at + size] for at in range(0, len(data), size)] or [b""]


def _drop(pdus: list[bytes], random: Random) -> None:
    if len(pdus) > 1:
        del pdus[random.randrange(len(pdus))]


def _twice(pdus: list[bytes], random: Random) -> None:
    pdus.insert(random.randrange(len(pdus) + 1), random.choice(pdus))


def _switch(pdus: list[bytes], random: Random) -> None:
    a, b = random.randrange(len(pdus)), random.randrange(len(pdus))
    pdus[a], pdus[b] = pdus[b], pdus[a]


def _change(pdus: list[bytes], random: Random) -> None:
    at = random.randrange(len(pdus))
    pdus[at] = mutated(pdus[at], random)


def _lie(pdus: list[bytes], random: Random) -> None:
    """Another length in the PDU's head, or in its first fragment's."""
    at, where = random.randrange(len(pdus)), random.choice((2, 6))
    length = random.choice((0, 1, 5, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, random.randrange(2**16)))
    pdus[at] = pdus[at][:where] + length.to_bytes(4, "big") + pdus[at][where + 4 :]


def _other(pdus: list[bytes], random: Random) -> None:
    kinds = (b"\0", b"\1", b"\2", b"\3", b"\4", b"\5", b"\6", b"\7", b"\x08", b"\xff", b"GET / HTTP/1.1\r\n\r\n")
    pdus.insert(random.randrange(len(pdus) + 1), random.choice(kinds) + random.randbytes(random.randrange(20)))


_ORDERS: tuple[Callable[[list[bytes], Random], None], ...] = (_drop, _twice, _switch, _change, _change, _lie, _other)


def _report() -> Dataset:
    report = Dataset()
    report.TransactionUID = "2.25.1"
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = CT, "1.2.3"
    report.ReferencedSOPSequence = [item]
    return report
