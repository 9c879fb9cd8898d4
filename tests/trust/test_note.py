"""Signed notes and checkpoints: known answers, exact parsing, and signatures of several keys."""

from __future__ import annotations

import base64
import hashlib
from contextlib import suppress

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from iarproxy.errors import Malformed
from iarproxy.trust.note import (
    MAX_NOTE,
    MAX_SIGNATURES,
    Checkpoint,
    Note,
    Signature,
    SigningKey,
    VerifierKey,
    hash_from_base64,
    to_base64,
)

# The example of the Go package that the format comes from: its verifier key, its note, and its private seed.
PETER = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
LINE = (
    "\u2014 PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)
SEED = "AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
ROOT = hashlib.sha256(b"").digest()


def key(name: str, seed: int = 1) -> SigningKey:
    return SigningKey(name, Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32))


def note(text: str = TEXT, *keys: SigningKey) -> Note:
    return Note.signed(text, keys or [key("one")])


def test_the_known_note() -> None:
    """The published example is read, verified, and written again byte for byte."""
    parsed, peter = Note.parse(f"{TEXT}\n{LINE}"), VerifierKey.parse(PETER)
    assert (TEXT, [peter], PETER) == (parsed.text, parsed.signers([peter]), str(peter))
    assert f"{TEXT}\n{LINE}" == str(parsed)


def test_the_known_signature() -> None:
    """Its private key makes its public key and its signature again."""
    seed = base64.b64decode(SEED)[1:]
    signing = SigningKey("PeterNeumann", Ed25519PrivateKey.from_private_bytes(seed))
    assert (PETER, LINE) == (str(signing.verifier), str(signing.sign(TEXT)))


def test_several_signatures() -> None:
    """Each known key that signed is named once, in order; unknown ones say nothing."""
    one, two, other = key("one", 1), key("two", 2), key("one", 3)
    made = Note.parse(str(note(TEXT, one, two, one)))
    assert [one.verifier, two.verifier] == made.signers([two.verifier, one.verifier])
    assert [] == made.signers([other.verifier])
    assert [two.verifier] == made.signers([two.verifier, other.verifier])


def test_a_changed_text_is_refused_by_who_knows_the_key() -> None:
    """A signature that does not hold makes the note wrong for who knows the key, whatever else signed it."""
    one, two = key("one", 1), key("two", 2)
    made = note(TEXT, one)
    forged = Note("Something else.\n", (*made.signatures, two.sign("Something else.\n")))
    assert [two.verifier] == forged.signers([two.verifier])
    with pytest.raises(Malformed, match=r"the signature by one\+.* does not hold"):
        forged.signers([two.verifier, one.verifier])


@given(st.integers(0, 200), st.integers(1, 255))
def test_no_flipped_byte_passes(position: int, mask: int) -> None:
    """Whatever byte of a note is changed: it is no note, or its signer is unknown, or it does not hold."""
    raw = bytearray(str(note()).encode())
    raw[position % len(raw)] ^= mask
    with suppress(Malformed):
        assert [] == Note.parse(bytes(raw)).signers([key("one").verifier])


@pytest.mark.parametrize(
    "raw",
    [
        "",
        TEXT,
        f"{TEXT}\n",
        f"\n{LINE}"[1:],
        f"{TEXT}\n{LINE}"[:-1],
        f"{TEXT}\n{LINE}\n",
        f"{TEXT}\n{LINE}".replace("\n", "\r\n"),
        f"{TEXT}\n{LINE}".replace("If", "\x00If"),
        f"{TEXT}\n{LINE}".replace("If", "\tIf"),
        f"{TEXT}\n{LINE}".replace("If", "\x9bIf"),
        f"{TEXT}\n{LINE}".replace("\u2014", "-"),
        f"{TEXT}\n{LINE}".replace("AM=", "AM"),
        f"{TEXT}\n{LINE}".replace("AM=", "AN="),
        f"{TEXT}\n{LINE}".replace("PeterNeumann ", "Peter+Neumann "),
        f"{TEXT}\n{LINE}".replace("PeterNeumann ", " "),
        f"{TEXT}\n\u2014 PeterNeumann x08goA==\n"[:-7] + "==\n",
        f"{TEXT}\n" + LINE * (MAX_SIGNATURES + 1),
        f"{TEXT * 300}\n{LINE}",
        f"{TEXT}\n{LINE}".encode("utf-16"),
        "\ud800" + f"{TEXT}\n{LINE}",
    ],
)
def test_what_is_no_note(raw: str | bytes) -> None:
    """Anything that is not exactly a note is refused with one error."""
    assert len(TEXT) * 300 > MAX_NOTE
    with pytest.raises(Malformed):
        Note.parse(raw)


