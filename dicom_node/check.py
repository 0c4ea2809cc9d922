"""`prognode check`: walks what the node stands on, in order, and explains each failure with its remedy."""

import errno
import importlib.metadata
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any

from config.settings import Settings
from dicom_node import (
    candidates,
    clinical_codes,
    clinical_table,
    deliver,
    fhir_in,
    hl7_in,
    job,
    mllp,
    secrets,
    syslog_out,
    tls,
)
from dicom_node.executors import process
from dicom_node.limits import may_associate
from dicom_node.spool import Spool
from dicom_node.store import Store
from dicom_node.watermark import room
from dicom_node.workitem import ConfigError, StageError
from models.bundle import DEMO, BundleError, load
from reports import fonts
from reports.language import speaker

PACKAGES = ("dicom_node", "analysis", "reports", "config", "models")
DISTRIBUTION = "prognode"


@dataclass(frozen=True)
class Finding:
    """One thing looked at. `remedy` is empty when it is well."""

    name: str
    well: bool
    text: str
    remedy: str = ""


def check(settings: Settings) -> Iterator[Finding]:
    """Look at each thing in turn; nothing is made or changed."""
    yield _packages()
    yield from _bundle(settings)
    yield _language(settings)
    yield _patterns(settings)
    yield from _clinical(settings)
    yield from _spool(settings)
    yield from _secrets(settings)
    yield from _collector(settings)
    yield _isolation(settings)
    yield from _tls(settings)
    yield _callers(settings)
    if not settings.peers:
        yield Finding("peers", False, "no peer is configured", "add [[peers]] for the PACS and each sender")
    for peer in settings.peers:
        if peer.receives_results:
            answer = deliver.echo(peer, settings)
            yield Finding(f"C-ECHO {peer.ae_title}", answer.ok, answer.message, answer.hint)
    yield from _hl7(settings)
    if settings.peers and not settings.destinations():
        yield Finding("destinations", False, "no peer receives results", "set receives_results = true for the PACS")


def _packages() -> Finding:
    """The five packages have short names: another distribution may have overwritten one of them."""
    owners = importlib.metadata.packages_distributions()
    foreign = {name: owners.get(name, []) for name in PACKAGES if set(owners.get(name, [])) - {DISTRIBUTION}}
    if foreign:
        return Finding(
            "packages",
            False,
            f"also shipped by another distribution: {foreign}",
            "install Prognode into a virtual environment of its own",
        )
    return Finding("packages", True, "each belongs to Prognode alone")


def _bundle(settings: Settings) -> Iterator[Finding]:
    try:
        bundle = load(settings.bundle or DEMO)
    except BundleError as error:
        yield Finding("bundle", False, str(error), "install the bundle again, or correct `bundle` in the settings")
        return
    name, version, digest, synthetic = bundle.identity
    note = "; SYNTHETIC - NOT FOR CLINICAL USE" if synthetic else ""
    yield Finding("bundle", True, f"{name} {version}, sha256 {digest[:16]}{note}")
    try:
        yield Finding("golden case", True, job.verify_golden(bundle, settings.job))
    except StageError as error:
        yield Finding("golden case", False, str(error), error.hint)


def _language(settings: Settings) -> Finding:
    """Whether the reports can be drawn in their language, and whether anybody has read its translation."""
    voice = speaker(settings.report.language)
    try:
        fonts.check(voice.code)
    except fonts.FontMissing as error:
        what, _, remedy = str(error).partition("; ")
        return Finding("language", False, what, remedy)
    if voice.reviewed:
        return Finding("language", True, voice.name)
    return Finding("language", True, f"{voice.name}, translated by machine: no clinician who speaks it has reviewed it")


def _patterns(settings: Settings) -> Finding:
    try:
        candidates.choose((), settings.plan)
    except ConfigError as error:
        return Finding("ROI patterns", False, str(error), "correct [plan] roi_name_patterns and roi_exclude_patterns")
    return Finding("ROI patterns", True, ", ".join(settings.plan.roi_name_patterns))


def _clinical(settings: Settings) -> Iterator[Finding]:
    """Where clinical values come from: the mapping of codes, the site's table, FHIR servers."""
    try:
        codes = clinical_codes.load(settings.clinical.codes)
        yield Finding("clinical codes", True, f"{len(codes.variables)} variables")
    except ConfigError as error:
        yield Finding("clinical codes", False, str(error), "correct [clinical] codes")
    looks: list[tuple[str, Callable[[], str]]] = [
        (f"FHIR {server.name}", partial(fhir_in.look, server))
        for server in settings.fhir_servers
        if server.clinical_values
    ]
    if settings.clinical.table is not None:
        looks.insert(0, ("clinical table", lambda: _table(settings)))
    for name, look in looks:
        try:
            yield Finding(name, True, look())
        except StageError as error:
            yield Finding(name, False, str(error), error.hint)


