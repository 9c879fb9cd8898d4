"""Signed notes and checkpoints, in the forms of C2SP signed-note and tlog-checkpoint, with Ed25519.

Rule 1: what was signed is the text, byte for byte; nothing is ever written again from what was parsed of it.
Rule 2: parsing is exact and bounded: one spelling of each number and each base64, no control characters, no more than
        `MAX_NOTE` bytes and `MAX_SIGNATURES` signatures; what is not exactly a note is `Malformed`.
Rule 3: a signature under a key that the reader does not know says nothing; one under a key that he knows and that does
        not hold makes the whole note `Malformed`. A key is known by its name and its hash together.
Rule 4: a private key is never shown.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from iarproxy.errors import Malformed
from iarproxy.trust.merkle import HASH_SIZE

MAX_NOTE = 16 * 1024  # bytes
MAX_SIGNATURES = 16
_MAX_KEY = 512  # characters of a verifier key
_ED25519 = b"\x01"  # C2SP's number of this algorithm
_KEY_SIZE = 32  # bytes
_HASH = 4  # bytes of a key's hash
_MARK = "\N{EM DASH} "  # what a signature's line begins with
_NAME = re.compile(r"[^\s+]{1,256}")
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")
_SIZE = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)
_KEY = re.compile(r"([^\s+]{1,256})\+([0-9a-f]{8})\+([A-Za-z0-9+/=]{1,64})")


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A public key with the name of whom it speaks for; `str` gives its one spelling, `name+hash+base64`."""

    name: str
    public: bytes

    def __post_init__(self) -> None:
        if _NAME.fullmatch(self.name) is None or len(self.public) != _KEY_SIZE:
            raise Malformed(f"no key of that name: {self.name[:80]!r}; a name has no spaces and no +")

    @classmethod
    def parse(cls, text: str) -> Self:
        """The key in its spelling.

        Raises:
            Malformed: it is none, or not of Ed25519.
        """
        found = _KEY.fullmatch(text[:_MAX_KEY])
        raw = None if found is None else _unbase64(found[3])
        if found is None or raw is None or len(raw) != 1 + _KEY_SIZE or raw[:1] != _ED25519:
            raise Malformed(f"not a verifier key: {text[:80]!r}; one is written NAME+HASH+BASE64, for Ed25519")
        key = cls(found[1], raw[1:])
        if key.hash.hex() != found[2]:
            raise Malformed(f"a verifier key whose hash is not {found[2]}: {text[:80]!r}; copy it whole")
        return key

    def __str__(self) -> str:
        return f"{self.name}+{self.hash.hex()}+{to_base64(_ED25519 + self.public)}"

    @property
    def hash(self) -> bytes:
        """What a signature names its key by."""
        return hashlib.sha256(self.name.encode() + b"\n" + _ED25519 + self.public).digest()[:_HASH]

    def holds(self, text: str, signature: bytes) -> bool:
        """Whether `signature` is this key's, of `text`."""
        try:
            Ed25519PublicKey.from_public_bytes(self.public).verify(signature, text.encode())
        except (InvalidSignature, ValueError):
            return False
        return True


