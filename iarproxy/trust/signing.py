"""Keys that sign statements: ECDSA over P-256 with SHA-256, or Ed25519, in PEM, as verifiers of bundles take them.

Rule 1: a private key never shows: not in a repr, not in an error.
Rule 2: a key is named by its hint, as in Sigstore bundles, or the same in hex, its fingerprint; either helps to find a
        key, and proves nothing.
Rule 3: a file may hold the keys of several years, newest first: what was signed before a rotation stays verifiable.
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias, assert_never

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
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
_WANTED = "an ECDSA key over P-256 or an Ed25519 key, in PEM,"

_Public: TypeAlias = ec.EllipticCurvePublicKey | Ed25519PublicKey
_Private: TypeAlias = ec.EllipticCurvePrivateKey | Ed25519PrivateKey


class KeyType(StrEnum):
    """How a key signs."""

    ECDSA = "ecdsa"  # over P-256, with SHA-256
    ED25519 = "ed25519"


@dataclass(frozen=True, slots=True)
class PublicKey:
    """What verifies. `key` is over P-256, or of Ed25519."""

    key: _Public

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
        if isinstance(key, Ed25519PublicKey):
            return cls(key)
        if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
            return cls(key)
        raise Malformed(f"a public key of another kind; {_WANTED} is wanted")

    @property
    def type(self) -> KeyType:
        """How it signs."""
        return KeyType.ED25519 if isinstance(self.key, Ed25519PublicKey) else KeyType.ECDSA

    @property
    def pem(self) -> bytes:
        """The key as PEM text."""
        return self.key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    @property
    def hint(self) -> str:
        """Base64 of the SHA-256 of the key's SubjectPublicKeyInfo (Sigstore bundle v0.3, `publicKey.hint`)."""
        return base64.b64encode(self._named()).decode()

    @property
    def fingerprint(self) -> str:
        """The same in hex: what people compare, and files are called by."""
        return self._named().hex()

    def accepts(self, signature: bytes, data: bytes) -> bool:
        """Whether the key's owner signed exactly `data`. `signature`: ASN.1 DER of ECDSA; the 64 bytes of Ed25519."""
        try:
            match self.key:
                case Ed25519PublicKey():
                    self.key.verify(signature, data)
                case ec.EllipticCurvePublicKey():
                    self.key.verify(signature, data, _SCHEME)
                case _:
                    assert_never(self.key)
        except InvalidSignature:
            return False
        return True

    def _named(self) -> bytes:
        return hashlib.sha256(self.key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()


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

    def __init__(self, key: _Private) -> None:
        self._key = key
        self.public = PublicKey(key.public_key())

    def __repr__(self) -> str:
        return f"PrivateKey({self.public.hint})"

    @classmethod
    def made(cls, kind: KeyType = KeyType.ECDSA) -> PrivateKey:
        """A new one."""
        match kind:
            case KeyType.ECDSA:
                return cls(ec.generate_private_key(ec.SECP256R1()))
            case KeyType.ED25519:
                return cls(Ed25519PrivateKey.generate())
            case _:
                assert_never(kind)

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
        if isinstance(key, Ed25519PrivateKey):
            return cls(key)
        if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1):
            return cls(key)
        raise Malformed(f"a private key of another kind; {_WANTED} is wanted")

    @property
    def pem(self) -> bytes:
        """The key as PKCS#8 PEM text: a secret."""
        return self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def sign(self, data: bytes) -> bytes:
        """The signature over `data`, as `PublicKey.accepts` takes it."""
        match self._key:
            case Ed25519PrivateKey():
                return self._key.sign(data)
            case ec.EllipticCurvePrivateKey():
                return self._key.sign(data, _SCHEME)
            case _:
                assert_never(self._key)
