"""What every command needs: settings, logging, the store, who calls, and how to end. Heavy imports inside."""

import logging
import os
import pwd
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer.core

from config.settings import Settings, SettingsError, load
from dicom_node.local_time import go_by

if TYPE_CHECKING:
    from dicom_node.operations import Actor
    from dicom_node.store import Store

LARGEST_NUMBER = 2**63 - 1  # of a row: SQLite has 64 bits
Config = Annotated[Path | None, typer.Option("--config", "-c", envvar="PROGNODE_CONFIG", help="Settings file (TOML).")]


# What `prognode --help` prints, by what a person comes for; a command that stands nowhere comes last.
SECTIONS: Mapping[str, tuple[str, ...]] = {
    "To begin with": ("demo", "score", "config", "check"),
    "The node": ("serve", "receive", "work", "run", "web"),
    "Studies": ("status", "retry", "rescore", "plan", "hold", "release", "cancel", "priority", "clinical"),
    "Keeping": ("storage", "backup", "restore", "fsck", "audit"),
    "Who comes in, what is said": ("user", "token", "conformance"),
    "Models": ("bundle", "train", "evaluate", "pretrain", "cohort"),
}


class Whole(typer.core.TyperGroup):
    """Commands whose help cuts no summary."""

    def sections(self, names: tuple[str, ...]) -> Mapping[str, tuple[str, ...]]:
        """Title -> names of commands."""
        return {"Commands": names}

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """The commands by section, each with the first sentences of its help."""
        for title, names in self.sections(tuple(self.list_commands(ctx))).items():
            if rows := [(name, _summary(self.commands[name].help)) for name in names if name in self.commands]:
                with formatter.section(title):
                    formatter.write_dl(rows)


class InSections(Whole):
    """A program whose help groups its commands."""

    def sections(self, names: tuple[str, ...]) -> Mapping[str, tuple[str, ...]]:
        named = {name for some in SECTIONS.values() for name in some}
        return {**SECTIONS, "More": tuple(name for name in names if name not in named)}


def _summary(text: str | None) -> str:
    return " ".join((text or "").split("\n\n")[0].split())


def stop(message: str, code: int) -> NoReturn:
    """End with a message and an exit status (sysexits.h)."""
    print(f"prognode: {message}", file=sys.stderr)
    raise typer.Exit(code)


def stop_for_port(error: OSError, *ports: tuple[str, str, int, str]) -> NoReturn:
    """End because of this error. Where a port could not be opened, say which of these: name, host, port, setting."""
    from dicom_node import probes

    for name, host, port, key in ports if probes.is_of_a_port(error) else ():
        if why := probes.why_no_port(host, port):
            stop(f"port of {name}, {host}:{port}: {why.strerror}; {probes.port_remedy(why, key)}", os.EX_UNAVAILABLE)
    stop(error.strerror or type(error).__name__, os.EX_UNAVAILABLE)


def counted(number: int, what: str) -> str:
    """A number with its noun.

    >>> counted(1, "line"), counted(240, "patient")
    ('1 line', '240 patients')
    """
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def settings_of(config: Path | None) -> Settings:
    """The settings of file and environment, or the built-in ones; ends the program where they cannot be used.

    From then on, times are told in their zone.
    """
    try:
        settings = load(config, os.environ)
    except SettingsError as error:
        stop(str(error), os.EX_CONFIG)
    go_by(settings.node.time_zone)
    return settings


def settings_file(config: Path | None) -> tuple[str, str]:
    """Which settings are in force, and what to do where a file lies in this folder that is not read."""
    if config is not None:
        return str(config), ""
    here = Path("prognode.toml")
    remedy = f"to use the file {here} of this folder: --config {here}, or PROGNODE_CONFIG" if here.is_file() else ""
    return "no file: the built-in settings", remedy


def log(level: int = logging.INFO, settings: Settings | None = None) -> None:
    """Log lines to standard error, as the settings want them; libraries that would quote headers are kept quiet."""
    from dicom_node.logs import write_to
    from dicom_node.quiet import quiet_libraries

    telemetry = settings.telemetry if settings else None
    write_to(
        sys.stderr,
        logging.getLevelNamesMapping()[telemetry.log_level] if telemetry else level,
        as_json=telemetry is not None and telemetry.log_format == "json",
    )
    quiet_libraries()
    logging.getLogger("numexpr").setLevel(logging.ERROR)


def store_of(settings: Settings) -> "Store":
    """The node's store; ends the program where there is none yet."""
    from dicom_node.spool import Spool
    from dicom_node.store import Store

    path = Spool(settings.node.spool).store
    if not path.is_file():
        stop(f"{path}: no store here; give the node's settings with --config, or start it once", os.EX_NOINPUT)
    return Store.open(path)


def caller() -> "Actor":
    """Who runs the command, for the audit trail: the system user; with sudo, also the one who called it."""
    from dicom_node.operations import Actor

    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container's user may have no entry
        name = f"uid {os.getuid()}"
    behind = os.environ.get("SUDO_USER", "")[:64]
    if os.getuid() == 0 and behind and behind.isprintable():
        name = f"{name} (sudo: {behind})"
    return Actor(name, "cli")
