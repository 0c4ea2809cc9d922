"""Settings of the node: frozen dataclasses filled from one TOML file. Built once, in `cli`, and handed down.

The commented default stands beside this module in `prognode.toml`; a test holds both to the same keys and values.
"""

import ipaddress
import re
import tomllib
import unicodedata
import zoneinfo
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from config import bounds, hl7, job, planning
from config.clinical import Clinical
from config.environment import merged, overrides
from config.hl7 import Hl7 as Hl7
from config.hl7 import Hl7Peer as Hl7Peer
from config.job import Job as Job
from config.keeping import AuditTrail, Storage
from config.planning import Planning as Planning
from config.planning import Rule as Rule
from config.toml_values import Mistake, build
from config.toml_values import SettingsError as SettingsError


@dataclass(frozen=True)
class Node:
    """Who this node is on the DICOM network and where it keeps its files."""

    ae_title: str = "PROGNODE"
    host: str = "127.0.0.1"
    port: int = 11112
    spool: Path = Path("spool")
    site: str = ""
    time_zone: str = ""  # IANA name for the times that people read, such as Europe/Berlin; "": the host's


@dataclass(frozen=True)
class Peer:
    """Another AE: a modality or workstation that sends to us, a PACS that gets results, or both.

    `addresses`: networks (CIDR) that its calls must come from; empty: any. `tls`: every association with it, both ways.
    """

    ae_title: str
    host: str = "127.0.0.1"
    port: int = 104
    addresses: tuple[str, ...] = ()
    tls: bool = False
    tls_name: str = ""  # name in its certificate where that is not `host`
    sends: bool = True
    receives_results: bool = False
    proof: Literal["auto", "commitment", "find", "none"] = "auto"


@dataclass(frozen=True)
class Receive:
    """Storage SCP. A caller that is no peer with `sends` is refused while `known_callers_only` is on.

    `maximum_associations_per_peer` holds for an AE title and for an address; `associations_per_second` (on average,
    `association_burst` at once) for an address. `maximum_waiting_connections` are those before their association.
    """

    known_callers_only: bool = True
    maximum_associations: int = 50
    maximum_associations_per_peer: int = 20
    associations_per_second: float = 50.0
    association_burst: int = 500
    maximum_waiting_connections: int = 512
    maximum_pdu_bytes: int = 131072  # 0: no limit announced (PS3.8 annex D.1)
    acse_timeout_seconds: float = 10.0
    dimse_timeout_seconds: float = 30.0
    network_timeout_seconds: float = 60.0
    reserve_disk_bytes: int = 2_000_000_000
    fast: bool = True


@dataclass(frozen=True)
class Tls:
    """DICOM over TLS (PS3.15 annex B, BCP 195): our certificate, and the authorities of those of our peers.

    `listen`: "beside" the plain port, or "only", and then `node.port` is not opened. With `client_ca`, a caller must
    show a certificate of that authority. `ca` is the authority of the peers that we call; None: those of the host.
    """

    listen: Literal["off", "beside", "only"] = "off"
    port: int = 2762
    certificate: Path | None = None
    private_key: Path | None = None
    client_ca: Path | None = None
    ca: Path | None = None
    expiry_warning_days: float = 30.0


@dataclass(frozen=True)
class Report:
    """What the emitted objects say of themselves, and which of the optional ones are made."""

    series_number: int = 9000
    language: Literal["en", "de", "fr", "es", "ja", "ko"] = "en"
    encapsulated_pdf: bool = False
    presentation_state: bool = True
    sr_sop_classes: tuple[str, ...] = (
        "1.2.840.10008.5.1.4.1.1.88.34",
        "1.2.840.10008.5.1.4.1.1.88.33",
        "1.2.840.10008.5.1.4.1.1.88.22",
    )


@dataclass(frozen=True)
class Deliver:
    """Back-off of a delivery: first delay, factor, longest delay; it is tried for ever unless refused for good."""

    first_delay_seconds: float = 5.0
    delay_factor: float = 2.0
    longest_delay_seconds: float = 3600.0
    commitment_wait_seconds: float = 60.0
    connect_timeout_seconds: float = 10.0
    hold_for_review: bool = False  # results leave only when an operator has released them
    reread_demographics: bool = True  # C-FIND at the first destination before anything is sent


