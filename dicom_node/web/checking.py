"""What `prognode check` says of the worklist page: where it would listen, its certificate, its provider, its users."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime

from cryptography import x509

from config.settings import Settings, Web
from dicom_node.finding import Finding
from dicom_node.spool import Spool
from dicom_node.store import Store
from dicom_node.web import deps, security, server, signin
from dicom_node.web.errors import SignInFailed
from dicom_node.workitem import ConfigError, StageError

WARNING_DAYS = 30.0


def check(settings: Settings) -> Iterator[Finding]:
    """Look at each thing in turn; asks the OpenID Connect provider for its documents."""
    web = settings.web
    try:
        server.check(web)
        security.allowed_hosts(web)
        if web.certificate is not None:
            server.context_of(web)
            yield _certificate(settings)
        provider = signin.provider_of(settings)
    except ConfigError as error:
        yield Finding("page", False, str(error), "correct [web]")
        return
    yield _where(web)
    if provider is not None:
        try:
            provider.begin("/")
        except SignInFailed as error:
            yield Finding("page.sign_in", False, str(error), "look at [web.oidc] issuer, and at the provider")
        else:
            yield Finding("page.sign_in", True, f"{web.oidc.issuer} answers")
    yield from _users(settings)


def _where(web: Web) -> Finding:
    text, remedy = f"prognode web would be at {deps.public_url(web)}", ""
    if deps.secure(web) and web.certificate is None and not web.trusted_proxies:
        text += "; it speaks http itself, and takes every caller for the proxy in front"
        remedy = "name the proxy's address in [web] trusted_proxies; without a proxy, give certificate and private_key"
    return Finding("page", True, text, remedy)


def _certificate(settings: Settings) -> Finding:
    path = settings.web.certificate
    assert path is not None
    ends = x509.load_pem_x509_certificates(path.read_bytes())[0].not_valid_after_utc
    days = (ends - datetime.fromtimestamp(time.time(), UTC)).total_seconds() / 86400.0
    text = f"[web] certificate {path} is good until {ends:%Y-%m-%d}"
    return Finding("page.certificate", days > WARNING_DAYS, text, "" if days > WARNING_DAYS else "install a new one")


def _users(settings: Settings) -> Iterator[Finding]:
    path = Spool(settings.node.spool).store
    users = 0  # nobody has made the spool yet, and looking does not
    if path.is_file():
        try:
            store = Store.open(path)
        except (StageError, ConfigError):  # said of the spool already
            return
        users = sum(not account.disabled for account in store.accounts.all())
        store.close()
    note = "" if users or settings.web.oidc.issuer else "; nobody can sign in before: prognode user add"
    yield Finding("page.users", True, f"{users} local user{'' if users == 1 else 's'}{note}")
