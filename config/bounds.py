"""Bounds of single settings, and of pairs: values with which a node would start and then do nothing.

Called by `config.settings`.
"""

import math
from collections.abc import Iterator
from typing import Any

from config.keeping import Storage

# The least of a value, by table and key.
_LEAST = {
    "deliver.delay_factor": 1.0,  # the waits between tries would become shorter
    "job.memory_bytes": 268_435_456,  # Python with its libraries alone
    "receive.acse_timeout_seconds": 0.1,
    "receive.dimse_timeout_seconds": 0.1,
    "receive.network_timeout_seconds": 0.1,
    "deliver.connect_timeout_seconds": 0.1,
}
_LEAST_PDU_BYTES = 4096
# Of connections, a week: the system's own clocks for waiting end at 24 days.
_MOST_SECONDS = 604_800.0
_TIMED = frozenset({"receive", "tls", "deliver", "web", "hl7", "audit.syslog", "fhir_servers"})
_SERIES_NUMBERS = (0, 2_147_483_000)  # an Integer String has 31 bits (PS3.5 section 6.2), and each series a number
_PAIRS = ("slice_spacing_mm", "pixel_spacing_mm")
_MAY_BE_ZERO = frozenset(
    {
        "port",
        "at_once",
        "reserve_disk_bytes",
        "missing_instances_hours",
        "quiet_seconds",
        "baseline_days_before_therapy",
        "baseline_days_after_therapy",
        "commitment_wait_seconds",
        "used_days_after_ct",
        "fhir_wait_seconds",
        "maximum_pdu_bytes",
        *(key for key in vars(Storage()) if key != "pressure_days"),
        "keep_days",
    }
)


def mistakes(settings: Any) -> Iterator[str]:
    """Each value out of its bounds, with its key. A value that cannot be used at all has its default here."""
    yield from _ports(settings)
    yield from _hosts(settings)
    yield from _numbers(settings)
    for key, least in _LEAST.items():
        table, _, name = key.partition(".")
        if 0 < (value := getattr(getattr(settings, table), name)) < least:
            yield f"'{key}' must be at least {least:g}, not {value:g}"
    least, most = _SERIES_NUMBERS
    if not least <= settings.report.series_number <= most:
        yield f"'report.series_number' must be from {least} to {most}, not {settings.report.series_number}"
    if 0 < settings.receive.maximum_pdu_bytes < _LEAST_PDU_BYTES:
        yield f"'receive.maximum_pdu_bytes' must be 0 (no limit) or at least {_LEAST_PDU_BYTES}"
    for where, plan in _plans(settings):
        for name in _PAIRS:
            least, most = (getattr(plan, f"{end}_{name}") for end in ("minimum", "maximum"))
            if least > most > 0:
                yield f"'{where}.minimum_{name}' {least:g} is above maximum_{name} {most:g}: no CT fits"


def _hosts(settings: Any) -> Iterator[str]:
    """Of those who are called. A blank one would be this machine, and a port in it would be part of a name."""
    hosts = [
        *((f"hl7_peers {peer.name} host", peer.host) for peer in settings.hl7_peers),
        *((f"peers {peer.ae_title} host", peer.host) for peer in settings.peers if peer.host or peer.receives_results),
    ]
    for name, host in hosts:
        if not host or "/" in host or host.count(":") == 1 or any(letter.isspace() for letter in host):
            yield f"'{name}' {host!r}: give the name or the address alone; the port has a key of its own"


def _ports(settings: Any) -> Iterator[str]:
    ports = [
        ("web.port", settings.web.port),
        ("hl7.port", settings.hl7.port),
        *((f"hl7_peers {peer.name} port", peer.port) for peer in settings.hl7_peers),
        ("node.port", settings.node.port),
        ("tls.port", settings.tls.port),
        ("audit.syslog.port", settings.audit.syslog.port),
        *((f"peers {peer.ae_title} port", peer.port) for peer in settings.peers),
    ]
    for name, port in ports:
        if not 0 <= port <= 65535:
            yield f"'{name}' must be from 0 to 65535, not {port}"


def _numbers(settings: Any) -> Iterator[str]:
    names = ("receive", "tls", "job", "clinical", "deliver", "web", "hl7", "storage", "audit")
    sections: list[tuple[str, object]] = [(name, getattr(settings, name)) for name in names]
    sections += [("web.oidc", settings.web.oidc), ("audit.syslog", settings.audit.syslog)]
    sections += [(f"fhir_servers {server.name}", server) for server in settings.fhir_servers]
    sections += _plans(settings)
    for section, table in sections:
        for key, value in vars(table).items():
            if isinstance(value, bool) or not isinstance(value, int | float) or key == "port":
                continue
            if not math.isfinite(value) or value < 0 or (value == 0 and key not in _MAY_BE_ZERO):
                yield f"'{section}.{key}' must be a number above 0, not {value}"
            elif key.endswith("_percent") and value >= 100:
                yield f"'{section}.{key}' must be below 100, not {value}"
            elif section.split()[0] in _TIMED and key.endswith("_seconds") and value > _MOST_SECONDS:
                yield f"'{section}.{key}' must be at most {_MOST_SECONDS:.0f} (a week), not {value:g}"


def _plans(settings: Any) -> Iterator[tuple[str, Any]]:
    yield "plan", settings.plan
    for rule in settings.rules:
        yield f"rules {rule.name} plan", rule.plan
