"""Passwords of local users: argon2id with the parameters of RFC 9106's second choice (64 MiB). Leaf of the node."""

import re
import threading
from functools import cache

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from dicom_node.workitem import ConfigError

SHORTEST, LONGEST = 12, 1024
_HASHER = PasswordHasher()
_AT_A_TIME = threading.BoundedSemaphore(2)  # each takes 64 MiB: a flood of sign-ins must not take the machine's memory


def checked_name(name: str) -> str:
    """A user name as it is kept: lower case. Raises ConfigError when it cannot be one.

    >>> checked_name("Anna.Weber@hospital.example")
    'anna.weber@hospital.example'
    """
    name = name.strip().casefold()
    if not re.fullmatch(r"[a-z0-9][a-z0-9._@-]{0,63}", name):
        raise ConfigError(
            "a user name begins with a letter or digit; up to 63 letters, digits, '.', '-', '_' or '@' follow"
        )
    return name


def hashed(password: str) -> str:
    """The PHC string of a new password. Raises ConfigError when it is too short or too long."""
    if not SHORTEST <= len(password) <= LONGEST:
        raise ConfigError(f"a password has {SHORTEST} to {LONGEST} characters; choose another")
    with _AT_A_TIME:
        return _HASHER.hash(password)


def is_right(password_hash: str | None, password: str) -> bool:
    """Whether a password is the one of a hash. None (no such user) takes the same time, and is never right."""
    known, password = password_hash is not None, password if len(password) <= LONGEST else ""
    with _AT_A_TIME:
        try:
            return _HASHER.verify(password_hash or _nobody(), password) and known
        except (VerificationError, InvalidHashError):
            return False


def is_outdated(password_hash: str) -> bool:
    """Whether the parameters have grown since this hash was made: it is made again at the next sign-in."""
    return _HASHER.check_needs_rehash(password_hash)


@cache
def _nobody() -> str:
    return _HASHER.hash("nobody has this password")
