"""The settings in force, value by value, and where each comes from: for people. Text in, text out; no files but one,
and a look whether those that the settings name are there.
"""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import tomlkit

from config.environment import is_list_of_tables, overrides, variable
from config.settings import Settings, document, folder_of, load

DEFAULT_FILE = Path(__file__).with_name("prognode.toml")
_LISTS = frozenset(name for name, hint in get_type_hints(Settings).items() if is_list_of_tables(hint))
MINIMAL = ("node", "peers", "web")  # tables that nearly every site has to touch
_MINIMAL_HEAD = """\
# Settings of a Prognode node: what nearly every site sets. All others have their defaults; `prognode config init
# --complete` writes them all, with what they mean, and `prognode config show` prints what is in force.
# Relative paths are taken from this file's folder.
"""


@dataclass(frozen=True)
class Value:
    """One setting. `default` is None where there is none to compare with (an AE title of a peer)."""

    key: str  # "node.port"; of a list of tables "peers[0].port"
    value: Any
    default: Any
    source: str  # "default", the file's name, or the variable's

    @property
    def changed(self) -> bool:
        return bool(self.value != self.default)


def template(*, complete: bool, spool: Path | None = None) -> str:
    """A commented settings file: every key with its default, or the tables that nearly every site touches."""
    whole = DEFAULT_FILE.read_text(encoding="utf-8")
    if spool is not None:
        whole = whole.replace('\nspool = "spool" ', f"\nspool = {text(spool)} ")
    if complete:
        return whole
    wanted = {*(f"[{name}]" for name in MINIMAL), *(f"# [[{name}]]" for name in MINIMAL)}
    first, *tables = whole.split("\n\n\n")
    parts = [part for part in tables if wanted & {*part.splitlines()}]
    head = _MINIMAL_HEAD + first[first.index("\n\n") + 1 :]  # keys that stand in no table: the bundle
    return "\n\n\n".join([head, *(part.strip("\n") for part in parts)]) + "\n"


def values(path: Path | None, environment: Mapping[str, str]) -> tuple[Settings, list[Value]]:
    """The settings in force and each of their values. Raises SettingsError as `config.settings.load` does."""
    data, settings = document(path), load(path, environment)
    named = overrides(Settings, environment)

    def source(key: str) -> str:
        if key in named:
            return variable(key)
        if _of_rule(key) and not _in(data, key):
            return "[plan]"
        return str(path) if _in(data, key) else "default"

    def resolved(default: Any, value: Any) -> Any:  # as the file's own paths are
        return folder_of(path) / default if isinstance(default, Path) and value.is_absolute() else default

    def usual(key: str, default: Any) -> Any:  # what a rule has of [plan] is not the rule's
        return getattr(settings.plan, key.rpartition(".")[2]) if _of_rule(key) else default

    leaves = _leaves(settings, Settings(), "")
    return settings, [
        Value(key, value, resolved(usual(key, default), value), source(key)) for key, value, default in leaves
    ]


def not_there(settings: Settings) -> list[tuple[str, Path]]:
    """Keys and paths of the files that the settings name and that cannot be read; the spool is made where it is not."""
    paths = [(key, value) for key, value, _ in _leaves(settings, None, "") if isinstance(value, Path)]
    bundles = [(key, path) for key, path in paths if key.rpartition(".")[2] == "bundle" and _readable(path)]
    unread = [(key, path) for key, path in paths if key != "node.spool" and not _readable(path)]
    return unread + [(key, path / "manifest.json") for key, path in bundles if not _readable(path / "manifest.json")]


def _of_rule(key: str) -> bool:
    return re.match(r"rules\[\d+\]\.plan\.", key) is not None


def _readable(path: Path) -> bool:
    return "\0" not in str(path) and os.access(path, os.R_OK)


def as_toml(found: list[Value]) -> str:
    """Values as a settings file that says where each comes from; reading it gives the same settings."""
    lines: list[str] = []
    table = ""
    for one in sorted(found, key=lambda one: "." in one.key):  # keys without a table have to come first
        head, _, name = one.key.rpartition(".")
        if head != table:
            table = head
            name_of = re.sub(r"\[\d+\]", "", head)
            lines += ["", f"[[{name_of}]]" if head.endswith("]") else f"[{name_of}]"]
        lines.append(f"{name} = {text(one.value)}  # {one.source}" if one.value is not None else f"# {name}: not set")
    return "\n".join(lines).strip("\n") + "\n"


def text(value: Any) -> str:
    """A value as TOML has it.

    >>> text(("a", 'b"')), text(30.0), text(None)
    ('["a", "b\\\\""]', '30.0', 'not set')
    """
    if value is None:
        return "not set"
    plain = [*value] if isinstance(value, tuple) else str(value) if isinstance(value, Path) else value
    return str(tomlkit.item(plain).as_string())


def _leaves(part: Any, default: Any, before: str) -> Iterator[tuple[str, Any, Any]]:
    for field in fields(part):
        key, value = f"{before}{field.name}", getattr(part, field.name)
        usual = getattr(default, field.name, None) if default is not None else _default(field)
        if is_dataclass(value):
            yield from _leaves(value, usual, f"{key}.")
        elif isinstance(value, tuple) and value and is_dataclass(value[0]):
            for place, entry in enumerate(value):
                yield from _leaves(entry, None, f"{key}[{place}].")
        elif not (isinstance(value, tuple) and not value and key in _LISTS):
            yield key, value, usual


def _default(field: Any) -> Any:
    return None if field.default is MISSING else field.default


def _in(data: Any, key: str) -> bool:
    """Whether a parsed document has a key of `_leaves`."""
    for name in key.replace("[", ".").replace("]", "").split("."):
        if isinstance(data, list) and name.isdigit() and int(name) < len(data):
            data = data[int(name)]
        elif isinstance(data, dict) and name in data:
            data = data[name]
        else:
            return False
    return True
