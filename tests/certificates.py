"""A certificate authority of the tests' own, what it issues, and contexts for clients that trust it."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID

HOSTS = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Pair:
    """A certificate chain and its key, in PEM."""

    certificate: bytes
    key: bytes
    serial: int

    def write(self, certificate: Path, key: Path) -> None:
        """Put both in place, each at once, the key for its owner only."""
        for path, data in ((certificate, self.certificate), (key, self.key)):
            fresh = path.with_suffix(".new")
            fresh.touch(mode=0o600)
            fresh.write_bytes(data)
            fresh.replace(path)


class CertificateAuthority:
    """Issues certificates; its own is at `path`."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self._name = _name(name)
        self._key = ec.generate_private_key(ec.SECP256R1())
        basic = x509.BasicConstraints(ca=True, path_length=0)
        usage = x509.KeyUsage(**dict.fromkeys(_USES, False) | {"key_cert_sign": True})
        built = self._builder(self._name, 30).public_key(self._key.public_key())
        built = built.add_extension(basic, critical=True).add_extension(usage, critical=True)
        named = x509.SubjectKeyIdentifier.from_public_key(self._key.public_key())
        signed = built.add_extension(named, critical=False).sign(self._key, _HASH)
        self.path = folder / f"{name}.crt"
        self.path.write_bytes(signed.public_bytes(Encoding.PEM))

    def issue(
        self, name: str = "localhost", *, hosts: tuple[str, ...] = HOSTS, days: float = 30, passphrase: str = ""
    ) -> Pair:
        """A certificate for `name`, good for `hosts` and for `days` from now."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = self._builder(_name(name), days).public_key(key.public_key())
        if hosts:
            builder = builder.add_extension(
                x509.SubjectAlternativeName([_host(each) for each in hosts]), critical=False
            )
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        signed = builder.add_extension(issuer, critical=False).sign(self._key, _HASH)
        cipher = BestAvailableEncryption(passphrase.encode()) if passphrase else NoEncryption()
        secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, cipher)
        return Pair(signed.public_bytes(Encoding.PEM), secret, signed.serial_number)

    def client(self, folder: Path | None = None, shows: Pair | None = None, **settings: Any) -> ssl.SSLContext:
        """What a client that trusts this authority uses, and shows `shows`."""
        context = ssl.create_default_context(cafile=str(self.path))
        if shows is not None and folder is not None:
            certificate, key = folder / f"{shows.serial}.crt", folder / f"{shows.serial}.key"
            shows.write(certificate, key)
            context.load_cert_chain(certificate, key)
        for setting, value in settings.items():
            setattr(context, setting, value)
        return context

    def _builder(self, subject: x509.Name, days: float) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(self._name)
        builder = builder.serial_number(x509.random_serial_number())
        return builder.not_valid_before(now - timedelta(days=400)).not_valid_after(now + timedelta(days=days))


def contexts(folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """What a server shows, and what a client that trusts it uses."""
    authority = CertificateAuthority(folder)
    certificate, key = folder / "shown.crt", folder / "shown.key"
    authority.issue().write(certificate, key)
    offer = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    offer.load_cert_chain(certificate, key)
    return offer, authority.client(check_hostname=False)


_HASH = hashes.SHA256()
_USES = (
    *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
    *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
)


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)
