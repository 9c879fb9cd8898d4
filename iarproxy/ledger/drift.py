"""Drift states: what upstream was last seen to offer for a pinned tag.

Rule 1: a state is an observation, not trust. A row that fails its checksum is dropped and made again at the next
        check; until then the journal's last word about the tag stands in for it.
Rule 2: only news is journaled: a verdict, or a digest offered, that differs from the one before (threats T19).
Rule 3: a verdict about another digest than the pinned one is about the past, and changes nothing.
"""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Any, assert_never

import orjson
from sqlalchemy import Connection, delete, func, insert, literal_column, select

from iarproxy.errors import IarproxyError
from iarproxy.ledger import journal, pins
from iarproxy.ledger.journal import MAX_EVIDENCE, Entry
from iarproxy.ledger.rows import DRIFT, NAME, is_intact, key_of, sealed, where
from iarproxy.ledger.transaction import Transaction
from iarproxy.ledger.values import DriftState, EventKind, Name, Pin, VerdictName, descriptor_of, to_json, to_text
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
_COUNT = select(func.count()).select_from(DRIFT).where(_IS_UNSTEADY)
_DELETE = delete(DRIFT).where(*where(DRIFT, *NAME))
_REPLACE = insert(DRIFT).prefix_with("OR REPLACE")
_VERDICTS: dict[str, VerdictName] = {str(kind): verdict for verdict, kind in _KINDS.items()}


def state_of(connection: Connection, pin: Pin) -> DriftState | None:
    """What is known of upstream's offer for `pin`; None where nothing is."""
    row = connection.execute(_ROW, key_of(pin.name)).one_or_none()
    if row is None or not is_intact(DRIFT, row):
        return _from_journal(connection, pin.name)
    return _value(row) if row.pinned == str(pin.descriptor.digest) else None


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
    return True, (pin, _from_entry(entry))


def project(connection: Connection, entry: Entry) -> None:
    """Make the row that follows from a drift entry; a new revision of the pin begins without one."""
    name = entry.name
    if name is None:
        return
    if entry.revision is not None:
        connection.execute(_DELETE, key_of(name))
    elif entry.kind in _VERDICTS:
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
    """How many pins there are whose tag upstream moved or took away; the cost does not grow with the number of pins."""
    found: int = connection.execute(_COUNT).scalar_one()
    return found


def bounded(evidence: dict[str, Any]) -> dict[str, Any]:
    """`evidence`, or where it is too large or cannot be JSON, what it was: an alarm is never lost to its own proof."""
    try:
        text = orjson.dumps(evidence, option=orjson.OPT_SORT_KEYS)
    except TypeError as unfit:
        return {"left_out": f"not representable as JSON: {unfit}"[:400]}
    if len(text) <= MAX_EVIDENCE:
        return evidence
    return {"left_out": "larger than the journal takes", "size": len(text), "sha256": hashlib.sha256(text).hexdigest()}


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
    return DriftState(fresh.verdict, fresh.offered, before.first_seen, now) if same and before is not None else fresh


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


def _from_journal(connection: Connection, name: Name) -> DriftState | None:
    newest = journal.of_name(connection, name, 1)
    if not newest or newest[0].kind not in _VERDICTS or not newest[0].is_intact():
        return None
    return _from_entry(newest[0])
