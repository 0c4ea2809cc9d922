"""Sign-in by the hospital's OpenID Connect provider (OpenID Connect Core 1.0, section 3.1): code flow with PKCE.

The browser is sent there with a state, a nonce and the digest of a verifier, all kept in a signed cookie of ten
minutes; it comes back with a code, which we exchange for an ID token and check before we believe a word of it.
"""

import asyncio
import hashlib
import json
import secrets
import ssl
import threading
import time
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import quote, urlencode, urlsplit

import httpx
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet, OctKey

from config.settings import Oidc
from dicom_node.accounts import Role
from dicom_node.secrets import read_secret
from dicom_node.web.errors import SignInFailed
from dicom_node.workitem import ConfigError

FLOW_SECONDS = 600
CACHE_SECONDS = 3600.0
SHORTEST_REFRESH_SECONDS = 10.0
DEADLINE_SECONDS = 15.0  # of one answer, however slowly its bytes come
AT_ONCE = 8  # questions at a time: a slow provider must not hold the threads that serve the pages
LEEWAY_SECONDS = 60
MAXIMUM_BYTES = 1_000_000
ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519"]
LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Person:
    """Who has signed in. `subject` never changes at its issuer; `name` may, and is for show."""

    name: str
    subject: str
    role: Role

    @property
    def account(self) -> str:
        """What the session and the audit trail say: the subject first, which alone says who it is (section 5.7).

        >>> Person("anna", "8d3f (root)", "viewer").account
        'oidc:8d3f%20%28root%29 (anna)'
        """
        return f"oidc:{quote(self.subject, safe='|:@/+=')} ({self.name})"


