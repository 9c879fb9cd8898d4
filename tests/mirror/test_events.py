"""Entries of the journal as CloudEvents."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest

from iarproxy.errors import ConfigError
from iarproxy.ledger import DEFAULT, Event, EventKind
from iarproxy.mirror.events.cloud_events import cloud_event, insist_known, to_bytes
from iarproxy.oci import Repository, Tag, TagReference

STORE = str(uuid4())
AT = datetime(2026, 11, 22, 12, 0, 0, 250_000, tzinfo=UTC)
APP = TagReference(Repository("registry.example.com", "team/app"), Tag("1"))
OLD, NEW = f"sha256:{'a' * 64}", f"sha256:{'b' * 64}"


def spelled(kind: EventKind, body: dict[str, Any], *, about: TagReference | None = APP, within: str = DEFAULT) -> Any:
    """The event as its receiver reads it."""
    return json.loads(to_bytes(cloud_event(Event(7, AT, kind, about, "ann", "a fix", body, "f00", within), STORE)))


def test_an_act() -> None:
    """All that CloudEvents 1.0 asks for is there, and both digests, the actor and the reason."""
    body = {"previous": OLD, "descriptor": {"digest": NEW, "size": 1, "mediaType": "x"}, "source": "http://r/"}
    assert {
        "specversion": "1.0",
        "id": f"{STORE}/7",
        "source": f"urn:uuid:{STORE}",
        "type": "dev.iarproxy.repinned",
        "subject": "registry.example.com/team/app:1",
        "time": "2026-11-22T12:00:00.250000Z",
        "datacontenttype": "application/json",
        "data": {
            "serial": 7,
            "hash": "f00",
            "environment": "default",
            "reference": "registry.example.com/team/app:1",
            "actor": "ann",
            "reason": "a fix",
            "digest": {"old": OLD, "new": NEW},
            "difference": None,
            "detail": {"source": "http://r/"},
            "explain": "iarproxy explain registry.example.com/team/app:1",
        },
    } == spelled(EventKind.REPINNED, body)


def test_a_drift() -> None:
    """What is pinned, what is offered and their difference are told; the evidence stays in the journal."""
    evidence = {"pinned": "x" * 1000, "difference": {"layers": 1}}
    body = {"pinned": OLD, "offered": {"digest": NEW}, "evidence": evidence}
    data = spelled(EventKind.DRIFTED, body, within="dev")["data"]
    assert ({"old": OLD, "new": NEW}, {"layers": 1}, None) == (data["digest"], data["difference"], data["detail"])
    assert data["explain"].endswith("--env dev")
    vanished = spelled(EventKind.VANISHED, {"pinned": OLD, "offered": None, "evidence": {}})["data"]
    assert {"old": OLD, "new": None} == vanished["digest"]
    steady = spelled(EventKind.STEADIED, {"pinned": OLD, "offered": None, "evidence": {}})["data"]
    assert {"old": OLD, "new": OLD} == steady["digest"]


def test_what_is_about_no_tag() -> None:
    """An entry about a digest or a bundle has that as its subject; one about the whole ledger has none."""
    event = spelled(EventKind.RECOVERED, {"digest": OLD}, about=None)
    assert (OLD, None, None) == (event["subject"], event["data"]["reference"], event["data"]["explain"])
    for kind in (EventKind.BUNDLED, EventKind.APPLIED, EventKind.REFUSED):
        event = spelled(kind, {"bundle": NEW, "set": "site-a", "sequence": 7}, about=None)
        assert (NEW, "site-a", 7) == (
            event["subject"],
            event["data"]["detail"]["set"],
            event["data"]["detail"]["sequence"],
        )
    assert "subject" not in spelled(EventKind.CREATED, {}, about=None)


def test_an_event_stays_small() -> None:
    """Whatever upstream put into a difference, receivers get at most 64 KiB."""
    huge = {"difference": {"env": ["x" * 100_000]}}
    body = {"pinned": OLD, "offered": {"digest": NEW}, "evidence": huge, "more": "y" * 100_000}
    event = cloud_event(Event(7, AT, EventKind.DRIFTED, APP, "ann", "z" * 4096, body, "f00"), STORE)
    assert len(to_bytes(event)) < 65_536
    assert event["data"]["difference"]["size"] > 100_000


def test_kinds_that_there_are_not() -> None:
    """A word that no entry has is refused with those that there are."""
    insist_known({"ops": ["*", "checkpoint", *map(str, EventKind)]})
    with pytest.raises(
        ConfigError,
        match=r"webhooks\.ops\.events: there are no events 'drift'; known are \*, acknowledged, applied, approved",
    ):
        insist_known({"ops": ["drift"]})
