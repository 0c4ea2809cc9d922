"""Settings of the node: frozen dataclasses filled from one TOML file. Built once, in `cli`, and handed down.

The commented default stands beside this module in `prognode.toml`; a test holds both to the same keys and values.
"""

import difflib
import math
import tomllib
import types
import typing
import zoneinfo
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, cast

_MAY_BE_ZERO = frozenset({"reserve_disk_bytes", "missing_instances_hours", "quiet_seconds", "commitment_wait_seconds"})


class SettingsError(ValueError):
    """The settings cannot be used; the text names the key and the remedy."""


@dataclass(frozen=True)
class Node:
    """Who this node is on the DICOM network and where it keeps its files."""

    ae_title: str = "PROGNODE"
    host: str = "127.0.0.1"
    port: int = 11112
    spool: Path = Path("spool")
    site: str = ""
    time_zone: str = ""  # IANA name for the times in reports, such as Europe/Berlin; "": the host's


@dataclass(frozen=True)
class Peer:
    """Another AE: a modality or workstation that sends to us, a PACS that gets results, or both."""

    ae_title: str
    host: str = "127.0.0.1"
    port: int = 104
    sends: bool = True
    receives_results: bool = False
    proof: Literal["auto", "commitment", "find", "none"] = "auto"


@dataclass(frozen=True)
class Receive:
    """Storage SCP. A caller that is no peer with `sends` is refused while `known_callers_only` is on."""

    known_callers_only: bool = True
    maximum_associations: int = 50
    maximum_pdu_bytes: int = 131072
    acse_timeout_seconds: float = 10.0
    dimse_timeout_seconds: float = 30.0
    network_timeout_seconds: float = 60.0
    reserve_disk_bytes: int = 2_000_000_000


@dataclass(frozen=True)
class Planning:
    """Which ROI is the tumour, what to do with none or several, and which CT is eligible."""

    roi_name_patterns: tuple[str, ...] = ("^gtv", "tumou?r", "lesion", "mass", "neoplasm")
    roi_exclude_patterns: tuple[str, ...] = ("node", "gtvn", "gtv-n")
    several_rois: Literal["reject", "largest", "union"] = "reject"
    only_roi_if_unnamed: bool = True
    minimum_slices: int = 8
    minimum_slice_spacing_mm: float = 0.3
    maximum_slice_spacing_mm: float = 5.0
    minimum_pixel_spacing_mm: float = 0.3
    maximum_pixel_spacing_mm: float = 2.0
    missing_instances_hours: float = 24.0
    quiet_seconds: float = 30.0


@dataclass(frozen=True)
class Job:
    """How the analysis runs. `isolation = "required"` refuses to run where a network namespace is not to be had."""

    executor: Literal["process"] = "process"
    isolation: Literal["required", "preferred"] = "preferred"
    memory_bytes: int = 8_000_000_000
    cpu_seconds: int = 1800
    wall_clock_seconds: float = 900.0
    output_bytes: int = 1_000_000_000
    attempts: int = 3


@dataclass(frozen=True)
class Clinical:
    """Table of clinical values (CSV, first column names in the first line) keyed by Patient ID."""

    table: Path | None = None
    patient_id_column: str = "patient_id"


@dataclass(frozen=True)
class Report:
    """What the emitted objects say of themselves."""

    series_number: int = 9000
    language: Literal["en"] = "en"
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


@dataclass(frozen=True)
class Settings:
    """Everything that can be configured."""

    node: Node = field(default_factory=Node)
    peers: tuple[Peer, ...] = ()
    receive: Receive = field(default_factory=Receive)
    plan: Planning = field(default_factory=Planning)
    job: Job = field(default_factory=Job)
    clinical: Clinical = field(default_factory=Clinical)
    report: Report = field(default_factory=Report)
    deliver: Deliver = field(default_factory=Deliver)
    bundle: Path | None = None  # None: the synthetic demo bundle that comes with the package

    def destinations(self) -> tuple[Peer, ...]:
        """Peers that get results."""
        return tuple(peer for peer in self.peers if peer.receives_results)


