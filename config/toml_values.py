"""A parsed TOML table becomes a frozen dataclass; unknown keys and values of the wrong kind are named, with remedy."""

import difflib
import types
import typing
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal


class SettingsError(ValueError):
    """The settings cannot be used; the text names the key and the remedy."""


def build(cls: Any, data: dict[str, Any], where: str, folder: Path) -> Any:
    """An instance of the dataclass `cls` from `data`; `where` goes before the keys in what SettingsError says.

    Relative paths are taken from `folder`.
    """
    hints = typing.get_type_hints(cls)
    known = {f.name for f in fields(cls)}
    for key in data:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f" (did you mean '{near[0]}'?)" if near else f" (known: {', '.join(sorted(known))})"
            raise SettingsError(f"unknown key '{where}{key}'{hint}")
    needed = [f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING]
    if lacking := [name for name in needed if name not in data]:
        raise SettingsError(f"'{where.rstrip('.')}' lacks {', '.join(lacking)}; give it")
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
        return build(hint, value, f"{where}.", folder)
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


_WORDS = {
    int: "a whole number, without quotes", float: "a number, without quotes", bool: "true or false, without quotes",
    str: "a text in quotes", Path: "the name of a file or folder in quotes",
}  # fmt: skip


def _shown(value: Any) -> str:
    """A value as TOML has it.

    >>> _shown(True), _shown("x"), _shown(7)
    ('true', "'x'", '7')
    """
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _scalar(hint: Any, value: Any, where: str, folder: Path) -> Any:
    if hint is Path and isinstance(value, str):
        return folder / value
    if isinstance(value, int) and abs(value) >= 2**63:  # TOML 1.0: 64 bits; a longer one may not even be printed
        raise SettingsError(f"'{where}' is too large a number")
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        raise SettingsError(f"'{where}' must be {_WORDS.get(hint, hint.__name__)}, not {_shown(value)}")
    return value