@dataclass(frozen=True)
class Oidc:
    """Sign-in by the hospital's OpenID Connect provider; `issuer` "" turns it off.

    The claim `role_claim` of the ID token (a text or a list) decides: a value of `operator_values` makes an operator,
    one of `viewer_values` a viewer, anything else is refused. It is asked for again after `session_hours`.
    """

    issuer: str = ""
    client_id: str = ""
    client_secret_file: Path | None = None
    role_claim: str = "groups"
    viewer_values: tuple[str, ...] = ()
    operator_values: tuple[str, ...] = ()
    session_hours: float = 4.0


@dataclass(frozen=True)
class Web:
    """The worklist page and the JSON API. `public_url` is what browsers call, where a proxy stands in front.

    `trusted_proxies`: addresses whose X-Forwarded-For and X-Forwarded-Proto are believed.
    """

    host: str = "127.0.0.1"
    port: int = 8443
    public_url: str = ""
    trusted_proxies: tuple[str, ...] = ()
    certificate: Path | None = None
    private_key: Path | None = None
    session_idle_minutes: float = 30.0
    session_hours: float = 10.0
    oidc: Oidc = field(default_factory=Oidc)


@dataclass(frozen=True)
class FhirServer:
    """A FHIR R4 server that gets results, or that clinical values are read from, or both."""

    name: str
    base_url: str
    token_file: Path | None = None
    ca: Path | None = None
    timeout_seconds: float = 30.0
    receives_results: bool = False
    clinical_values: bool = False
    patient_identifier_system: str = ""  # must be given for results and for clinical values
    issuer_of_patient_id: str = ""  # only patients of this issuer are asked about; "": of any


@dataclass(frozen=True)
class Ups:
    """Unified Procedure Steps: each work item as a UPS that other AEs may query and subscribe to."""

    enabled: bool = False


@dataclass(frozen=True)
class Telemetry:
    """What machines that watch the node get beside the metrics: log lines, and traces by OTLP/HTTP."""

    log_format: Literal["text", "json"] = "text"
    log_level: Literal["INFO", "WARNING", "ERROR"] = "INFO"
    traces_endpoint: str = ""
    traces_ca: Path | None = None


@dataclass(frozen=True)
class Settings:
    """Everything that can be configured."""

    node: Node = field(default_factory=Node)
    peers: tuple[Peer, ...] = ()
    receive: Receive = field(default_factory=Receive)
    tls: Tls = field(default_factory=Tls)
    plan: Planning = field(default_factory=Planning)
    rules: tuple[Rule, ...] = ()
    job: Job = field(default_factory=Job)
    clinical: Clinical = field(default_factory=Clinical)
    report: Report = field(default_factory=Report)
    deliver: Deliver = field(default_factory=Deliver)
    web: Web = field(default_factory=Web)
    hl7: Hl7 = field(default_factory=Hl7)
    hl7_peers: tuple[Hl7Peer, ...] = ()
    fhir_servers: tuple[FhirServer, ...] = ()
    ups: Ups = field(default_factory=Ups)
    storage: Storage = field(default_factory=Storage)
    audit: AuditTrail = field(default_factory=AuditTrail)
    telemetry: Telemetry = field(default_factory=Telemetry)
    bundle: Path | None = None  # None: the synthetic demo bundle that comes with the package

    def destinations(self) -> tuple[Peer, ...]:
        """Peers that get results."""
        return tuple(peer for peer in self.peers if peer.receives_results)

    def message_destinations(self) -> tuple[str, ...]:
        """Destinations of HL7 and FHIR messages, as delivery rows name them: "hl7:RIS", "fhir:EHR"."""
        ris = (f"hl7:{peer.name}" for peer in self.hl7_peers if peer.receives_results)
        return (*ris, *(f"fhir:{server.name}" for server in self.fhir_servers if server.receives_results))

    def every_destination(self) -> tuple[str, ...]:
        """All that get results, as delivery rows name them; PACS first."""
        return (*(peer.ae_title for peer in self.destinations()), *self.message_destinations())

    def rule_for(self, calling_ae_title: str) -> Rule:
        """The first rule for what this AE sends; without one, the node's own ways, as a rule without a name."""
        own = Rule("", bundle=self.bundle, plan=self.plan)
        return next((rule for rule in self.rules if rule.matches(calling_ae_title)), own)