@pytest.mark.parametrize(
    "text",
    [
        "",
        PETER[:-1],
        PETER + "\n",
        PETER.replace("c74f20a3", "c74f20a4"),
        PETER.replace("c74f20a3", "C74F20A3"),
        PETER.replace("PeterNeumann", "Peter Neumann"),
        PETER.replace("+ARpc", "+AhpC"),
        "a+00000000+AQ==",
        "x" * 10_000 + PETER,
    ],
)
def test_what_is_no_verifier_key(text: str) -> None:
    """Anything that is not exactly a verifier key of Ed25519, with its own hash, is refused."""
    with pytest.raises(Malformed):
        VerifierKey.parse(text)


def test_a_key_needs_a_name() -> None:
    """Names that a note could not hold are refused when the key is made."""
    for name in ("", "two words", "a+b", "line\nfeed", "x" * 257):
        with pytest.raises(Malformed):
            key(name)


def test_a_private_key_is_not_shown() -> None:
    """What is printed of a signing key is its public half."""
    signing = SigningKey("PeterNeumann", Ed25519PrivateKey.from_private_bytes(base64.b64decode(SEED)[1:]))
    assert f"SigningKey({PETER})" == repr(signing)
    assert SEED[4:20] not in repr(signing)


def test_checkpoints() -> None:
    """A checkpoint is written and read as three lines; others' extensions are let be."""
    made = Checkpoint("iarproxy/site", 42, ROOT)
    assert f"iarproxy/site\n42\n{to_base64(ROOT)}\n" == made.text()
    assert made == Checkpoint.parse(made.text())
    assert made == Checkpoint.parse(made.text() + "an extension\n")
    assert ROOT == hash_from_base64(to_base64(ROOT))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "iarproxy/site\n42\n",
        f"\n42\n{to_base64(ROOT)}\n",
        f"iarproxy/site\n042\n{to_base64(ROOT)}\n",
        f"iarproxy/site\n-1\n{to_base64(ROOT)}\n",
        f"iarproxy/site\n+1\n{to_base64(ROOT)}\n",
        f"iarproxy/site\n\u0664\n{to_base64(ROOT)}\n",
        f"iarproxy/site\n{10**19}\n{to_base64(ROOT)}\n",
        f"iarproxy/site\n42\n{to_base64(ROOT)}",
        f"iarproxy/site\n42\n{to_base64(ROOT)}\n\nmore\n",
        f"iarproxy/site\n42\n{to_base64(ROOT[:-1])}\n",
        f"iarproxy/site\n42\n{ROOT.hex()}\n",
    ],
)
def test_what_is_no_checkpoint(text: str) -> None:
    """Anything that is not exactly a checkpoint is refused."""
    with pytest.raises(Malformed):
        Checkpoint.parse(text)


def test_what_is_no_hash() -> None:
    """A hash is 32 bytes, in one spelling."""
    for text in ("", "AA==", to_base64(ROOT)[:-1], to_base64(ROOT) + "\n", ROOT.hex()):
        with pytest.raises(Malformed):
            hash_from_base64(text)


def test_a_signature_is_more_than_its_keys_hash() -> None:
    """A line that names a key and signs nothing is refused."""
    with pytest.raises(Malformed):
        Signature.parse(f"\u2014 one {to_base64(b'abcd')}")
