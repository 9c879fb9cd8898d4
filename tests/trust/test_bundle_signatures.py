"""Who vouches for a bundle: k of n signers over the same bytes, and the document as it was signed."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import orjson
import pytest

from bundle_samples import ATTACHED, EXPIRES, MADE, MANIFEST, about, named, vouch
from iarproxy.errors import BundleRefused, Malformed
from iarproxy.oci import Digest
from iarproxy.oci.bundle_manifest import BundleManifest
from iarproxy.trust.bundle import signed_bundle
from iarproxy.trust.bundles import (
    MAX_SIGNATURES,
    Base,
    BaseKind,
    Fresh,
    Repeated,
    file_of,
    judge,
    signed,
    statement_in,
    statement_of,
    vouched,
)
from iarproxy.trust.signing import KeyType, PrivateKey

ANN, BOB, EVE = PrivateKey.made(), PrivateKey.made(KeyType.ED25519), PrivateKey.made()
BOTH = [[ANN.public], [BOB.public]]


def refused(judged: Callable[[], Any]) -> str:
    """The code of the refusal that it must be."""
    with pytest.raises(BundleRefused) as caught:
        judged()
    return caught.value.code


def test_a_statement_is_found_again() -> None:
    """What is said of a bundle is what is read, byte for byte, with a base and without."""
    base = Base(BaseKind.RECEIPT, Digest.of(b"before"), 6)
    for said in (about(), about(base=base)):
        assert said == statement_in(statement_of(said))


@pytest.mark.parametrize("kind", KeyType)
def test_a_bundle_by_one_key(kind: KeyType) -> None:
    """A key of either kind vouches; who did is told."""
    key = PrivateKey.made(kind)
    found = vouch(key, trusted=[[key.public]])
    assert (about(), MANIFEST, (key.public.fingerprint,), ()) == (
        found.statement,
        found.manifest,
        found.signers,
        found.rotations,
    )
    assert f"bundle.{key.public.fingerprint[:16]}.sigstore.json" == file_of(key.public)


def test_all_who_are_trusted_have_to_sign() -> None:
    """Without a threshold every trusted file is needed; with one, so many; none is asked for more than there are."""
    assert 2 == len(vouch(BOB, ANN, trusted=BOTH).signers)
    assert "too-few-signatures" == refused(lambda: vouch(ANN, trusted=BOTH))
    assert 1 == len(vouch(ANN, trusted=BOTH, threshold=1).signers)
    assert "too-few-signatures" == refused(lambda: vouch(ANN, BOB, trusted=BOTH, threshold=3))
    assert "untrusted-key" == refused(lambda: vouch(ANN, trusted=BOTH, threshold=0))


def test_a_signer_counts_once() -> None:
    """Neither the same signature twice, nor two of his keys, nor one key in two files make two of one signer."""
    assert "too-few-signatures" == refused(lambda: vouch(ANN, ANN, trusted=BOTH))
    assert "too-few-signatures" == refused(lambda: vouch(ANN, EVE, trusted=[[ANN.public, EVE.public], [BOB.public]]))
    assert "untrusted-key" == refused(lambda: vouch(ANN, trusted=[[ANN.public], [ANN.public]]))


def test_any_key_of_a_file_counts() -> None:
    """A file may hold the keys of several years."""
    for key in (ANN, EVE):
        assert (key.public.fingerprint,) == vouch(key, trusted=[[ANN.public, EVE.public]]).signers


def test_a_key_that_nobody_trusts() -> None:
    """It vouches for nothing, and does no harm beside those who do; without any signature nothing is taken."""
    assert "untrusted-key" == refused(lambda: vouch(EVE, trusted=BOTH))
    assert "untrusted-key" == refused(lambda: vouch(trusted=BOTH))
    assert 2 == len(vouch(EVE, ANN, BOB, trusted=BOTH).signers)
    assert "untrusted-key" == refused(lambda: vouch(ANN, trusted=[]))


def forged(key: PrivateKey, by: PrivateKey) -> bytes:
    """A signature by `by` that names `key`."""
    return signed(about(), by).replace(by.public.hint.encode(), key.public.hint.encode())


def test_a_forged_signature_of_a_trusted_key() -> None:
    """It ends it, whoever else signed."""
    signatures = [signed(about(), ANN), forged(BOB, EVE)]
    assert "untrusted-key" == refused(lambda: vouched(signatures, MANIFEST.dump(), BOTH, threshold=1))
    assert vouched([*signatures[:1], forged(EVE, BOB)], MANIFEST.dump(), BOTH, threshold=1).signers


def test_signatures_over_different_statements() -> None:
    """Nothing is taken of signers who disagree, nor of one who said two things."""
    other = about(sequence=8)
    for one, two in ((ANN, BOB), (ANN, ANN)):
        signatures = [signed(about(), one), signed(other, two)]
        code = refused(lambda given=signatures: vouched(given, MANIFEST.dump(), BOTH, threshold=1))  # type: ignore[misc]  # a lambda's default
        assert "too-few-signatures" == code


def altered(**changes: Any) -> bytes:
    return replace(MANIFEST, **changes).dump()


REFERRER_REMOVED = altered(attachments=(replace(ATTACHED, manifests=ATTACHED.manifests[:1]),))


@pytest.mark.parametrize(
    ("code", "document"),
    [
        ("attachments-altered", REFERRER_REMOVED),
        ("attachments-altered", altered(attachments=())),
        ("names-altered", altered(names=(*MANIFEST.names, named("3.0")))),
        ("names-altered", altered(names=(replace(MANIFEST.names[0], descriptor=named("9").descriptor), named("2.0")))),
        ("names-altered", altered(names=(*MANIFEST.names, named("0.1")))),  # out of order: no manifest at all
        ("manifest-altered", altered(requires=())),
        ("manifest-altered", altered(volume_size=10)),
        ("manifest-altered", altered(provides=MANIFEST.provides[1:])),
        ("manifest-altered", MANIFEST.dump() + b"\n"),
        ("manifest-altered", b"[]"),
        ("manifest-altered", b"{"),
        ("manifest-altered", b""),
    ],
    ids=range(12),
)
def test_what_was_altered(code: str, document: bytes) -> None:
    """The refusal says which part of the document is not the signed one."""
    signature = signed(about(), ANN)
    assert code == refused(lambda: vouched([signature], document, [[ANN.public]]))


def test_all_that_was_altered_is_told() -> None:
    """Names and attachments that were altered together are told together, whatever somebody wrote in their place."""
    document = orjson.loads(altered(names=MANIFEST.names[1:]))
    listed = orjson.dumps(document["attachments"])
    for other in (b"[1]", b"[" * 300 + b"]" * 300, b"[{}]"):
        raw = orjson.dumps(document).replace(listed, other)
        with pytest.raises(BundleRefused) as both:
            vouched([signed(about(), ANN)], raw, [[ANN.public]])
        assert "names-altered" == both.value.code
        assert "it has 1 names instead of 2, and other attachments than were signed" in str(both.value)


@pytest.mark.parametrize("value", [b"0", b'"a"', b'"a":1'])
def test_more_than_any_bundle_has(value: bytes) -> None:
    """A document that would fill the memory is not parsed only to say what of it was altered."""
    open_, close = (b'{"names":{', b"}}") if b":" in value else (b'{"names":[', b"]}")
    document = open_ + (value + b",") * 5_000_000 + value + close
    tracemalloc.start()
    try:
        assert "manifest-altered" == refused(lambda: vouched([signed(about(), ANN)], document, [[ANN.public]]))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2**20


def test_six_refusals_have_six_codes() -> None:
    """Wrong key, one of two signatures, older sequence, expired, a referrer removed, a name added."""
    signature, said = signed(about(), ANN), about()
    named_too = altered(names=(*MANIFEST.names, named("3.0")))
    codes = [
        refused(lambda: vouch(EVE, trusted=[[ANN.public]])),
        refused(lambda: vouch(ANN, trusted=BOTH)),
        refused(lambda: judge(said, (8, Digest.of(b"newer")), MADE)),
        refused(lambda: judge(said, None, EXPIRES)),
        refused(lambda: vouched([signature], REFERRER_REMOVED, [[ANN.public]])),
        refused(lambda: vouched([signature], named_too, [[ANN.public]])),
    ]
    assert [
        "untrusted-key",
        "too-few-signatures",
        "replayed",
        "expired",
        "attachments-altered",
        "names-altered",
    ] == codes


def test_when_a_bundle_may_be_applied() -> None:
    """Newer than the last is fresh; the last one again is a repetition, also late; another of its number is none."""
    said = about()
    late = EXPIRES + timedelta(days=1)
    assert Fresh() == judge(said, None, MADE)
    assert Fresh() == judge(said, (6, Digest.of(b"before")), EXPIRES - timedelta(seconds=1))
    assert Fresh(late=True) == judge(said, None, late, accept_expired=True)
    assert Repeated() == judge(said, (7, said.bundle), late)
    assert "replayed" == refused(lambda: judge(said, (7, Digest.of(b"other")), MADE, accept_expired=True))
    assert "replayed" == refused(lambda: judge(said, (8, said.bundle), MADE, accept_expired=True))


def test_every_byte_of_a_signature_counts() -> None:
    """Whichever byte of a signature's file is another, and however, the bundle is refused."""
    for key in (ANN, BOB):
        raw, document = signed(about(), key), MANIFEST.dump()
        for place in range(len(raw)):
            for bit in (0, 5):
                flipped = raw[:place] + bytes([raw[place] ^ 1 << bit]) + raw[place + 1 :]
                with pytest.raises(BundleRefused):
                    vouched([flipped], document, [[key.public]])