def load(path: Path | None, environment: Mapping[str, str] | None = None) -> Settings:
    """Read a TOML file into Settings; variables of `environment` (see config.environment) go over it.

    Relative paths are taken from the file's folder. Raises SettingsError naming file, key and remedy.
    """
    settings, mistakes = read(path, environment or {})
    if mistakes:
        raise SettingsError(*mistakes)
    return settings


def read(path: Path | None, environment: Mapping[str, str]) -> tuple[Settings, tuple[str, ...]]:
    """The settings as far as they can be used, and what cannot be: each mistake with file, key and remedy."""
    wrong: list[Mistake] = []
    named = overrides(Settings, environment, wrong)
    said = [mistake.text for mistake in wrong]
    try:
        data = document(path)
    except SettingsError as error:
        return Settings(), (*error.mistakes, *said)
    where = f"{path}{' and variables of the environment' if named else ''}: " if path else ""
    settings, of_file = _parsed(merged(data, named), folder_of(path), {mistake.table for mistake in wrong})
    return settings, (*said, *(f"{where}{text}" for text in of_file))


def folder_of(path: Path | None) -> Path:
    """Where relative paths of a settings file begin; without one, the working directory."""
    return path.resolve().parent if path else Path()


def document(path: Path | None) -> dict[str, Any]:
    """The parsed file, if there is one. Raises SettingsError."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8")) if path else {}
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read ({error.strerror}); give the file with --config") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits is a plain ValueError
        raise SettingsError(f"{path}: is not TOML: {error}; texts need quotes, a key stands once") from error


def parse(data: dict[str, Any], folder: Path) -> Settings:
    """Build Settings from a parsed TOML document; relative paths are taken from `folder`.

    >>> parse({"node": {"prot": 104}}, Path("."))
    Traceback (most recent call last):
    ...
    config.toml_values.SettingsError: unknown key 'node.prot' (did you mean 'port'?)
    """
    settings, mistakes = _parsed(data, folder, set())
    if mistakes:
        raise SettingsError(*mistakes)
    return settings


def _parsed(data: dict[str, Any], folder: Path, broken: set[str]) -> tuple[Settings, list[str]]:
    """Settings without what is wrong in them, and what is; `broken`: tables in which something is wrong already.

    What several values say together is not asked of a table with a slip in it: it might only follow from that.
    """
    wrong: list[Mistake] = []
    settings = cast(Settings, build(Settings, planning.inherited(data), "", folder, wrong))
    broken = broken | {mistake.table for mistake in wrong}
    said = [_at_its_place(mistake) for mistake in wrong]
    said += [*_peers(settings), *_names(settings), *_values(settings), *bounds.mistakes(settings)]
    together: tuple[tuple[set[str], Iterator[str]], ...] = (
        ({"tls"}, _tls(settings.tls)),
        ({"hl7", "hl7_peers"}, hl7.mistakes(settings.hl7, settings.hl7_peers)),
        (
            {"rules", "peers", "hl7_peers", "fhir_servers"},
            planning.mistakes(settings.rules, settings.every_destination()),
        ),
        ({"job"}, job.mistakes(settings.job)),
        ({"fhir_servers"}, _whose(settings.fhir_servers)),
    )
    for tables, mistakes in together:
        said += () if tables & broken else mistakes
    return settings, _once(said)


def _at_its_place(mistake: Mistake) -> str:
    """What is said of a mistake; of `bundle` under some table, where it has to stand."""
    if mistake.text.startswith(f"unknown key '{mistake.key}'") and mistake.key.endswith(".bundle"):
        return f"unknown key '{mistake.key}': put bundle at the top of the file, before the first [section]"
    return mistake.text


def _once(said: list[str]) -> list[str]:
    """A slip in [plan] is in the plan of each rule, too."""
    first: dict[str, str] = {}
    for text in said:
        first.setdefault(re.sub(r"rules(\[\d+\]\.| .* )plan\b", "plan", text), text)
    return [*first.values()]


def _peers(settings: Settings) -> Iterator[str]:
    """AE titles that DICOM does not allow or that look like a message destination, and addresses that are none."""
    titles = [peer.ae_title for peer in settings.peers]
    for where, title in [("[node]", settings.node.ae_title), *(("[[peers]]", title) for title in titles)]:
        if not 1 <= len(title.strip()) <= 16 or not title.isascii() or "\\" in title or not title.isprintable():
            yield f"{where} ae_title {title!r}: use 1 to 16 printable ASCII characters, no backslash"
        elif where == "[[peers]]" and title.startswith(("hl7:", "fhir:")):
            yield f"{where} ae_title {title!r}: must not begin with 'hl7:' or 'fhir:'"
    plain = [title.strip() for title in titles]  # a space at either end does not count (PS3.5 section 6.2, AE)
    doubles = sorted({title for title in plain if plain.count(title) > 1})
    if doubles:
        yield f"[[peers]] names {', '.join(doubles)} more than once; merge the entries"
    for peer in settings.peers:
        where = f"[[peers]] {peer.ae_title}"
        for address in peer.addresses:
            try:
                ipaddress.ip_network(address, strict=False)
            except ValueError:
                yield f"{where}: {address!r} in addresses is no network; write 10.1.2.3 or 10.1.2.0/24"


def _names(settings: Settings) -> Iterator[str]:
    """Names of message destinations stand in rows, logs and pages."""
    for key, names in (
        ("hl7_peers", [peer.name for peer in settings.hl7_peers]),
        ("fhir_servers", [server.name for server in settings.fhir_servers]),
    ):
        for name in names:
            if not re.fullmatch(r"[A-Za-z0-9_.-]{1,32}", name):
                yield f"[[{key}]] name {name!r}: use 1 to 32 letters, digits, '-', '_' or '.'"
        if len(set(names)) < len(names):
            yield f"[[{key}]] has a name more than once; give each entry a name of its own"


def _whose(servers: Sequence[FhirServer]) -> Iterator[str]:
    """A number without its system may be another person's insurance number."""
    for server in servers:
        if (server.receives_results or server.clinical_values) and not server.patient_identifier_system.strip():
            yield (
                f"[[fhir_servers]] {server.name}: patient_identifier_system is missing; give the system of the"
                " identifier that is the Patient ID, as the server's Patient resources have it"
            )


