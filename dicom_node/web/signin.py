"""Signing in and out: local users with a password, or the hospital's OpenID Connect provider. Sessions are rows."""

import hmac
import logging
import math
import secrets
import time
from typing import TYPE_CHECKING, Annotated, Literal

from fastapi import APIRouter, Form, Request
from fastapi.responses import RedirectResponse, Response

from config.settings import Settings, Web
from dicom_node import passwords
from dicom_node.accounts import FREE_FAILURES, FREE_FAILURES_OF_ADDRESS, Role
from dicom_node.audit import AuditEntry, AuditOutcome
from dicom_node.elements import escaped
from dicom_node.store import Store
from dicom_node.web.deps import (
    SettingsDep,
    Signed,
    StoreDep,
    Viewer,
    address,
    cookie_name,
    inside,
    public_url,
    same_site,
    secure,
    templates,
    who,
)
from dicom_node.web.errors import Problem, SignInFailed
from dicom_node.workitem import ConfigError

if TYPE_CHECKING:
    from dicom_node.web.oidc import Provider

LOGGER = logging.getLogger(__name__)
WRONG = "This name and password do not belong together."

router = APIRouter(include_in_schema=False)


# -- local users -------------------------------------------------------------------------------------------------


@router.get("/signin")
def page(request: Request, store: StoreDep, settings: SettingsDep, next: str = "/") -> Response:
    """The sign-in page; whoever is signed in already goes on."""
    if who(request, store) is not None:
        return RedirectResponse(inside(next), 303)
    return _page(request, settings, inside(next))


@router.post("/signin")
def sign_in(
    request: Request,
    store: StoreDep,
    settings: SettingsDep,
    name: Annotated[str, Form(max_length=256)] = "",
    password: Annotated[str, Form(max_length=4096)] = "",
    csrf: Annotated[str, Form(max_length=256)] = "",
    next: Annotated[str, Form(max_length=2048)] = "/",
) -> Response:
    """Check a password. A wrong one, an unknown name and a disabled user get the same answer after the same time."""
    same_site(request)
    expected = request.cookies.get(_form_cookie(settings.web), "")
    if not expected or not hmac.compare_digest(csrf.encode(), expected.encode()):
        return _page(request, settings, inside(next), "This page was open too long. Try again.", 403)
    account = name.strip().casefold()
    seconds = _wait(store, request, _subjects(request, account))
    if seconds:
        return _too_many(request, settings, inside(next), seconds, name)
    found = store.accounts.of(account)
    right = passwords.is_right(found.password_hash if found else None, password)
    if found is None or not right or found.disabled:
        LOGGER.warning("signin.refused from %s", escaped(address(request)))
        # What is no user may be a password, typed into the wrong field.
        _audit(store, request, account if found else "", "signin", "refused", "" if found else "no such user")
        return _page(request, settings, inside(next), WRONG, 401, name)
    _was_right(store, request, account)
    if passwords.is_outdated(found.password_hash):
        store.accounts.set_password(account, passwords.hashed(password), end_sessions=False)
    return _begin(request, store, settings, account, found.role, inside(next))


@router.get("/password")
def password_page(request: Request, signed: Viewer) -> Response:
    """Where local users change their password."""
    return _password_page(request, signed, "")