def test_every_byte_of_the_document_counts() -> None:
    """Whichever byte of bundle.json is another, the bundle is refused as altered."""
    raw, signature = MANIFEST.dump(), signed(about(), BOB)
    for place in range(len(raw)):
        flipped = raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :]
        assert refused(lambda given=flipped: vouched([signature], given, [[BOB.public]])).endswith("-altered")  # type: ignore[misc]  # a lambda's default


def test_every_byte_of_a_statement_counts() -> None:
    """A statement with another byte is no statement, or says something else; it is never read as the same."""
    raw = statement_of(about())
    for place in range(len(raw)):
        try:
            said = statement_in(raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :])
        except Malformed:
            continue
        assert about() != said


def test_a_base_is_none_or_a_bundle() -> None:
    """A base without an identity and a sequence is none, and none has neither."""
    for kind, identity, sequence in ((BaseKind.NONE, Digest.of(b"x"), 1), (BaseKind.BUNDLE, None, None)):
        with pytest.raises(Malformed):
            Base(kind, identity, sequence)
    odd = statement_of(about()).replace(b'"kind":"none"', b'"kind":"receipt"')
    with pytest.raises(Malformed):
        statement_in(odd)


@pytest.mark.parametrize(
    "moment", ["2026-11-22", "2026-11-22T12:00:00+00:00", "0001-01-01T00:00:00+23:59", "2026-13-22T12:00:00Z", "", 7]
)
def test_a_moment_has_one_spelling(moment: str | int) -> None:
    """Other spellings of times, and what is none, are malformed."""
    document = orjson.loads(statement_of(about()))
    document["predicate"]["createdAt"] = moment
    with pytest.raises(Malformed):
        statement_in(orjson.dumps(document, option=orjson.OPT_SORT_KEYS))


