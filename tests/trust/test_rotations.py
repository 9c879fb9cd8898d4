"""Rotations: a signer's new key counts where the old one is trusted, and a stolen old key gets nobody far."""

from __future__ import annotations

import os
import random
from itertools import pairwise
from typing import Any

import pytest

from bundle_samples import MANIFEST, about, vouch
from iarproxy.errors import BundleRefused
from iarproxy.trust.bundle import envelope_of, signed_bundle
from iarproxy.trust.bundles import Vouched, signed, vouched
from iarproxy.trust.rotations import MAX_ROTATIONS, file_of, leading_to, rotation_of
from iarproxy.trust.signing import KeyType, PrivateKey

OLD, NEW, NEWER, EVE, BOB = (PrivateKey.made(kind) for kind in (*KeyType, *KeyType, KeyType.ECDSA))
ROTATION, AGAIN = rotation_of(OLD, NEW.public), rotation_of(NEW, NEWER.public)
TRUSTED = [[OLD.public]]


def refusal(*keys: PrivateKey, **given: Any) -> str:
    """The code of the refusal that it must be."""
    with pytest.raises(BundleRefused) as caught:
        vouch(*keys, trusted=TRUSTED, **given)
    return caught.value.code


def test_the_new_key_counts_with_its_rotation() -> None:
    """A site that trusts the old key takes a bundle by the new one, if the old one named it; and shall remember it."""
    assert "untrusted-key" == refusal(NEW)
    found = vouch(NEW, trusted=TRUSTED, rotations=[ROTATION])
    assert ((NEW.public.fingerprint,), (ROTATION,)) == (found.signers, found.rotations)


def test_the_old_key_is_retired_from_then_on() -> None:
    """Once a site remembers, the old key alone is refused, saying so; the new one needs no rotation beside it."""
    with pytest.raises(BundleRefused, match="retired key, whose successor") as caught:
        vouch(OLD, trusted=TRUSTED, retired=[ROTATION])
    assert "untrusted-key" == caught.value.code
    found = vouch(NEW, trusted=TRUSTED, retired=[ROTATION])
    assert ((NEW.public.fingerprint,), ()) == (found.signers, found.rotations)
    assert (NEW.public.fingerprint,) == vouch(OLD, NEW, trusted=TRUSTED, retired=[ROTATION]).signers


def test_a_rotation_that_was_not_needed_is_not_remembered() -> None:
    """A bundle that the old key signed retires nothing, whatever lies beside it."""
    for keys in ((OLD,), (OLD, NEW)):
        assert () == vouch(*keys, trusted=TRUSTED, rotations=[ROTATION]).rotations


def test_rotations_in_a_row() -> None:
    """A site that missed one of two rotations follows both, in whatever order they lie there."""
    for rotations in ([ROTATION, AGAIN], [AGAIN, ROTATION]):
        assert {ROTATION, AGAIN} == set(vouch(NEWER, trusted=TRUSTED, rotations=rotations).rotations)
    assert (AGAIN,) == vouch(NEWER, trusted=TRUSTED, rotations=[AGAIN], retired=[ROTATION]).rotations
    assert "untrusted-key" == refusal(NEWER, rotations=[AGAIN])
    assert "untrusted-key" == refusal(NEW, retired=[ROTATION, AGAIN])


def test_a_stolen_key_after_the_rotation() -> None:
    """Whoever has the old key can neither sign nor name another successor where the rotation was seen."""
    stolen = rotation_of(OLD, EVE.public)
    assert "untrusted-key" == refusal(OLD, retired=[ROTATION])
    assert "untrusted-key" == refusal(EVE, rotations=[stolen], retired=[ROTATION])


def test_two_successors() -> None:
    """Of a key that names two successors neither counts, whoever was first: a person has to decide."""
    stolen = rotation_of(OLD, EVE.public)
    for keys in ((NEW,), (EVE,), (NEW, EVE), (OLD,)):
        assert "untrusted-key" == refusal(*keys, rotations=[ROTATION, stolen])
    assert () == vouch(NEW, trusted=[[NEW.public]], rotations=[ROTATION, stolen]).rotations


def test_a_rotation_by_a_stranger_counts_for_nothing() -> None:
    """A file that a carrier adds brings nobody in, and does no harm."""
    foreign = rotation_of(EVE, BOB.public)
    assert "untrusted-key" == refusal(BOB, rotations=[foreign])
    assert (OLD.public.fingerprint,) == vouch(OLD, trusted=TRUSTED, rotations=[foreign]).signers


def test_a_forged_rotation() -> None:
    """A rotation that names a trusted key and was not made by it ends it."""
    raw = rotation_of(EVE, BOB.public).replace(EVE.public.hint.encode(), OLD.public.hint.encode())
    assert "untrusted-key" == refusal(OLD, rotations=[raw])


