"""How pins, drift, events and uses are spelled in JSON: the same in the API, in the commands and in evidence."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, assert_never

from iarproxy.ledger import DriftState, Event, NotUsed, Pin, Recall, Use, Used, UseSummary, UsesUnreadable, Withheld
from iarproxy.ledger.admission import spelled
from iarproxy.oci import Descriptor
from iarproxy.upstream import Spender, Standing, UpstreamStanding

_SPENDERS = 20  # in a list; the rest is one sum


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
        "acknowledged": None if drift.acknowledged is None else asdict(drift.acknowledged),
    }


def withheld_as_json(withheld: Withheld) -> dict[str, Any]:
    """A candidate, and why it is no pin: one of cooling-down, awaits-approval, seed-mismatch, not-seeded."""
    why, detail = spelled(withheld.why)
    return {
        "environment": withheld.name.environment,
        "reference": str(withheld.name.reference),
        "descriptor": describe(withheld.descriptor),
        "offered_at": withheld.offered_at,
        "source": withheld.source,
        "why": why,
        "detail": detail,
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


def recall_as_json(recall: Recall) -> dict[str, Any]:
    """A recall, in the words of whoever made it."""
    return {
        "digest": str(recall.digest),
        "at": recall.at,
        "actor": recall.actor,
        "reason": recall.reason,
        "with": None if recall.within is None else str(recall.within),
        "damage": recall.damage or None,
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


def upstream_as_json(found: UpstreamStanding) -> dict[str, Any]:
    """How an upstream stands with us: what is left of it, why it is not asked now, and who spends it."""
    rest = found.spenders[_SPENDERS:]
    return {
        "upstream": found.name,
        "offline": found.offline,
        "endpoints": [_standing_as_json(each) for each in found.endpoints],
        "budget_floor": found.floor,
        "under_way": found.under_way,
        "waiting": found.waiting,
        "requests": sum(each.total for each in found.spenders),
        "spenders": [spender_as_json(each) for each in found.spenders[:_SPENDERS]],
        "other_spenders": {"count": len(rest), "requests": sum(each.total for each in rest)},
    }


def spender_as_json(spender: Spender) -> dict[str, Any]:
    """What was asked for one repository in the last hours."""
    return {"repository": spender.repository, "requests": spender.total, "kinds": dict(spender.requests)}


def _standing_as_json(found: Standing) -> dict[str, Any]:
    quota = found.quota
    told = None
    if quota is not None:
        told = {
            "remaining": quota.remaining,
            "limit": quota.limit,
            "window": quota.window,
            "until": datetime.fromtimestamp(quota.until, UTC),
            "counted": quota.source or None,
        }
    return {
        "url": found.origin,
        "quota": told,
        "held_until": found.held_until,
        "down_since": found.down_since,
        "reason": found.reason or None,
        "probe_in": found.probe_in,
    }


def _use_as_json(use: Use) -> dict[str, Any]:
    facts = {"client": use.client, "digest": str(use.digest), "count": use.count, "first": use.first, "last": use.last}
    return {"wanted": None if use.wanted is None else str(use.wanted), **facts}