def test_a_key_that_signed_nonsense() -> None:
    """What a trusted key signed and is no statement about the document is refused as malformed."""
    fitting = replace(about(), bundle=Digest.of(b"another"))
    for payload in (b"", b"{}", b"[" * 9999, statement_of(about()) + b" ", statement_of(fitting)):
        signature = signed_bundle(payload, ANN)
        assert "malformed" == refused(
            lambda given=signature: vouched([given], MANIFEST.dump(), [[ANN.public]])  # type: ignore[misc]  # a lambda's default
        )


def test_too_much_to_read() -> None:
    """Signatures are few and short."""
    signature = signed(about(), ANN)
    for given in ([signature] * (MAX_SIGNATURES + 1), [signature, b" " * 70_000], [signature, b"{"]):
        assert "malformed" == refused(lambda given=given: vouched(given, MANIFEST.dump(), [[ANN.public]]))  # type: ignore[misc]  # a lambda's default


def test_the_sections_are_those_that_were_signed() -> None:
    """A manifest that is not what the statement counts is malformed, though its sha256 is the signed one."""
    sections = {**about().sections, "names": (3, Digest.of(b"other"))}
    signature = signed(about(sections=sections), ANN)
    assert "malformed" == refused(lambda: vouched([signature], MANIFEST.dump(), [[ANN.public]]))


def test_the_document_is_read_as_it_was_written() -> None:
    """The manifest that is vouched for is the parsed document."""
    raw = MANIFEST.dump()
    assert raw == orjson.dumps(orjson.loads(raw), option=orjson.OPT_SORT_KEYS)
    assert MANIFEST == BundleManifest.parse(raw)
