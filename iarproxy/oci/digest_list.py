"""Many digests in a document of ours: of each algorithm one text, base64 (RFC 4648) of the raw digests in a row.

Rule 1: 43 bytes for each sha256, where hex in a list takes 76; a bundle names each blob that it does not carry.
Rule 2: one spelling: an algorithm without digests is not there, digests rise, none is there twice.
"""

from __future__ import annotations

import hashlib
from base64 import b64decode, b64encode
from collections.abc import Collection, Mapping
from itertools import pairwise
from typing import Any

from iarproxy.errors import Malformed
from iarproxy.oci.digest import ALGORITHMS, Digest

MOST = 2_000_000  # digests in one list: each takes five times what it takes there
_SIZES = {algorithm: hashlib.new(algorithm).digest_size for algorithm in ALGORITHMS}  # bytes


def packed(digests: Collection[Digest]) -> dict[str, str]:
    """The value that stands for digests which are in order."""
    found = {
        algorithm: b"".join(bytes.fromhex(each.hex) for each in digests if each.algorithm == algorithm)
        for algorithm in ALGORITHMS
    }
    return {algorithm: b64encode(raw).decode() for algorithm, raw in found.items() if raw}


def unpacked(value: Mapping[str, Any]) -> tuple[Digest, ...]:
    """The digests that a value stands for, in order; an algorithm that is not ours is not looked at.

    Raises:
        Malformed, ValueError, TypeError, AttributeError: it is no such value.
    """
    return tuple(
        Digest(algorithm, each.hex())
        for algorithm in ALGORITHMS
        for each in _raw(value.get(algorithm, ""), _SIZES[algorithm])
    )


def _raw(text: str, size: int) -> list[bytes]:
    if len(text) > MOST * size * 4 // 3 + 4:
        raise Malformed(f"not a list of digests: over {MOST} of them")
    whole = b64decode(text, validate=True)
    found = [whole[at : at + size] for at in range(0, len(whole), size)]
    if len(whole) % size or any(first >= second for first, second in pairwise(found)):
        raise Malformed(f"not digests of {size} bytes, each once and in order")
    return found
