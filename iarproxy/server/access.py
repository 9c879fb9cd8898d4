"""The access log: one event per answer (clients.md section 10, item 78).

Rule 1: what a client wrote is bounded and escaped; `Authorization`, tokens and query strings are never read here.
Rule 2: no sink, no cost: the record is not even built.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, BinaryIO

import orjson
import structlog

from iarproxy.oci.routing import DEFAULT, Place

MAX_TEXT = 256
CERTIFIED = "cert:"  # begins the name of a client that a certificate names; no address begins so
_SHORT = {"commonName": "CN", "organizationName": "O", "organizationalUnitName": "OU", "countryName": "C"}

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
    method: str, target: str, *, namespace: str | None, asked_range: str | None, agent: str | None, place: Place | None
) -> dict[str, str | int | float | None]:
    """What was asked of which upstream; absent facts are None. The query of `target` is left out (rule 1).

    Only an environment that is not the default one is named.
    """
    within = {} if place is None or place.environment == DEFAULT else {"environment": place.environment}
    return {
        "method": printable(method),
        "path": printable(target.partition("?")[0]),
        "ns": printable(namespace),
        "range": printable(asked_range),
        "user_agent": printable(agent),
        "upstream": None if place is None else place.repository.registry,
        **within,
    }


def result(status: int, sent: int, cache: str, outcome: str, seconds: float) -> dict[str, str | int | float | None]:
    """How it was answered."""
    took = round(seconds * 1000, 3)
    return {"status": status, "bytes": sent, "cache": cache or None, "outcome": outcome, "duration_ms": took}


def client_name(certificate: Mapping[str, Any]) -> str:
    """How a client is named by its certificate (as `ssl` shows it): `cert:CN=node-1,O=Example`, or its first name."""
    parts = [f"{_SHORT.get(kind, kind)}={value}" for names in certificate.get("subject", ()) for kind, value in names]
    others = [f"{kind}:{value}" for kind, value in certificate.get("subjectAltName", ())]
    text = ",".join(parts) or "".join(others[:1]) or f"serial={certificate.get('serialNumber', '')}"
    return f"{CERTIFIED}{printable(text)}"


def who(client: str) -> dict[str, str | int | float | None]:
    """The subject of the client's certificate, where it showed one. Addresses are no part of this log."""
    return {"subject": client.removeprefix(CERTIFIED)} if client.startswith(CERTIFIED) else {}


def printable(text: str | None) -> str | None:
    """`text` in printable ASCII, at most `MAX_TEXT` characters; whatever else it holds is escaped."""
    if text is None:
        return None
    if text.isascii() and text.isprintable():
        return text[:MAX_TEXT]
    return text[:MAX_TEXT].encode("unicode_escape").decode("ascii")[:MAX_TEXT]
