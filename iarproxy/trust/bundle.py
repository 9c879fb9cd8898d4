"""Signed statements: an in-toto statement in a DSSE envelope in a Sigstore bundle v0.3, with a key of our own.

Rule 1: what is signed is the exact payload with its type (DSSE v1, pre-authentication encoding); nothing is ever
        serialised again to verify it.
Rule 2: exactly one signature, and no `keyid`, as cosign writes and reads it. The hint chooses nothing here: every key
        that is allowed is tried.
Rule 3: what is read comes from anybody. Its shape is checked strictly, its size is the caller's to bound.
Rule 4: of what iarproxy alone writes (`exact`), any other spelling is refused too: no byte of it may be anything else.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace

import orjson

from iarproxy.errors import Denied, Malformed
from iarproxy.trust.signing import PrivateKey, PublicKey

BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
IN_TOTO = "application/vnd.in-toto+json"

_FINGERPRINT = 32  # bytes of a sha256


@dataclass(frozen=True, slots=True)
class Envelope:
    """A payload and the one signature over it. `hint`: of the key that is said to have made it; empty: not said."""

    payload: bytes
    payload_type: str
    signature: bytes
    hint: str = ""

    @property
    def claimed(self) -> str:
        """What people and files call that key: 16 hex digits of its fingerprint; where it has none, its hint."""
        with suppress(ValueError):
            named = base64.b64decode(self.hint, validate=True)
            if len(named) == _FINGERPRINT:
                return named.hex()[:16]
        return f"{self.hint[:44]!r}"


def encoding(payload_type: str, payload: bytes) -> bytes:
    """The bytes that a DSSE signature is over."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def signed_bundle(statement: bytes, key: PrivateKey) -> bytes:
    """The bundle that says `statement` in the name of `key`."""
    return _bundled(Envelope(statement, IN_TOTO, key.sign(encoding(IN_TOTO, statement)), key.public.hint))


def _bundled(envelope: Envelope) -> bytes:
    return orjson.dumps(
        {
            "mediaType": BUNDLE,
            "verificationMaterial": {"publicKey": {"hint": envelope.hint}, "tlogEntries": []},
            "dsseEnvelope": {
                "payload": base64.b64encode(envelope.payload).decode(),
                "payloadType": envelope.payload_type,
                "signatures": [{"sig": base64.b64encode(envelope.signature).decode()}],
            },
        }
    )


def envelope_of(bundle: bytes) -> Envelope:
    """What a bundle holds; nothing of it is verified yet.

    Raises:
        Malformed: it is no bundle with a DSSE envelope of exactly one signature.
    """
    try:
        match orjson.loads(bundle):
            case {
                "mediaType": str(media_type),
                "dsseEnvelope": {
                    "payload": str(payload),
                    "payloadType": str(payload_type),
                    "signatures": [{"sig": str(signature)}],
                },
            } if media_type == BUNDLE:
                return Envelope(_bytes(payload), payload_type, _bytes(signature))
    except (ValueError, RecursionError) as error:  # orjson.JSONDecodeError and binascii.Error are ValueErrors
        raise Malformed(f"not a Sigstore bundle: {str(error)[:120]}") from error
    raise Malformed("not a Sigstore bundle v0.3 with a DSSE envelope of one signature")


def exact(bundle: bytes) -> Envelope:
    """What a bundle holds that `signed_bundle` wrote, with its hint; nothing of it is verified yet.

    Raises:
        Malformed: it is none, or has another spelling.
    """
    found = envelope_of(bundle)
    match orjson.loads(bundle):
        case {"verificationMaterial": {"publicKey": {"hint": str(hint)}}}:
            found = replace(found, hint=hint)
    if found.payload_type != IN_TOTO or _bundled(found) != bundle:
        raise Malformed("not a signed statement exactly as iarproxy writes one: something of it was changed")
    return found


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError("its base64 is broken") from error


def verified_statement(bundle: bytes, keys: Iterable[PublicKey]) -> bytes:
    """The statement that one of `keys` signed.

    Raises:
        Malformed: it is no bundle of a statement.
        Denied: none of the keys signed it.
    """
    envelope = envelope_of(bundle)
    if envelope.payload_type != IN_TOTO:
        raise Malformed(f"the envelope holds {envelope.payload_type[:120]!r}, not an in-toto statement")
    if not any(is_signed(envelope, key) for key in keys):
        raise Denied("none of the given keys signed the statement")
    return envelope.payload


def is_signed(envelope: Envelope, key: PublicKey) -> bool:
    """Whether the owner of `key` signed what the envelope holds."""
    return key.accepts(envelope.signature, encoding(envelope.payload_type, envelope.payload))
