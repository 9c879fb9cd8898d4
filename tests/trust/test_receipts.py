"""Receipts: what a site signs is what its origin reads, and nothing else passes."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from iarproxy.errors import BundleRefused
from iarproxy.oci import Digest
from iarproxy.trust.bundle import signed_bundle
from iarproxy.trust.receipts import Receipt, receipt_in, receipt_of
from iarproxy.trust.signing import KeyType, PrivateKey

KEY = PrivateKey.made()
RECEIPT = Receipt(
    origin="iarproxy/origin",
    site="iarproxy/site",
    set="site-a",
    sequence=3,
    bundle=Digest.of(b"bundle"),
    manifest=Digest.of(b"document"),
    environment="default",
    held=tuple(sorted(Digest.of(bytes([each])) for each in range(4))),
    serial=41,
    seen=39,
    at=datetime(2026, 11, 22, 12, tzinfo=UTC),
    checkpoint="a note\n",
)


def code_of(raw: bytes, key: PrivateKey = KEY) -> str:
    with pytest.raises(BundleRefused) as caught:
        receipt_in(raw, [key.public])
    return caught.value.code


@pytest.mark.parametrize("kind", KeyType)
def test_a_receipt_is_found_again(kind: KeyType) -> None:
    """What a site acknowledged is what its origin reads, with any of the site's keys."""
    key = PrivateKey.made(kind)
    assert RECEIPT == receipt_in(receipt_of(RECEIPT, key), [KEY.public, key.public])


def test_another_key_did_not_sign_it() -> None:
    """A receipt by a key that is not trusted is refused, and so is one that only names the trusted key."""
    other = PrivateKey.made()
    raw = receipt_of(RECEIPT, other)
    assert "untrusted-key" == code_of(raw)
    assert "untrusted-key" == code_of(raw.replace(other.public.hint.encode(), KEY.public.hint.encode()))


def test_every_byte_of_a_receipt_counts() -> None:
    """Whichever byte is another, the receipt is refused."""
    raw = receipt_of(RECEIPT, KEY)
    for place in range(len(raw)):
        assert code_of(raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :]) in {"malformed", "untrusted-key"}


def test_what_is_no_receipt() -> None:
    """A signed statement that lists things out of order or twice, or is of another kind, is malformed."""
    twice = replace(RECEIPT, held=(*RECEIPT.held, RECEIPT.held[-1]))
    backwards = replace(RECEIPT, held=RECEIPT.held[::-1])
    odd = [receipt_of(each, KEY) for each in (twice, backwards, replace(RECEIPT, sequence=0), replace(RECEIPT, set=""))]
    for raw in (*odd, signed_bundle(b"{}", KEY), b"", b"{}"):
        assert "malformed" == code_of(raw)


def test_whose_receipt_it_is() -> None:
    """A receipt for another origin or of another set is told from the one that is wanted."""
    RECEIPT.insist("iarproxy/origin", "site-a")
    for origin, name in (("iarproxy/other", "site-a"), ("iarproxy/origin", "site-b")):
        with pytest.raises(BundleRefused) as caught:
            RECEIPT.insist(origin, name)
        assert "wrong-receipt" == caught.value.code