@router.post("/password")
def change_password(
    request: Request,
    store: StoreDep,
    settings: SettingsDep,
    signed: Viewer,
    current: Annotated[str, Form(max_length=4096)] = "",
    new: Annotated[str, Form(max_length=4096)] = "",
    again: Annotated[str, Form(max_length=4096)] = "",
) -> Response:
    """A new password for whoever is signed in. It ends every session of the user, and begins one for this browser."""
    found = store.accounts.of(signed.account)
    if found is None or signed.origin != "web":
        raise Problem(409, "this account has no password here", "the hospital's sign-in keeps it")
    seconds = _wait(store, request, _subjects(request, signed.account))
    if seconds:
        return _password_page(request, signed, f"Too many attempts. Wait {seconds} seconds.", 429)
    if not passwords.is_right(found.password_hash, current):
        _audit(store, request, signed.account, "user.password", "refused")
        return _password_page(request, signed, "This is not your password.", 403)
    _was_right(store, request, signed.account)
    if new != again:
        return _password_page(request, signed, "The two new passwords differ.", 422)
    try:
        hashed = passwords.hashed(new)
    except ConfigError as error:
        return _password_page(request, signed, _sentence(error), 422)
    with store.transaction():
        store.accounts.set_password(signed.account, hashed)
        _audit(store, request, signed.account, "user.password", "done")
    return _begin(request, store, settings, signed.account, found.role, "/")


def _password_page(request: Request, signed: Signed, detail: str, status: int = 200) -> Response:
    local = signed.origin == "web" and not signed.account.startswith("oidc:")
    context = {"detail": detail, "local": local, "shortest": passwords.SHORTEST}
    return templates.TemplateResponse(request, "password.html", context, status)


def _subjects(request: Request, account: str) -> dict[str, int]:
    """Whose attempts with a password are counted, each with the failures that are free."""
    return {f"account {account}": FREE_FAILURES, f"address {address(request)}": FREE_FAILURES_OF_ADDRESS}


def _wait(store: Store, request: Request, subjects: dict[str, int]) -> int:
    """Count an attempt; whole seconds to wait where there were too many."""
    wait = store.accounts.attempt(subjects, time.time())
    if wait > 0:
        LOGGER.warning("signin.throttled from %s", escaped(address(request)))
    return math.ceil(wait)


def _was_right(store: Store, request: Request, account: str) -> None:
    store.accounts.forgive(f"account {account}")
    store.accounts.give_back(f"address {address(request)}")


@router.post("/signout")
def sign_out(request: Request, store: StoreDep, settings: SettingsDep, signed: Viewer) -> Response:
    """End the session, here and in the browser."""
    store.accounts.end_session(request.cookies.get(cookie_name(settings.web), ""))
    _audit(store, request, signed.account, "signout", "done")
    answer = RedirectResponse("/signin", 303, headers={"Clear-Site-Data": '"cache", "storage"'})
    answer.delete_cookie(cookie_name(settings.web), secure=secure(settings.web), httponly=True, samesite="lax")
    return answer


# -- the hospital's sign-in --------------------------------------------------------------------------------------


def provider_of(settings: Settings) -> "Provider | None":
    """The provider of the settings. Raises ConfigError."""
    oidc = settings.web.oidc
    if not oidc.issuer:
        return None
    from dicom_node.web.oidc import Provider  # noqa: PLC0415 - a fifth of a second, for those who have a provider

    return Provider(oidc, f"{public_url(settings.web)}/signin/oidc/callback")


@router.get("/signin/oidc")
def to_provider(request: Request, store: StoreDep, settings: SettingsDep, next: str = "/") -> Response:
    """Send the browser to the hospital's sign-in. Where that fails, each try has asked the provider: they are few."""
    provider, subject = _provider(request), _hospital_subject(request)
    seconds = _wait(store, request, {subject: FREE_FAILURES_OF_ADDRESS})
    if seconds:
        return _too_many(request, settings, inside(next), seconds)
    try:
        where, cookie = provider.begin(inside(next))
    except SignInFailed as error:
        LOGGER.warning("signin.oidc_failed %s", error)
        return _page(request, settings, inside(next), _sentence(error), 502)
    store.accounts.give_back(subject)
    answer = RedirectResponse(where, 303)
    _set_cookie(answer, settings.web, _flow_cookie(settings.web), cookie, 600)
    return answer


