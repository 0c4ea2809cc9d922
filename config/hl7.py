"""Settings of HL7 v2 over MLLP: the section [hl7] and the entries [[hl7_peers]]. Read through `config.settings`."""

import ipaddress
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Hl7:
    """How we name ourselves, and the listener for ADT and ORU (off unless `listen`).

    `processing_id` is MSH-11 of what we send, and what a message to us must say. `assigning_authority` is whose
    identifiers are Patient IDs in the PACS; "": the first identifier of a message. `allowed_hosts`: addresses or
    networks (CIDR).
    """

    sending_application: str = "PROGNODE"
    sending_facility: str = ""
    processing_id: Literal["P", "T", "D"] = "P"
    listen: bool = False
    host: str = "127.0.0.1"
    port: int = 2575
    certificate: Path | None = None
    private_key: Path | None = None
    client_ca: Path | None = None
    allowed_hosts: tuple[str, ...] = ()
    assigning_authority: str = ""
    maximum_message_bytes: int = 1_000_000
    maximum_connections: int = 20
    message_timeout_seconds: float = 30.0  # from the first byte of a message to its last; also for the TLS handshake
    idle_timeout_seconds: float = 3600.0  # of a connection between two messages


@dataclass(frozen=True)
class Hl7Peer:
    """A RIS that gets results as ORU^R01 over MLLP, or MLLPS with `tls`."""

    name: str
    host: str = "127.0.0.1"
    port: int = 2575
    receiving_application: str = ""
    receiving_facility: str = ""
    tls: bool = False
    ca: Path | None = None
    certificate: Path | None = None
    private_key: Path | None = None
    timeout_seconds: float = 30.0
    receives_results: bool = True


def mistakes(hl7: Hl7, peers: Sequence[Hl7Peer]) -> Iterator[str]:
    """What would only show when somebody calls, with key and remedy."""
    for address in hl7.allowed_hosts:
        try:
            ipaddress.ip_network(address, strict=False)
        except ValueError:
            yield f"[hl7] {address!r} in allowed_hosts is no network; write 10.1.2.3 or 10.1.2.0/24"
    if (hl7.certificate is None) != (hl7.private_key is None):
        yield "[hl7] certificate and private_key go together; give both or none"
    if hl7.client_ca is not None and hl7.certificate is None:
        yield "[hl7] client_ca needs certificate and private_key: only MLLPS asks for a certificate"
    if hl7.listen and not _on_loopback(hl7.host) and not hl7.allowed_hosts and hl7.client_ca is None:
        yield (
            f"[hl7] on {hl7.host!r} anybody could rename patients; name the senders in allowed_hosts, or set client_ca"
        )
    for peer in peers:
        where = f"[[hl7_peers]] {peer.name}"
        if (peer.certificate is None) != (peer.private_key is None):
            yield f"{where}: certificate and private_key go together; give both or none"
        if not peer.tls and (peer.ca or peer.certificate):
            yield f"{where}: ca and certificate are for MLLPS; set tls = true"
        if not math.isfinite(peer.timeout_seconds) or peer.timeout_seconds <= 0:
            yield f"{where}: timeout_seconds must be a number above 0"


def _on_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
