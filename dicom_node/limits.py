"""Who may call, how often and how many at once; and the words for whoever may not. Pure: no socket, no clock.

An association request is read here only as far as that decision needs; what it proposes is pynetdicom's business.
"""

import ipaddress
from collections import Counter, OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from config.settings import Peer, Settings
from dicom_node.elements import escaped

MAXIMUM_REQUEST_BYTES = 262_144  # 128 contexts with 25 transfer syntaxes each have about 220 KB
MAXIMUM_CONTEXTS = 128  # PS3.8 section 9.3.2.2: odd numbers from 1 to 255
MAXIMUM_SYNTAXES = 64  # of one context; there are about 60 transfer syntaxes at all
MAXIMUM_USER_ITEMS = 512  # role selection and extended negotiation for each context, and a few more
MAXIMUM_ADDRESSES = 4096  # that are remembered; a hospital's network in whole
_ABSTRACT, _TRANSFER, _CONTEXT, _USER = 0x30, 0x40, 0x20, 0x50


class NotARequest(ValueError):
    """The bytes are no A-ASSOCIATE-RQ that can be answered; the text says why and quotes nothing."""


@dataclass(frozen=True)
class Caller:
    """Who asks for an association, as far as one can tell: AE titles are anybody's claim, the address is not."""

    calling: str
    called: str
    address: str
    tls: bool = False


@dataclass(frozen=True)
class Rejection:
    """An A-ASSOCIATE-RJ (PS3.8 table 9-21), and for our log why and what to do."""

    result: int
    source: int
    reason: int
    words: str


def read_request(pdu: bytes | bytearray, address: str, *, tls: bool = False) -> Caller:
    """Read an A-ASSOCIATE-RQ (PS3.8 section 9.3.2) of at most MAXIMUM_REQUEST_BYTES: who calls.

    Raises
    ------
    NotARequest
        When it is malformed, or proposes more contexts, syntaxes or user items than any peer has.
    """
    if len(pdu) < 74 or pdu[0] != 1:
        raise NotARequest("is no association request")
    counts: Counter[int] = Counter()
    for kind, item in _items(memoryview(pdu)[74:]):
        counts[kind] += 1
        if kind == _CONTEXT:
            _check_context(item)
        elif kind == _USER and sum(1 for _ in _items(item)) > MAXIMUM_USER_ITEMS:
            raise NotARequest("has more user items than any peer needs")
        if counts[kind] > MAXIMUM_CONTEXTS:
            raise NotARequest("has more presentation contexts than there are numbers for")
    return Caller(_title(pdu[26:42]), _title(pdu[10:26]), plain_address(address), tls)


def _check_context(item: memoryview) -> None:
    """pynetdicom takes it for granted that there is one abstract syntax and a transfer syntax."""
    if len(item) < 4 or not item[0] & 1:
        raise NotARequest("has a presentation context without an odd number")
    kinds = Counter(kind for kind, _ in _items(item[4:]))
    if kinds[_ABSTRACT] != 1 or not 1 <= kinds[_TRANSFER] <= MAXIMUM_SYNTAXES:
        raise NotARequest("has a presentation context without one abstract syntax and 1 to 64 transfer syntaxes")


def _items(data: memoryview) -> Any:
    """Type and content of each item (type, reserved, length in two bytes, content)."""
    while data:
        if len(data) < 4:
            raise NotARequest("ends in the middle of an item")
        end = 4 + int.from_bytes(data[2:4], "big")
        if end > len(data):
            raise NotARequest("has an item that is longer than the request")
        yield data[0], data[4:end]
        data = data[end:]


def _title(data: bytes | bytearray) -> str:
    return bytes(data).decode("latin-1").strip(" \0")


def plain_address(address: str) -> str:
    """An IPv4 address that came over an IPv6 socket is an IPv4 address.

    >>> plain_address("::ffff:10.1.2.3"), plain_address("2001:db8::1")
    ('10.1.2.3', '2001:db8::1')
    """
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return str(mapped or found)


class Buckets:
    """Token buckets by key: on average `per_second`, `burst` in a row. Bounded: the longest unseen key is forgotten."""

    def __init__(self, per_second: float, burst: float) -> None:
        self._per_second, self._burst = per_second, burst
        self._known: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()

    def take(self, key: Hashable, now: float) -> bool:
        """Whether one is left for this key at `now` (seconds); it is gone then."""
        left, since = self._known.pop(key, (self._burst, now))
        left = min(self._burst, left + max(0.0, now - since) * self._per_second)
        self._known[key] = (max(0.0, left - 1.0), now) if left >= 1.0 else (left, now)
        if len(self._known) > MAXIMUM_ADDRESSES:
            self._known.popitem(last=False)
        return left >= 1.0


