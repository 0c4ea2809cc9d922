"""`prognode check` on the peers: what they have to enter, echo both ways, certificates, a test object."""

import hashlib
import ssl
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any, NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import UID, ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from config.identity import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, MANUFACTURER, MODEL_NAME, VERSION
from config.settings import Hl7Peer, Peer, Settings, Tls
from dicom_node import deliver, mllp, probes, tls
from dicom_node.finding import Finding
from dicom_node.limits import may_associate
from dicom_node.local_time import local
from dicom_node.spool import Spool
from dicom_node.store import Store
from dicom_node.vitals import Component, Contact
from dicom_node.workitem import ConfigError, DeliveryState, Retryable, StageError
from reports.uids import device_uid

DAY_SECONDS = 86_400.0
TEST_NAME, TEST_ID = "PROGNODE^TEST", "PROGNODE-TEST"


def as_heard(settings: Settings) -> Settings:
    """With address and ports where the receiver listens now, if it runs: those of systemd's sockets are not ours."""
    receiver = _heard(settings).receiver
    if receiver is None or not receiver.alive(time.time()) or "port" not in receiver.facts:
        return settings
    told = receiver.facts
    node = replace(settings.node, host=str(told["host"]), port=int(told["port"]))
    return replace(settings, node=node, tls=replace(settings.tls, port=int(told["tls_port"])))


def ae_title(settings: Settings) -> Finding:
    """What a PACS or modality has to enter, to the letter."""
    node, ours = settings.node, settings.node.ae_title
    if any(peer.ae_title.strip() == ours.strip() for peer in settings.peers):
        remedy = "give each AE a title of its own: results that are sent to ourselves go nowhere"
        return Finding("node.ae_title", False, f"a [[peers]] entry has the node's own AE title {ours}", remedy)
    entered = f"enter at the PACS and at each sender: AE title {ours} (case counts), {_where(settings)}"
    if node.host in ("127.0.0.1", "::1", "localhost"):
        remedy = "only this machine can call it there; set [node] host, unless a .socket unit opens the port"
        return Finding("node.ae_title", True, entered, remedy)
    return Finding("node.ae_title", True, entered)


def _where(settings: Settings) -> str:
    node = settings.node
    everywhere = node.host in ("0.0.0.0", "::")  # noqa: S104 - nothing is opened here
    host = probes.host_name() if everywhere else node.host
    plain = [f"port {node.port}"] if settings.tls.listen != "only" else []
    encrypted = [f"port {settings.tls.port} for TLS"] if settings.tls.listen != "off" else []
    return f"host {host}, {' or '.join([*plain, *encrypted])}"


def peers(settings: Settings, *, store_test: bool = False) -> Iterator[Finding]:
    """Each in turn, both ways."""
    heard = _heard(settings)
    if not settings.peers:
        yield Finding("peers", False, "no peer is configured", "add [[peers]] for the PACS and each sender")
    for peer in settings.peers:
        if peer.sends:
            yield _called(peer, settings, heard)
        if not peer.receives_results:
            continue
        answer = deliver.echo(peer, settings)
        yield Finding("peer.echo", answer.ok, answer.message, answer.hint, peer.ae_title)
        if peer.tls and answer.ok:
            yield _certificate(peer, settings)
        if store_test and answer.ok:
            yield _test_object(peer, settings)
    if settings.peers and not settings.destinations():
        remedy = "set receives_results = true for the PACS"
        yield Finding("peers.destinations", False, "no peer receives results", remedy)


def callers(settings: Settings) -> Finding:
    """An AE title is anybody's claim; the address that it must come from is not."""
    senders = [peer for peer in settings.peers if may_associate(peer, settings)]
    anywhere = ", ".join(peer.ae_title for peer in senders if not peer.addresses)
    if not settings.receive.known_callers_only:
        return Finding("peers.callers", True, "anybody may call ([receive] known_callers_only = false)")
    if anywhere:
        text = f"may call from any address: {anywhere} (restrict it: addresses in [[peers]])"
        return Finding("peers.callers", True, text)
    return Finding("peers.callers", True, "each known AE title from its own addresses only")


class _Heard(NamedTuple):
    """When each peer last sent something, and what the receiver says of itself."""

    contacts: Mapping[str, Contact] = MappingProxyType({})
    receiver: Component | None = None


def _heard(settings: Settings) -> _Heard:
    path = Spool(settings.node.spool).store
    if not path.is_file():
        return _Heard()
    try:
        store = Store.open(path)
    except (StageError, ConfigError):  # said of the spool already
        return _Heard()
    contacts = {one.peer.strip(): one for one in store.vitals.contacts() if one.kind == "received"}
    receiver = next((one for one in store.vitals.components() if one.component == "receive"), None)
    store.close()
    return _Heard(contacts, receiver)


