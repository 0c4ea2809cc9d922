"""The port of the page: who may hold how many connections, counted before TLS; uvicorn's limits begin behind it."""

import asyncio
import errno
import ipaddress
import logging
import socket
import ssl
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from dicom_node.limits import Buckets, network_of, plain_address

LOGGER = logging.getLogger(__name__)
HANDSHAKE_SECONDS = 10.0
GOODBYE_SECONDS = 5.0  # for the other end's part of closing TLS
MAXIMUM_OPEN = 600  # of all; more than uvicorn answers, so that most of those in excess get a 503
MAXIMUM_OF_ADDRESS = 400  # a ward behind one address: all live updates there can be, and as much again
_AT_ONCE = 100  # refused, until the loop does something else
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)  # as asyncio has them


class Loop(asyncio.SelectorEventLoop):
    """asyncio's loop with shorter times for TLS; uvicorn has no setting for them."""

    async def create_server(self, *args: Any, **options: Any) -> asyncio.Server:
        if isinstance(options.get("ssl"), ssl.SSLContext):
            options |= {"ssl_handshake_timeout": HANDSHAKE_SECONDS, "ssl_shutdown_timeout": GOODBYE_SECONDS}
        return await super().create_server(*args, **options)


class Listener(socket.socket):
    """A listening socket that hangs up on whoever has too many connections open, before anything is made for them."""

    def __init__(self, listening: socket.socket, trusted_proxies: Sequence[str]) -> None:
        """Takes over `listening`. Of a proxy's address only the number of all connections counts."""
        super().__init__(fileno=listening.detach())
        self._proxies = _networks(trusted_proxies)
        self._everybody = "*" in trusted_proxies
        self._open: dict[socket.socket, str] = {}
        self._told = Buckets(per_second=1 / 60, burst=1)
        self._exhausted = False

    def accept(self) -> tuple[socket.socket, Any]:
        """The next connection that may stay. Raises BlockingIOError when none waits, OSError as `socket` does."""
        if self._exhausted:  # asyncio comes again in a second, but first 2,047 times at once, each with its log entry
            self._exhausted = False
            raise BlockingIOError
        for _ in range(_AT_ONCE):
            try:
                connection, address = super().accept()
            except OSError as error:
                self._exhausted = error.errno in _EXHAUSTED
                raise
            if self._admit(connection, plain_address(address[0])):
                return connection, address
            connection.close()
        raise BlockingIOError

    def _admit(self, connection: socket.socket, address: str) -> bool:
        self._open = {one: network for one, network in self._open.items() if one.fileno() >= 0}
        network = network_of(address)
        of_address = sum(1 for one in self._open.values() if one == network)
        if len(self._open) >= MAXIMUM_OPEN or (of_address >= MAXIMUM_OF_ADDRESS and not self._is_proxy(address)):
            if self._told.take(network, time.monotonic()):
                LOGGER.warning(
                    "web.too_many from %s: it has %d of %d connections", address, of_address, len(self._open)
                )
            return False
        self._open[connection] = network
        return True

    def _is_proxy(self, address: str) -> bool:
        return self._everybody or any(ipaddress.ip_address(address) in one for one in self._proxies)


def as_seen(trusted_proxies: Sequence[str]) -> list[str]:
    """The proxies as uvicorn may meet them: an IPv4 address comes as ::ffff:a.b.c.d where the socket is IPv6's.

    >>> as_seen(["10.1.2.3", "10.0.0.0/8"])
    ['10.1.2.3', '10.0.0.0/8', '::ffff:10.1.2.3/128', '::ffff:10.0.0.0/104']
    """
    of_ipv4 = (one for one in _networks(trusted_proxies) if one.version == 4)
    return [*trusted_proxies, *(f"::ffff:{one.network_address}/{96 + one.prefixlen}" for one in of_ipv4)]


def _networks(addresses: Sequence[str]) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    found = []
    for one in addresses:
        with suppress(ValueError):  # "*", or a name: uvicorn's business
            found.append(ipaddress.ip_network(one))
    return found