def load(path: Path) -> Settings:
    """Read a TOML file into Settings.

    Relative paths are taken from the file's folder. Raises SettingsError naming key and remedy.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read ({error.strerror}); give the file with --config") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: is not TOML: {error}") from error
    return parse(data, path.resolve().parent)


def parse(data: dict[str, Any], folder: Path) -> Settings:
    """Build Settings from a parsed TOML document; relative paths are taken from `folder`.

    >>> parse({"node": {"prot": 104}}, Path("."))
    Traceback (most recent call last):
    ...
    config.settings.SettingsError: unknown key 'node.prot' (did you mean 'port'?)
    """
    settings = cast(Settings, _build(Settings, data, "", folder))
    titles = [peer.ae_title for peer in settings.peers]
    for title in [settings.node.ae_title, *titles]:
        if not 1 <= len(title.strip()) <= 16 or not title.isascii() or "\\" in title or not title.isprintable():
            raise SettingsError(f"AE title {title!r}: use 1 to 16 printable ASCII characters, no backslash")
    if settings.node.time_zone and settings.node.time_zone not in zoneinfo.available_timezones():
        raise SettingsError(
            f"'node.time_zone' {settings.node.time_zone!r} is no IANA time zone; see timedatectl list-timezones"
        )
    _check_ranges(settings)
    doubles = sorted({title for title in titles if titles.count(title) > 1})
    if doubles:
        raise SettingsError(f"[[peers]] names {', '.join(doubles)} more than once; merge the entries")
    return settings


def _check_ranges(settings: Settings) -> None:
    ports = [
        ("node.port", settings.node.port),
        *((f"peers {peer.ae_title} port", peer.port) for peer in settings.peers),
    ]
    for name, port in ports:
        if not 0 <= port <= 65535:
            raise SettingsError(f"'{name}' must be from 0 to 65535, not {port}")
    for section in ("receive", "plan", "job", "deliver"):
        for key, value in vars(getattr(settings, section)).items():
            if isinstance(value, bool) or not isinstance(value, int | float):
                continue
            if not math.isfinite(value) or value < 0 or (value == 0 and key not in _MAY_BE_ZERO):
                raise SettingsError(f"'{section}.{key}' must be a number above 0, not {value}")
    classes = settings.report.sr_sop_classes
    if not classes or set(classes) - set(Report().sr_sop_classes):
        raise SettingsError(f"'report.sr_sop_classes' must hold some of {', '.join(Report().sr_sop_classes)}")
    for name, path in (
        ("node.spool", settings.node.spool),
        ("bundle", settings.bundle),
        ("clinical.table", settings.clinical.table),
    ):
        if path is not None and "\0" in str(path):
            raise SettingsError(f"'{name}' holds a NUL character; it is no path")


def _build(cls: Any, data: dict[str, Any], where: str, folder: Path) -> Any:
    hints = typing.get_type_hints(cls)
    known = {f.name for f in fields(cls)}
    for key in data:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f" (did you mean '{near[0]}'?)" if near else f" (known: {', '.join(sorted(known))})"
            raise SettingsError(f"unknown key '{where}{key}'{hint}")
    values = {key: _value(hints[key], value, f"{where}{key}", folder) for key, value in data.items()}
    try:
        return cls(**values)
    except TypeError as error:
        raise SettingsError(f"{where.rstrip('.') or 'settings'}: {error}") from error


def _value(hint: Any, value: Any, where: str, folder: Path) -> Any:
    origin = typing.get_origin(hint)
    if origin in (types.UnionType, typing.Union):  # Path | None
        hint = next(arg for arg in typing.get_args(hint) if arg is not type(None))
        origin = typing.get_origin(hint)
    if is_dataclass(hint):
        if not isinstance(value, dict):
            raise SettingsError(f"'{where}' must be a table, as in [{where}]")
        return _build(hint, value, f"{where}.", folder)
    if origin is tuple:
        if not isinstance(value, list):
            raise SettingsError(f"'{where}' must be a list")
        item = typing.get_args(hint)[0]
        return tuple(_value(item, v, f"{where}[{i}]", folder) for i, v in enumerate(value))
    if origin is Literal:
        return _choice(typing.get_args(hint), value, where)
    return _scalar(hint, value, where, folder)


def _choice(allowed: tuple[Any, ...], value: Any, where: str) -> Any:
    if value not in allowed:
        raise SettingsError(f"'{where}' must be one of {', '.join(map(repr, allowed))}, not {value!r}")
    return value


def _scalar(hint: Any, value: Any, where: str, folder: Path) -> Any:
    if hint is Path and isinstance(value, str):
        return folder / value
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        raise SettingsError(f"'{where}' must be of type {hint.__name__}, not {type(value).__name__} ({value!r})")
    return value