def _called(peer: Peer, settings: Settings, heard: _Heard) -> Finding:
    """The other way: nobody but the peer itself can prove that it reaches us."""
    title = peer.ae_title.strip()
    last = heard.contacts.get(title)
    said = f"last object {_moment(last.at)}" if last else ""
    calls = heard.receiver.facts.get("peers", {}).get(title, {}).get("associations", 0) if heard.receiver else 0
    if calls and heard.receiver:
        since = _moment(heard.receiver.started_at)
        said = (
            f"{calls} association{'' if calls == 1 else 's'} since {since}{'; ' + said if said else ', no object yet'}"
        )
    if said:
        return Finding("peer.called", True, said, about=peer.ae_title)
    to_do = f"let it send a C-ECHO to AE title {settings.node.ae_title}, {_where(settings)}"
    remedy = f"{to_do}; if that fails, the log says why"
    return Finding("peer.called", True, "it has not called yet", remedy, peer.ae_title)


def _moment(seconds: float) -> str:
    return f"{local(seconds):%Y-%m-%d %H:%M}"


# -- certificates ----------------------------------------------------------------------------------------------------


def own_certificates(settings: Settings) -> Iterator[Finding]:
    """Files, permissions, chain and expiry, as the node will need them to listen and to call."""
    if settings.tls.certificate is None and settings.tls.ca is None:
        return
    now = time.time()
    try:
        if settings.tls.certificate is not None:
            tls.server_context(settings.tls)
        tls.client_context(settings.tls)
        found = tls.certificates(settings.tls)
    except ConfigError as error:
        yield Finding("tls.settings", False, str(error), "correct [tls] in the settings")
        return
    for one in found:
        complaint = one.complaint(now, settings.tls.expiry_warning_days)
        ours = one.setting == "certificate"
        days = f"{one.path}: {int(one.days_left(now))} days left"
        remedy = "install a new certificate" if complaint else ""
        about = "" if ours else one.setting
        yield Finding("tls.certificate" if ours else "tls.authority", not complaint, complaint or days, remedy, about)
    if settings.tls.certificate is not None:
        yield _chain(settings.tls.certificate)


def _chain(path: Path) -> Finding:
    """Each certificate of the file is issued by the next: peers know the authority alone, not what is in between."""
    found = x509.load_pem_x509_certificates(path.read_bytes())
    for one, issuer in pairwise(found):
        try:
            one.verify_directly_issued_by(issuer)
        except (ValueError, TypeError, InvalidSignature):
            remedy = "put our certificate first, then that of its issuer, and so on, without the root"
            return Finding("tls.chain", False, f"{path}: its certificates do not follow each other", remedy)
    last = found[-1].issuer.rfc4514_string()
    alone = "our certificate" if len(found) == 1 else f"{len(found)} certificates"
    return Finding("tls.chain", True, f"{alone}; a peer has to know the authority {last}")


def _certificate(peer: Peer, settings: Settings) -> Finding:
    seconds = settings.deliver.connect_timeout_seconds
    name, context = peer.tls_name or peer.host, tls.client_context(settings.tls)
    try:
        shown = probes.certificate_of(peer.host, peer.port, name, context, seconds)
    except OSError as error:
        return _not_shown("peer.certificate", peer.ae_title, error)
    return _expiry("peer.certificate", peer.ae_title, shown, settings)


def hl7_certificate(peer: Hl7Peer, settings: Settings) -> Finding:
    """Of a RIS that speaks MLLPS."""
    context = tls.client_context(Tls(certificate=peer.certificate, private_key=peer.private_key, ca=peer.ca))
    seconds = settings.deliver.connect_timeout_seconds
    try:
        shown = probes.certificate_of(peer.host, peer.port, peer.host, context, seconds)
    except OSError as error:
        return _not_shown("hl7.peer_certificate", peer.name, error)
    return _expiry("hl7.peer_certificate", peer.name, shown, settings)


def _not_shown(identifier: str, about: str, error: OSError) -> Finding:
    why = error.verify_message if isinstance(error, ssl.SSLCertVerificationError) else error.strerror
    return Finding(identifier, False, f"it cannot be looked at: {why}", "look at its TLS settings", about)


def _expiry(identifier: str, about: str, shown: x509.Certificate, settings: Settings) -> Finding:
    days = (shown.not_valid_after_utc.timestamp() - time.time()) / DAY_SECONDS
    soon = days < settings.tls.expiry_warning_days
    remedy = f"tell whoever runs {about}: from then on nothing can be sent there" if soon else ""
    text = f"accepted here; it runs out on {shown.not_valid_after_utc:%Y-%m-%d}, in {int(days)} days"
    return Finding(identifier, not soon, text, remedy, about)


