"""The Merkle tree: known answers, the definition of RFC 6962 read literally, and every proof of every small tree."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iarproxy.errors import Malformed
from iarproxy.trust.merkle import (
    EMPTY,
    MAX_PROOF,
    Range,
    Tree,
    consistency_ranges,
    continues,
    includes,
    inclusion_ranges,
    leaf_hash,
)

# The leaves and roots that Certificate Transparency's implementations test with.
LEAVES = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
SMALL = 34  # leaves: every tree, leaf and pair up to here


def leaves(count: int) -> list[bytes]:
    return [leaf_hash(f"entry {number}".encode()) for number in range(count)]


def literal_root(hashes: Sequence[bytes]) -> bytes:
    """MTH of RFC 6962 section 2.1, word for word."""
    if not hashes:
        return hashlib.sha256(b"").digest()
    if len(hashes) == 1:
        return hashes[0]
    k = 1
    while k * 2 < len(hashes):
        k *= 2
    return hashlib.sha256(b"\x01" + literal_root(hashes[:k]) + literal_root(hashes[k:])).digest()


def literal_path(m: int, hashes: Sequence[bytes]) -> list[bytes]:
    """PATH of RFC 6962 section 2.1.1."""
    if len(hashes) == 1:
        return []
    k = 1
    while k * 2 < len(hashes):
        k *= 2
    if m < k:
        return [*literal_path(m, hashes[:k]), literal_root(hashes[k:])]
    return [*literal_path(m - k, hashes[k:]), literal_root(hashes[:k])]


def literal_subproof(m: int, hashes: Sequence[bytes], *, whole: bool) -> list[bytes]:
    """SUBPROOF of RFC 6962 section 2.1.2."""
    if m == len(hashes):
        return [] if whole else [literal_root(hashes)]
    k = 1
    while k * 2 < len(hashes):
        k *= 2
    if m <= k:
        return [*literal_subproof(m, hashes[:k], whole=whole), literal_root(hashes[k:])]
    return [*literal_subproof(m - k, hashes[k:], whole=False), literal_root(hashes[:k])]


def grown(hashes: Sequence[bytes], wanted: Sequence[Range] = ()) -> Tree:
    tree = Tree(wanted)
    for each in hashes:
        tree.append(each)
    return tree


def inclusion(hashes: Sequence[bytes], index: int) -> list[bytes]:
    ranges = inclusion_ranges(index, len(hashes))
    return grown(hashes, ranges).hashes(ranges)


def consistency(hashes: Sequence[bytes], old: int) -> list[bytes]:
    ranges = consistency_ranges(old, len(hashes))
    return grown(hashes, ranges).hashes(ranges)


def test_known_roots() -> None:
    """The roots of the well-known leaves are the well-known ones, at each size."""
    tree, found = Tree(), [EMPTY.hex()]
    for leaf in LEAVES:
        tree.append(leaf_hash(bytes.fromhex(leaf)))
        found.append(tree.root().hex())
    assert ROOTS == found


def test_known_proofs() -> None:
    """The proofs of the well-known leaves are what RFC 6962's example describes: c, then d with i, then l."""
    hashes = [leaf_hash(bytes.fromhex(leaf)) for leaf in LEAVES][:7]
    assert [literal_root(each) for each in (hashes[1:2], hashes[2:4], hashes[4:])] == inclusion(hashes, 0)
    assert [literal_root(each) for each in (hashes[4:6], hashes[:4])] == inclusion(hashes, 6)
    wanted = [literal_root(each) for each in (hashes[2:3], hashes[3:4], hashes[:2], hashes[4:])]
    assert wanted == consistency(hashes, 3)
    assert [literal_root(hashes[4:])] == consistency(hashes, 4)


def test_every_inclusion_of_every_small_tree() -> None:
    """Each leaf of each tree is proven as RFC 6962 defines it; the proof holds, and for no other place or leaf."""
    for size in range(1, SMALL):
        hashes = leaves(size)
        root = grown(hashes).root()
        assert literal_root(hashes) == root
        for index in range(size):
            proof = inclusion(hashes, index)
            assert literal_path(index, hashes) == proof
            assert includes(root, size, index, hashes[index], proof)
            assert not includes(root, size, index, leaf_hash(b"other"), proof)
            wrong = [each for each in range(size) if each != index]
            assert not any(includes(root, size, each, hashes[index], proof) for each in wrong)


