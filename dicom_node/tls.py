"""DICOM over TLS (PS3.15 annex B, BCP 195 as of RFC 9325): contexts for both ends, and the certificates' condition.

TLS 1.2 or newer, forward secrecy and authenticated encryption only: DCMTK's profiles bcp195, bcp195-nd and bcp195-ex
meet it, the retired AES profile (TLS_RSA_WITH_AES_128_CBC_SHA) does not.
"""

import ssl
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from config.settings import Tls
from dicom_node.secrets import secret_file
from dicom_node.workitem import ConfigError

SUITES = "ECDHE+AESGCM:ECDHE+CHACHA20"  # of TLS 1.2; those of TLS 1.3 are all of this kind
DAY_SECONDS = 86_400.0


@dataclass(frozen=True)
class Certificate:
    """One certificate of ours or of an authority: which setting names it, and how long it is good."""

    setting: str
    path: Path
    begins: datetime
    ends: datetime

    def days_left(self, now: float) -> float:
        """Days until it runs out, at `now` (seconds since the epoch); negative when it has."""
        return (self.ends.timestamp() - now) / DAY_SECONDS

    def complaint(self, now: float, warning_days: float) -> str:
        """What is wrong with it, or soon will be, in words with the remedy; '' when nothing is."""
        where = f"[tls] {self.setting} {self.path}"
        left = self.days_left(now)
        if self.begins.timestamp() > now:
            return f"{where} is not valid before {self.begins:%Y-%m-%d}; look at this host's clock"
        if left < 0:
            return f"{where} ran out on {self.ends:%Y-%m-%d}: peers refuse it; install a new one and restart"
        if left < warning_days:
            return f"{where} runs out on {self.ends:%Y-%m-%d}, in {int(left)} days; install a new one and restart"
        return ""


def server_context(tls: Tls) -> ssl.SSLContext:
    """For the listener; with `client_ca`, callers must show a certificate of it. Raises ConfigError."""
    context = _context(ssl.PROTOCOL_TLS_SERVER)
    _load_own(context, tls)
    if tls.client_ca is not None:
        _load_authority(context, "client_ca", tls.client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(tls: Tls) -> ssl.SSLContext:
    """For the peers that we call: their certificate and the name in it are checked. Raises ConfigError."""
    context = _context(ssl.PROTOCOL_TLS_CLIENT)  # CERT_REQUIRED and check_hostname are on
    if tls.certificate is not None:
        _load_own(context, tls)
    if tls.ca is not None:
        _load_authority(context, "ca", tls.ca)
    else:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    return context


def certificates(tls: Tls) -> list[Certificate]:
    """Our certificate and the authorities', as the files have them now. Raises ConfigError."""
    named = (("certificate", tls.certificate), ("client_ca", tls.client_ca), ("ca", tls.ca))
    return [one for setting, path in named if path is not None for one in _read(setting, path)]


def complaints(tls: Tls, now: float) -> list[str]:
    """What is wrong with the certificates, or soon will be. Raises ConfigError."""
    return [words for one in certificates(tls) if (words := one.complaint(now, tls.expiry_warning_days))]


def suites() -> list[str]:
    """The suites of TLS 1.2 that are offered and taken, by OpenSSL's names; of TLS 1.3 all are."""
    return [str(one["name"]) for one in _context(ssl.PROTOCOL_TLS_SERVER).get_ciphers() if one["protocol"] == "TLSv1.2"]


def _context(protocol: int) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(SUITES)
    context.options |= ssl.OP_NO_RENEGOTIATION  # nobody needs it, and each one costs us more than the peer
    return context


def _load_own(context: ssl.SSLContext, tls: Tls) -> None:
    certificate, key = tls.certificate, tls.private_key
    assert certificate is not None
    assert key is not None
    private = secret_file(key)
    _read("certificate", certificate)
    try:
        context.load_cert_chain(certificate, private, password=_no_passphrase)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ConfigError(
                f"[tls] private_key {key} does not belong to certificate {certificate}; give the pair of one request"
            ) from None
        raise ConfigError(f"[tls] private_key {key} is no private key in PEM without a passphrase") from None


def _no_passphrase() -> str:
    return ""  # else OpenSSL asks for it on the terminal


def _load_authority(context: ssl.SSLContext, setting: str, path: Path) -> None:
    _read(setting, path)
    try:
        context.load_verify_locations(path)
    except ssl.SSLError as error:
        raise ConfigError(f"[tls] {setting} {path} cannot be used ({error.reason}); give it in PEM") from None


def _read(setting: str, path: Path) -> list[Certificate]:
    from cryptography import x509  # noqa: PLC0415 - every process imports this module, and few have a certificate

    try:
        found = x509.load_pem_x509_certificates(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"[tls] {setting} {path}: cannot be read ({error.strerror})") from None
    except ValueError:
        raise ConfigError(f"[tls] {setting} {path} holds no certificate in PEM (-----BEGIN CERTIFICATE-----)") from None
    return [Certificate(setting, path, one.not_valid_before_utc, one.not_valid_after_utc) for one in found]