class Provider:
    """The provider of the settings. Its documents are fetched when they are first needed, and kept for an hour."""

    def __init__(self, oidc: Oidc, redirect_uri: str) -> None:
        """Raises ConfigError for an issuer without TLS: whoever is between could sign in as anyone."""
        parts = urlsplit(oidc.issuer)
        if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in LOOPBACK):
            raise ConfigError(f"[web.oidc] issuer {oidc.issuer!r}: must begin with https://")
        if not oidc.client_id:
            raise ConfigError("[web.oidc] client_id is missing; it is what the provider calls this node")
        self._oidc, self._redirect_uri = oidc, redirect_uri
        self._flow_key = OctKey.generate_key(256)
        self._documents: dict[str, tuple[float, dict[str, Any]]] = {}
        self._lock = threading.Lock()
        self._free = threading.BoundedSemaphore(AT_ONCE)

    def begin(self, where: str) -> tuple[str, str]:
        """The address at the provider, and the cookie that has to come back with the answer."""
        flow = {name: secrets.token_urlsafe(32) for name in ("state", "nonce", "verifier")}
        question = {
            "response_type": "code",
            "client_id": self._oidc.client_id,
            "redirect_uri": self._redirect_uri,
            "scope": "openid profile email",
            "state": flow["state"],
            "nonce": flow["nonce"],
            "code_challenge": _base64(hashlib.sha256(flow["verifier"].encode()).digest()),
            "code_challenge_method": "S256",
        }
        claims = {**flow, "where": where, "exp": int(time.time()) + FLOW_SECONDS}
        cookie = jwt.encode({"alg": "HS256"}, claims, self._flow_key)
        endpoint = str(self._configuration().get("authorization_endpoint", ""))
        return f"{endpoint}{'&' if '?' in endpoint else '?'}{urlencode(question)}", cookie

    def finish(self, cookie: str, answer: Mapping[str, str]) -> tuple[Person, str]:
        """Who came back, and where they wanted to go. Raises SignInFailed."""
        try:
            flow = jwt.decode(cookie, self._flow_key, algorithms=["HS256"]).claims
            jwt.JWTClaimsRegistry(exp={"essential": True}).validate(flow)
        except (JoseError, ValueError):
            raise SignInFailed("the sign-in took too long, or began in another browser; begin again") from None
        if not secrets.compare_digest(answer.get("state", "").encode(), str(flow["state"]).encode()):
            raise SignInFailed("the answer does not belong to this sign-in; begin again")
        issuer = answer.get("iss", self._oidc.issuer)  # RFC 9207, where the provider has it
        if "code" not in answer or issuer != self._oidc.issuer:
            raise SignInFailed("the hospital's sign-in has refused; begin again, or ask its administrator")
        tokens = self._exchange(answer["code"], str(flow["verifier"]))
        claims = self._verified(str(tokens.get("id_token", "")), str(flow["nonce"]))
        claims = self._with_role_claim(claims, str(tokens.get("access_token", "")))
        return self._person(claims), str(flow["where"])

    # -- talking to the provider -----------------------------------------------------------------------------

    def _configuration(self) -> dict[str, Any]:
        """The discovery document (OpenID Connect Discovery 1.0, section 4)."""
        found = self._document(self._oidc.issuer.rstrip("/") + "/.well-known/openid-configuration")
        if found.get("issuer") != self._oidc.issuer:
            raise SignInFailed("the provider calls itself by another name; correct [web.oidc] issuer to its `issuer`")
        return found

    def _keys(self, *, fresh: bool) -> KeySet:
        address = str(self._configuration().get("jwks_uri", ""))
        longest = SHORTEST_REFRESH_SECONDS if fresh else CACHE_SECONDS
        try:
            return KeySet.import_key_set(cast(Any, self._document(address, longest)))
        except (JoseError, ValueError, KeyError, TypeError):
            raise SignInFailed("the provider's keys cannot be read; ask its administrator") from None

    def _document(self, address: str, longest: float = CACHE_SECONDS) -> dict[str, Any]:
        with self._lock:
            fetched_at, document = self._documents.get(address, (0.0, {}))
        if document and time.monotonic() - fetched_at < longest:
            return document
        document = self._asked("GET", address)
        with self._lock:
            self._documents[address] = (time.monotonic(), document)
        return document

    def _exchange(self, code: str, verifier: str) -> dict[str, Any]:
        configuration = self._configuration()
        body = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self._redirect_uri,
            "code_verifier": verifier,
        }
        secret = self._secret()
        methods = configuration.get("token_endpoint_auth_methods_supported", ["client_secret_basic"])
        basic = (self._oidc.client_id, secret) if secret and "client_secret_basic" in methods else None
        if basic is None:
            body |= {"client_id": self._oidc.client_id} | ({"client_secret": secret} if secret else {})
        return self._asked("POST", str(configuration.get("token_endpoint", "")), data=body, auth=basic)

    def _secret(self) -> str:
        try:
            return read_secret(self._oidc.client_secret_file) if self._oidc.client_secret_file else ""
        except ConfigError:  # its text names a path: not for who has not signed in
            raise SignInFailed("the node cannot read its client secret; ask its administrator ([web.oidc])") from None

    def _asked(self, method: str, address: str, **more: Any) -> dict[str, Any]:
        """The JSON object that the provider answers with. Raises SignInFailed."""
        if not self._free.acquire(timeout=1.0):
            raise SignInFailed("the hospital's sign-in is slow at this moment; try again, or use a local user")
        try:
            document = json.loads(asyncio.run(_fetched(method, address, **more)))
        except httpx.HTTPStatusError as error:
            raise SignInFailed(f"the hospital's sign-in answers {error.response.status_code}; begin again") from None
        except TimeoutError:
            raise SignInFailed("the hospital's sign-in takes too long; try again, or use a local user") from None
        except (httpx.HTTPError, httpx.InvalidURL):
            raise SignInFailed("the hospital's sign-in cannot be reached; try again, or use a local user") from None
        except ValueError:
            raise SignInFailed("the hospital's sign-in does not answer in JSON; look at [web.oidc] issuer") from None
        finally:
            self._free.release()
        if not isinstance(document, dict):
            raise SignInFailed("the hospital's sign-in does not answer with an object; look at [web.oidc] issuer")
        return document

    # -- believing it ----------------------------------------------------------------------------------------

    def _verified(self, id_token: str, nonce: str) -> dict[str, Any]:
        """The claims of an ID token whose signature, issuer, audience, time and nonce are right (section 3.1.3.7)."""
        client = self._oidc.client_id
        wanted = jwt.JWTClaimsRegistry(
            leeway=LEEWAY_SECONDS,
            iss={"essential": True, "value": self._oidc.issuer},
            aud={"essential": True, "value": client},
            sub={"essential": True},
            exp={"essential": True},
            iat={"essential": True},
            nonce={"essential": True, "value": nonce},
        )
        try:
            claims = self._decoded(id_token)
            wanted.validate(claims)
        except (JoseError, ValueError):
            raise SignInFailed(
                "the answer of the hospital's sign-in cannot be trusted; ask its administrator"
            ) from None
        several = isinstance(claims["aud"], list) and len(claims["aud"]) > 1
        if claims.get("azp", "" if several else client) != client:
            raise SignInFailed("the answer of the hospital's sign-in is for another application")
        return claims

    def _decoded(self, id_token: str) -> dict[str, Any]:
        try:
            return jwt.decode(id_token, self._keys(fresh=False), algorithms=ALGORITHMS).claims
        except (JoseError, ValueError):  # signed with a key that is newer than our copy, perhaps
            return jwt.decode(id_token, self._keys(fresh=True), algorithms=ALGORITHMS).claims

    def _with_role_claim(self, claims: dict[str, Any], access_token: str) -> dict[str, Any]:
        """Where the ID token lacks the role's claim, the UserInfo endpoint may have it (section 5.3)."""
        endpoint = str(self._configuration().get("userinfo_endpoint", ""))
        if _claim(claims, self._oidc.role_claim) is not None or not endpoint or not access_token:
            return claims
        found = self._asked("GET", endpoint, headers={"Authorization": f"Bearer {access_token}"})
        return {**found, **claims} if found.get("sub") == claims["sub"] else claims

    def _person(self, claims: dict[str, Any]) -> Person:
        name = next((str(claims[key]) for key in ("preferred_username", "email", "sub") if claims.get(key)), "")
        found = _claim(claims, self._oidc.role_claim)
        values = {str(value) for value in found} if isinstance(found, list) else {str(found)}
        role: Role
        if values & set(self._oidc.operator_values):
            role = "operator"
        elif values & set(self._oidc.viewer_values):
            role = "viewer"
        else:
            raise SignInFailed("your account has no role here; ask the administrator of the node ([web.oidc])")
        subject = str(claims["sub"])
        if not 0 < len(subject) <= 255:
            raise SignInFailed("the hospital's sign-in does not say who you are; ask its administrator")
        return Person("".join(c for c in name if c.isprintable())[:64], subject, role)


async def _fetched(method: str, address: str, **more: Any) -> bytes:
    """The body of an answer. Raises SignInFailed, TimeoutError, and what httpx does."""
    # The host's authorities, not those of a library: a hospital's provider often has a certificate of its own.
    client = httpx.AsyncClient(verify=ssl.create_default_context(), timeout=DEADLINE_SECONDS)
    content = b""
    async with asyncio.timeout(DEADLINE_SECONDS), client, client.stream(method, address, **more) as response:
        async for piece in response.aiter_bytes():
            content += piece
            if len(content) > MAXIMUM_BYTES:
                raise SignInFailed("the hospital's sign-in answers with too much; ask its administrator")
        response.raise_for_status()
    return content


def _claim(claims: Mapping[str, Any], name: str) -> Any:
    """A claim by its name, or by its path: Keycloak has "realm_access.roles".

    >>> _claim({"realm_access": {"roles": ["radiology"]}}, "realm_access.roles")
    ['radiology']
    """
    if name in claims:
        return claims[name]
    head, _, rest = name.partition(".")
    inner = claims.get(head)
    return _claim(inner, rest) if rest and isinstance(inner, dict) else None


def _base64(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()