def test_a_signer_rotates_nobody_else() -> None:
    """A key that is trusted has no say about another signer's key."""
    both = [[OLD.public], [BOB.public]]
    payload = envelope_of(ROTATION).payload  # of the key OLD, in the name of BOB
    with pytest.raises(BundleRefused) as caught:
        vouch(NEW, BOB, trusted=both, rotations=[signed_bundle(payload, BOB)])
    assert "untrusted-key" == caught.value.code


def test_the_rotation_of_one_who_did_not_sign() -> None:
    """Where others are enough, the rotation of one who did not vouch is not remembered: a thief may have added it."""
    both = [[OLD.public], [BOB.public]]
    assert () == vouch(BOB, trusted=both, threshold=1, rotations=[ROTATION]).rotations


def test_rotations_in_a_circle() -> None:
    """Keys that name each other are refused, in bounded time."""
    assert "untrusted-key" == refusal(NEW, rotations=[ROTATION, rotation_of(NEW, OLD.public)])
    assert "untrusted-key" == refusal(OLD, rotations=[rotation_of(OLD, OLD.public)])


def test_a_signer_with_two_keys_counts_once() -> None:
    """Neither an old and a new key, nor a rotation to another signer's key, make two signers of one."""
    both = [[OLD.public], [BOB.public]]
    for rotation, keys in ((ROTATION, (OLD, NEW)), (rotation_of(OLD, BOB.public), (BOB,))):
        with pytest.raises(BundleRefused):
            vouch(*keys, trusted=both, rotations=[rotation])
    assert 2 == len(vouch(NEW, BOB, trusted=both, rotations=[ROTATION]).signers)


def test_every_byte_of_a_rotation_counts() -> None:
    """Whichever byte is another, the new key does not count."""
    signature, document = signed(about(), NEW), MANIFEST.dump()

    def judged(rotation: bytes) -> Vouched:
        return vouched([signature], document, TRUSTED, rotations=[rotation])

    for rotation in (ROTATION, rotation_of(OLD, NEW.public)):
        assert judged(rotation).rotations
        for place in range(len(rotation)):
            with pytest.raises(BundleRefused):
                judged(rotation[:place] + bytes([rotation[place] ^ 1]) + rotation[place + 1 :])


LINES = [[PrivateKey.made(KeyType.ED25519) for _ in range(3)] for _ in range(3)]  # of three signers, by age
STEPS = [[rotation_of(old, new.public) for old, new in pairwise(line)] for line in LINES]
ROUNDS = 300 * (1 + int(os.environ.get("IARPROXY_SEEDS", "0")) // 20)


def test_who_counts() -> None:
    """A signer counts once, by a key that the site's or the bundle's rotations lead to and that is not retired."""
    dice = random.Random(20261122)
    for _ in range(ROUNDS):
        retired = [dice.randint(0, 2) for _ in LINES]
        reached = [dice.randint(each, 2) for each in retired]
        signing = [[dice.random() < 0.4 for _ in line] for line in LINES]
        threshold = dice.randint(1, 3)
        counting = sum(any(line[gone : last + 1]) for line, gone, last in zip(signing, retired, reached, strict=True))
        keys = [
            key for line, told in zip(LINES, signing, strict=True) for key, did in zip(line, told, strict=True) if did
        ]
        dice.shuffle(keys)
        brought = [step for steps, gone, last in zip(STEPS, retired, reached, strict=True) for step in steps[gone:last]]
        known = [step for steps, gone in zip(STEPS, retired, strict=True) for step in steps[:gone]]
        given: dict[str, Any] = {"rotations": brought, "retired": known, "threshold": threshold}
        trusted = [[line[0].public] for line in LINES]
        if counting >= threshold:
            found = vouch(*keys, trusted=trusted, **given)
            needed = [
                steps[each]
                for steps, line, gone, last in zip(STEPS, signing, retired, reached, strict=True)
                for each in range(gone, last)
                if not line[each] and any(line[each + 1 : last + 1])
            ]
            assert sorted(needed) == sorted(found.rotations)
        else:
            with pytest.raises(BundleRefused) as caught:
                vouch(*keys, trusted=trusted, **given)
            assert ("too-few-signatures" if counting else "untrusted-key") == caught.value.code


def test_too_many_rotations() -> None:
    """They are few and short."""
    assert "malformed" == refusal(NEW, rotations=[ROTATION] * (MAX_ROTATIONS + 1))
    assert "malformed" == refusal(NEW, rotations=[ROTATION + b" " * 20_000])


def test_which_rotations_lead_to_a_key() -> None:
    """Those that a reader with an older key needs go along, and no others."""
    beside = [AGAIN, rotation_of(EVE, BOB.public), ROTATION]
    assert [AGAIN, ROTATION] == leading_to(NEWER.public, beside)
    assert [] == leading_to(OLD.public, beside)
    assert f"rotation.{OLD.public.fingerprint[:16]}.sigstore.json" == file_of(OLD.public)
