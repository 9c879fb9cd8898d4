"""Drift states: what upstream was last seen to offer for a pinned tag.

Rule 1: a state is an observation, not trust. A row that fails its checksum is dropped and made again at the next
        check; until then the journal's last word about the tag stands in for it.
Rule 2: only news is journaled: a verdict, or a digest offered, that differs from the one before (threats T19).
Rule 3: a verdict about another digest than the pinned one is about the past, and changes nothing.
Rule 4: a person's acknowledgement is an entry of the journal, and believed only from there: it holds for one digest,
        for as long as the pin is the same revision.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, assert_never

import orjson
from sqlalchemy import Connection, delete, insert, literal_column, select, text

from iarproxy.errors import Conflict, IarproxyError
from iarproxy.ledger import journal, pins
from iarproxy.ledger.journal import MAX_EVIDENCE, Entry
from iarproxy.ledger.rows import DRIFT, JOURNAL, NAME, for_each, is_intact, key_of, sealed, where
from iarproxy.ledger.transaction import Transaction
from iarproxy.ledger.values import (
    Acknowledged,
    DriftState,
    EventKind,
    Name,
    Pin,
    Unpinned,
    VerdictName,
    descriptor_of,
    to_json,
    to_text,
)
from iarproxy.oci import Descriptor, Digest, Repository, Tag, TagReference
from iarproxy.trust.drift import Drifted, Steady, Vanished, Verdict

_KINDS: dict[VerdictName, EventKind] = {
    "drifted": EventKind.DRIFTED,
    "vanished": EventKind.VANISHED,
    "steady": EventKind.STEADIED,
}
_NAME = [DRIFT.c[name] for name in NAME]
_ROW = select(DRIFT).where(*where(DRIFT, *NAME))
_IS_UNSTEADY = DRIFT.c.verdict != literal_column("'steady'")  # no parameter: SQLite finds its partial index by this
_UNSTEADY = select(*_NAME).where(_IS_UNSTEADY).order_by(*_NAME)
_ACKNOWLEDGED = (
    select(JOURNAL)
    .where(*where(JOURNAL, *NAME), JOURNAL.c.kind == literal_column("'acknowledged'"))
    .order_by(JOURNAL.c.serial.desc())
)
_SAME = " AND ".join(f"{{0}}.{name} = drift.{name}" for name in NAME)
_COUNT = text(f"""
SELECT count(*) FROM drift WHERE verdict <> 'steady' AND NOT EXISTS (
  SELECT 1 FROM journal WHERE {_SAME.format("journal")} AND kind = 'acknowledged'
  AND CASE WHEN json_valid(body) THEN json_extract(body, '$.offered.digest') END = drift.digest
  AND serial > (SELECT max(serial) FROM pins WHERE {_SAME.format("pins")}))
""")  # noqa: S608  # our own names of columns
_ACCUSATION = (
    select(JOURNAL)
    .where(*where(JOURNAL, *NAME), JOURNAL.c.kind.in_(["drifted", "vanished"]))
    .order_by(JOURNAL.c.serial.desc())
    .limit(1)
)
_END = for_each(delete(DRIFT).where(*where(DRIFT, *NAME)))
_REPLACE = insert(DRIFT).prefix_with("OR REPLACE")
_LOOKED_BACK = 50  # entries
_VERDICTS: dict[str, VerdictName] = {str(kind): verdict for verdict, kind in _KINDS.items()}


def state_of(connection: Connection, pin: Pin) -> DriftState | None:
    """What is known of upstream's offer for `pin`; None where nothing is."""
    row = connection.execute(_ROW, key_of(pin.name)).one_or_none()
    if row is None or not is_intact(DRIFT, row):
        found = _from_journal(connection, pin)
    else:
        found = _value(row) if row.pinned == str(pin.descriptor.digest) else None
    return found if found is None else _with_acknowledgement(connection, pin, found)