@router.get("/signin/oidc/callback")
def from_provider(request: Request, store: StoreDep, settings: SettingsDep) -> Response:
    """The browser comes back from the hospital's sign-in."""
    provider, cookie = _provider(request), request.cookies.get(_flow_cookie(settings.web), "")
    subject = _hospital_subject(request)
    seconds = _wait(store, request, {subject: FREE_FAILURES_OF_ADDRESS})
    if seconds:  # without an entry: anybody could fill the audit trail
        return _too_many(request, settings, "/", seconds)
    try:
        person, where = provider.finish(cookie, dict(request.query_params))
    except SignInFailed as error:
        LOGGER.warning("signin.oidc_failed %s", error)
        _audit(store, request, "", "signin", "refused", f"oidc: {error}")
        return _page(request, settings, "/", _sentence(error), 403)
    store.accounts.give_back(subject)
    detail = f"{person.role}, by {settings.web.oidc.issuer}"
    return _begin(request, store, settings, person.account, person.role, inside(where), detail)


def _hospital_subject(request: Request) -> str:
    """Counted apart from passwords: when the provider is down, local users still get in from the same address."""
    return f"hospital {address(request)}"


def _provider(request: Request) -> "Provider":
    provider: Provider | None = request.app.state.oidc
    if provider is None:
        raise Problem(404, "this node has no sign-in of the hospital", "set [web.oidc]")
    return provider


# -- both --------------------------------------------------------------------------------------------------------


def _begin(
    request: Request, store: Store, settings: Settings, account: str, role: Role, where: str, detail: str = ""
) -> Response:
    """A session of its own for each sign-in: what a cookie was before opens nothing afterwards."""
    web, now, cookie = settings.web, time.time(), secrets.token_urlsafe(32)
    with store.transaction():
        store.accounts.sweep(now, web.session_idle_minutes * 60, web.session_hours * 3600)
        store.accounts.end_session(request.cookies.get(cookie_name(web), ""))
        store.accounts.begin_session(cookie, account, role, secrets.token_urlsafe(32), now)
        _audit(store, request, account, "signin", "done", detail or role)
    answer = RedirectResponse(where, 303)
    _set_cookie(answer, web, cookie_name(web), cookie, int(web.session_hours * 3600))
    for name in (_form_cookie(web), _flow_cookie(web)):
        answer.delete_cookie(name, secure=secure(web), httponly=True, samesite="lax")
    return answer


def _page(
    request: Request, settings: Settings, where: str, detail: str = "", status: int = 200, name: str = ""
) -> Response:
    csrf = request.cookies.get(_form_cookie(settings.web)) or secrets.token_urlsafe(32)
    context = {"name": name[:64], "next": where, "oidc": bool(settings.web.oidc.issuer), "csrf": csrf, "detail": detail}
    answer = templates.TemplateResponse(request, "signin.html", context, status)
    _set_cookie(answer, settings.web, _form_cookie(settings.web), csrf, 3600, "strict")
    return answer


def _too_many(request: Request, settings: Settings, where: str, seconds: int, name: str = "") -> Response:
    answer = _page(request, settings, where, f"Too many attempts. Wait {seconds} seconds.", 429, name)
    answer.headers["Retry-After"] = str(seconds)
    return answer


def _set_cookie(
    answer: Response, web: Web, name: str, value: str, seconds: int, samesite: Literal["lax", "strict"] = "lax"
) -> None:
    """`lax` lets a link in the RIS and the provider's redirect arrive signed in; unsafe methods need the token too."""
    answer.set_cookie(name, value, seconds, path="/", secure=secure(web), httponly=True, samesite=samesite)


def _form_cookie(web: Web) -> str:
    return f"{cookie_name(web)}-form"


def _flow_cookie(web: Web) -> str:
    return f"{cookie_name(web)}-flow"


def _sentence(error: Exception) -> str:
    text = str(error)
    return f"{text[0].upper()}{text[1:]}."


def _audit(store: Store, request: Request, account: str, action: str, outcome: AuditOutcome, detail: str = "") -> None:
    store.audit.add(AuditEntry(time.time(), account, "web", action, outcome, address(request), detail=detail))
