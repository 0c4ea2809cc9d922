"""`prognode web`, and who may use it: `prognode user` and `prognode token`."""

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from dicom_node import notify
from dicom_node.cli_common import Config, Whole, caller, counted, log, settings_of, stop, stop_for_port, store_of

if TYPE_CHECKING:
    from dicom_node.accounts import Role
    from dicom_node.store import Store

user_app = typer.Typer(cls=Whole, no_args_is_help=True, help="Add, change and remove local users of the worklist page.")
token_app = typer.Typer(
    cls=Whole, no_args_is_help=True, help="Make and revoke tokens of programs that use the JSON API."
)

Name = Annotated[str, typer.Argument(help="Name of the user.")]
RoleName = Annotated[str, typer.Option("--role", help="viewer (may look) or operator (may act).")]
TokenRole = Annotated[str, typer.Option("--role", help="viewer, operator, or monitor (reads /metrics alone).")]
PasswordFile = Annotated[
    Path | None,
    typer.Option("--password-file", help="Read the password from the first line of a file; - is standard input."),
]


def add_to(app: typer.Typer) -> None:
    """Hang these commands on the program."""
    app.command()(web)
    app.add_typer(user_app, name="user")
    app.add_typer(token_app, name="token")


def web(config: Config = None) -> None:
    """Serve the worklist page and the JSON API, beside `serve`, or `receive` and `work`.

    Example: prognode web --config /etc/prognode/prognode.toml
    """
    from contextlib import nullcontext

    from dicom_node.keeper import on_record
    from dicom_node.spool import Spool
    from dicom_node.web import server
    from dicom_node.workitem import ConfigError

    notify.hear_hang_ups()
    settings = settings_of(config)
    log(settings=settings)
    spool = Spool(settings.node.spool)
    try:
        with on_record(settings, spool, "web") if spool.store.is_file() else nullcontext():
            server.run(
                settings, spool, lambda address: print(f"prognode: the worklist is at {address}", flush=True), config
            )
    except ConfigError as error:
        stop(str(error), os.EX_CONFIG)
    except OSError as error:
        stop_for_port(error, ("the page", settings.web.host, settings.web.port, "[web] port"))


# -- users -----------------------------------------------------------------------------------------------------


@user_app.command("add")
def user_add(name: Name, role: RoleName = "viewer", password_file: PasswordFile = None, config: Config = None) -> None:
    """Make a local user; asks for the password.

    Example: prognode user add anna --role operator
    """
    from dicom_node import passwords

    store, name, checked = store_of(settings_of(config)), passwords.checked_name(name), _role(role)
    if store.accounts.of(name) is not None:
        stop(f"there is a user {name} already; change it with: prognode user password, or user role", os.EX_DATAERR)
    hashed = passwords.hashed(_password(password_file))
    with store.transaction():
        if not store.accounts.add(name, hashed, checked, time.time()):
            stop(f"there is a user {name} already", os.EX_DATAERR)
        _audit(store, "user.added", f"{name}, {role}")
    print(f"{name} may sign in as {role}")


@user_app.command("list")
def user_list(config: Config = None) -> None:
    """Print the local users, their roles, and who is kept out.

    Example: prognode user list
    """
    store = store_of(settings_of(config))
    for account in store.accounts.all():
        wait = store.accounts.locked_until(f"account {account.name}") - time.time()
        locked = f", waits {wait:.0f} s after wrong passwords" if wait > 0 else ""
        print(f"{account.name:<24} {account.role:<9} {'disabled' if account.disabled else 'may sign in'}{locked}")


@user_app.command("password")
def user_password(name: Name, password_file: PasswordFile = None, config: Config = None) -> None:
    """Give a user a new password, which also ends the wait after wrong ones; their sessions end.

    Example: prognode user password anna
    """
    from dicom_node import passwords

    store = store_of(settings_of(config))
    _known(store, name)
    hashed = passwords.hashed(_password(password_file))
    with store.transaction():
        store.accounts.set_password(name, hashed)
        store.accounts.forgive(f"account {name}")
        _audit(store, "user.password", name)
    print(f"{name} has a new password and must sign in again")


@user_app.command("role")
def user_role(
    name: Name, role: Annotated[str, typer.Argument(help="viewer or operator.")], config: Config = None
) -> None:
    """Change what a user may do; in force at once.

    Example: prognode user role anna operator
    """
    store, checked = store_of(settings_of(config)), _role(role)
    _known(store, name)
    with store.transaction():
        store.accounts.set_role(name, checked)
        _audit(store, "user.role", f"{name}, {role}")
    print(f"{name} is {role}")