class SigningKey:
    """A private key with the name of whom it speaks for."""

    def __init__(self, name: str, private: Ed25519PrivateKey) -> None:
        self.verifier = VerifierKey(name, private.public_key().public_bytes_raw())
        self._private = private

    def __repr__(self) -> str:
        return f"SigningKey({self.verifier})"

    def sign(self, text: str) -> Signature:
        """The signature of `text`."""
        return Signature(self.verifier.name, self.verifier.hash, self._private.sign(text.encode()))


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature of a note. `key`: the hash of the key that is said to have made it."""

    name: str
    key: bytes
    signature: bytes

    @classmethod
    def parse(cls, line: str) -> Self:
        """The signature in one line of a note.

        Raises:
            Malformed: it is none.
        """
        name, _, encoded = line.removeprefix(_MARK).partition(" ")
        raw = _unbase64(encoded)
        if not line.startswith(_MARK) or _NAME.fullmatch(name) is None or raw is None or len(raw) <= _HASH:
            raise Malformed(f"not the line of a signature: {line[:80]!r}")
        return cls(name, raw[:_HASH], raw[_HASH:])

    def __str__(self) -> str:
        return f"{_MARK}{self.name} {to_base64(self.key + self.signature)}\n"


@dataclass(frozen=True, slots=True)
class Note:
    """A text, which ends with a line feed, and its signatures. `str` gives the note as it is written."""

    text: str
    signatures: tuple[Signature, ...]

    @classmethod
    def signed(cls, text: str, keys: Iterable[SigningKey]) -> Self:
        """`text`, signed by each of `keys`."""
        return cls(text, tuple(key.sign(text) for key in keys))

    @classmethod
    def parse(cls, raw: str | bytes) -> Self:
        """The note that `raw` is, and nothing beside it.

        Raises:
            Malformed: it is none.
        """
        written = _text(raw)
        text, separator, signatures = written.rpartition("\n\n")
        lines = signatures.split("\n")
        if not separator or lines.pop() or not 0 < len(lines) <= MAX_SIGNATURES:
            raise Malformed(
                f"not a signed note: a text, an empty line, and 1 to {MAX_SIGNATURES} lines of signatures are wanted"
            )
        return cls(text + "\n", tuple(Signature.parse(line) for line in lines))

    def __str__(self) -> str:
        return f"{self.text}\n{''.join(map(str, self.signatures))}"

    def signers(self, known: Iterable[VerifierKey]) -> list[VerifierKey]:
        """Those of the `known` keys that signed it, each once.

        Raises:
            Malformed: it carries a signature under a known key that does not hold.
        """
        by_name = {(key.name, key.hash): key for key in known}
        found: dict[VerifierKey, None] = {}
        for each in self.signatures:
            key = by_name.get((each.name, each.key))
            if key is None or key in found:
                continue
            if not key.holds(self.text, each.signature):
                raise Malformed(f"the signature by {key} does not hold: the text or the signature was changed")
            found[key] = None
        return list(found)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a journal says of itself: whose it is, how many entries it has, and the root of their tree."""

    origin: str
    size: int
    root: bytes

    @classmethod
    def parse(cls, text: str) -> Self:
        """The checkpoint in the text of a note. Lines after the third are others' extensions: signed, not read.

        Raises:
            Malformed: it is none.
        """
        lines = text.split("\n")
        root = _unbase64(lines[2]) if len(lines) > 3 else None  # noqa: PLR2004  # three lines, and what is after them
        sound = root is not None and len(root) == HASH_SIZE and _SIZE.fullmatch(lines[1]) and all(lines[:-1])
        if root is None or not sound or lines[-1]:
            raise Malformed("not a checkpoint: lines with the origin, the size and the base64 of the root are wanted")
        return cls(lines[0], int(lines[1]), root)

    def text(self) -> str:
        """The text to sign."""
        return f"{self.origin}\n{self.size}\n{to_base64(self.root)}\n"


def hash_from_base64(text: str) -> bytes:
    """A tree's hash in that spelling.

    Raises:
        Malformed: it is none.
    """
    raw = _unbase64(text)
    if raw is None or len(raw) != HASH_SIZE:
        raise Malformed(f"not the base64 of a sha256: {text[:60]!r}")
    return raw


def _text(raw: str | bytes) -> str:
    if len(raw) > MAX_NOTE:
        raise Malformed(f"longer than a signed note may be, {MAX_NOTE} bytes")
    try:
        text = raw.decode() if isinstance(raw, bytes) else raw
        text.encode()
    except UnicodeError as error:
        raise Malformed("not a signed note: it is no UTF-8") from error
    if _CONTROL.search(text):
        raise Malformed("not a signed note: it holds control characters")
    return text


def to_base64(raw: bytes) -> str:
    """Bytes, as everything here spells them."""
    return base64.b64encode(raw).decode()


def _unbase64(text: str) -> bytes | None:
    """None unless `text` is exactly how `to_base64` spells it."""
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return raw if to_base64(raw) == text else None
