"""Files of keys that people have: read before root is given up, for only they may be able to read them.

Rule: a private key that others may read is not used, and what is wrong with a file is said with its name.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from iarproxy.cli.output import print_error
from iarproxy.cli.person_files import read
from iarproxy.errors import Malformed, Refused
from iarproxy.ledger import key_files
from iarproxy.trust.rotations import MAX_ROTATION, file_of, insist, leading_to
from iarproxy.trust.signing import PrivateKey, PublicKey, public_keys

_MAX_KEYS = 64 * 1024  # bytes
_MAX_BESIDE = 256  # rotations in a folder
ROTATIONS = "rotation.*.sigstore.json"


def private_key(path: Path) -> PrivateKey:
    """The key in a file of the person's.

    Raises:
        Refused: it cannot be used.
    """
    if path.suffix == ".pub":  # open to all, as it should be: nobody shall be told to close it
        raise Refused(f"{path} is the half of a key that others have; give {path.with_suffix('.key').name}")
    try:
        return PrivateKey.parse(key_files.read(path, links=True))
    except OSError as error:
        raise Refused(f"the key {path} cannot be read: {error.strerror}") from error
    except Malformed as error:
        raise Refused(f"{path}: {error}; `iarproxy keys create NAME` makes one") from error


def signing_key(path: Path) -> PrivateKey:
    """As `private_key`, for a bundle: where the key has a successor that is said, for sites that know it refuse it.

    Raises:
        Refused: it cannot be used.
    """
    key = private_key(path)
    successor = path.absolute().with_name(file_of(key.public))
    if successor.exists():
        print_error(f"{path} has a successor, as {successor} says; sites that know that refuse what {path.name} signs")
    return key


def signers(paths: Iterable[Path]) -> list[tuple[PublicKey, ...]]:
    """The keys of those whom a person trusts: each file is one signer's, who may have several.

    Raises:
        Refused: one of the files cannot be used.
    """
    return [_public(path) for path in paths]


def rotations_beside(path: Path, key: PublicKey) -> dict[str, bytes]:
    """By name, the rotations in the folder of the key's file by which those who know an older key come to `key`.

    Raises:
        Refused: one of them cannot be read.
    """
    found = sorted(path.absolute().parent.glob(ROTATIONS))[:_MAX_BESIDE]
    beside = {_rotation(each): each.name for each in found}
    return {beside[raw]: raw for raw in leading_to(key, beside)}


def _rotation(path: Path) -> bytes:
    raw = read(path, MAX_ROTATION)
    try:
        insist(raw)
    except Malformed as error:
        raise Refused(f"{path}, beside the key: {error}; take it away") from error
    return raw


def _public(path: Path) -> tuple[PublicKey, ...]:
    try:
        return public_keys(read(path, _MAX_KEYS))
    except Malformed as error:
        raise Refused(f"{path}: {error}") from error
