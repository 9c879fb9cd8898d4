"""Which keys may sign for the journal, as the journal itself says.

Rule 1: a key counts from the `keyed` entry that names it, for every checkpoint that covers that entry, until the next
        key does.
Rule 2: a new key is named by the old one's signature; the first checkpoint that covers its entry is signed by both.
        Where the old key was lost there is no such signature, and the entry says so for ever.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

from iarproxy.errors import LedgerDamaged, Malformed
from iarproxy.ledger.journal import Entry
from iarproxy.ledger.values import EventKind
from iarproxy.trust.note import Note, SigningKey, VerifierKey

_TOPIC = "iarproxy journal key"  # the first line of what an old key signs; no checkpoint's origin


def origin_of(identity: str) -> str:
    """The origin of the checkpoints of the store with that identity, and the name of its keys."""
    return f"iarproxy/{identity}"


class How(StrEnum):
    """How a key came to sign."""

    FIRST = "first"
    ROTATED = "rotated"  # the old key says so
    LOST = "lost"  # nobody but the journal says so


@dataclass(frozen=True, slots=True)
class Keyed:
    """A key, from the entry of that serial on. `note`: what the old key signed, where it was rotated."""

    serial: int
    key: VerifierKey
    how: How
    note: str | None = None

    @classmethod
    def of(cls, entry: Entry) -> Self:
        """What a `keyed` entry says.

        Raises:
            LedgerDamaged: it fails its hash, or says nothing that can be read.
        """
        if entry.kind != EventKind.KEYED or not entry.is_intact():
            raise LedgerDamaged(f"journal entry {entry.serial} names no key, or fails its hash")
        try:
            body = entry.document()
            return cls(entry.serial, VerifierKey.parse(str(body["key"])), How(body["how"]), body.get("note"))
        except (KeyError, TypeError, ValueError, Malformed) as error:
            raise LedgerDamaged(f"journal entry {entry.serial} names a key that cannot be read") from error


@dataclass(frozen=True, slots=True)
class Keyring:
    """The keys of the journal of `origin`, in the order in which they came."""

    origin: str
    keys: tuple[Keyed, ...] = ()

    @classmethod
    def of(cls, origin: str, entries: Iterable[Entry]) -> Self:
        """What the journal's `keyed` entries say.

        Raises:
            LedgerDamaged: as `Keyed.of`.
        """
        return cls(origin, tuple(Keyed.of(entry) for entry in entries))

    @property
    def current(self) -> Keyed | None:
        """The key that signs now; None: there was none yet."""
        return self.keys[-1] if self.keys else None

    def verifiers(self) -> list[VerifierKey]:
        """All of them, the newest first."""
        return [each.key for each in reversed(self.keys)]

    def wanted(self, size: int, before: int) -> list[VerifierKey]:
        """Who has to have signed the checkpoint of `size` entries that came after the one of `before`.

        The key of then, and after a rotation in between also the one that it replaced.
        """
        counting = [each for each in self.keys if each.serial <= size]
        if not counting:
            return []
        last = counting[-1]
        outgoing = counting[-2:-1] if last.how is How.ROTATED and last.serial > before else []
        return [last.key, *(each.key for each in outgoing)]

    def problems(self) -> list[tuple[int, str]]:
        """What is wrong with how keys followed each other: serials, and what."""
        found: list[tuple[int, str]] = []
        for before, each in zip((None, *self.keys), self.keys, strict=False):
            problem = _problem(self.origin, before, each)
            if problem:
                found.append((each.serial, problem))
        return found

    def leads(self, trusted: VerifierKey, key: VerifierKey) -> bool:
        """Whether `key` is `trusted`, or follows from it by rotations that each key in between signed."""
        here: VerifierKey | None = None
        for each in self.keys:
            if here is not None:
                here = each.key if follows(self.origin, here, each) else None
            if each.key == trusted:
                here = trusted
        return here == key

    def lost(self) -> list[Keyed]:
        """The keys that came in the place of a lost one."""
        return [each for each in self.keys if each.how is How.LOST]


def first(key: VerifierKey) -> dict[str, Any]:
    """The body of the entry that names the first key."""
    return {"key": str(key), "how": How.FIRST.value}


def rotated(origin: str, old: SigningKey, new: VerifierKey) -> dict[str, Any]:
    """The body of the entry by which `old` names its successor."""
    note = Note.signed(_statement(origin, new), [old])
    return {"key": str(new), "how": How.ROTATED.value, "previous": str(old.verifier), "note": str(note)}


def lost(old: VerifierKey, new: VerifierKey) -> dict[str, Any]:
    """The body of the entry that names a key in the place of a lost one."""
    return {"key": str(new), "how": How.LOST.value, "previous": str(old)}


def follows(origin: str, old: VerifierKey, new: Keyed) -> bool:
    """Whether `old` itself says that `new` is its successor."""
    if new.how is not How.ROTATED or not isinstance(new.note, str):
        return False
    try:
        note = Note.parse(new.note)
        return note.text == _statement(origin, new.key) and note.signers([old]) == [old]
    except Malformed:
        return False


def _problem(origin: str, before: Keyed | None, each: Keyed) -> str:
    if each.key.name != origin:
        return f"names a key of {each.key.name}, not of {origin}"
    if (before is None) != (each.how is How.FIRST):
        return "is not the first to name a key" if before else "names a successor of no key"
    if before is not None and each.how is How.ROTATED and not follows(origin, before.key, each):
        return "names a key that the one before it did not sign"
    return ""


def _statement(origin: str, new: VerifierKey) -> str:
    return f"{_TOPIC}\n{origin}\n{new}\n"