def _hl7(settings: Settings) -> Iterator[Finding]:
    """Each RIS as far as a message would get without one, and the listener's certificate."""
    for peer in settings.hl7_peers:
        try:
            mllp.reach(peer, settings.deliver.connect_timeout_seconds)
        except mllp.NotReached as error:
            what, _, remedy = str(error).partition("; ")
            yield Finding(f"HL7 {peer.name}", False, what, remedy)
        else:
            how = "MLLPS" if peer.tls else "MLLP, in clear"
            yield Finding(f"HL7 {peer.name}", True, f"{peer.host}:{peer.port} can be reached ({how})")
    if settings.hl7.listen:
        try:
            encrypted = hl7_in.server_context(settings.hl7) is not None
        except ConfigError as error:
            yield Finding("HL7 listener", False, str(error), "correct the files in [hl7]")
        else:
            where = f"{settings.hl7.host}:{settings.hl7.port}"
            yield Finding("HL7 listener", True, f"{'MLLPS' if encrypted else 'MLLP, in clear'} on {where}")


def _table(settings: Settings) -> str:
    clinical_table.check(settings.clinical)
    return f"{settings.clinical.table} can be read"


def _spool(settings: Settings) -> Iterator[Finding]:
    folder, remedy = settings.node.spool, "give the service's user this folder (mode 0700)"
    try:
        there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        store = Spool(folder).store
        if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, "not a folder that can be written")
        if store.is_file():
            Store.open(store).close()
    except (OSError, ConfigError) as error:
        text = error.strerror if isinstance(error, OSError) else str(error)
        yield Finding("spool", False, f"{folder}: {text}", remedy)
        return
    mode = folder.stat().st_mode & 0o077 if there == folder else 0
    yield Finding(
        "spool",
        not mode,
        f"{folder} can be written" if there == folder else f"{folder} is not there yet; the node makes it",
        "" if not mode else f"chmod 0700 {folder}: others can read it",
    )
    disk = room(there, settings)
    to_do = "free some space, or shorten the days in [storage]; what lies there: prognode storage"
    yield Finding(
        "disk",
        not disk.low,
        f"{disk.free / 1e9:.1f} GB free; warned below {disk.warn / 1e9:.1f} GB, "
        f"nothing more is taken below {disk.refuse / 1e9:.1f} GB",
        f"{to_do}{'; C-STORE is answered with A700 until then' if disk.full else ''}" if disk.low else "",
    )


def _secrets(settings: Settings) -> Iterator[Finding]:
    """Tokens, passwords and private keys: in files that nobody else can read."""
    files = sorted(set(_secret_files(settings)))
    wrong = 0
    for path in files:
        try:
            secrets.secret_file(path)
        except ConfigError as error:
            wrong += 1
            text, _, remedy = str(error).partition("; ")
            yield Finding("secret", False, text, remedy)
    if files and not wrong:
        yield Finding("secrets", True, f"{len(files)} file{'' if len(files) == 1 else 's'}, read by nobody else")


def _secret_files(settings: Any) -> Iterator[Path]:
    """Every setting that names a file with a secret."""
    for field in fields(settings):
        value = getattr(settings, field.name)
        if field.name in ("private_key", "client_secret_file", "token_file") and value is not None:
            yield value
        for each in value if isinstance(value, tuple) else (value,):
            if is_dataclass(each):
                yield from _secret_files(each)


def _collector(settings: Settings) -> Iterator[Finding]:
    """The collector of audit messages, where one is configured."""
    syslog = settings.audit.syslog
    if syslog.host:
        why = syslog_out.why_unreachable(settings)
        remedy = (
            "correct [audit.syslog], or start the collector; until then the messages wait in the spool" if why else ""
        )
        yield Finding(
            "audit collector", not why, f"{syslog.host}:{syslog.port} {why or 'takes TLS connections'}", remedy
        )


def _tls(settings: Settings) -> Iterator[Finding]:
    """Files, permissions and expiry, as the node will need them to listen and to call."""
    if settings.tls.certificate is None and settings.tls.ca is None:
        return
    now = time.time()
    try:
        if settings.tls.certificate is not None:
            tls.server_context(settings.tls)
        tls.client_context(settings.tls)
        found = tls.certificates(settings.tls)
    except ConfigError as error:
        yield Finding("TLS", False, str(error), "correct [tls] in the settings")
        return
    for one in found:
        complaint = one.complaint(now, settings.tls.expiry_warning_days)
        name = "TLS certificate" if one.setting == "certificate" else f"TLS {one.setting}"
        days = f"{one.path}: {int(one.days_left(now))} days left"
        yield Finding(name, not complaint, complaint or days, "install a new certificate" if complaint else "")


def _callers(settings: Settings) -> Finding:
    """An AE title is anybody's claim; the address that it must come from is not."""
    senders = [peer for peer in settings.peers if may_associate(peer, settings)]
    anywhere = ", ".join(peer.ae_title for peer in senders if not peer.addresses)
    if not settings.receive.known_callers_only:
        return Finding("callers", True, "anybody may call ([receive] known_callers_only = false)")
    if anywhere:
        return Finding("callers", True, f"may call from any address: {anywhere} (restrict it: addresses in [[peers]])")
    return Finding("callers", True, "each known AE title from its own addresses only")


def _isolation(settings: Settings) -> Finding:
    found = process.probe()
    well = not found.missing or settings.job.isolation == "preferred"
    return Finding(
        "job isolation",
        well,
        f"{found.text}; memory {settings.job.memory_bytes / 1e9:.0f} GB, {settings.job.wall_clock_seconds:.0f} s",
        "" if well else "install bubblewrap and libseccomp2, run the service as a user of its own, allow it namespaces",
    )