# -- HL7 -------------------------------------------------------------------------------------------------------------


def hl7(settings: Settings) -> Iterator[Finding]:
    """Each RIS as far as a message would get without one."""
    for peer in settings.hl7_peers:
        try:
            mllp.reach(peer, settings.deliver.connect_timeout_seconds)
        except mllp.NotReached as error:
            what, _, remedy = str(error).partition("; ")
            yield Finding("hl7.peer", False, what, remedy, peer.name)
            continue
        how = "MLLPS" if peer.tls else "MLLP, in clear"
        yield Finding("hl7.peer", True, f"{peer.host}:{peer.port} can be reached ({how})", about=peer.name)
        if peer.tls:
            yield hl7_certificate(peer, settings)


# -- a test object ---------------------------------------------------------------------------------------------------


def _test_object(peer: Peer, settings: Settings) -> Finding:
    """A C-STORE of one small picture, and whether the PACS lists it then. It is asked for, never done unasked."""
    made = test_object(settings)
    study, series, uid = str(made.StudyInstanceUID), str(made.SeriesInstanceUID), str(made.SOPInstanceUID)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "test.dcm"
        dcmwrite(path, made, enforce_file_format=True)
        document = deliver.Document("test object", (deliver.Variant(str(made.SOPClassUID), uid, path),))
        try:
            (answer,) = deliver.send(peer, [document], settings)
        except Retryable as error:
            return Finding("peer.test_object", False, str(error), error.hint, peer.ae_title)
    if answer.state is not DeliveryState.SENT:
        return Finding("peer.test_object", False, answer.message, "look into the log of the PACS", peer.ae_title)
    listed = None
    with suppress(Retryable):
        listed = deliver.find(peer, study, {uid: series}, settings)
    seen = "offers no C-FIND" if listed is None else "lists it" if uid in listed else "does not list it (yet)"
    # DICOM has no removal that a PACS of today offers. Its UIDs are the same each time: another test adds nothing.
    remedy = f"it stays: remove study {study} there ({TEST_NAME}, {TEST_ID})"
    return Finding("peer.test_object", True, f"stored; {peer.ae_title} {seen}", remedy, peer.ae_title)


def test_object(settings: Settings) -> Dataset:
    """A Secondary Capture Image (PS3.3 A.8.1) of a patient who says that it is a test; of a node always the same."""
    device = device_uid(settings.node.ae_title, settings.node.site)
    made = Dataset()
    made.SOPClassUID = SecondaryCaptureImageStorage
    made.SOPInstanceUID, made.StudyInstanceUID, made.SeriesInstanceUID = (
        _uid(device, name) for name in ("instance", "study", "series")
    )
    for keyword, value in _WRITTEN.items():
        setattr(made, keyword, value)
    made.DeviceUID = device
    made.Rows = made.Columns = 16
    made.PixelData = bytes(range(256))
    meta = made.file_meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    return made


def _uid(device: str, name: str) -> UID:
    digest = hashlib.sha256(f"prognode test {device} {name}".encode()).digest()[:16]
    return UID(f"2.25.{uuid.UUID(bytes=digest, version=4).int}")


_WRITTEN: Mapping[str, Any] = {
    "SpecificCharacterSet": "ISO_IR 192",
    "PatientName": TEST_NAME,
    "PatientID": TEST_ID,
    "PatientBirthDate": "",
    "PatientSex": "",
    "StudyDate": "",
    "StudyTime": "",
    "StudyID": "TEST",
    "StudyDescription": "Test of a connection, no patient",
    "AccessionNumber": "",
    "ReferringPhysicianName": "",
    "Modality": "OT",
    "SeriesNumber": 1,
    "SeriesDescription": "Test of a connection, no patient",
    "Laterality": "",
    "Manufacturer": MANUFACTURER,
    "ManufacturerModelName": MODEL_NAME,
    "SoftwareVersions": VERSION,
    "ConversionType": "SYN",
    "InstanceNumber": 1,
    "PatientOrientation": "",
    "ImageType": ["DERIVED", "SECONDARY"],
    "ImageComments": "Test of a connection by prognode check --store-test; may be removed",
    "SamplesPerPixel": 1,
    "PhotometricInterpretation": "MONOCHROME2",
    "BitsAllocated": 8,
    "BitsStored": 8,
    "HighBit": 7,
    "PixelRepresentation": 0,
    "BurnedInAnnotation": "NO",
}