def record(
    tx: Transaction,
    name: Name,
    verdict: Verdict,
    offered: Descriptor | None,
    evidence: dict[str, Any],
) -> tuple[bool, tuple[Pin, DriftState] | None]:
    """Keep a verdict; whether it was news, and pin and state now (None: the verdict is about the past)."""
    pin = pins.standing(tx.connection, name)
    if not isinstance(pin, Pin) or pin.descriptor.digest != verdict.pinned:
        return False, None
    before = state_of(tx.connection, pin)
    state = _state(verdict, offered, before, tx.now())
    if not _is_news(state, before):
        _write(tx.connection, name, verdict.pinned, state)
        return False, (pin, state)
    body = {"pinned": str(verdict.pinned), "offered": to_json(state.offered), "evidence": bounded(evidence)}
    kind = _KINDS[state.verdict]
    entry = tx.append(kind, name.reference, environment=name.environment, actor=pins.SELF, body=body)
    return True, (pin, _with_acknowledgement(tx.connection, pin, _from_entry(entry)))


def confirm(tx: Transaction, name: Name, verdict: Verdict, offered: Descriptor | None) -> tuple[Pin, DriftState] | None:
    """Keep that a check found what was known, or that a tag is steady; pin and state now.

    None: there is something else to say about the tag by now, and an accusation needs its evidence (`record`).
    """
    pin = pins.standing(tx.connection, name)
    if not isinstance(pin, Pin) or pin.descriptor.digest != verdict.pinned:
        return None
    before = state_of(tx.connection, pin)
    if not isinstance(verdict, Steady) and _is_news(_state(verdict, offered, before, tx.now()), before):
        return None
    return record(tx, name, verdict, offered, {})[1]


def acknowledge(tx: Transaction, name: Name, digest: Digest, *, reason: str, actor: str) -> tuple[Pin, DriftState]:
    """A person's act: settle the alarm that upstream offers `digest`; the pin stays. Again is the same as once.

    Raises:
        Conflict: upstream was not seen to offer that digest for the tag now.
        Malformed: without a reason or an actor.
    """
    pins.insist_reason(reason, actor)
    pin = pins.standing(tx.connection, name)
    state = state_of(tx.connection, pin) if isinstance(pin, Pin) else None
    if not isinstance(pin, Pin) or state is None or state.offered is None or state.offered.digest != digest:
        raise Conflict(f"{name} is not known to have drifted to {digest}: {_known(pin, state)}", offered=str(digest))
    if state.acknowledged is None:
        body = {"pinned": str(pin.descriptor.digest), "offered": to_json(state.offered)}
        kind, place = EventKind.ACKNOWLEDGED, name.environment
        tx.append(kind, name.reference, environment=place, actor=actor, reason=reason, body=body)
    return pin, _with_acknowledgement(tx.connection, pin, state)


def _known(pin: Pin | Unpinned, state: DriftState | None) -> str:
    if not isinstance(pin, Pin):
        return "it has no pin"
    if state is None:
        return "it was not checked since it was pinned; `iarproxy drift check` asks upstream now"
    if state.offered is not None:
        return f"upstream offers {state.offered.digest}"
    return "upstream offers what is pinned" if state.verdict == "steady" else "upstream has no such tag any more"


def accusation(connection: Connection, name: Name) -> Entry | None:
    """The newest entry that accuses upstream of having moved or lost the tag, with its evidence."""
    row = connection.execute(_ACCUSATION, key_of(name)).one_or_none()
    found = None if row is None else Entry(*row)
    return found if found is not None and found.is_intact() else None


def project(connection: Connection, entries: Sequence[Entry]) -> None:
    """Make the rows that follow from drift entries; a new revision of a pin begins without one."""
    named = [(name, entry) for entry in entries if (name := entry.name) is not None]
    _END(connection, [key_of(name) for name, entry in named if entry.revision is not None])
    for name, entry in named:
        if entry.revision is None and entry.kind in _VERDICTS:
            _write(connection, name, Digest.parse(entry.document()["pinned"]), _from_entry(entry))


def drifting(connection: Connection) -> list[tuple[Pin, DriftState]]:
    """The pins whose tag upstream moved or took away, by name."""
    found = []
    for environment, registry, repository, tag in connection.execute(_UNSTEADY).all():
        try:
            name = Name(environment, TagReference(Repository(registry, repository), Tag(tag)))
            pin = pins.standing(connection, name)
        except IarproxyError:
            continue  # reported by `damaged` and `verify`, and by each answer for that tag
        state = state_of(connection, pin) if isinstance(pin, Pin) else None
        if isinstance(pin, Pin) and state is not None and state.verdict != "steady":
            found.append((pin, state))
    return found