@user_app.command("disable")
def user_disable(
    name: Name,
    undo: Annotated[bool, typer.Option("--undo", help="Let the user in again.")] = False,
    config: Config = None,
) -> None:
    """Keep a user out; their sessions end.

    Example: prognode user disable anna
    """
    store = store_of(settings_of(config))
    _known(store, name)
    with store.transaction():
        store.accounts.set_disabled(name, not undo)
        _audit(store, "user.enabled" if undo else "user.disabled", name)
    print(f"{name} {'may sign in again' if undo else 'is kept out'}")


@user_app.command("signout")
def user_signout(name: Name, config: Config = None) -> None:
    """End every session of a user; of the hospital's sign-in: "oidc:NAME", or "oidc:SUB" of one person of that name.

    Example: prognode user signout oidc:anna
    """
    store = store_of(settings_of(config))
    with store.transaction():
        ended = store.accounts.end_sessions_of(name)
        _audit(store, "user.signed_out", name)
    print(f"{counted(ended, 'session')} ended")


@user_app.command("remove")
def user_remove(name: Name, config: Config = None) -> None:
    """Remove a user; their sessions end, what they did stays in the audit trail.

    Example: prognode user remove anna
    """
    store = store_of(settings_of(config))
    _known(store, name)
    with store.transaction():
        store.accounts.remove(name)
        _audit(store, "user.removed", name)
    print(f"{name} is removed")


# -- tokens ----------------------------------------------------------------------------------------------------


@token_app.command("add")
def token_add(
    name: Annotated[str, typer.Argument(help="What uses it, such as ris-dashboard.")],
    role: TokenRole = "viewer",
    days: Annotated[int, typer.Option("--days", min=0, max=3650, help="Days until it expires; 0: never.")] = 365,
    config: Config = None,
) -> None:
    """Make a token and print it, once: the store keeps its digest alone.

    Example: prognode token add ris-dashboard --role viewer --days 90
    """
    import secrets

    from dicom_node.passwords import checked_name

    store, name, checked, now = store_of(settings_of(config)), checked_name(name), _role(role, "monitor"), time.time()
    token = f"prognode_{secrets.token_urlsafe(32)}"
    with store.transaction():
        if not store.accounts.add_token(token, name, checked, now, now + days * 86400 if days else None):
            stop(f"there is, or was, a token {name}; choose another name", os.EX_DATAERR)
        _audit(store, "token.added", f"{name}, {role}")
    print(token)


@token_app.command("list")
def token_list(config: Config = None) -> None:
    """Print the tokens' names, roles and times.

    Example: prognode token list
    """
    now = time.time()
    for token in store_of(settings_of(config)).accounts.tokens():
        expired = token.expires_at is not None and token.expires_at <= now
        state = "revoked" if token.revoked_at else "expired" if expired else "in force"
        print(
            f"{token.name:<24} {token.role:<9} {state:<9} expires {_day(token.expires_at)}, used {_day(token.used_at)}"
        )


@token_app.command("revoke")
def token_revoke(name: Annotated[str, typer.Argument(help="Name of the token.")], config: Config = None) -> None:
    """End a token.

    Example: prognode token revoke ris-dashboard
    """
    store = store_of(settings_of(config))
    with store.transaction():
        if not store.accounts.revoke_token(name, time.time()):
            stop(f"no token {name} is in force; see: prognode token list", os.EX_DATAERR)
        _audit(store, "token.revoked", name)
    print(f"{name} is revoked")


# -- both ------------------------------------------------------------------------------------------------------


def _role(role: str, *more: str) -> "Role":
    allowed = ("viewer", "operator", *more)
    if role not in allowed:
        stop(f"role {role!r}: use {' or '.join(allowed)}", os.EX_USAGE)
    return cast("Role", role)


def _known(store: "Store", name: str) -> None:
    if store.accounts.of(name) is None:
        stop(f"there is no user {name}; see: prognode user list", os.EX_DATAERR)


def _password(file: Path | None) -> str:
    """From a prompt, a file or standard input; never an argument, which other users of the machine can read."""
    if file is None:
        if not sys.stdin.isatty():
            stop("no terminal to ask for the password at; give it with --password-file", os.EX_USAGE)
        return str(typer.prompt("Password", hide_input=True, confirmation_prompt=True))
    try:
        text = sys.stdin.readline() if str(file) == "-" else file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        stop(f"{file}: cannot be read as text", os.EX_NOINPUT)
    return text.split("\n", 1)[0].removesuffix("\r")


def _audit(store: "Store", action: str, detail: str) -> None:
    from dicom_node.audit import AuditEntry

    actor = caller()
    store.audit.add(AuditEntry(time.time(), actor.name, actor.origin, action, detail=detail))


def _day(moment: float | None) -> str:
    try:
        return time.strftime("%Y-%m-%d", time.localtime(moment)) if moment else "never"
    except (OverflowError, ValueError):  # beyond any calendar
        return "never"
