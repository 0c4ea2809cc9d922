"""MLLP, the minimal lower layer protocol of HL7 v2 (release 1): blocks over TCP, or over TLS (MLLPS). Knows no HL7.

A block is <VT> message <FS> <CR>. One message goes out, one acknowledgement comes back, on a connection of its own.
"""

import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from config.settings import Hl7Peer, Tls
from dicom_node import tls
from dicom_node.workitem import ConfigError

VT, FS, CR = 0x0B, 0x1C, 0x0D
MAXIMUM_ANSWER_BYTES = 65_536
_PIECE = 65_536


class NotReached(Exception):
    """Nothing of the message has left; the text says why and what to do."""


class NoAnswer(Exception):
    """The message has left, or some of it, and no whole acknowledgement came back: the peer may have it."""


class TooLong(Exception):
    """A block is longer than it may be; `beginning` is what of it was read."""

    def __init__(self, beginning: bytes) -> None:
        super().__init__(f"a block has more than {len(beginning)} bytes")
        self.beginning = beginning


def framed(message: bytes) -> bytes:
    """A message as a block.

    >>> framed(b"MSH")
    b'\\x0bMSH\\x1c\\r'
    """
    return bytes([VT]) + message + bytes([FS, CR])


@dataclass
class Reader:
    """Takes blocks out of a stream of bytes; whatever lies between blocks is dropped.

    A block ends with its FS: some senders forget the CR, and would wait for ever. No character set that is read here
    has that byte in a character.

    >>> reader = Reader(100)
    >>> reader.feed(b"noise" + framed(b"one") + framed(b"two") + bytes([VT]) + b"thr")
    [b'one', b'two']
    >>> reader.begun, reader.feed(b"ee" + bytes([FS]))
    (True, [b'three'])
    """

    maximum_bytes: int
    begun: bool = False  # a block has begun and not ended
    _held: bytearray = field(default_factory=bytearray)

    def feed(self, data: bytes) -> list[bytes]:
        """The blocks that these bytes complete. Raises TooLong."""
        blocks = []
        while data:
            if not self.begun:
                _, started, data = data.partition(bytes([VT]))
                self.begun = bool(started)
                continue
            part, ended, data = data.partition(bytes([FS]))
            self._held += part
            if len(self._held) > self.maximum_bytes:
                raise TooLong(bytes(self._held[: self.maximum_bytes]))
            if ended:
                blocks.append(bytes(self._held))
                self._held.clear()
                self.begun = False
        return blocks


def exchange(
    peer: Hl7Peer,
    message: bytes,
    connect_seconds: float,
    leaving: Callable[[], None] = lambda: None,
    clock: Callable[[], float] = time.monotonic,
) -> bytes:
    """Send one message and give the acknowledgement; `leaving` is called when the connection stands, and may raise.

    The host's name is checked against its certificate (MLLPS); `peer.timeout_seconds` is for everything from the
    first byte sent to the last of the answer.

    Raises
    ------
    NotReached
        No connection, or no TLS: the message may be sent again without a second thought.
    NoAnswer
        Anything after that.
    """
    try:
        connection = _connected(peer, connect_seconds)
    except ConfigError as error:
        raise NotReached(str(error)) from None
    with connection:
        leaving()
        end = clock() + peer.timeout_seconds
        try:
            connection.settimeout(peer.timeout_seconds)
            connection.sendall(framed(message))
            return _answer(connection, end, clock)
        except TimeoutError:
            raise NoAnswer(f"no acknowledgement within {peer.timeout_seconds:g} s") from None
        except TooLong:
            raise NoAnswer(f"an answer of more than {MAXIMUM_ANSWER_BYTES} bytes") from None
        except OSError as error:
            raise NoAnswer(f"the connection ended before the acknowledgement ({_words(error)})") from None


def reach(peer: Hl7Peer, connect_seconds: float) -> None:
    """Connect, and shake hands over TLS; say nothing. Raises NotReached."""
    try:
        _connected(peer, connect_seconds).close()
    except ConfigError as error:
        raise NotReached(str(error)) from None


def _answer(connection: socket.socket, end: float, clock: Callable[[], float]) -> bytes:
    reader = Reader(MAXIMUM_ANSWER_BYTES)
    while True:
        left = end - clock()
        if left <= 0:
            raise TimeoutError
        connection.settimeout(left)
        data = connection.recv(_PIECE)
        if not data:
            raise NoAnswer("the connection was closed before the acknowledgement")
        blocks = reader.feed(data)
        if blocks:
            return blocks[0]


def _connected(peer: Hl7Peer, seconds: float) -> socket.socket:
    where = f"{peer.name} at {peer.host}:{peer.port}"
    entry = f"the [[hl7_peers]] entry {peer.name}"
    context = _client_context(peer) if peer.tls else None
    try:
        plain = socket.create_connection((peer.host, peer.port), seconds)
    except socket.gaierror:
        raise NotReached(
            f"the host name of {peer.name}, {peer.host!r}, cannot be resolved; correct host in {entry}"
        ) from None
    except ConnectionRefusedError:
        raise NotReached(f"{where} refused the connection; start the receiver, or correct {entry}") from None
    except TimeoutError:
        raise NotReached(f"{where} did not answer within {seconds:g} s; look at the firewall and {entry}") from None
    except OSError as error:
        raise NotReached(f"{where} cannot be reached ({_words(error)}); look at the network and {entry}") from None
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if context is None:
        return plain
    try:
        plain.settimeout(seconds)
        return context.wrap_socket(plain, server_hostname=peer.host)
    except ssl.SSLCertVerificationError as error:
        plain.close()
        raise NotReached(
            f"the certificate of {where} is not valid here ({error.verify_message}); see ca of {entry}"
        ) from None
    except (OSError, ValueError) as error:  # ValueError: a host that can be no server name
        plain.close()
        raise NotReached(f"no TLS with {where} ({_words(error)}); look at tls and certificate of {entry}") from None


def _client_context(peer: Hl7Peer) -> ssl.SSLContext:
    files = Tls(certificate=peer.certificate, private_key=peer.private_key, ca=peer.ca)
    try:
        return tls.client_context(files)
    except ConfigError as error:
        raise ConfigError(str(error).replace("[tls]", f"[[hl7_peers]] {peer.name}:")) from None


def _words(error: Exception) -> str:
    """Why, without what the peer said."""
    if isinstance(error, ssl.SSLError):
        return str(error.reason or "TLS").replace("_", " ").lower()
    return (error.strerror if isinstance(error, OSError) else None) or type(error).__name__
