"""Who may use page and API: local users, sessions, API tokens, and failed sign-ins. Reached as `store.accounts`.

Holds digests only: neither a cookie nor a token nor a password can be read from the store.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import fields as dataclass_fields
from typing import Literal

from dicom_node.database import Database

Role = Literal["viewer", "operator", "monitor"]  # monitor: of tokens alone; reads /metrics and nothing else
FREE_FAILURES = 5  # of an account; then each failure doubles the wait
FREE_FAILURES_OF_ADDRESS = 20  # a ward shares an address
LONGEST_WAIT_SECONDS = 300.0
FORGOTTEN_AFTER_SECONDS = 86400.0
TOUCH_SECONDS = 30.0  # a session's row is not written at every request


@dataclass(frozen=True)
class Account:
    """A local user. `password_hash` is an argon2id PHC string."""

    name: str
    password_hash: str
    role: Role
    disabled: int
    created_at: float


@dataclass(frozen=True)
class Session:
    """A session that is in force."""

    token_digest: str
    account: str
    role: Role
    csrf: str
    created_at: float
    seen_at: float

    @property
    def by_hospital(self) -> bool:
        """Whether OpenID Connect has let its user in: the role is the one of that moment."""
        return self.account.startswith("oidc:")


@dataclass(frozen=True)
class ApiToken:
    """An API token, without the token itself."""

    name: str
    role: Role
    created_at: float
    expires_at: float | None
    revoked_at: float | None
    used_at: float | None


_ACCOUNT, _SESSION, _TOKEN = (
    ", ".join(field.name for field in dataclass_fields(kind)) for kind in (Account, Session, ApiToken)
)


def digest(secret: str) -> str:
    """What the store keeps of a cookie or token; their 256 random bits need no slow hash."""
    return hashlib.sha256(secret.encode()).hexdigest()


class Accounts:
    """The tables account, session, api_token and signin_throttle."""

    def __init__(self, database: Database) -> None:
        self._db = database

    # -- local users -----------------------------------------------------------------------------------------

    def add(self, name: str, password_hash: str, role: Role, now: float) -> bool:
        """A new user; False when the name is taken."""
        sql = "INSERT OR IGNORE INTO account (name, password_hash, role, created_at) VALUES (?, ?, ?, ?)"
        return self._db.execute(sql, [name, password_hash, role, now]) == 1

    def of(self, name: str) -> Account | None:
        rows = self._db.rows(f"SELECT {_ACCOUNT} FROM account WHERE name = ?", [name])
        return Account(**rows[0]) if rows else None

    def all(self) -> list[Account]:
        return [Account(**row) for row in self._db.rows(f"SELECT {_ACCOUNT} FROM account ORDER BY name")]

    def set_password(self, name: str, password_hash: str, *, end_sessions: bool = True) -> bool:
        """A new password; whoever is signed in with the old one has to sign in again. False: no such user."""
        with self._db.immediate():
            done = self._db.execute("UPDATE account SET password_hash = ? WHERE name = ?", [password_hash, name]) == 1
            if end_sessions:
                self.end_sessions_of(name)
        return done

    def set_role(self, name: str, role: Role) -> bool:
        """In force at the next request. False: no such user."""
        return self._db.execute("UPDATE account SET role = ? WHERE name = ?", [role, name]) == 1

    def set_disabled(self, name: str, disabled: bool) -> bool:
        """Keep a user out, or let them in again; ends their sessions. False: no such user."""
        with self._db.immediate():
            done = self._db.execute("UPDATE account SET disabled = ? WHERE name = ?", [int(disabled), name]) == 1
            self.end_sessions_of(name)
        return done

    def remove(self, name: str) -> bool:
        """Forget a user (the audit trail does not); ends their sessions. False: no such user."""
        with self._db.immediate():
            done = self._db.execute("DELETE FROM account WHERE name = ?", [name]) == 1
            self.end_sessions_of(name)
        return done

    # -- sessions --------------------------------------------------------------------------------------------

    def begin_session(self, cookie: str, account: str, role: Role, csrf: str, now: float) -> None:
        columns = {"token_digest": digest(cookie), "account": account, "role": role, "csrf": csrf}
        self._db.insert("session", {**columns, "created_at": now, "seen_at": now})

    def session(self, cookie: str, now: float, idle_seconds: float, longest_seconds: float) -> Session | None:
        """The session of a cookie while it is in force; a local user's role is the one that the account has now."""
        rows = self._db.rows(f"SELECT {_SESSION} FROM session WHERE token_digest = ?", [digest(cookie)])
        if not rows or now - rows[0]["seen_at"] > idle_seconds or now - rows[0]["created_at"] > longest_seconds:
            return None
        session = Session(**rows[0])
        if session.by_hospital:
            return session
        account = self.of(session.account)
        if account is None or account.disabled:
            return None
        return Session(**{**vars(session), "role": account.role})

    def touch_session(self, session: Session, now: float) -> None:
        """Its user has just done something: the idle time begins again."""
        if now - session.seen_at > TOUCH_SECONDS:
            self._db.execute("UPDATE session SET seen_at = ? WHERE token_digest = ?", [now, session.token_digest])

    def end_session(self, cookie: str) -> bool:
        return self._db.execute("DELETE FROM session WHERE token_digest = ?", [digest(cookie)]) == 1

    def end_sessions_of(self, account: str) -> int:
        """A local user's; or those of "oidc:<sub> (<name>)", which "oidc:<sub>" and "oidc:<name>" name too."""
        if not account.startswith("oidc:"):
            return self._db.execute("DELETE FROM session WHERE account = ?", [account])
        subject, name = f"{account} (", f" ({account.removeprefix('oidc:')})"
        named = "account LIKE 'oidc:%' AND substr(account, instr(account, ' (')) = ?"
        where = f"account = ? OR substr(account, 1, ?) = ? OR ({named})"
        return self._db.execute(f"DELETE FROM session WHERE {where}", [account, len(subject), subject, name])

    def sweep(self, now: float, idle_seconds: float, longest_seconds: float) -> None:
        """Forget sessions that have run out, and failures of yesterday."""
        limits = [now - idle_seconds, now - longest_seconds]
        self._db.execute("DELETE FROM session WHERE seen_at < ? OR created_at < ?", limits)
        self._db.execute("DELETE FROM signin_throttle WHERE at < ?", [now - FORGOTTEN_AFTER_SECONDS])

    # -- API tokens ------------------------------------------------------------------------------------------

    def add_token(self, token: str, name: str, role: Role, now: float, expires_at: float | None) -> bool:
        """Keep a new token's digest; False when the name is taken."""
        sql = "INSERT OR IGNORE INTO api_token (digest, name, role, created_at, expires_at) VALUES (?, ?, ?, ?, ?)"
        return self._db.execute(sql, [digest(token), name, role, now, expires_at]) == 1

    def token(self, token: str, now: float) -> ApiToken | None:
        """A token that is in force."""
        sql = (
            f"SELECT {_TOKEN} FROM api_token WHERE digest = ? AND revoked_at IS NULL"
            " AND (expires_at IS NULL OR expires_at > ?)"
        )
        rows = self._db.rows(sql, [digest(token), now])
        if not rows:
            return None
        if now - (rows[0]["used_at"] or 0.0) > TOUCH_SECONDS:
            self._db.execute("UPDATE api_token SET used_at = ? WHERE digest = ?", [now, digest(token)])
        return ApiToken(**rows[0])

    def tokens(self) -> list[ApiToken]:
        return [ApiToken(**row) for row in self._db.rows(f"SELECT {_TOKEN} FROM api_token ORDER BY name")]

    def revoke_token(self, name: str, now: float) -> bool:
        """False when no token of that name is in force."""
        sql = "UPDATE api_token SET revoked_at = ? WHERE name = ? AND revoked_at IS NULL"
        return self._db.execute(sql, [now, name]) == 1

    # -- failed sign-ins -------------------------------------------------------------------------------------

    def attempt(self, subjects: Mapping[str, int], now: float) -> float:
        """Count an attempt to sign in, before the password is looked at; the seconds to wait where there were too many.

        `subjects` are the account and the address, each with the failures that are free. Counting first lets many
        attempts at the same time gain nothing. When the password was right, `forgive` clears the account; the address
        only gets this one attempt back (`give_back`): one good account must not open the door for guesses at others.
        """
        with self._db.immediate():
            rows = {subject: self._failures(subject, now) for subject in subjects}
            wait = max(locked_until - now for _, locked_until in rows.values())
            if wait > 0:
                return wait
            for subject, (failures, _) in rows.items():
                over = failures + 1 - subjects[subject]
                locked = now + min(2.0 ** min(over, 20), LONGEST_WAIT_SECONDS) if over > 0 else 0.0
                self._db.execute(
                    "INSERT OR REPLACE INTO signin_throttle (subject, failures, locked_until, at) VALUES (?, ?, ?, ?)",
                    [digest(subject), failures + 1, locked, now],
                )
        return 0.0

    def forgive(self, subject: str) -> None:
        """Forget the failures, after the right password or by an administrator."""
        self._db.execute("DELETE FROM signin_throttle WHERE subject = ?", [digest(subject)])

    def give_back(self, subject: str) -> None:
        """Take one attempt back."""
        sql = "UPDATE signin_throttle SET failures = max(failures - 1, 0), locked_until = 0 WHERE subject = ?"
        self._db.execute(sql, [digest(subject)])

    def locked_until(self, subject: str) -> float:
        return self._failures(subject, 0.0)[1]

    def _failures(self, subject: str, now: float) -> tuple[int, float]:
        sql = "SELECT failures, locked_until FROM signin_throttle WHERE subject = ? AND at > ?"
        rows = self._db.rows(sql, [digest(subject), now - FORGOTTEN_AFTER_SECONDS])
        return (rows[0]["failures"], rows[0]["locked_until"]) if rows else (0, 0.0)