def count(connection: Connection) -> int:
    """How many pins there are whose tag upstream moved or took away, and nobody acknowledged that.

    The cost does not grow with the number of pins.
    """
    found: int = connection.execute(_COUNT).scalar_one()
    return found


def bounded(evidence: dict[str, Any]) -> dict[str, Any]:
    """`evidence`, or where it is too large or cannot be JSON, what it was: an alarm is never lost to its own proof."""
    try:
        raw = orjson.dumps(evidence, option=orjson.OPT_SORT_KEYS)
    except TypeError as unfit:
        return {"left_out": f"not representable as JSON: {unfit}"[:400]}
    if len(raw) <= MAX_EVIDENCE:
        return evidence
    return {"left_out": "larger than the journal takes", "size": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}


def _state(verdict: Verdict, offered: Descriptor | None, before: DriftState | None, now: datetime) -> DriftState:
    match verdict:
        case Steady():
            fresh = DriftState("steady", None, now, now)
        case Vanished():
            fresh = DriftState("vanished", None, now, now)
        case Drifted():
            if offered is None or offered.digest != verdict.offered:
                raise ValueError("a drift is recorded with the descriptor of what upstream offers")
            fresh = DriftState("drifted", offered, now, now)
        case _:
            assert_never(verdict)
    same = before is not None and (before.verdict, before.offered) == (fresh.verdict, fresh.offered)
    return replace(before, checked_at=now) if same and before is not None else fresh


def _is_news(state: DriftState, before: DriftState | None) -> bool:
    if state.verdict == "steady":
        return before is not None and before.verdict != "steady"
    return before is None or (before.verdict, before.offered) != (state.verdict, state.offered)


def _write(connection: Connection, name: Name, pinned: Digest, state: DriftState) -> None:
    offered = state.offered
    row = {
        **key_of(name),
        "pinned": str(pinned),
        "verdict": state.verdict,
        "digest": str(offered.digest) if offered else None,
        "media_type": offered.media_type if offered else None,
        "size": offered.size if offered else None,
        "first_seen": to_text(state.first_seen),
        "checked_at": to_text(state.checked_at),
    }
    connection.execute(_REPLACE, sealed(DRIFT, row))


def _value(row: Any) -> DriftState:
    offered = None if row.digest is None else Descriptor(row.media_type, Digest.parse(row.digest), row.size)
    first_seen, checked_at = datetime.fromisoformat(row.first_seen), datetime.fromisoformat(row.checked_at)
    return DriftState(row.verdict, offered, first_seen, checked_at)


def _from_entry(entry: Entry) -> DriftState:
    at = datetime.fromisoformat(entry.at)
    return DriftState(_VERDICTS[entry.kind], descriptor_of(entry.document()["offered"]), at, at)


def _from_journal(connection: Connection, pin: Pin) -> DriftState | None:
    """The journal's last word about what upstream offers for this revision of the pin."""
    for entry in reversed(journal.of_name(connection, pin.name, _LOOKED_BACK)):
        if entry.revision is not None or not entry.is_intact():
            return None
        if entry.kind in _VERDICTS:
            return _from_entry(entry) if entry.document().get("pinned") == str(pin.descriptor.digest) else None
    return None


def _with_acknowledgement(connection: Connection, pin: Pin, state: DriftState) -> DriftState:
    if state.offered is None:
        return state
    made = journal.last_pinning(connection, pin.name)
    for row in connection.execute(_ACKNOWLEDGED, key_of(pin.name)):
        entry = Entry(*row)
        if made is None or entry.serial < made.serial:
            break
        if entry.is_intact() and (entry.document().get("offered") or {}).get("digest") == str(state.offered.digest):
            by = Acknowledged(datetime.fromisoformat(entry.at), entry.actor, entry.reason)
            return replace(state, acknowledged=by)
    return replace(state, acknowledged=None)
