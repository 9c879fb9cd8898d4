"""Digest: the name that content gives itself.

Rule 1: a `Digest` that exists is valid; `Digest.parse` is the only way from text.
Rule 2: sha256 and sha512 only (image-spec v1.1, "Registered algorithms"). Anything weaker names nothing.
Rule 3: parsing is exact: full match, ASCII, lower case; no surrounding space, no line feed.
"""

from __future__ import annotations

import hashlib
import re
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Self, get_args

from iarproxy.errors import DigestInvalid

if TYPE_CHECKING:
    from hashlib import _Hash

Algorithm = Literal["sha256", "sha512"]
ALGORITHMS: tuple[Algorithm, ...] = get_args(Algorithm)

_HEX = {"sha256": re.compile(r"[0-9a-f]{64}", re.ASCII), "sha512": re.compile(r"[0-9a-f]{128}", re.ASCII)}


@dataclass(frozen=True, slots=True, order=True)
class Digest:
    """`algorithm:hex` of some bytes. Comparable and hashable; `str` gives the wire form."""

    algorithm: Algorithm
    hex: str

    def __post_init__(self) -> None:
        pattern = _HEX.get(self.algorithm)
        if pattern is None or pattern.fullmatch(self.hex) is None:
            raise DigestInvalid(f"not a digest: {f'{self.algorithm}:{self.hex}'[:160]!r}; expected sha256:<64 hex>")

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"

    @property
    def short(self) -> str:
        """`sha256:` and the first 12 hex digits: enough for a person to compare, never for a machine."""
        return f"{self.algorithm}:{self.hex[:12]}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """The digest that `text` spells.

        Raises:
            DigestInvalid: for anything but a registered algorithm and its exact number of lower-case hex digits.
        """
        algorithm, _, encoded = text.partition(":")
        if algorithm not in _HEX:
            raise DigestInvalid(f"not a digest: {text[:160]!r}; expected sha256:<64 hex> or sha512:<128 hex>")
        # interned: hundreds of thousands of digests are remembered, and need not each have the word for themselves
        return cls(sys.intern(algorithm), encoded)  # type: ignore[arg-type]  # one of the keys of _HEX, just looked up

    @classmethod
    def of(cls, data: bytes | bytearray | memoryview, algorithm: Algorithm = "sha256") -> Self:
        """The digest of `data`, computed here."""
        return cls(algorithm, hashlib.new(algorithm, data, usedforsecurity=True).hexdigest())

    def hasher(self) -> _Hash:
        """A fresh hash of this digest's algorithm, for content that arrives in pieces."""
        return hashlib.new(self.algorithm, usedforsecurity=True)

    def agrees(self, hasher: _Hash) -> bool:
        """Whether the bytes fed to `hasher` (from `Digest.hasher`) are the content this digest names."""
        return hasher.hexdigest() == self.hex
