"""Entries of the journal as CloudEvents 1.0, in structured JSON: for webhooks and for exports, the same in both.

Rule 1: `source` and `id` name an event for ever: the store, and the entry's serial in it. Who is sent an event twice,
        or reads it in an export too, knows it by these.
Rule 2: an event fits into what receivers must take (64 KiB): evidence stays in the journal, and of a difference that is
        too long only its size is told.
Rule 3: `type` is `dev.iarproxy.` and the kind of the entry; `subject` is what it is about: the reference, else the
        digest, else the bundle.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import orjson

from iarproxy.errors import ConfigError
from iarproxy.ledger import Event, EventKind
from iarproxy.oci import TagReference
from iarproxy.trust.environments import env_option

MEDIA_TYPE = "application/cloudevents+json; charset=utf-8"
CHECKPOINT = "checkpoint"  # not an entry: what is signed over all of them
TEST = "test"
EVERYTHING = "*"  # all entries of the journal
_TYPE = "dev.iarproxy."
_MOST = 24 * 1024  # bytes of JSON of one part
_TOLD_APART = frozenset({"descriptor", "offered", "pinned", "previous", "evidence"})


def source_of(identity: str) -> str:
    """The `source` of the events of the store with that identity (a UUID)."""
    return f"urn:uuid:{identity}"


def cloud_event(event: Event, identity: str) -> dict[str, Any]:
    """The event of an entry of the journal of the store with that identity."""
    body = event.body
    subject = body.get("digest", body.get("bundle")) if event.reference is None else str(event.reference)
    data = {
        "serial": event.serial,
        "hash": event.hash,
        "environment": event.environment,
        "reference": None if event.reference is None else str(event.reference),
        "actor": event.actor,
        "reason": event.reason,
        "digest": {"old": _old(body), "new": _new(event.kind, body)},
        "difference": _short(_difference(body)),
        "detail": _short({key: value for key, value in body.items() if key not in _TOLD_APART}),
        "explain": None if event.reference is None else explain_command(event.reference, event.environment),
    }
    return enveloped(identity, str(event.serial), event.kind.value, at=event.at, subject=subject, data=data)


def enveloped(
    identity: str, number: str, kind: str, *, at: datetime, subject: object = None, data: Mapping[str, Any]
) -> dict[str, Any]:
    """Any event of that store; `number` names it within the store."""
    about = {} if not isinstance(subject, str) else {"subject": subject}
    return {
        "specversion": "1.0",
        "id": f"{identity}/{number}",
        "source": source_of(identity),
        "type": f"{_TYPE}{kind}",
        **about,
        "time": at,
        "datacontenttype": "application/json",
        "data": dict(data),
    }


def to_bytes(event: Mapping[str, Any]) -> bytes:
    """The event as it is sent; times in RFC 3339."""
    return orjson.dumps(event, option=orjson.OPT_UTC_Z)


def explain_command(reference: TagReference, environment: str) -> str:
    """The command that tells where a name stands and why."""
    return f"iarproxy explain {reference}{env_option(environment)}"


def insist_known(wanted: Mapping[str, Iterable[str]]) -> None:
    """Refuse kinds of events that there are not, by the name of the webhook that wants them.

    Raises:
        ConfigError: naming the kinds that there are.
    """
    known = {*map(str, EventKind), CHECKPOINT, EVERYTHING}
    for name, kinds in wanted.items():
        for kind in kinds:
            if kind not in known:
                text = f"webhooks.{name}.events: there are no events {kind[:80]!r}; known are"
                raise ConfigError(f"{text} {', '.join(sorted(known))}")


def _old(body: Mapping[str, Any]) -> Any:
    return body.get("previous") or body.get("pinned")


def _new(kind: EventKind, body: Mapping[str, Any]) -> Any:
    told = body.get("descriptor") or body.get("offered")
    if isinstance(told, dict):
        return told.get("digest")
    return body.get("pinned") if kind is EventKind.STEADIED else None


def _difference(body: Mapping[str, Any]) -> Any:
    evidence = body.get("evidence")
    return evidence.get("difference") if isinstance(evidence, dict) else None


def _short(part: Any) -> Any:
    if not part:
        return None
    size = len(orjson.dumps(part, default=str))
    return part if size <= _MOST else {"left_out": "too long for an event; the journal has it", "size": size}
