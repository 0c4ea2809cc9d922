"""What every endpoint of the page and the API needs: store, spool, settings, who is signed in, templates."""

import base64
import hmac
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import Depends, FastAPI, Request
from fastapi import Path as PathParameter
from fastapi.security import HTTPBearer
from fastapi.templating import Jinja2Templates
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from config.settings import Settings, Web
from dicom_node.accounts import Role
from dicom_node.audit import AuditEntry
from dicom_node.limits import plain_address
from dicom_node.operations import Actor
from dicom_node.spool import Spool
from dicom_node.store import Store
from dicom_node.web.errors import NotSignedIn, Problem
from dicom_node.workitem import ConfigError, StageError

TEMPLATES = Path(__file__).with_name("templates")
STATIC = Path(__file__).with_name("static")
SAME_LOOK_SECONDS = 900.0
SAFE_METHODS = ("GET", "HEAD")
Number = Annotated[int, PathParameter(ge=-(2**63), lt=2**63)]  # of a row or a picture: SQLite has 64 bits
FORMS = ("application/x-www-form-urlencoded", "multipart/form-data")


@dataclass(frozen=True)
class Signed:
    """Who is signed in.

    `account`: a local user, "oidc:<sub> (<name>)" of the hospital's sign-in, or "token:<name>" of an API token.
    `origin`: "web" with a session cookie, "api" with a token; as an AuditEntry has it.
    `csrf`: to send back with every unsafe method, as form field `csrf` or header X-CSRF-Token; '' with a token.
    """

    account: str
    role: Role
    origin: Literal["web", "api"]
    csrf: str
    address: str

    @property
    def name(self) -> str:
        """What people call the account."""
        return self.account.partition(" (")[2].removesuffix(")") or self.account

    @property
    def may_act(self) -> bool:
        return self.role == "operator"

    @property
    def actor(self) -> Actor:
        """Who `operations` shall say did it."""
        return Actor(self.account, self.origin, self.address)


# -- settings, spool, store --------------------------------------------------------------------------------------


def settings(request: Request) -> Settings:
    return request.app.state.settings  # type: ignore[no-any-return]


def spool(request: Request) -> Spool:
    return request.app.state.spool  # type: ignore[no-any-return]


@contextmanager
def open_store(app: FastAPI) -> Iterator[Store]:
    """A store for code that is no endpoint (a stream of events, say). Raises Problem where there is none yet."""
    path: Path = app.state.spool.store
    if not path.is_file():
        raise Problem(503, "this node has no store yet", "start it: prognode serve (or receive and work)")
    try:
        opened = Store.open(path, any_thread=True)
    except ConfigError as error:
        raise Problem(503, "the store cannot be used by this version of Prognode", str(error)) from error
    try:
        yield opened
    finally:
        opened.close()


def store(request: Request) -> Iterator[Store]:
    """The store of this request: one thread at a time uses it, but not always the same one of the pool."""
    with open_store(request.app) as opened:
        yield opened


SettingsDep = Annotated[Settings, Depends(settings)]
SpoolDep = Annotated[Spool, Depends(spool)]
StoreDep = Annotated[Store, Depends(store)]


# -- who is signed in --------------------------------------------------------------------------------------------


def cookie_name(web: Web) -> str:
    """The __Host- prefix binds the cookie to this host and to TLS; browsers refuse it without."""
    return "__Host-prognode" if secure(web) else "prognode"


def secure(web: Web) -> bool:
    """Whether browsers reach us by TLS, of ours or of a proxy in front."""
    return web.certificate is not None or web.public_url.startswith("https://")


def public_url(web: Web) -> str:
    """What browsers call, without a slash at the end."""
    host = f"[{web.host}]" if ":" in web.host else web.host
    return web.public_url.rstrip("/") or f"{'https' if secure(web) else 'http'}://{host}:{web.port}"


def address(request: Request) -> str:
    return plain_address(request.client.host) if request.client else ""


def who(request: Request, store: Store, *, touch: bool = False) -> Signed | None:
    """Who a request is from; `touch`: its user is at work, so the idle time begins again.

    A stream that lives long asks this from time to time: a session may end while it runs.
    """
    now = time.time()
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        found = store.accounts.token(token.strip(), now)
        return Signed(f"token:{found.name}", found.role, "api", "", address(request)) if found else None
    web: Web = request.app.state.settings.web
    cookie = request.cookies.get(cookie_name(web), "")
    idle, longest = web.session_idle_minutes * 60, web.session_hours * 3600
    session = store.accounts.session(cookie, now, idle, longest) if cookie else None
    if session is None or (session.by_hospital and now - session.created_at > web.oidc.session_hours * 3600):
        return None
    if touch:
        store.accounts.touch_session(session, now)
    return Signed(session.account, session.role, "web", session.csrf, address(request))


def seen(request: Request) -> Signed | None:
    """Who has asked for an address that is no endpoint: the page that says so is for them, with its navigation."""
    with suppress(Problem, StageError), open_store(request.app) as opened:
        return who(request, opened)
    return None


def _signed(request: Request, store: StoreDep, _: Annotated[Any, Depends(HTTPBearer(auto_error=False))]) -> Signed:
    # A page that lies open and reads what has changed (header X-Background) is no sign that somebody sits before it.
    stream = "text/event-stream" in request.headers.get("accept", "")
    signed = who(request, store, touch=not (background(request) or stream))
    if signed is None:
        raise NotSignedIn
    request.state.signed = signed
    return signed


