"""A parsed TOML table becomes a frozen dataclass; unknown keys and values of the wrong kind are named, with remedy."""

import difflib
import re
import types
import typing
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal


class SettingsError(ValueError):
    """The settings cannot be used; each of `mistakes` names the key and the remedy, the text is the first of them.

    >>> print(SettingsError("'a' must be a list", "unknown key 'b'"))
    'a' must be a list (and 1 more mistake: prognode config check names each)
    """

    def __init__(self, *mistakes: str) -> None:
        self.mistakes = mistakes
        more = len(mistakes) - 1
        rest = f" (and {more} more mistake{'s' if more > 1 else ''}: prognode config check names each)" if more else ""
        super().__init__(mistakes[0] + rest)


@dataclass(frozen=True)
class Mistake:
    """`key` is where it stands, or was meant to stand: "node.port", "peers[0].sends"."""

    key: str
    text: str

    @property
    def table(self) -> str:
        """The section or list that it is in.

        >>> Mistake("peers[0].sends", "").table
        'peers'
        """
        return re.split(r"[.\[]", self.key)[0]


def build(cls: Any, data: dict[str, Any], where: str, folder: Path, wrong: list[Mistake]) -> Any:
    """An instance of the dataclass `cls` from `data`; `where` goes before the keys in what is added to `wrong`.

    A value that cannot be used is left out, and so has its default; None where one without a default is lacking.
    Relative paths are taken from `folder`.
    """
    hints = typing.get_type_hints(cls)
    known = {f.name for f in fields(cls)}
    needed = [f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING]
    if lacking := [name for name in needed if name not in data]:
        wrong.append(Mistake(where, f"'{where.rstrip('.')}' lacks {', '.join(lacking)}; give it"))
    values = {}
    for key, value in data.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f" (did you mean '{near[0]}'?)" if near else f" (known: {', '.join(sorted(known))})"
            wrong.append(Mistake(f"{where}{near[0] if near else key}", f"unknown key '{where}{key}'{hint}"))
            continue
        with _noting(f"{where}{key}", wrong):
            values[key] = _value(hints[key], value, f"{where}{key}", folder, wrong)
    return cls(**values) if values.keys() >= {*needed} else None


@contextmanager
def _noting(key: str, wrong: list[Mistake]) -> Iterator[None]:
    try:
        yield
    except SettingsError as error:
        wrong.append(Mistake(key, str(error)))


def _value(hint: Any, value: Any, where: str, folder: Path, wrong: list[Mistake]) -> Any:
    origin = typing.get_origin(hint)
    if origin in (types.UnionType, typing.Union):  # Path | None
        hint = next(arg for arg in typing.get_args(hint) if arg is not type(None))
        origin = typing.get_origin(hint)
    if is_dataclass(hint):
        if not isinstance(value, dict):
            raise SettingsError(f"'{where}' must be a table, as in [{where}]")
        return build(hint, value, f"{where}.", folder, wrong)
    if origin is tuple:
        if not isinstance(value, list):
            brackets = f"; give each of them two brackets: [[{where}]]" if isinstance(value, dict) else ""
            raise SettingsError(f"'{where}' must be a list{brackets}")
        item = typing.get_args(hint)[0]
        items = []
        for i, v in enumerate(value):
            with _noting(f"{where}[{i}]", wrong):
                items.append(_value(item, v, f"{where}[{i}]", folder, wrong))
        return tuple(item for item in items if item is not None)
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
