"""Requests an association with a peer, for `deliver`; when there is none, says why in words and what to do."""

import contextlib
import socket
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pynetdicom import AE, _config, build_context, evt
from pynetdicom.association import Association
from pynetdicom.pdu import A_ASSOCIATE_RJ
from pynetdicom.pdu_primitives import SCP_SCU_RoleSelectionNegotiation
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import Verification

from config.identity import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from config.settings import Peer, Settings
from dicom_node.elements import escaped
from dicom_node.entity import NATIVE
from dicom_node.quiet import quiet_libraries
from dicom_node.requestor import associate
from dicom_node.tls import client_context
from dicom_node.workitem import ConfigError, Retryable


@contextmanager
def association_with(
    peer: Peer,
    settings: Settings,
    contexts: list[PresentationContext],
    handlers: Sequence[tuple[Any, ...]] = (),
    roles: Sequence[SCP_SCU_RoleSelectionNegotiation] = (),
) -> Iterator[Association]:
    """An association with the peer, over TLS where its entry says so; released at the end.

    Raises Retryable with what to do.

    Verification is proposed beside `contexts`, so that a peer that accepts none of those still answers.
    """
    association = _request(peer, settings, contexts, handlers, roles)
    accepted = association.acceptor.primitive is not None and association.acceptor.primitive.result == 0
    if not association.is_established and not (accepted and not association.accepted_contexts):
        raise _why_not(association, peer, settings)
    try:
        yield association
    finally:
        association.release()


def _request(
    peer: Peer,
    settings: Settings,
    contexts: list[PresentationContext],
    handlers: Sequence[tuple[Any, ...]],
    roles: Sequence[SCP_SCU_RoleSelectionNegotiation],
) -> Association:
    quiet_libraries()
    _config.LOG_HANDLER_LEVEL = "none"  # its handlers would log names and numbers
    _config.STORE_SEND_CHUNKED_DATASET = True  # a path is sent as it lies on the disk, piece by piece
    entity = AE(settings.node.ae_title)
    entity.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    entity.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    entity.connection_timeout = settings.deliver.connect_timeout_seconds
    entity.acse_timeout = settings.receive.acse_timeout_seconds
    entity.dimse_timeout = settings.receive.dimse_timeout_seconds
    entity.network_timeout = settings.receive.network_timeout_seconds
    try:
        return associate(
            entity,
            (peer.host, peer.port),
            peer.ae_title,
            [*contexts, build_context(Verification, NATIVE)],
            maximum_pdu_bytes=settings.receive.maximum_pdu_bytes,
            roles=roles,
            handlers=[
                *handlers,
                (evt.EVT_PDU_RECV, note_rejection),
                (evt.EVT_CONN_OPEN, _prepare, [settings.receive.dimse_timeout_seconds]),
            ],
            tls=(_tls_context(settings), peer.tls_name or peer.host) if peer.tls else None,
        )
    except socket.gaierror as error:
        raise Retryable(
            f"the host name of {peer.ae_title}, {peer.host!r}, cannot be resolved",
            f"correct host in the [[peers]] entry of {peer.ae_title}, or the name service",
        ) from error


def note_rejection(event: evt.Event) -> None:
    """pynetdicom takes a rejection that comes before its other thread has looked for a connection that failed."""
    if isinstance(event.pdu, A_ASSOCIATE_RJ):
        event.assoc.acceptor.primitive = event.pdu.to_primitive()
        event.assoc.is_rejected = True


def _prepare(event: evt.Event, seconds: float) -> None:
    connection = event.assoc.dul.socket.socket
    # Without it every answer waits for the peer's delayed acknowledgement, up to 50 ms an object.
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.settimeout(seconds)  # pynetdicom lets a peer that stops in the middle of a PDU hold us for ever


def _tls_context(settings: Settings) -> ssl.SSLContext:
    try:
        return client_context(settings.tls)
    except ConfigError as error:
        raise Retryable(str(error), "correct [tls] in the settings; run: prognode check") from None


def _why_not(association: Association, peer: Peer, settings: Settings) -> Retryable:
    """The reason for a missing association, in words, with the remedy."""
    where = f"{peer.ae_title} at {peer.host}:{peer.port}"
    ours = settings.node.ae_title
    if association.is_rejected:
        primitive = association.acceptor.primitive
        source, diagnostic = primitive.result_source, primitive.diagnostic
        if (source, diagnostic) == (1, 3):
            return Retryable(
                f"{where} does not know our AE title {ours}",
                f"let {peer.ae_title} accept AE title {ours} from this host (port {settings.node.port})",
            )
        if (source, diagnostic) == (1, 7):
            return Retryable(
                f"{where} says that {peer.ae_title} is not its AE title",
                f"correct ae_title in the [[peers]] entry of {peer.ae_title} (case counts)",
            )
        if source == 3:
            return Retryable(f"{where} is busy (result {primitive.result}, reason {diagnostic})", "it is tried again")
        return Retryable(
            f"{where} rejected the association: {escaped(str(primitive.reason_str))}",
            f"look into the log of {peer.ae_title}",
        )
    return _why_unreachable(peer, settings, where)


def _why_unreachable(peer: Peer, settings: Settings, where: str) -> Retryable:
    """pynetdicom does not say why a connection failed; one bare connect (and TLS handshake) does."""
    try:
        with socket.create_connection((peer.host, peer.port), settings.deliver.connect_timeout_seconds) as bare:
            if peer.tls:
                with _tls_context(settings).wrap_socket(bare, server_hostname=peer.tls_name or peer.host) as secure:
                    secure.settimeout(1.0)
                    with contextlib.suppress(TimeoutError):
                        secure.recv(1)  # in TLS 1.3 a server says only now that it wants a certificate of ours
            tls = "with TLS" if peer.tls else "without TLS"
            return Retryable(
                f"{where} took the connection, but did not answer the association request",
                f"look whether a DICOM service ({tls}) listens on port {peer.port} there",
            )
    except ssl.SSLError as error:
        return _why_no_tls(error, peer, where)
    except ConnectionRefusedError:
        return Retryable(
            f"{where} refused the connection: nothing listens on port {peer.port}",
            f"start {peer.ae_title}, or correct host and port in its [[peers]] entry",
        )
    except TimeoutError:
        return Retryable(
            f"{where} did not answer within {settings.deliver.connect_timeout_seconds:g} s",
            "look at the firewall and at host and port in the [[peers]] entry",
        )
    except OSError as error:
        return Retryable(
            f"{where} cannot be reached: {error.strerror or type(error).__name__}",
            "look at the network and at host in the [[peers]] entry",
        )


def _why_no_tls(error: ssl.SSLError, peer: Peer, where: str) -> Retryable:
    """What is wrong between the peer's certificate, ours and the settings."""
    if isinstance(error, ssl.SSLCertVerificationError):
        # The name is ours; the rest are OpenSSL's fixed sentences.
        return Retryable(
            f"{where} shows a certificate that is not accepted: {escaped(error.verify_message)}",
            "give its authority as [tls] ca, or its name as tls_name in the [[peers]] entry",
        )
    word = escaped((error.reason or type(error).__name__).replace("_", " ").lower())
    return Retryable(
        f"{where} and this node found no common TLS ({word})",
        f"look whether {peer.ae_title} speaks TLS 1.2 or newer on port {peer.port} and wants a certificate of ours "
        "([tls] certificate)",
    )
