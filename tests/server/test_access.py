"""The access log: one JSON object a line, as the other events are."""

from __future__ import annotations

import io
from datetime import UTC, datetime

import orjson

from iarproxy.oci import Repository
from iarproxy.oci.routing import Place
from iarproxy.server import access


def test_json_lines() -> None:
    """Each record is one line with the fields of an event; what a client wrote cannot break it."""
    stream = io.BytesIO()
    emit = access.json_sink(stream, lambda: datetime(2026, 11, 22, 10, 0, tzinfo=UTC))
    place = Place("default", Repository("a.b", "x"))
    asked = access.facts("GET", "/v2/a\n/x?secret", namespace=None, asked_range=None, agent='"\x1b', place=place)
    for _ in range(2):
        emit({**asked, **access.result(200, 5, "hit", "sent", 0.0012345)})
    lines = stream.getvalue().splitlines()
    assert [lines[0]] * 2 == lines
    assert {
        "method": "GET",
        "path": "/v2/a\\n/x",
        "ns": None,
        "range": None,
        "user_agent": '"\\x1b',
        "upstream": "a.b",
        "status": 200,
        "bytes": 5,
        "cache": "hit",
        "outcome": "sent",
        "duration_ms": 1.234,
        "event": "request",
        "level": "info",
        "timestamp": "2026-11-22T10:00:00.000000Z",
    } == orjson.loads(lines[0])