def monitor(signed: Annotated[Signed, Depends(_signed)]) -> Signed:
    """Anyone who is signed in, and a monitoring system's token too: for figures alone, where no patient is."""
    return signed


async def viewer(request: Request, signed: Annotated[Signed, Depends(_signed)]) -> Signed:
    """Anyone who is signed in. Raises NotSignedIn; Problem 403 for an unsafe request another site may have sent."""
    if signed.role == "monitor":
        raise Problem(403, "this token may read /metrics and nothing else", "make another: prognode token add NAME")
    if request.method not in SAFE_METHODS and signed.origin == "web":
        same_site(request)
        given = request.headers.get("x-csrf-token", "")
        if not given and request.headers.get("content-type", "").partition(";")[0].strip().lower() in FORMS:
            given = str((await request.form()).get("csrf", ""))
        if not hmac.compare_digest(given.encode(), signed.csrf.encode()):
            raise Problem(403, "the form is not from this page, or too old", "load the page again and repeat it")
    return signed


def same_site(request: Request) -> None:
    """Refuse what a browser says that another site has sent. Raises Problem 403."""
    public = request.app.state.settings.web.public_url.rstrip("/")
    expected = public or f"{request.url.scheme}://{request.headers.get('host', '')}"
    foreign = request.headers.get("origin", expected) != expected
    if foreign or request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise Problem(403, "the request comes from another site", "use the node's own page; see [web] public_url")


def inside(where: str) -> str:
    """A place of ours to go to, or the worklist: never another site.

    >>> inside("/studies/1.2.3"), inside("//evil.example"), inside("/\\\\evil.example"), inside("https://evil.example")
    ('/studies/1.2.3', '/', '/', '/')
    """
    ours = where.startswith("/") and not where.startswith(("//", "/\\", "/signin")) and where.isprintable()
    return where if ours and len(where) <= 2048 else "/"


def operator(signed: Annotated[Signed, Depends(viewer)]) -> Signed:
    """Whoever may act. Raises Problem 403 for a viewer."""
    if not signed.may_act:
        raise Problem(403, "this needs the role operator", "ask an administrator: prognode user role NAME operator")
    return signed


Viewer = Annotated[Signed, Depends(viewer)]
Operator = Annotated[Signed, Depends(operator)]


# -- who has looked at what --------------------------------------------------------------------------------------


def background(request: Request) -> bool:
    """Whether a page that lies open asks by itself. Anybody can say so: it is no reason to give without an entry."""
    return "x-background" in request.headers


class Recent:
    """Looks of the last quarter of an hour, by account and what was looked at: what goes on is audited once."""

    def __init__(self) -> None:
        self._at: OrderedDict[tuple[str, int | str], float] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._at)

    def goes_on(self, account: str, what: int | str, now: float) -> bool:
        """Whether this account has looked there within a quarter of an hour; if so, that time begins again."""
        with self._lock:
            while self._at and now - next(iter(self._at.values())) > SAME_LOOK_SECONDS:
                self._at.popitem(last=False)
            known = (account, what) in self._at
        if known:
            self.begin(account, what, now)
        return known

    def begin(self, account: str, what: int | str, now: float) -> None:
        """Remember a look, once it is audited."""
        with self._lock:
            self._at[account, what] = now
            self._at.move_to_end((account, what))


def opened(
    request: Request,
    store: Store,
    signed: Signed,
    study_instance_uid: str,
    work_item_id: int | None,
    what: Literal["study.opened", "result.opened"],
    *,
    part: bool = False,
) -> None:
    """Audit that somebody has looked at a study or a result.

    `part`: a picture of it, say, or what a page that lies open reads by itself. It belongs to a look that has its
    entry; where this account has none of this work item within a quarter of an hour, it is a look of its own.
    """
    recent: Recent = request.app.state.recent
    if part and work_item_id is not None and recent.goes_on(signed.account, work_item_id, time.monotonic()):
        return
    entry = AuditEntry(
        time.time(),
        signed.account,
        signed.origin,
        what,
        address=signed.address,
        work_item_id=work_item_id,
        study_instance_uid=study_instance_uid,
    )
    store.audit.add(entry)
    if work_item_id is not None:
        recent.begin(signed.account, work_item_id, time.monotonic())


def searched(request: Request, store: Store, signed: Signed, text: str, found: int) -> None:
    """Audit whom somebody has looked for on the worklist: the event Query of PS3.15 A.5.3.10.

    Once for the same person and text until a quarter of an hour has passed without it: sorting, turning pages, a page
    that lies open and a program that asks every minute are no new questions.
    """
    recent: Recent = request.app.state.recent
    if recent.goes_on(signed.account, text, time.monotonic()):
        return
    facts = {"query": base64.b64encode(text.encode()).decode()}
    entry = AuditEntry(
        time.time(),
        signed.account,
        signed.origin,
        "query.worklist",
        address=signed.address,
        detail=f"{text!r}: {found} found",
        facts=facts,
    )
    store.audit.add(entry)
    recent.begin(signed.account, text, time.monotonic())


# -- templates ---------------------------------------------------------------------------------------------------


def _common(request: Request) -> dict[str, Any]:
    """What every template has: `signed` (None on the sign-in page) and `settings`."""
    return {"signed": getattr(request.state, "signed", None), "settings": request.app.state.settings}


templates = Jinja2Templates(
    env=Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    ),
    context_processors=[_common],
)
