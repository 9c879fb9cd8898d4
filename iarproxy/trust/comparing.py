"""What two checkpoints say of each other: whether two sites were shown one history.

Rule 1: a split is only said where it is certain: one origin, one size, two roots. Checkpoints of different sizes need a
        proof, and without one nothing is known.
Rule 2: a proof that does not hold shows nothing by itself; who cannot give one that does has two histories.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeAlias, TypeGuard

import orjson

from iarproxy.errors import Malformed
from iarproxy.trust.merkle import MAX_PROOF, continues
from iarproxy.trust.note import Checkpoint, hash_from_base64, to_base64

_WHAT = "iarproxy proof of consistency, version 1"
MAX_SIZE = 64 * 1024  # bytes of a proof


@dataclass(frozen=True, slots=True)
class Same:
    """One size, one root."""

    size: int


@dataclass(frozen=True, slots=True)
class Continued:
    """The proof shows that the larger begins with all of the smaller."""

    old: int
    new: int


@dataclass(frozen=True, slots=True)
class Split:
    """One journal signed two histories of one size: it told different things to different people."""

    size: int


@dataclass(frozen=True, slots=True)
class Unproven:
    """The proof that was given does not show that the larger continues the smaller."""

    old: int
    new: int


@dataclass(frozen=True, slots=True)
class Undecided:
    """The sizes differ, and no proof was given."""

    old: int
    new: int


@dataclass(frozen=True, slots=True)
class Unrelated:
    """They are of two journals."""

    first: str
    second: str


Comparison: TypeAlias = Same | Continued | Split | Unproven | Undecided | Unrelated


@dataclass(frozen=True, slots=True)
class ConsistencyProof:
    """That the first `new` entries of the journal of `origin` begin with its first `old` ones."""

    origin: str
    old: int
    new: int
    hashes: tuple[bytes, ...]

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """The proof in a file.

        Raises:
            Malformed: it is none.
        """
        try:
            document: Any = orjson.loads(raw[: MAX_SIZE + 1])
        except orjson.JSONDecodeError:
            document = None
        if not isinstance(document, dict) or document.get("what") != _WHAT:
            raise Malformed("not a proof of consistency; `iarproxy journal proof --from SIZE --to SIZE` writes one")
        origin, old, new, hashes = (document.get(name) for name in ("origin", "from", "to", "hashes"))
        if isinstance(origin, str) and _is_size(old) and _is_size(new) and _are_hashes(hashes):
            return cls(origin, old, new, tuple(map(hash_from_base64, hashes)))
        raise Malformed("a proof of consistency with a field that is missing or of the wrong kind")

    def document(self) -> dict[str, Any]:
        """The proof as JSON."""
        hashes = [to_base64(each) for each in self.hashes]
        return {"what": _WHAT, "origin": self.origin, "from": self.old, "to": self.new, "hashes": hashes}


def compare(first: Checkpoint, second: Checkpoint, proof: ConsistencyProof | None = None) -> Comparison:
    """What the two say of each other, in whichever order.

    Raises:
        Malformed: the proof is about something else.
    """
    if first.origin != second.origin:
        return Unrelated(first.origin, second.origin)
    old, new = sorted((first, second), key=lambda each: each.size)
    if old.size == new.size:
        return Same(old.size) if old.root == new.root else Split(old.size)
    if proof is None:
        return Undecided(old.size, new.size)
    if (proof.origin, proof.old, proof.new) != (old.origin, old.size, new.size):
        told = f"{proof.old} and {proof.new} entries of {proof.origin}"
        raise Malformed(f"the proof is about {told}, not about {old.size} and {new.size} of {old.origin}")
    holds = continues(old.root, old.size, new.root, new.size, proof.hashes)
    return Continued(old.size, new.size) if holds else Unproven(old.size, new.size)


def compare_all(
    ones: Sequence[Checkpoint], others: Sequence[Checkpoint], proof: ConsistencyProof | None = None
) -> Comparison:
    """What all of two people's checkpoints say of each other; neither has none.

    Whoever's they are, two roots of one size are a split. Otherwise it is what the newest two of a journal say that
    both have; of several journals, of the first that is not well.

    Raises:
        Malformed: as `compare`.
    """
    roots: dict[tuple[str, int], bytes] = {}
    for each in (*ones, *others):
        if roots.setdefault((each.origin, each.size), each.root) != each.root:
            return Split(each.size)
    first, second = _newest(ones), _newest(others)
    both = [origin for origin in first if origin in second]
    if len(both) > 1 and proof is not None:
        raise Malformed("a proof is about one journal, and these files are about several; compare one at a time")
    if not both:
        return Unrelated(next(iter(first)), next(iter(second)))
    told = [_newest_two(first[origin], second[origin], (ones, others), proof) for origin in both]
    return next((each for each in told if not isinstance(each, Same | Continued)), told[0])


def _newest(found: Sequence[Checkpoint]) -> dict[str, Checkpoint]:
    return {each.origin: each for each in sorted(found, key=lambda each: each.size)}


def _newest_two(
    first: Checkpoint, second: Checkpoint, held: tuple[Sequence[Checkpoint], ...], proof: ConsistencyProof | None
) -> Comparison:
    smaller = min(first, second, key=lambda each: each.size)
    if proof is None and all(smaller in each for each in held):
        return Same(smaller.size)  # the other one has it too, and more
    return compare(first, second, proof)


def _is_size(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _are_hashes(value: Any) -> TypeGuard[list[str]]:
    return isinstance(value, list) and len(value) <= MAX_PROOF and all(isinstance(each, str) for each in value)
