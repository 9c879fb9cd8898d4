"""The keys with which a store itself signs, beside its ledger: of records of promotions, and of receipts.

Rule 1: each is made when it is first needed. Whoever replaces one keeps the old public key for what it signed: a
        signature names its key by the hint.
Rule 2: they sign with ECDSA over P-256, which every verifier of bundles takes.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from iarproxy.errors import Malformed, Refused
from iarproxy.ledger import key_files
from iarproxy.trust.signing import KeyType, PrivateKey

PROMOTION = "promotion.key"
RECEIPT = "receipt.key"


def promotion_key(folder: Path) -> PrivateKey:
    """The key in `folder`, which is the ledger's, that signs records of promotions; made where there is none.

    Raises:
        Refused: it cannot be used or made; says what to do.
    """
    return _key(folder / PROMOTION, "records of promotions")


def receipt_key(folder: Path) -> PrivateKey:
    """The key that signs receipts; as `promotion_key`."""
    return _key(folder / RECEIPT, "receipts")


def _key(path: Path, what: str) -> PrivateKey:
    try:
        if not path.is_symlink() and not path.exists():
            with suppress(FileExistsError):
                key_files.create(path, PrivateKey.made().pem)
        return _parsed(key_files.read(path))
    except OSError as error:
        raise Refused(f"the key for {what} {path}: {error.strerror}; look at its folder") from error
    except Malformed as error:
        raise Refused(f"{path} cannot be used: {error}; restore it, or move it away to have a new one made") from error


def _parsed(pem: bytes) -> PrivateKey:
    key = PrivateKey.parse(pem)
    if key.public.type is not KeyType.ECDSA:
        raise Malformed("a key of another kind; an ECDSA key over P-256 in PEM is wanted")
    return key
