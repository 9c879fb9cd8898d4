"""The Merkle tree of RFC 6962: roots, and proofs that a leaf is in a tree or that a tree continues an older one.

Rule 1: a leaf is hashed as sha256(0x00 || data), a node as sha256(0x01 || left || right), so that neither can be taken
        for the other. Leaf n of a tree of size s covers the positions n to n + 1 of 0 to s.
Rule 2: a tree is only ever appended to, and is kept as the roots of its perfect subtrees: at most 64 hashes, whatever
        its size. What proofs need of it is said before its leaves pass by, and is kept beside them.
Rule 3: a proof is a list of hashes, each of which covers a range of leaves; which ranges, size and position alone say,
        so that a proof can hold nothing that its reader did not expect.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from iarproxy.errors import Malformed

HASH_SIZE = 32  # bytes
EMPTY = hashlib.sha256().digest()  # the root of no leaves
MAX_PROOF = 128  # hashes: more than any tree below 2**63 leaves needs


class Range(NamedTuple):
    """The leaves from `start` up to, and without, `end`."""

    start: int
    end: int


class _Node(NamedTuple):
    """A perfect subtree of 2**level leaves, the `place`th of its level."""

    level: int
    place: int


def leaf_hash(data: bytes) -> bytes:
    """The hash of a leaf."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of what has two hashes below it."""
    return hashlib.sha256(b"\x01" + left + right).digest()


class Tree:
    """A tree that grows leaf by leaf.

    Attributes:
        size: how many leaves it has.
    """

    def __init__(self, wanted: Iterable[Range] = ()) -> None:
        """An empty tree that will know the hashes of the ranges `wanted`, which come from the functions below."""
        self.size = 0
        self._peaks: list[bytes] = []
        self._kept: dict[_Node, bytes | None] = {node: None for each in wanted for node in _perfect(each)}

    def append(self, leaf: bytes) -> None:
        """Add a leaf by its `leaf_hash`."""
        node = _Node(0, self.size)
        self._keep(node, leaf)
        while node.place & 1:
            leaf = node_hash(self._peaks.pop(), leaf)
            node = _Node(node.level + 1, node.place >> 1)
            self._keep(node, leaf)
        self._peaks.append(leaf)
        self.size += 1

    def root(self) -> bytes:
        """The hash of all leaves so far."""
        return _folded(self._peaks)

    def hashes(self, ranges: Iterable[Range]) -> list[bytes]:
        """The hash of each range, all of which were wanted and have passed by."""
        return [_folded([self._known(node) for node in _perfect(each)]) for each in ranges]

    def _keep(self, node: _Node, value: bytes) -> None:
        if node in self._kept:
            self._kept[node] = value

    def _known(self, node: _Node) -> bytes:
        value = self._kept[node]
        if value is None:
            raise ValueError(f"the tree of {self.size} leaves does not reach {node}")
        return value


def inclusion_ranges(index: int, size: int) -> list[Range]:
    """What each hash of a proof covers that leaf `index` is in the tree of `size` leaves, in the proof's order.

    Raises:
        Malformed: there is no such leaf.
    """
    if not 0 <= index < size:
        raise Malformed(f"a tree of {size} leaves has no leaf {index}")
    found: list[Range] = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _left(end - start)
        if index < middle:
            found.append(Range(middle, end))
            end = middle
        else:
            found.append(Range(start, middle))
            start = middle
    return found[::-1]


def consistency_ranges(old: int, new: int) -> list[Range]:
    """What each hash of a proof covers that the tree of `new` leaves continues the one of `old`, in the proof's order.

    Raises:
        Malformed: there are no two such trees.
    """
    if not 0 <= old <= new:
        raise Malformed(f"a tree of {new} leaves cannot continue one of {old}")
    if old in (0, new):
        return []
    found: list[Range] = []
    start, end = 0, new
    while end != old:
        middle = start + _left(end - start)
        if old <= middle:
            found.append(Range(middle, end))
            end = middle
        else:
            found.append(Range(start, middle))
            start = middle
    if start:  # the old tree's last perfect subtree; without it that subtree is the old tree itself
        found.append(Range(start, end))
    return found[::-1]


def includes(root: bytes, size: int, index: int, leaf: bytes, proof: Sequence[bytes]) -> bool:
    """Whether `proof` shows that the tree of `size` leaves and `root` has the leaf hash `leaf` at `index`."""
    if not 0 <= index < size:
        return False
    ranges = inclusion_ranges(index, size)
    if len(ranges) != len(proof):
        return False
    for covered, sibling in zip(ranges, proof, strict=True):
        leaf = node_hash(leaf, sibling) if covered.start > index else node_hash(sibling, leaf)
    return leaf == root


def continues(old_root: bytes, old: int, new_root: bytes, new: int, proof: Sequence[bytes]) -> bool:
    """Whether `proof` shows that the first `old` leaves of the tree of `new` leaves are those of the old tree."""
    if not 0 <= old <= new:
        return False
    ranges = consistency_ranges(old, new)
    if len(ranges) != len(proof):
        return False
    if old in (0, new):
        return old_root == (EMPTY if old == 0 else new_root)
    own = ranges[0].start >= old  # the old tree is one perfect subtree: no hash is needed for what is known
    first = second = old_root if own else proof[0]
    for covered, sibling in list(zip(ranges, proof, strict=True))[0 if own else 1 :]:
        if covered.start >= old:
            second = node_hash(second, sibling)
        else:
            first, second = node_hash(sibling, first), node_hash(sibling, second)
    return (first, second) == (old_root, new_root)


def _left(size: int) -> int:
    """How many of `size` leaves, at least two, are below the left child: the largest power of two that is less."""
    return 1 << (size - 1).bit_length() - 1


def _perfect(covered: Range) -> Iterator[_Node]:
    """The perfect subtrees that make up a range of a proof, from left to right."""
    start, end = covered
    while start < end:
        level = (end - start).bit_length() - 1
        yield _Node(level, start >> level)
        start += 1 << level


def _folded(peaks: Sequence[bytes]) -> bytes:
    """The hash of neighbouring perfect subtrees, the largest first."""
    if not peaks:
        return EMPTY
    value = peaks[-1]
    for peak in reversed(peaks[:-1]):
        value = node_hash(peak, value)
    return value
