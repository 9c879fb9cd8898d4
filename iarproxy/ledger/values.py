"""What the ledger holds, as values: pins, events, drift states, reports.

Rule 1: a value is immutable and complete; nothing here reads or writes.
Rule 2: a tag that has no pin is a value too (`Unpinned`), because "never pinned" and "removed by a person" continue
        differently, and "unreadable" is neither: that one is `errors.LedgerDamaged`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Literal, TypeAlias

from iarproxy.oci import Descriptor, Digest, Repository, Tag, TagReference
from iarproxy.oci.routing import DEFAULT

VerdictName: TypeAlias = Literal["steady", "drifted", "vanished"]


class EventKind(StrEnum):
    """What happened. The journal of every store starts with `created`."""

    CREATED = "created"
    PINNED = "pinned"
    REPINNED = "repinned"
    ROLLED_BACK = "rolled-back"
    APPROVED = "approved"
    PROMOTED = "promoted"
    IMPORTED = "imported"
    REMOVED = "removed"
    RETIRED = "retired"
    SEEDED = "seeded"
    UNSEEDED = "unseeded"
    QUARANTINED = "quarantined"
    RECALLED = "recalled"
    UNRECALLED = "unrecalled"
    ACKNOWLEDGED = "acknowledged"
    LEASED = "leased"
    UNLEASED = "unleased"
    KEYED = "keyed"
    DRIFTED = "drifted"
    VANISHED = "vanished"
    STEADIED = "steadied"
    RECOVERED = "recovered"
    SYNCED = "synced"
    BUNDLED = "bundled"
    APPLIED = "applied"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True, order=True)
class Name:
    """A tag in an environment: what a pin is of."""

    environment: str
    reference: TagReference

    def __str__(self) -> str:
        where = "" if self.environment == DEFAULT else f" in {self.environment}"
        return f"{self.reference}{where}"


@dataclass(frozen=True, slots=True)
class Pin:
    """A tag and the content it stands for here.

    Attributes:
        pinned_at: when this revision was made (aware, UTC).
        source: where the bytes came from, for example the URL of the upstream.
        revision: 1 for the first pin; each act of a person adds one.
    """

    reference: TagReference
    descriptor: Descriptor
    pinned_at: datetime
    source: str
    revision: int
    environment: str = DEFAULT

    @property
    def name(self) -> Name:
        """What it is the pin of."""
        return Name(self.environment, self.reference)


@dataclass(frozen=True, slots=True)
class Unpinned:
    """A tag without a pin: never pinned (`revision` 0), or taken away by the act of that `revision`.

    Attributes:
        was: the digest that was taken away.
        retired: retention took it away, not a person who wanted it gone.
    """

    reference: TagReference
    revision: int = 0
    environment: str = DEFAULT
    was: Digest | None = None
    retired: bool = False

    @property
    def name(self) -> Name:
        """What has no pin."""
        return Name(self.environment, self.reference)


@dataclass(frozen=True, slots=True)
class Change:
    """One name's part in a person's act.

    Attributes:
        old: the digest that it is pinned to; None: it has no pin.
        new: the content that it shall have; None: the pin is taken away.
        source: where that content came from.
        detail: what else the journal shall know of it; JSON.
    """

    environment: str
    reference: TagReference
    old: Digest | None
    new: Descriptor | None
    source: str = ""
    detail: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> Name:
        """What it is about."""
        return Name(self.environment, self.reference)


@dataclass(frozen=True, slots=True)
class Event:
    """One line of the journal. `hash` covers everything in it and the hash of the line before.

    Attributes:
        reference: the tag it is about; None for events of the ledger as a whole.
        actor: who did it: `iarproxy` itself, or the person whom the kernel reports.
        body: JSON; for pins the descriptors, for drift the evidence.
    """

    serial: int
    at: datetime
    kind: EventKind
    reference: TagReference | None
    actor: str
    reason: str
    body: dict[str, Any]
    hash: str
    environment: str = DEFAULT


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """A person's word that what upstream offers instead is expected, and the pin stays."""

    at: datetime
    actor: str
    reason: str


