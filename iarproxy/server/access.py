"""The access log: one event per answer (clients.md section 10, item 78).

Rule 1: what a client wrote is bounded and escaped; `Authorization`, tokens and query strings are never read here.
Rule 2: no sink, no cost: the record is not even built.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import BinaryIO

import orjson
import structlog

MAX_TEXT = 256

Sink = Callable[[Mapping[str, str | int | float | None]], None]


def structlog_sink() -> Sink:
    """A sink that emits the event `request` on the logger `iarproxy.access`."""
    log = structlog.get_logger("iarproxy.access")

    def emit(record: Mapping[str, str | int | float | None]) -> None:
        log.info("request", **record)

    return emit


def json_sink(stream: BinaryIO, now: Callable[[], datetime]) -> Sink:
    """A sink that writes what `structlog_sink` does where events are JSON, for a tenth of its cost."""

    def emit(record: Mapping[str, str | int | float | None]) -> None:
        moment = now().isoformat(timespec="microseconds").replace("+00:00", "Z")
        stream.write(orjson.dumps({**record, "event": "request", "level": "info", "timestamp": moment}) + b"\n")
        stream.flush()

    return emit


def facts(
    method: str, target: str, *, namespace: str | None, asked_range: str | None, agent: str | None, upstream: str
) -> dict[str, str | int | float | None]:
    """What was asked of which upstream; absent facts are None. The query of `target` is left out (rule 1)."""
    return {
        "method": printable(method),
        "path": printable(target.partition("?")[0]),
        "ns": printable(namespace),
        "range": printable(asked_range),
        "user_agent": printable(agent),
        "upstream": upstream or None,
    }


def result(status: int, sent: int, cache: str, outcome: str, seconds: float) -> dict[str, str | int | float | None]:
    """How it was answered."""
    took = round(seconds * 1000, 3)
    return {"status": status, "bytes": sent, "cache": cache or None, "outcome": outcome, "duration_ms": took}


def printable(text: str | None) -> str | None:
    """`text` in printable ASCII, at most `MAX_TEXT` characters; whatever else it holds is escaped."""
    if text is None:
        return None
    if text.isascii() and text.isprintable():
        return text[:MAX_TEXT]
    return text[:MAX_TEXT].encode("unicode_escape").decode("ascii")[:MAX_TEXT]
