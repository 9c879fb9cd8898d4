"""Signed statements: what is signed is found again, and nothing else passes."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from iarproxy.errors import Denied, Malformed
from iarproxy.oci import Digest, Repository, Tag, TagReference
from iarproxy.trust.bundle import encoding, envelope_of, signed_bundle, verified_statement
from iarproxy.trust.gates import Allowed, Refused
from iarproxy.trust.promotion_record import Origin, PromotionRecord, predicate_about, statement_of
from iarproxy.trust.signing import KeyType, PrivateKey, PublicKey, public_keys

KEY = PrivateKey.made()
RECORD = PromotionRecord(
    reference=TagReference(Repository("registry.example.com", "team/app"), Tag("1")),
    digest=Digest.of(b"app"),
    source="staging",
    target="prod",
    previous=Digest.of(b"old"),
    reason="release 7",
    actor="ann (uid 1000)",
    at=datetime(2026, 11, 22, 12, 0, 0, 250_000, tzinfo=UTC),
    verdicts=[("age", Allowed()), ("scan", Refused(("two findings",)))],
    origin=Origin("journal of a store", 41),
)


def test_a_record_is_found_again() -> None:
    """What a promotion recorded is what a verifier with the public key reads."""
    bundle = signed_bundle(statement_of(RECORD), KEY)
    predicate = predicate_about(verified_statement(bundle, public_keys(KEY.public.pem)), RECORD.digest)
    assert {
        "reference": "registry.example.com/team/app:1",
        "from": "staging",
        "to": "prod",
        "previous": str(Digest.of(b"old")),
        "reason": "release 7",
        "actor": "ann (uid 1000)",
        "promotedAt": "2026-11-22T12:00:00Z",
        "gates": [
            {"gate": "age", "verdict": "allowed", "reasons": []},
            {"gate": "scan", "verdict": "refused", "reasons": ["two findings"]},
        ],
        "journal": {"origin": "journal of a store", "serial": 41},
    } == predicate


def test_the_signed_bytes_are_those_of_dsse() -> None:
    """The pre-authentication encoding is the one of the DSSE protocol's own example."""
    expected = b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    assert expected == encoding("http://example.com/HelloWorld", b"hello world")


def test_the_same_record_is_the_same_statement() -> None:
    """Nothing of chance is in what is signed."""
    assert statement_of(RECORD) == statement_of(RECORD)


def test_another_key_did_not_sign_it() -> None:
    """Only the keys that are given count; an older one beside the new one does."""
    bundle = signed_bundle(statement_of(RECORD), KEY)
    other = PrivateKey.made().public
    with pytest.raises(Denied):
        verified_statement(bundle, [other])
    assert statement_of(RECORD) == verified_statement(bundle, [other, KEY.public])


def altered(**changes: Any) -> bytes:
    document = orjson.loads(signed_bundle(statement_of(RECORD), KEY))
    document["dsseEnvelope"] |= changes
    return orjson.dumps(document)


def test_an_altered_payload_is_refused() -> None:
    """One other character in what was signed, or in its type, and no key fits."""
    said = statement_of(RECORD).replace(b"prod", b"test")
    with pytest.raises(Denied):
        verified_statement(altered(payload=base64.b64encode(said).decode()), [KEY.public])
    with pytest.raises(Malformed):
        verified_statement(altered(payloadType="text/plain"), [KEY.public])


@pytest.mark.parametrize(
    "bundle",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        altered(signatures=[]),
        altered(signatures=[{"sig": "AA=="}, {"sig": "AA=="}]),
        altered(signatures=[{"sig": "!"}]),
        altered(payload=7),
        signed_bundle(b"{}", KEY).replace(b"v0.3", b"v9.9"),
        b"[" * 10_000,
    ],
    ids=range(10),
)
def test_what_is_no_bundle(bundle: bytes) -> None:
    """Whatever else comes is malformed, in one line."""
    with pytest.raises(Malformed):
        envelope_of(bundle)


@pytest.mark.parametrize("statement", [b"", b"7", b"{}", statement_of(RECORD).replace(b"promotion/v1", b"other/v1")])
def test_what_is_no_record(statement: bytes) -> None:
    """A signed statement of another kind is no record of a promotion."""
    with pytest.raises(Malformed):
        predicate_about(statement, RECORD.digest)


def test_a_record_of_another_digest() -> None:
    """A record that was moved to another digest is found out."""
    with pytest.raises(Malformed, match="not about"):
        predicate_about(statement_of(RECORD), Digest.of(b"other"))


@pytest.mark.parametrize("kind", KeyType)
def test_keys_are_pem(kind: KeyType) -> None:
    """Both halves survive their text; the hint is that of the public key; the secret does not show."""
    key = PrivateKey.made(kind)
    again = PrivateKey.parse(key.pem)
    assert (key.public.hint, key.public.pem) == (again.public.hint, PublicKey.parse(again.public.pem).pem)
    assert base64.b64decode(key.public.hint).hex() == key.public.fingerprint
    assert (kind, kind) == (key.public.type, again.public.type)
    assert key.pem.splitlines()[1].decode() not in repr(key)


@pytest.mark.parametrize("kind", KeyType)
def test_a_key_accepts_what_it_signed(kind: KeyType) -> None:
    """Either kind signs and verifies; a signature of the one is none of the other."""
    key, other = PrivateKey.made(kind), PrivateKey.made(KeyType.ED25519)
    signature = key.sign(b"said")
    assert [True, False, False] == [
        key.public.accepts(signature, b"said"),
        key.public.accepts(signature, b"said otherwise"),
        other.public.accepts(signature, b"said"),
    ]


def test_keys_of_other_kinds() -> None:
    """A key on another curve, of another algorithm, with a password, or no key at all is refused."""
    curve = ec.generate_private_key(ec.SECP384R1())
    edwards = ed448.Ed448PrivateKey.generate()
    for other in (curve, edwards):
        with pytest.raises(Malformed):
            PrivateKey.parse(other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        with pytest.raises(Malformed):
            public_keys(other.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    for text in (b"", b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"):
        with pytest.raises(Malformed):
            public_keys(text)
    with pytest.raises(Malformed):
        PrivateKey.parse(b"no key")
