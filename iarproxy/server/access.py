"""The access log: one event per answer (clients.md section 10, item 78).

Rule 1: what a client wrote is bounded and escaped; `Authorization`, tokens and query strings are never read here.
Rule 2: no sink, no cost: the record is not even built.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import structlog

from iarproxy.server.exchange import Exchange

MAX_TEXT = 256

Sink = Callable[[Mapping[str, str | int | float | None]], None]


def structlog_sink() -> Sink:
    """A sink that emits the event `request` on the logger `iarproxy.access`."""
    log = structlog.get_logger("iarproxy.access")

    def emit(record: Mapping[str, str | int | float | None]) -> None:
        log.info("request", **record)

    return emit


def record(exchange: Exchange, seconds: float) -> dict[str, str | int | float | None]:
    """The facts of one answer. `duration` is in milliseconds; absent facts are None."""
    request = exchange.request
    return {
        "method": printable(request.method),
        "path": printable(request.raw_path.partition("?")[0]),
        "ns": printable(exchange.namespace),
        "status": exchange.status,
        "bytes": exchange.body_bytes,
        "range": printable(request.headers.get("Range")),
        "user_agent": printable(request.headers.get("User-Agent")),
        "cache": exchange.cache or None,
        "upstream": exchange.upstream or None,
        "outcome": exchange.outcome,
        "duration": round(seconds * 1000, 3),
    }


def printable(text: str | None) -> str | None:
    """`text` in printable ASCII, at most `MAX_TEXT` characters; whatever else it holds is escaped."""
    if text is None:
        return None
    if text.isascii() and text.isprintable():
        return text[:MAX_TEXT]
    return text[:MAX_TEXT].encode("unicode_escape").decode("ascii")[:MAX_TEXT]
