"""`prognode config`: a settings file to begin with, what is in force, what differs from the defaults, what is wrong."""

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from config.settings import Settings, SettingsError
from dicom_node.cli_common import Config, Whole, counted, settings_file, stop

if TYPE_CHECKING:
    from config.effective import Value

config_app = typer.Typer(cls=Whole, no_args_is_help=True, help="Write, print and check the settings.")


def add_to(app: typer.Typer) -> None:
    """Hang these commands on the program."""
    app.add_typer(config_app, name="config")


@config_app.command("init")
def config_init(
    file: Annotated[Path, typer.Argument(help="File to write; - is standard output.")] = Path("prognode.toml"),
    complete: Annotated[bool, typer.Option("--complete", help="Every key, not only what each site sets.")] = False,
    spool: Annotated[Path | None, typer.Option("--spool", help="Folder of the spool, as [node] has it.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Also over a file that is there.")] = False,
) -> None:
    """Write a commented settings file with the defaults.

    Example: prognode config init /etc/prognode/prognode.toml
    """
    from config.effective import template

    text = template(complete=complete, spool=spool)
    if str(file) == "-":
        print(text, end="")
        return
    try:
        with file.open("w" if force else "x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError:
        stop(f"{file}: is there already; give another name, or --force to write over it", os.EX_CANTCREAT)
    except OSError as error:
        stop(f"{file}: {error.strerror}; give a file in a folder that you may write", os.EX_CANTCREAT)
    print(f"{file} written; change what your site needs, then: prognode config check --config {file}")


@config_app.command("show")
def config_show(config: Config = None) -> None:
    """Print the settings in force as TOML, with where each comes from: default, file, or variable.

    Example: prognode config show --config /etc/prognode/prognode.toml
    """
    from config.effective import as_toml

    print(as_toml(_values(config)[1]), end="")


@config_app.command("diff")
def config_diff(config: Config = None) -> None:
    """Print what differs from the defaults, one setting per line.

    Example: prognode config diff --config /etc/prognode/prognode.toml
    """
    from config.effective import text

    changed = [one for one in _values(config)[1] if one.changed]
    for one in changed:
        usual = "" if one.default is None else f"default {text(one.default)}; "
        print(f"{one.key} = {text(one.value)}  # {usual}{one.source}")
    if not changed:
        print("# nothing differs from the defaults")


@config_app.command("check")
def config_check(config: Config = None) -> None:
    """Read the settings and name every mistake in them; `prognode check` looks at the machine and peers too.

    Also said: files that the settings name and that are not there. Ends with 78 where anything is wrong.

    Example: prognode config check --config /etc/prognode/prognode.toml
    """
    from config.settings import read

    settings, mistakes = read(config, os.environ)
    slip_in_web = any("'web." in mistake or "PROGNODE_WEB__" in mistake for mistake in mistakes)
    where = f"{config}: " if config else ""
    beyond = (f"{where}{mistake}" for mistake in _beyond_the_file(settings, web=not slip_in_web))
    if mistakes := (*mistakes, *beyond):
        for mistake in mistakes:
            print(f"FAIL {mistake}")
        raise typer.Exit(os.EX_CONFIG)
    found = _values(config)[1]
    changed = [one for one in found if one.changed]
    variables = sum(one.source.startswith("PROGNODE_") for one in found)
    used, remedy = settings_file(config)
    differ = f"{counted(len(changed), 'value')} {'differs' if len(changed) == 1 else 'differ'} from the defaults"
    print(f"ok  {used}; {differ}, {variables} from the environment")
    if remedy:
        print(f"     to do: {remedy}")


def _beyond_the_file(settings: Settings, *, web: bool) -> Iterator[str]:
    """What reading the file alone does not show; a value that is wrong already has its default in `settings`.

    `web`: also what [web] says as a whole.
    """
    from config.effective import not_there
    from dicom_node import clinical_codes
    from dicom_node.candidates import choose
    from dicom_node.web.server import check as check_web
    from dicom_node.workitem import ConfigError

    missing = not_there(settings)
    for key, path in missing:
        yield f"{key}: {path} is not there, or not to be read; put the file there, or correct the setting"
    plans = dict.fromkeys([settings.plan, *(rule.plan for rule in settings.rules)])
    looks: list[Callable[[], object]] = [partial(choose, (), plan) for plan in plans]
    if "clinical.codes" not in dict(missing):
        looks.append(partial(clinical_codes.load, settings.clinical.codes))
    if web:
        looks.append(partial(check_web, settings.web))
    for look in looks:
        try:
            look()
        except ConfigError as error:
            yield str(error)


@config_app.command("rule")
def config_rule(
    calling: Annotated[str, typer.Argument(help="Calling AE title, as the log has it.")], config: Config = None
) -> None:
    """Print which routing rule counts for the contours that an AE sends, and what it says.

    Example: prognode config rule ARIA --config /etc/prognode/prognode.toml
    """
    from config.effective import text

    settings, found = _values(config)
    rule = settings.rule_for(calling)
    place = settings.rules.index(rule) if rule.name else -1
    print(f"{calling}: {f'rule {rule.name}' if rule.name else 'no rule: as the settings are without rules'}")
    if settings.receive.known_callers_only and calling not in {peer.ae_title for peer in settings.peers if peer.sends}:
        print("it is refused: it has no [[peers]] entry with sends = true")
    print(f"bundle: {rule.bundle or settings.bundle or 'the demo bundle that comes with the package'}")
    every = settings.every_destination() if rule.destinations is None else rule.destinations
    print(f"destinations: {'none, it is a shadow' if rule.shadow else ', '.join(every) or 'none'}")
    print(f"priority: {rule.priority}")
    for one in found:
        if one.changed and one.key.startswith(f"rules[{place}].plan."):
            print(f"{one.key.rpartition('.')[2]} = {text(one.value)}  # elsewhere {text(one.default)}")


def _values(config: Path | None) -> "tuple[Settings, list[Value]]":
    from config.effective import values

    try:
        return values(config, os.environ)
    except SettingsError as error:
        stop(str(error), os.EX_CONFIG)
