"""Settings from the environment: PROGNODE_<SECTION>__<KEY>, over those of the file. For containers and units.

The value of a text or a path stands as it is; numbers, switches and lists are written as in TOML. Lists of tables
(peers) stand in the file alone. A secret is never a value here: settings hold names of files.
"""

import difflib
import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, Literal

from config.toml_values import Mistake, SettingsError

PREFIX, LEVEL = "PROGNODE_", "__"


def variable(key: str) -> str:
    """The variable of a setting.

    >>> variable("web.oidc.client_id")
    'PROGNODE_WEB__OIDC__CLIENT_ID'
    """
    return PREFIX + key.upper().replace(".", LEVEL)


def overrides(settings: type, environment: Mapping[str, str], wrong: list[Mistake] | None = None) -> dict[str, Any]:
    """Dotted key -> value, of the variables that name one.

    A variable without "__" that is no setting at the top (PROGNODE_CONFIG) is none of ours. One with "__" that names
    nothing, and a value that cannot be read, are added to `wrong`.
    """
    kinds = dict(_kinds(settings, ""))
    known = {variable(key): key for key in kinds}
    found = {}
    wrong = [] if wrong is None else wrong
    for name in sorted(environment):
        if name in known:
            try:
                found[known[name]] = _value(name, kinds[known[name]], environment[name])
            except SettingsError as error:
                wrong.append(Mistake(known[name], str(error)))
        elif name.startswith(PREFIX) and LEVEL in name:
            wrong.append(_unknown(name, settings, known))
    return found


def merged(data: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    """A parsed TOML document with values of `overrides` put into it; the document itself stays as it is.

    Where a table is none, it stays as it is: said by whoever builds it.
    """
    result = dict(data)
    for key, value in found.items():
        _put(result, key.split("."), value)
    return result


def _put(table: dict[str, Any], names: list[str], value: Any) -> None:
    first, *rest = names
    if not rest:
        table[first] = value
    elif isinstance(inner := table.get(first, {}), dict):
        table[first] = dict(inner)
        _put(table[first], rest, value)


def _kinds(settings: type, before: str) -> list[tuple[str, Any]]:
    """Every setting that is no list of tables, with its type."""
    found: list[tuple[str, Any]] = []
    for name, hint in typing.get_type_hints(settings).items():
        if is_dataclass(hint):
            found += _kinds(typing.cast(type, hint), f"{before}{name}.")
        elif not is_list_of_tables(hint):
            found.append((f"{before}{name}", hint))
    return found


def is_list_of_tables(hint: Any) -> bool:
    """Whether a setting is written as [[tables]]."""
    return typing.get_origin(hint) is tuple and is_dataclass(typing.get_args(hint)[0])


def _value(name: str, hint: Any, text: str) -> Any:
    if typing.get_origin(hint) in (types.UnionType, typing.Union):  # Path | None
        hint = next(arg for arg in typing.get_args(hint) if arg is not type(None))
    if hint in (str, Path) or typing.get_origin(hint) is Literal:
        return text
    try:
        (value,) = tomllib.loads(f"value = {text}\n").values()
        return value
    except (ValueError, RecursionError):  # the text itself is not repeated: it may be a password put in the wrong place
        example = '["a", "b"]' if typing.get_origin(hint) is tuple else "true" if hint is bool else "30"
        raise SettingsError(f"{name}: is no TOML value; write it as in {name}='{example}'") from None


def _unknown(name: str, settings: type, known: Mapping[str, str]) -> Mistake:
    table = name.removeprefix(PREFIX).split(LEVEL)[0].lower()
    kinds = typing.get_type_hints(settings)
    if is_list_of_tables(kinds.get(table)):
        return Mistake(table, f"{name}: [[{table}]] stand in the settings file alone; write them there")
    near = difflib.get_close_matches(name, known, n=1)
    hint = f" (did you mean {near[0]}?)" if near else "; prognode config show lists all"
    return Mistake(known[near[0]] if near else "", f"unknown variable {name}{hint}")
