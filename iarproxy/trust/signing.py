"""Keys that sign statements: ECDSA over P-256 with SHA-256, in PEM, as verifiers of bundles take them.

Rule 1: a private key never shows: not in a repr, not in an error.
Rule 2: a key is named by its hint, as in Sigstore bundles; it helps to find a key, and proves nothing.
Rule 3: a file may hold the keys of several years, newest first: what was signed before a rotation stays verifiable.
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from iarproxy.errors import Malformed

_SCHEME = ec.ECDSA(hashes.SHA256())
_PUBLIC = re.compile(rb"-----BEGIN PUBLIC KEY-----.*?-----END PUBLIC KEY-----\s*", re.DOTALL)
_WANTED = "an ECDSA key over P-256 in PEM"


@dataclass(frozen=True, slots=True)
class PublicKey:
    """What verifies. `key` is over P-256."""

    key: ec.EllipticCurvePublicKey

    @classmethod
    def parse(cls, pem: bytes) -> PublicKey:
        """The key in a PEM text.

        Raises:
            Malformed: it is none, or of another kind.
        """
        try:
            key = load_pem_public_key(pem)
        except (ValueError, UnsupportedAlgorithm) as error:
            raise Malformed(f"not a public key; {_WANTED} is wanted") from error
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
            raise Malformed(f"a public key of another kind; {_WANTED} is wanted")
        return cls(key)

    @property
    def pem(self) -> bytes:
        """The key as PEM text."""
        return self.key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    @property
    def hint(self) -> str:
        """Base64 of the SHA-256 of the key's SubjectPublicKeyInfo (Sigstore bundle v0.3, `publicKey.hint`)."""
        der = self.key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return base64.b64encode(hashlib.sha256(der).digest()).decode()

    def accepts(self, signature: bytes, data: bytes) -> bool:
        """Whether the key's owner signed exactly `data`. `signature`: ASN.1 DER."""
        try:
            self.key.verify(signature, data, _SCHEME)
        except InvalidSignature:
            return False
        return True


def public_keys(text: bytes) -> tuple[PublicKey, ...]:
    """All public keys in a PEM file.

    Raises:
        Malformed: there is none, or one is of another kind.
    """
    found = tuple(PublicKey.parse(each) for each in _PUBLIC.findall(text))
    if not found:
        raise Malformed(f"the file holds no public key; {_WANTED} is wanted")
    return found


class PrivateKey:
    """What signs."""

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        self._key = key
        self.public = PublicKey(key.public_key())

    def __repr__(self) -> str:
        return f"PrivateKey({self.public.hint})"

    @classmethod
    def made(cls) -> PrivateKey:
        """A new one."""
        return cls(ec.generate_private_key(ec.SECP256R1()))

    @classmethod
    def parse(cls, pem: bytes) -> PrivateKey:
        """The key in a PEM text without a password.

        Raises:
            Malformed: it is none, or of another kind.
        """
        try:
            key = load_pem_private_key(pem, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise Malformed(f"not a private key without a password; {_WANTED} is wanted") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
            raise Malformed(f"a private key of another kind; {_WANTED} is wanted")
        return cls(key)

    @property
    def pem(self) -> bytes:
        """The key as PKCS#8 PEM text: a secret."""
        return self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def sign(self, data: bytes) -> bytes:
        """The signature over `data`, ASN.1 DER."""
        return self._key.sign(data, _SCHEME)
