"""Changed settings for a process that runs: what it takes over at once, and what takes a restart. Pure.

A test holds the two tables to the settings: each key stands in one of them.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

from config.settings import Settings

# Taken over at once: read when they are needed, by what begins from then on.
LIVE = (
    "peers", "rules", "hl7_peers", "fhir_servers", "bundle", "receive", "plan", "deliver", "storage",
    "tls.certificate", "tls.private_key", "tls.client_ca", "tls.ca", "tls.expiry_warning_days",
    "hl7.certificate", "hl7.private_key", "hl7.client_ca", "hl7.allowed_hosts",
    "web.certificate", "web.private_key", "telemetry.log_level",
)  # fmt: skip

_PORT = "ports are opened at the start"
_WRITTEN = "it is written into results, and those that are in the making must not say two things"
# A key or a whole table, and why it takes a restart. A key goes before its table.
RESTART = {
    "node.ae_title": "peers know the node by it, and results in the making bear it",
    "node.host": _PORT,
    "node.port": _PORT,
    "node.spool": "all that was received lies there",
    "node": _WRITTEN,
    "tls": _PORT,
    "job": "the sandbox of jobs is set up and tried at the start",
    "clinical": "codes and table of the site are read and checked at the start",
    "report": _WRITTEN,
    "web": "the page and its sign-in are set up at the start",
    "hl7": "the HL7 listener is set up at the start",
    "ups": "the UPS worklist is opened at the start",
    "audit": "the audit trail and its collector are opened at the start",
    "telemetry": "the log and the traces are set up at the start",
}


@dataclass(frozen=True)
class Change:
    """`settings` are those in force from now on; `taken`, what of them is new; `waiting`, a sentence for each that is
    not in force before a restart."""

    settings: Settings
    taken: tuple[str, ...]
    waiting: tuple[str, ...]


def compare(old: Settings, new: Settings) -> Change:
    """What becomes of `new` in a process that runs with `old`.

    >>> from config.settings import Node
    >>> change = compare(Settings(), Settings(node=Node(port=104)))
    >>> change.settings == Settings(), change.taken, change.waiting
    (True, (), ('node.port takes a restart: ports are opened at the start',))
    """
    changed = [key for key, before, now in _values(old, new, "") if before != now]
    waiting = [key for key in changed if not is_live(key)]
    settings = new
    for key in waiting:
        settings = _with(settings, key.split("."), _at(old, key))
    taken = tuple(key for key in changed if key not in waiting)
    return Change(settings, taken, tuple(f"{key} takes a restart: {_why(key)}" for key in waiting))


def is_live(key: str) -> bool:
    """Whether a setting is taken over at once."""
    return key in LIVE or key.partition(".")[0] in LIVE


def keys(settings: Settings) -> list[str]:
    """Every setting; a list of tables is one."""
    return [key for key, _, _ in _values(settings, settings, "")]


def _why(key: str) -> str:
    return RESTART.get(key) or RESTART[key.partition(".")[0]]


def _values(old: Any, new: Any, before: str) -> Iterator[tuple[str, Any, Any]]:
    for field in fields(old):
        key, here, there = f"{before}{field.name}", getattr(old, field.name), getattr(new, field.name)
        if is_dataclass(here):
            yield from _values(here, there, f"{key}.")
        else:
            yield key, here, there


def _at(settings: Any, key: str) -> Any:
    for name in key.split("."):
        settings = getattr(settings, name)
    return settings


def _with(part: Any, names: list[str], value: Any) -> Any:
    first, *rest = names
    return replace(part, **{first: _with(getattr(part, first), rest, value) if rest else value})