class Gate:
    """Judges each association request; used by one thread."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._rate = Buckets(settings.receive.associations_per_second, settings.receive.association_burst)

    def judge(self, caller: Caller, running: Sequence[Caller], now: float) -> Rejection | None:
        """None lets the caller in. What is full or too fast is refused for now (transient), all else for good."""
        limits = self._settings.receive
        who = f'"{escaped(caller.calling)}" at {caller.address}'
        if not self._rate.take(network_of(caller.address), now):
            words = f"{who} asks for more than {limits.associations_per_second:g} associations a second; it may try "
            return Rejection(2, 3, 1, words + "again, or raise [receive] associations_per_second")
        permanent = self._permanent(caller, who)
        if permanent is not None:
            return permanent
        most = limits.maximum_associations_per_peer
        same_title = sum(1 for one in running if one.calling == caller.calling)
        same_address = sum(1 for one in running if one.address == caller.address)
        if max(same_title, same_address) >= most:
            words = f"{who} has {max(same_title, same_address)} associations already (AE title or address); it may try "
            return Rejection(2, 3, 2, words + "again, or raise [receive] maximum_associations_per_peer")
        if len(running) >= self._room_for(caller):
            return Rejection(2, 3, 2, refusal_words(self._settings, caller.calling, caller.called, caller.address))
        return None

    def _permanent(self, caller: Caller, who: str) -> Rejection | None:
        peer = peer_of(self._settings, caller.calling)
        if caller.called != self._settings.node.ae_title.strip():
            reason = 7
        elif self._settings.receive.known_callers_only and not may_associate(peer, self._settings):
            reason = 3
        elif peer is not None and not comes_from(peer, caller.address):
            words = (
                f"{who} does not come from an address of that peer; add it to addresses in the [[peers]] entry, "
                "or look who calls under this name"
            )
            return Rejection(1, 1, 3, words)
        elif peer is not None and peer.tls and not caller.tls:
            words = f"{who} called without TLS, but its [[peers]] entry has tls = true; let it call the TLS port"
            return Rejection(1, 1, 3, words)
        else:
            return None
        return Rejection(1, 1, reason, refusal_words(self._settings, caller.calling, caller.called, caller.address))

    def _room_for(self, caller: Caller) -> int:
        """Strangers (where they are let in at all) get half, so that they cannot keep the known out."""
        most = self._settings.receive.maximum_associations
        return most if may_associate(peer_of(self._settings, caller.calling), self._settings) else max(1, most // 2)


def network_of(address: str) -> str:
    """What counts as one caller: an IPv4 address, or the /64 that an IPv6 host may choose its addresses from."""
    return str(ipaddress.ip_network(f"{address}/64", strict=False)) if ":" in address else address


def comes_from(peer: Peer, address: str) -> bool:
    """Whether a call of this peer may come from the address; no `addresses` means any."""
    if not peer.addresses:
        return True
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(found in ipaddress.ip_network(network, strict=False) for network in peer.addresses)


def refusal_words(settings: Settings, calling: str, called: str, host: str) -> str:
    """Why an association was refused and what to put where."""
    ours = settings.node.ae_title
    if called.strip() != ours.strip():
        return (
            f'called AE title "{escaped(called)}" by "{escaped(calling)}" at {host} is not ours; at the sender, set '
            f'this node\'s AE title to "{ours}" (case counts), or set [node] ae_title = "{escaped(called)}" here'
        )
    peer = peer_of(settings, calling)
    if settings.receive.known_callers_only and not may_associate(peer, settings):
        near = [p.ae_title for p in settings.peers if p.ae_title.lower() == calling.strip().lower()]
        if peer is not None:
            remedy = f'set sends = true in the [[peers]] entry with ae_title = "{escaped(calling)}"'
        elif near:
            remedy = f'the settings have "{escaped(near[0])}" (case counts): correct ae_title there or at the sender'
        else:
            remedy = (
                f'add to the settings [[peers]] with ae_title = "{escaped(calling)}" and host = "{host}", '
                "or set [receive] known_callers_only = false"
            )
        return f'calling AE title "{escaped(calling)}" at {host} is not a known sender; {remedy}'
    return (
        f'"{escaped(calling)}" at {host}: all {settings.receive.maximum_associations} associations are in use; it may '
        "try again, or raise [receive] maximum_associations"
    )


def peer_of(settings: Settings, ae_title: str) -> Peer | None:
    return next((peer for peer in settings.peers if peer.ae_title.strip() == ae_title.strip()), None)


def may_associate(peer: Peer | None, settings: Settings) -> bool:
    """A destination may call too: it reports storage commitment on an association of its own.

    While the worklist is open, any peer may ask it; one without `sends` still stores nothing.
    """
    return peer is not None and (peer.sends or peer.receives_results or settings.ups.enabled)