@dataclass(frozen=True, slots=True)
class DriftState:
    """What upstream was last seen to offer for a pinned tag: an observation, not trust.

    Attributes:
        offered: what upstream offers instead; None where it offers the pinned content, or nothing.
        first_seen: since when this verdict stands.
        checked_at: when upstream was last asked.
        acknowledged: who settled the alarm about exactly this digest; None: nobody.
    """

    verdict: VerdictName
    offered: Descriptor | None
    first_seen: datetime
    checked_at: datetime
    acknowledged: Acknowledged | None = None

    @property
    def alarms(self) -> bool:
        """Whether somebody should look at it."""
        return self.verdict != "steady" and self.acknowledged is None


@dataclass(frozen=True, slots=True)
class Use:
    """Content that was given to a client, once or more often; an observation.

    Attributes:
        wanted: the tag or digest of a manifest that was asked for; None: a blob.
        client: its address; None: not recorded, as for every blob.
        first, last: aware, UTC, to the second.
    """

    repository: Repository
    wanted: Tag | Digest | None
    digest: Digest
    client: str | None
    first: datetime
    last: datetime
    count: int

    def merged(self, other: Use) -> Use:
        """Both, of the same content to the same client, as one; in whichever order."""
        first, last = min(self.first, other.first), max(self.last, other.last)
        return replace(self, first=first, last=last, count=self.count + other.count)


@dataclass(frozen=True, slots=True)
class Used:
    """All known uses of something. `clients`: how many addresses; `newest`: the latest uses, newest first."""

    first: datetime
    last: datetime
    count: int
    clients: int
    newest: tuple[Use, ...]


@dataclass(frozen=True, slots=True)
class NotUsed:
    """No use is known: there was none, or it is too long ago to be kept."""


@dataclass(frozen=True, slots=True)
class UsesUnreadable:
    """The uses cannot be read now, and why. Pins are not concerned."""

    reason: str


UseSummary: TypeAlias = Used | NotUsed | UsesUnreadable


@dataclass(frozen=True, slots=True)
class Damage:
    """A tag that cannot be answered for, as text (its name itself may be what is damaged), and why."""

    reference: str
    reason: str


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What `Ledger.verify` found. `problems` is empty when everything agrees.

    Attributes:
        serial, hash: the journal's head; the serial is also the number of events.
        pins: revisions of pins, tombstones included.
    """

    serial: int
    hash: str
    pins: int
    problems: tuple[str, ...] = field(default=())

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return not self.problems


@dataclass(frozen=True, slots=True)
class RecoveryReport:
    """What a backup, restore or rebuild did.

    Attributes:
        serial, hash: the journal's head in the result.
        replayed: events taken from the journal file.
        dropped_bytes: length of a torn last line of the journal file, which nobody was ever answered for.
        kept_aside: where the replaced database is now.
        blind: the journal file was missing or ended before the backup: whatever came after the backup is forgotten.
    """

    path: str
    serial: int
    hash: str
    replayed: int = 0
    dropped_bytes: int = 0
    kept_aside: str | None = None
    blind: bool = False


def to_text(moment: datetime) -> str:
    """The one spelling of a moment in rows and lines: UTC, microseconds."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds")


def to_json(descriptor: Descriptor | None) -> dict[str, Any] | None:
    """A descriptor for a body, in the field names of image-spec v1.1."""
    if descriptor is None:
        return None
    return {"mediaType": descriptor.media_type, "digest": str(descriptor.digest), "size": descriptor.size}


def descriptor_of(document: dict[str, Any] | None) -> Descriptor | None:
    """The descriptor that `to_json` wrote."""
    if document is None:
        return None
    return Descriptor(document["mediaType"], Digest.parse(document["digest"]), document["size"])