def test_every_pair_of_small_trees() -> None:
    """Each tree is shown to continue each smaller one as RFC 6962 defines it; no other old root passes."""
    for new in range(SMALL):
        hashes = leaves(new)
        root = grown(hashes).root()
        for old in range(new + 1):
            proof = consistency(hashes, old)
            assert (literal_subproof(old, hashes, whole=True) if old else []) == proof
            assert continues(literal_root(hashes[:old]), old, root, new, proof)
            assert not continues(leaf_hash(b"other"), old, root, new, proof)
            assert old == new or not old or not continues(literal_root(hashes[:old]), old, leaf_hash(b"x"), new, proof)


@given(st.integers(1, 300), st.data())
def test_a_changed_proof_never_holds(size: int, data: st.DataObject) -> None:
    """Whatever single hash of a proof is changed, dropped, doubled or swapped, it does not hold."""
    hashes = leaves(size)
    index = data.draw(st.integers(0, size - 1))
    old = data.draw(st.integers(1, size))
    root, proof, way = grown(hashes).root(), inclusion(hashes, index), consistency(hashes, old)
    for kind, good in (("in", proof), ("on", way)):
        for bad in _spoilt(good, data):
            if kind == "in":
                assert not includes(root, size, index, hashes[index], bad)
            else:
                assert not continues(literal_root(hashes[:old]), old, root, size, bad)


def _spoilt(proof: list[bytes], data: st.DataObject) -> list[list[bytes]]:
    if not proof:
        return [[leaf_hash(b"")]]
    at = data.draw(st.integers(0, len(proof) - 1))
    flipped = bytes([proof[at][0] ^ 1]) + proof[at][1:]
    swapped = [proof[1], proof[0], *proof[2:]] if len(proof) > 1 else [flipped]
    return [[*proof[:at], flipped, *proof[at + 1 :]], proof[:-1], [*proof, proof[-1]], swapped]


@pytest.mark.timeout(900)
def test_between_any_two_of_a_thousand() -> None:
    """One pass over a thousand leaves gives the proofs between any two of their thousand trees; each of them holds."""
    hashes = leaves(1000)
    tree, roots = Tree(), [EMPTY]
    for each in hashes:
        tree.append(each)
        roots.append(tree.root())
    for new in range(1, 1001):
        ranges = {old: consistency_ranges(old, new) for old in _some(new)}
        grown_to = grown(hashes[:new], [each for found in ranges.values() for each in found])
        for old, wanted in ranges.items():
            assert continues(roots[old], old, roots[new], new, grown_to.hashes(wanted))


def _some(new: int) -> list[int]:
    """Of the pairs that end at `new`: all with IARPROXY_SEEDS=200, and for every fiftieth; else the awkward dozen."""
    if new % 50 == 0 or int(os.environ.get("IARPROXY_SEEDS", "1")) >= 200:
        return list(range(1, new + 1))
    chance = random.Random(new)
    picked = {1, new, new - 1, 1 << (new.bit_length() - 1), *(chance.randint(1, new) for _ in range(8))}
    return sorted(each for each in picked if 0 < each <= new)


def test_impossible_questions() -> None:
    """A leaf or tree that does not exist is refused when asked for, and false when claimed."""
    for index, size in ((0, 0), (3, 3), (-1, 3)):
        with pytest.raises(Malformed):
            inclusion_ranges(index, size)
        assert not includes(EMPTY, size, index, EMPTY, [])
    for old, new in ((4, 3), (-1, 3)):
        with pytest.raises(Malformed):
            consistency_ranges(old, new)
        assert not continues(EMPTY, old, EMPTY, new, [])


def test_huge_trees_have_short_proofs() -> None:
    """However large a tree is claimed to be, no proof is longer than the bound that readers rely on."""
    size = 2**63 - 1
    assert MAX_PROOF >= max(len(consistency_ranges(size // 3, size)), len(inclusion_ranges(size - 1, size)))