def _values(settings: Settings) -> Iterator[str]:
    zone = settings.node.time_zone
    if zone and zone not in zoneinfo.available_timezones():
        yield f"'node.time_zone' {zone!r} is no IANA time zone; see timedatectl list-timezones"
    site = settings.node.site
    if len(site) > 64 or any(c == "\\" or unicodedata.category(c) in {"Cc", "Cs", "Zl", "Zp"} for c in site):
        yield "'node.site' must be at most 64 characters without backslash and control characters, as an LO"
    classes = settings.report.sr_sop_classes
    if not classes or set(classes) - set(Report().sr_sop_classes):
        yield f"'report.sr_sop_classes' must hold some of {', '.join(Report().sr_sop_classes)}"
    for name, path in (
        ("node.spool", settings.node.spool),
        ("bundle", settings.bundle),
        ("clinical.table", settings.clinical.table),
        ("clinical.codes", settings.clinical.codes),
    ):
        if path is not None and "\0" in str(path):
            yield f"'{name}' holds a NUL character; it is no path"


def _tls(tls: Tls) -> Iterator[str]:
    """What it lacks would only show when somebody calls."""
    if (tls.certificate is None) != (tls.private_key is None):
        yield "[tls] certificate and private_key go together; give both or none"
    elif tls.listen != "off" and tls.certificate is None:
        yield f"[tls] listen = {tls.listen!r} needs certificate and private_key"
