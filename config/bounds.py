"""Bounds of single settings, and of pairs: values with which a node would start and then do nothing.

Leaf of `config`; called by `config.settings`.
"""

from collections.abc import Iterator
from typing import Any

from config.toml_values import SettingsError

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
_PAIRS = ("slice_spacing_mm", "pixel_spacing_mm")


def check(settings: Any) -> None:
    """Raises SettingsError with the key and its bound."""
    for key, least in _LEAST.items():
        table, _, name = key.partition(".")
        if (value := getattr(getattr(settings, table), name)) < least:
            raise SettingsError(f"'{key}' must be at least {least:g}, not {value:g}")
    if 0 < settings.receive.maximum_pdu_bytes < _LEAST_PDU_BYTES:
        raise SettingsError(f"'receive.maximum_pdu_bytes' must be 0 (no limit) or at least {_LEAST_PDU_BYTES}")
    for where, plan in _plans(settings):
        for name in _PAIRS:
            least, most = (getattr(plan, f"{end}_{name}") for end in ("minimum", "maximum"))
            if least > most:
                raise SettingsError(f"'{where}.minimum_{name}' {least:g} is above maximum_{name} {most:g}: no CT fits")


def _plans(settings: Any) -> Iterator[tuple[str, Any]]:
    yield "plan", settings.plan
    for rule in settings.rules:
        yield f"rules {rule.name} plan", rule.plan
