"""Secrets (tokens, passwords, private keys) come from files alone, and only from files that nobody else can read.

Leaf of the node: standard library only. A secret is never in the settings, the environment, a log or an error's text.
"""

import os
import stat
from pathlib import Path

from dicom_node.workitem import ConfigError

MAXIMUM_BYTES = 65_536
CREDENTIALS = "CREDENTIALS_DIRECTORY"  # systemd sets it where a unit has LoadCredential=
FOLDER = "secrets"  # LoadCredential=secrets:/a/folder names each file of the folder secrets_FILE
PROCESSES = ("receive", "work", "web")  # the same of several folders, for `prognode check`


def read_secret(path: Path) -> str:
    """The text of a secret file, without the line feed at its end.

    A credential that systemd loaded under the file's name (`LoadCredential=fhir.token:/etc/prognode/fhir.token`) goes
    first: systemd keeps it where only the service can read it.

    Raises
    ------
    ConfigError
        When the file cannot be read, is empty, is no text, or can be read or replaced by others than the service's
        user and root; the text names the file and the remedy, never the content.
    """
    found = secret_file(path)
    try:
        with found.open("rb") as stream:
            data = stream.read(MAXIMUM_BYTES + 1)
    except OSError as error:
        raise _unreadable(found, error) from None
    if len(data) > MAXIMUM_BYTES:
        raise ConfigError(f"{found}: is longer than any secret; give the file that holds the secret and nothing else")
    try:
        text = data.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError:
        raise ConfigError(f"{found}: is no text; write the secret into it as plain text") from None
    if not text:
        raise ConfigError(f"{found}: is empty; write the secret into it")
    return text


def secret_file(path: Path) -> Path:
    """The file that a secret is to be read from, once its permissions are in order: for libraries that want a path.

    Gives systemd's credential of that name where there is one. Raises ConfigError as `read_secret` does.
    """
    loaded = _credential(path.name)
    if loaded is not None:
        return loaded
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # not waiting for a pipe's other end
        try:
            status = os.fstat(descriptor)
        finally:
            os.close(descriptor)
        folder = path.resolve().parent.stat()
    except OSError as error:
        raise _unreadable(path, error) from None
    if not stat.S_ISREG(status.st_mode):
        raise ConfigError(f"{path}: is no file; give the file that holds the secret")
    if status.st_uid not in (0, os.geteuid()):
        raise ConfigError(f"{path}: belongs to another user; run: chown {os.geteuid()} {path}")
    if status.st_mode & 0o077:
        raise ConfigError(
            f"{path}: others can read or write it ({stat.S_IMODE(status.st_mode):04o}); run: chmod 0600 {path}"
        )
    if _others_can_replace(folder):
        raise ConfigError(f"{path.parent}: others can replace files in it; run: chmod go-w {path.parent}")
    return path


def _credential(name: str) -> Path | None:
    folder = os.environ.get(CREDENTIALS)
    names = [name, *(f"{one}_{name}" for one in (FOLDER, *PROCESSES))]
    paths = [Path(folder, each) for each in names] if folder else []
    return next((path for path in paths if path.is_file()), None)


def _others_can_replace(folder: os.stat_result) -> bool:
    """Whether someone else may rename files in a folder; the sticky bit (as of /tmp) forbids it."""
    foreign = folder.st_uid not in (0, os.geteuid())
    return foreign or bool(folder.st_mode & 0o022 and not folder.st_mode & stat.S_ISVTX)


def _unreadable(path: Path, error: OSError) -> ConfigError:
    if isinstance(error, PermissionError) and FOLDER in path.parts:  # root's; systemd hands it to the service
        remedy = "run this as root, or with systemd-run as docs/deployment.md says (Secrets)"
    else:
        remedy = "give the service's user a file with mode 0600"
    return ConfigError(f"{path}: cannot be read ({error.strerror}); {remedy}")
