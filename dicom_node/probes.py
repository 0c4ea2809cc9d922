"""Looks at the network for `prognode check`: may a port be opened, and which certificate does somebody show."""

import contextlib
import errno
import http.client
import socket
import ssl

from cryptography import x509

SECONDS = 3.0


def why_no_port(host: str, port: int) -> OSError | None:
    """Why a port cannot be listened at; None where it can. It is opened for a moment, and nobody is served."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind((host, port))
            one.listen(1)
    except OSError as error:
        return error
    return None


def is_of_a_port(error: OSError) -> bool:
    """Whether it is an error of opening a port, and not of a disk or of too many files."""
    errors = (errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EACCES, errno.EPERM)
    return isinstance(error, socket.gaierror) or error.errno in errors


def port_remedy(why: OSError, key: str) -> str:
    """What to do about a port that `why_no_port` says cannot be listened at; `key` is the setting that names it."""
    if why.errno == errno.EADDRINUSE:
        return f"find who has it (ss -ltnp), or set {key}"
    if why.errno in (errno.EACCES, errno.EPERM):
        return f"set {key} to one above 1023, or let a .socket unit open it"
    host = key.replace("[tls]", "[node]").replace("port", "host")
    return f"set {host} to an address of this machine, or to 0.0.0.0"


def is_page(host: str, port: int, *, tls: bool) -> bool:
    """Whether our worklist page answers there; which certificate it shows is looked at elsewhere."""
    made = (
        http.client.HTTPSConnection(host, port, timeout=SECONDS, context=ssl._create_unverified_context())  # noqa: S323
        if tls
        else http.client.HTTPConnection(host, port, timeout=SECONDS)
    )
    with contextlib.suppress(OSError, http.client.HTTPException), contextlib.closing(made):
        made.request("GET", "/health")
        answer = made.getresponse()
        return answer.status == 200 and answer.read(100) == b'{"status":"up"}'
    return False


def host_name() -> str:
    """By what others may call this machine: its name with the address that it sends from; never loopback.

    A UDP socket is connected, which sends nothing, to see which interface the way out begins at (RFC 5737 address).
    """
    address = ""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.connect(("192.0.2.1", 9))
        address = str(one.getsockname()[0])
    address = "" if address.startswith(("127.", "0.")) else address
    name = socket.getfqdn()
    if name.startswith("localhost"):
        return address or "(this machine's name or address)"
    return f"{name} ({address})" if address and name != address else name


def certificate_of(host: str, port: int, name: str, context: ssl.SSLContext, seconds: float) -> x509.Certificate:
    """The certificate that is shown there, checked by `context`. Raises OSError (ssl.SSLError is one)."""
    with (
        socket.create_connection((host, port), seconds) as plain,
        context.wrap_socket(plain, server_hostname=name) as secure,
    ):
        shown = secure.getpeercert(binary_form=True)
    if shown is None:
        raise OSError("no certificate is shown")
    return x509.load_der_x509_certificate(shown)
