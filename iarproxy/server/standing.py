"""Headers that tell where a manifest's name stands: pinned or followed, since when, and whether upstream drifted."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from typing import assert_never

from iarproxy.mirror.serving.answers import ByDigest, Followed, ManifestAnswer, Pinned, Standing
from iarproxy.oci import Digest, Tag

VANISHED = "none"  # no digest: what a pinned tag is upstream that upstream no longer has
MAX_WARNING = 4096  # bytes of all warnings of one answer (distribution-spec, "Warnings")


def standing_headers(answer: ManifestAnswer, wanted: Tag | Digest) -> dict[str, str]:
    """`IAR-Pin`, and under drift `IAR-Upstream-Digest` and, unless a person acknowledged it, `Warning`.

    Empty for a request by digest.

    `IAR-Upstream-Digest` is what upstream offers now, or `none`: it no longer has the tag. A mirror behind this one
    takes both for a hint (see `mirror.drift`).
    """
    headers: dict[str, str] = {}
    match answer.standing:
        case Pinned(since=since):
            headers["IAR-Pin"] = f"pinned; since={rfc3339(since)}"
        case Followed(since=since):
            headers["IAR-Pin"] = f"followed; since={rfc3339(since)}"
        case ByDigest():
            return headers
        case _:
            assert_never(answer.standing)
    if answer.offered is not None:
        headers["IAR-Upstream-Digest"] = str(answer.offered)
    elif answer.vanished:
        headers["IAR-Upstream-Digest"] = VANISHED
    text = _drift(answer, wanted)
    if text:
        headers["Warning"] = warning(text)
    return headers


def cache_state(standing: Standing, *, cached: bool) -> str:
    """`hit`, `miss`, `pinned` or `stale`, for the log, the metrics and the `IAR-Cache` header."""
    if isinstance(standing, Followed) and standing.stale:
        return "stale"
    if not cached:
        return "miss"
    return "pinned" if isinstance(standing, Pinned) else "hit"


def warning(text: str) -> str:
    """A `Warning` header's value: agent `-`, no date, quoted, printable ASCII, at most `MAX_WARNING` bytes."""
    plain = "".join(letter if " " <= letter <= "~" else "?" for letter in text)
    frame = len('299 - ""')
    quoted = ""
    for letter in plain:
        escaped = f"\\{letter}" if letter in '"\\' else letter
        if frame + len(quoted) + len(escaped) > MAX_WARNING:
            break
        quoted += escaped
    return f'299 - "{quoted}"'


@lru_cache(maxsize=4096)
def rfc3339(moment: datetime) -> str:
    """`2026-11-22T10:00:00Z`: UTC, whole seconds."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _drift(answer: ManifestAnswer, wanted: Tag | Digest) -> str:
    held = f"iarproxy: {answer.repository}:{wanted} stays {answer.descriptor.digest}"
    if answer.acknowledged:
        return ""
    if answer.offered is not None:
        return f"{held}; upstream now offers {answer.offered}. `iarproxy drift show` tells the difference"
    if answer.vanished:
        return f"{held}; upstream no longer has this tag"
    return ""
