"""How pins, drift, events and uses are spelled in JSON: the same in the API, in the commands and in evidence."""

from __future__ import annotations

from typing import Any, assert_never

from iarproxy.ledger import DriftState, Event, NotUsed, Pin, Use, Used, UseSummary, UsesUnreadable
from iarproxy.oci import Descriptor


def describe(descriptor: Descriptor) -> dict[str, str | int]:
    """A descriptor as it is written in the OCI specs."""
    return {"mediaType": descriptor.media_type, "digest": str(descriptor.digest), "size": descriptor.size}


def pin_as_json(pin: Pin) -> dict[str, Any]:
    """A pin, without what is held of it and what upstream says."""
    return {
        "reference": str(pin.reference),
        "descriptor": describe(pin.descriptor),
        "pinned_at": pin.pinned_at,
        "source": pin.source,
        "revision": pin.revision,
    }


def drift_as_json(drift: DriftState) -> dict[str, Any]:
    """What the last check of a pin found."""
    return {
        "verdict": drift.verdict,
        "offered": None if drift.offered is None else describe(drift.offered),
        "first_seen": drift.first_seen,
        "checked_at": drift.checked_at,
    }


def event_as_json(event: Event) -> dict[str, Any]:
    """An event of the journal, without the tag that it is about."""
    return {
        "serial": event.serial,
        "at": event.at,
        "kind": event.kind.value,
        "actor": event.actor,
        "reason": event.reason,
        "body": event.body,
        "hash": event.hash,
    }


def used_as_json(used: UseSummary) -> dict[str, Any]:
    """Who pulled something. `count` is null, and `unreadable` says why, where that cannot be read now."""
    match used:
        case Used():
            newest = [_use_as_json(each) for each in used.newest]
            facts = {"count": used.count, "clients": used.clients, "first": used.first, "last": used.last}
            return {**facts, "newest": newest, "unreadable": None}
        case NotUsed():
            return {"count": 0, "clients": 0, "first": None, "last": None, "newest": [], "unreadable": None}
        case UsesUnreadable(reason=reason):
            return {"count": None, "clients": None, "first": None, "last": None, "newest": [], "unreadable": reason}
        case _:
            assert_never(used)


def _use_as_json(use: Use) -> dict[str, Any]:
    facts = {"client": use.client, "digest": str(use.digest), "count": use.count, "first": use.first, "last": use.last}
    return {"wanted": None if use.wanted is None else str(use.wanted), **facts}
