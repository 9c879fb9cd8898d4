"""Digest: parse and print are inverse, nothing that only looks like a digest is one (threats T10, CVE-2024-3727)."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grammar import digests
from iarproxy.errors import DigestInvalid
from iarproxy.oci import Digest

HEX = "0123456789abcdef" * 4
HOSTILE = [
    "",
    ":",
    "sha256",
    "sha256:",
    HEX,
    f"md5:{HEX[:32]}",
    f"sha1:{HEX[:40]}",
    f"SHA256:{HEX}",
    f"sha256:{HEX.upper()}",
    f"sha256:{HEX[:63]}",
    f"sha256:{HEX}0",
    f"sha512:{HEX}",
    f"sha256:{HEX}\n",
    f"\nsha256:{HEX}",
    f" sha256:{HEX}",
    f"sha256:{HEX} ",
    f"sha256: {HEX[:63]}",
    f"sha256:{HEX}\x00",
    f"sha256:{HEX[:63]}\x00",
    f"sha256::{HEX}",
    f"sha256:sha256:{HEX}",
    f"sha256-{HEX}",
    f"sha256/{HEX}",
    f"sha256:../../{HEX[:58]}",
    f"sha256:{'.' * 64}",
    f"sha256:{'/' * 64}",
    f"sha256:{'g' * 64}",
    f"sha256:{chr(0x663) * 64}",  # ARABIC-INDIC DIGIT THREE: a digit to str.isdigit
    f"sha256:{chr(0xFF13) * 64}",  # FULLWIDTH DIGIT THREE
    f"sha256:{'a' * 63}{chr(0x430)}",  # CYRILLIC SMALL LETTER A
    f"sha256+b64:{HEX}",
    f"sha256:%30{HEX[:61]}",
    f"sha256:{HEX}?x",
    f"sha256:{HEX}@",
    f"tarsum.v1+sha256:{HEX}",
    "sha256:" + "0" * 100_000,
]


@given(digests)
def test_parse_and_print_are_inverse(digest: Digest) -> None:
    """What prints a digest reads back as the same digest."""
    assert Digest.parse(str(digest)) == digest


@given(st.text())
def test_text_is_a_digest_or_refused(text: str) -> None:
    """Any text is either refused or is exactly what the digest prints."""
    try:
        digest = Digest.parse(text)
    except DigestInvalid:
        return
    assert str(digest) == text


@given(st.text(max_size=3), st.integers(0, 70))
def test_one_wrong_character_refuses(noise: str, at: int) -> None:
    """A digest with text put into it anywhere is none."""
    good = f"sha256:{HEX}"
    bad = good[:at] + noise + good[at + len(noise) :]
    assert len(bad) >= len(good)
    if bad != good and not set(noise) <= set("0123456789abcdef"):
        with pytest.raises(DigestInvalid):
            Digest.parse(bad)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile(text: str) -> None:
    """The corpus of malformed digests is refused, in a message that stays short."""
    with pytest.raises(DigestInvalid) as refused:
        Digest.parse(text)
    assert len(str(refused.value)) < 1000


def test_constructor_checks_too() -> None:
    """There is no way around the check."""
    for algorithm, encoded in [("md5", HEX[:32]), ("sha256", HEX.upper()), ("sha512", HEX), ("sha256", "")]:
        with pytest.raises(DigestInvalid):
            Digest(algorithm, encoded)  # type: ignore[arg-type]  # a caller who ignores types


@given(st.binary(max_size=4096), st.sampled_from(["sha256", "sha512"]))
def test_computed(data: bytes, algorithm: str) -> None:
    """`of` hashes here; a hasher fed in pieces agrees, and with one more byte it does not."""
    expected = f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"
    digest = Digest.of(data, algorithm)  # type: ignore[arg-type]  # one of the two literals
    hasher = digest.hasher()
    for start in range(0, len(data), 100):
        hasher.update(data[start : start + 100])
    assert str(digest) == expected
    assert digest.agrees(hasher)
    hasher.update(b"x")
    assert not digest.agrees(hasher)


@given(digests)
def test_short(digest: Digest) -> None:
    """The short form is a prefix for people, and is no digest."""
    assert str(digest).startswith(digest.short)
    with pytest.raises(DigestInvalid):
        Digest.parse(digest.short)
