"""The file of the key that signs for the journal.

Rule 1: it is read by its owner alone, and is no link; a file that others may read is not used, whatever it holds.
Rule 2: a key is made when it is first needed, and only where the journal never had one: what is missing is lost, not
        new (design section 4, invariant 4, in the small).
Rule 3: a new key is durable, beside the old one, before the journal names it, and takes its place when the first
        checkpoint that covers its entry is made: a process that dies in between leaves what the next one goes on from.
Rule 4: only a key that signed for its successor is overwritten by it; whatever else lies there is kept, renamed.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from iarproxy.errors import Refused
from iarproxy.ledger import key_files
from iarproxy.ledger.journal_file import sync_directory
from iarproxy.ledger.proof.keyring import How, Keyring
from iarproxy.trust.note import SigningKey

NAME = "journal.key"
_LOST = "restore it from where you keep it, or run `iarproxy journal rotate-key --lost --reason TEXT`"


@dataclass(frozen=True, slots=True)
class Signers:
    """Who signs the next checkpoint.

    Attributes:
        settles: when it is made, the new key takes the old one's place.
        keeps: what is in that place was no key that signed for it, and is kept aside.
    """

    keys: tuple[SigningKey, ...]
    settles: bool = False
    keeps: bool = False


@dataclass(frozen=True, slots=True)
class KeyFile:
    """The key at `path`, and during a rotation its successor beside it."""

    path: Path

    @property
    def next(self) -> Path:
        """Where the successor waits."""
        return self.path.with_name(f"{self.path.name}.next")

    def first(self, origin: str) -> SigningKey:
        """The key, which is made where there is none. Only for a journal that never had one.

        Raises:
            Refused: it cannot be used or made; says what to do.
        """
        with suppress(FileExistsError):
            _create(self.path, Ed25519PrivateKey.generate())
        found = read(self.path, origin)
        if found is None:
            raise Refused(f"the journal's key {self.path} vanished while it was made; look at who else writes there")
        return found

    def signers(self, ring: Keyring, *, both: bool) -> Signers:
        """Who signs for the journal now; `both`: after a rotation that no checkpoint covers yet.

        Raises:
            Refused: the key is missing, damaged, open to others, or not the one that the journal names.
        """
        wanted = ring.current
        if wanted is None:
            raise Refused("the journal names no key yet")
        here = read(self.path, ring.origin, lenient=wanted.how is How.LOST)
        if here is not None and here.verifier == wanted.key:
            return Signers((here,))
        coming = read(self.next, ring.origin)
        if coming is None or coming.verifier != wanted.key:
            raise Refused(self._not_ours(here, str(wanted.key)))
        if both and wanted.how is How.ROTATED:
            if here is None or [here.verifier] != [each.key for each in ring.keys[-2:-1]]:
                raise Refused(f"the rotation of the journal's key needs the old one once more in {self.path}; {_LOST}")
            return Signers((coming, here), settles=True)
        return Signers((coming,), settles=True, keeps=wanted.how is How.LOST)

    def prepare(self, origin: str) -> SigningKey:
        """A new key, durable beside the old one; what a rotation before it left there unused is replaced.

        Raises:
            Refused: it cannot be written.
        """
        private = Ed25519PrivateKey.generate()
        try:
            self.next.unlink(missing_ok=True)
            _create(self.next, private)
        except OSError as error:
            raise Refused(f"the new key {self.next} cannot be written: {error.strerror}") from error
        return SigningKey(origin, private)

    def settle(self, *, keeps: bool) -> None:
        """Put the new key in the old one's place; `keeps`: which is kept aside, renamed.

        Raises:
            Refused: it cannot be done; the next process tries again.
        """
        try:
            if not self.next.exists():
                return
            if keeps and os.path.lexists(self.path):
                self.path.rename(_aside(self.path))
            self.next.replace(self.path)
            sync_directory(self.path.parent)
        except FileNotFoundError:
            return  # another process did
        except OSError as error:
            raise Refused(f"the new key {self.next} cannot take its place: {error.strerror}") from error

    def _not_ours(self, here: SigningKey | None, wanted: str) -> str:
        if here is None:
            return f"the journal's key {self.path} is missing; {_LOST}"
        text = f"{self.path} holds the key {here.verifier}, but the journal names {wanted}"
        return f"{text}: the key is another journal's, or the ledger is an old copy; {_LOST}"


def read(path: Path, origin: str, *, lenient: bool = False) -> SigningKey | None:
    """The key in a file; None: there is no file, or, where `lenient`, none that can be used.

    Raises:
        Refused: it cannot be used.
    """
    try:
        return SigningKey(origin, _parsed(path, key_files.read(path)))
    except FileNotFoundError:
        return None
    except OSError as error:
        refused = Refused(f"the journal's key {path} cannot be read: {error.strerror}")
        if lenient:
            return None
        raise refused from error
    except Refused:
        if lenient:
            return None
        raise


def _parsed(path: Path, pem: bytes) -> Ed25519PrivateKey:
    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise Refused(f"the journal's key {path} is damaged: it is no Ed25519 key in PKCS#8 PEM; {_LOST}")
    return key


def _create(path: Path, private: Ed25519PrivateKey) -> None:
    """Write a key that is whole or not there.

    Raises:
        FileExistsError: there is one already.
        Refused: it cannot be written.
    """
    try:
        key_files.create(path, private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    except FileExistsError:
        raise
    except OSError as error:
        raise Refused(f"the journal's key {path} cannot be made: {error.strerror}; see journal.key_file") from error


def _aside(path: Path) -> Path:
    number = 1
    while os.path.lexists(path.with_name(f"{path.name}.replaced-{number}")):
        number += 1
    return path.with_name(f"{path.name}.replaced-{number}")
