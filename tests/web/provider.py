"""A small OpenID Connect provider in a process of its own: `python -m tests.web.provider FOLDER`.

It signs everyone in as the person that FOLDER/person.json describes, at once, and is as strict as a real one: redirect
URI, client secret and PKCE are checked, a code is good once. `fault` in person.json makes it lie in one way.
"""

import base64
import hashlib
import hmac
import json
import secrets
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from joserfc import jwt
from joserfc.jwk import KeySet, RSAKey

CLIENT, SECRET = "prognode-test", "a secret of the test's client"


class Provider(ThreadingHTTPServer):
    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder, self.issuer = folder, f"http://127.0.0.1:{self.server_address[1]}"
        self.keys = [RSAKey.generate_key(2048, {"kid": "first", "use": "sig"})]
        self.codes: dict[str, dict[str, str]] = {}
        self.tokens: dict[str, dict[str, Any]] = {}
        self.asked: list[str] = []

    @property
    def person(self) -> dict[str, Any]:
        return json.loads((self.folder / "person.json").read_text())  # type: ignore[no-any-return]


class Handler(BaseHTTPRequestHandler):
    server: Provider

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        question = {name: values[0] for name, values in parse_qs(address.query).items()}
        self.server.asked.append(address.path)
        (self.server.folder / "asked.json").write_text(json.dumps(self.server.asked))
        if address.path == "/.well-known/openid-configuration":
            self._say(self._configuration())
        elif address.path == "/jwks":
            self._say(KeySet(list(self.server.keys)).as_dict(private=False))
        elif address.path == "/authorize":
            self._authorize(question)
        elif address.path == "/userinfo":
            self._userinfo()
        else:
            self._say({"error": "not_found"}, 404)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self._token({name: values[0] for name, values in parse_qs(body).items()})

    def _configuration(self) -> dict[str, Any]:
        issuer, fault = self.server.issuer, self.server.person.get("fault")
        found = {
            "issuer": issuer if fault != "another issuer in discovery" else "https://evil.example",
            "authorization_endpoint": f"{issuer}/authorize",
            "token_endpoint": f"{issuer}/token",
            "jwks_uri": f"{issuer}/jwks",
            "userinfo_endpoint": f"{issuer}/userinfo",
        }
        if fault == "secret in the body":
            found["token_endpoint_auth_methods_supported"] = ["client_secret_post"]  # type: ignore[assignment]
        return found

    def _authorize(self, question: dict[str, str]) -> None:
        fault = self.server.person.get("fault")
        right = question.get("response_type") == "code" and question.get("client_id") == CLIENT
        if not right or question.get("code_challenge_method") != "S256" or "openid" not in question.get("scope", ""):
            self._say({"error": "invalid_request"}, 400)
            return
        code = secrets.token_urlsafe(16)
        self.server.codes[code] = question
        answer = {"code": code, "state": question["state"]}
        if fault == "denied":
            answer = {"error": "access_denied", "state": question["state"]}
        if fault == "another state":
            answer["state"] = "x"
        if fault == "another issuer in the answer":
            answer["iss"] = "https://evil.example"
        self.send_response(302)
        self.send_header("Location", f"{question['redirect_uri']}?{urlencode(answer)}")
        self.end_headers()

    def _token(self, form: dict[str, str]) -> None:
        person = self.server.person
        question = self.server.codes.pop(form.get("code", ""), None)
        challenge = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        ours = _base64(challenge)
        basic = self.headers.get("Authorization") == f"Basic {base64.b64encode(f'{CLIENT}:{SECRET}'.encode()).decode()}"
        posted = (form.get("client_id"), form.get("client_secret")) == (CLIENT, SECRET)
        if not (posted if person.get("fault") == "secret in the body" else basic):
            self._say({"error": "invalid_client"}, 401)
        elif (
            question is None
            or ours != question["code_challenge"]
            or form.get("redirect_uri") != question["redirect_uri"]
            or form.get("grant_type") != "authorization_code"
        ):
            self._say({"error": "invalid_grant"}, 400)
        else:
            access = secrets.token_urlsafe(16)
            self.server.tokens[access] = person
            self._say({"access_token": access, "token_type": "Bearer", "id_token": self._id_token(question)})

    def _id_token(self, question: dict[str, str]) -> str:
        person, now = self.server.person, int(time.time())
        fault = person.get("fault")
        claims = {
            "iss": self.server.issuer, "aud": CLIENT, "sub": "8d3f", "exp": now + 300, "iat": now,
            "nonce": question["nonce"], **person["claims"],
        }  # fmt: skip
        claims |= {
            "another issuer": {"iss": "https://evil.example"},
            "another audience": {"aud": "another-client"},
            "another party": {"aud": [CLIENT, "another"], "azp": "another"},
            "several audiences": {"aud": [CLIENT, "another"], "azp": CLIENT},
            "expired": {"exp": now - 600, "iat": now - 900},
            "from the future": {"iat": now + 600},
            "another nonce": {"nonce": "x"},
        }.get(str(fault), {})
        if fault == "no nonce":
            del claims["nonce"]
        if fault == "no expiry":
            del claims["exp"]
        key = self.server.keys[-1]
        if fault == "another key":
            key = RSAKey.generate_key(2048, {"kid": key.kid})
        if fault == "a new key":
            key = RSAKey.generate_key(2048, {"kid": secrets.token_hex(4), "use": "sig"})
            self.server.keys.append(key)
        if fault in ("no signature", "signed with the public key"):  # libraries refuse to make these
            head = {"alg": "none"} if fault == "no signature" else {"alg": "HS256", "kid": key.kid}
            text = ".".join(_base64(json.dumps(part).encode()) for part in (head, claims))
            mac = hmac.digest(key.as_pem(private=False), text.encode(), "sha256")
            return f"{text}.{'' if fault == 'no signature' else _base64(mac)}"
        return jwt.encode({"alg": "RS256", "kid": key.kid}, claims, key)

    def _userinfo(self) -> None:
        person = self.server.tokens.get(self.headers.get("Authorization", "").removeprefix("Bearer "))
        if person is None:
            self._say({"error": "invalid_token"}, 401)
        else:
            self._say({"sub": "8d3f", **person.get("userinfo", {})})

    def _say(self, document: Any, status: int = 200) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


if __name__ == "__main__":
    with Provider(Path(sys.argv[1])) as provider:
        print(provider.issuer, flush=True)
        provider.serve_forever()
