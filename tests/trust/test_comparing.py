"""What two checkpoints say of each other."""

from __future__ import annotations

import orjson
import pytest

from iarproxy.errors import Malformed
from iarproxy.trust.comparing import (
    ConsistencyProof,
    Continued,
    Same,
    Split,
    Undecided,
    Unproven,
    Unrelated,
    compare,
    compare_all,
)
from iarproxy.trust.merkle import Tree, consistency_ranges, leaf_hash
from iarproxy.trust.note import Checkpoint

SITE = "iarproxy/site"


def tree(size: int, wanted: int | None = None, *, twisted: bool = False) -> Tree:
    made = Tree([] if wanted is None else consistency_ranges(wanted, size))
    for number in range(size):
        made.append(leaf_hash(b"other" if twisted and number == 3 else b"%d" % number))
    return made


def checkpoint(size: int, *, origin: str = SITE, twisted: bool = False) -> Checkpoint:
    return Checkpoint(origin, size, tree(size, twisted=twisted).root())


def proof(old: int, new: int, *, twisted: bool = False) -> ConsistencyProof:
    hashes = tree(new, old, twisted=twisted).hashes(consistency_ranges(old, new))
    return ConsistencyProof(SITE, old, new, tuple(hashes))


def test_one_history() -> None:
    """The same checkpoint twice, and two that a proof connects, in whichever order."""
    assert Same(7) == compare(checkpoint(7), checkpoint(7))
    assert Continued(7, 12) == compare(checkpoint(7), checkpoint(12), proof(7, 12))
    assert Continued(7, 12) == compare(checkpoint(12), checkpoint(7), proof(7, 12))


def test_two_histories() -> None:
    """One size with two roots is a split; a proof that does not hold proves nothing."""
    assert Split(7) == compare(checkpoint(7), checkpoint(7, twisted=True))
    assert Unproven(7, 12) == compare(checkpoint(7), checkpoint(12, twisted=True), proof(7, 12))
    assert Unproven(7, 12) == compare(checkpoint(7), checkpoint(12, twisted=True), proof(7, 12, twisted=True))


def test_what_cannot_be_said() -> None:
    """Without a proof nothing is known of two sizes; two journals have nothing to do with each other."""
    assert Undecided(7, 12) == compare(checkpoint(12), checkpoint(7))
    assert Unrelated(SITE, "iarproxy/b") == compare(checkpoint(7), checkpoint(7, origin="iarproxy/b"))
    with pytest.raises(Malformed, match="the proof is about 6 and 12 entries"):
        compare(checkpoint(7), checkpoint(12), proof(6, 12))


def test_all_of_two_files() -> None:
    """A split is found wherever it hides: inside of one file, or behind a checkpoint of another journal."""
    other = checkpoint(7, origin="iarproxy/b")
    twisted = checkpoint(7, twisted=True)
    assert Split(7) == compare_all([checkpoint(7), checkpoint(12)], [twisted, other])
    assert Split(7) == compare_all([checkpoint(7), other], [twisted, other])
    assert Split(7) == compare_all([checkpoint(12)], [checkpoint(7), twisted, checkpoint(12)])
    assert Same(7) == compare_all([checkpoint(5), checkpoint(7)], [checkpoint(5), checkpoint(7), checkpoint(12)])
    assert Undecided(7, 12) == compare_all([checkpoint(5), checkpoint(7)], [checkpoint(5), checkpoint(12)])
    assert Continued(7, 12) == compare_all([checkpoint(7)], [checkpoint(7), checkpoint(12)], proof(7, 12))
    assert Undecided(7, 12) == compare_all([other, checkpoint(7)], [checkpoint(12), other])
    assert Unrelated(SITE, "iarproxy/b") == compare_all([checkpoint(7)], [other])
    with pytest.raises(Malformed, match="these files are about several"):
        compare_all([other, checkpoint(7)], [checkpoint(12), other], proof(7, 12))


def test_a_proof_is_written_and_read() -> None:
    """As JSON, exactly."""
    made = proof(5, 900)
    assert made == ConsistencyProof.parse(orjson.dumps(made.document()))


@pytest.mark.parametrize(
    "change",
    [
        {"what": "else"},
        {"origin": 3},
        {"from": -1},
        {"from": True},
        {"to": "12"},
        {"to": 2**63},
        {"hashes": "AA=="},
        {"hashes": ["AA=="]},
        {"hashes": [3]},
        {"hashes": ["A"] * 200},
    ],
)
def test_what_is_no_proof(change: dict[str, object]) -> None:
    """Anything that is not exactly a proof is refused."""
    with pytest.raises(Malformed):
        ConsistencyProof.parse(orjson.dumps({**proof(7, 12).document(), **change}))
    for raw in (b"", b"[]", b"no", b"{" * 100_000):
        with pytest.raises(Malformed):
            ConsistencyProof.parse(raw)
