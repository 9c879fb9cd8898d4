"""How pins, drift and events are spelled in JSON: the same in the API, in the commands and in evidence."""

from __future__ import annotations

from typing import Any

from iarproxy.ledger import DriftState, Event, Pin
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
