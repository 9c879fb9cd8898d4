"""Gates: what has to be true before a digest may enter an environment. Facts go in, a verdict comes out; no I/O.

Rule 1: only `Allowed` lets pass. What cannot be found out is `Undecided`, and it stops a promotion as a refusal does.
Rule 2: a refusal says why, in words for the person who promotes.
Rule 3: what a gate outside of us says is its word, cut to a bound and free of control characters.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeAlias, assert_never

from iarproxy.oci import Digest, TagReference

MAX_REASONS = 10
MAX_REASON = 300  # characters
_UNITS = ((86400, "d"), (3600, "h"), (60, "m"))


@dataclass(frozen=True, slots=True)
class Attached:
    """Something that is known to refer to a digest: a signature, a list of contents, the record of a promotion.

    `artifact_type`: empty where nobody says. `tag`: where it is kept under one.
    """

    digest: Digest
    artifact_type: str
    tag: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """What gates are told about one name of a promotion.

    Attributes:
        environment, source: where to, and where from.
        replaces: what the name stands for in `environment` now; None: nothing.
        size: of the manifest in bytes.
        platforms: of an index, as `os/architecture[/variant]`.
        pinned_at: since when the source has it under this name.
        first_seen: when this mirror first saw the digest, under whatever name; None: nobody knows.
        attached: what is known to refer to the digest; not verified by anybody.
    """

    environment: str
    source: str
    reference: TagReference
    digest: Digest
    replaces: Digest | None
    media_type: str
    size: int
    platforms: tuple[str, ...]
    pinned_at: datetime
    first_seen: datetime | None
    attached: tuple[Attached, ...]
    actor: str
    reason: str


@dataclass(frozen=True, slots=True)
class Allowed:
    """The gate lets it pass."""


@dataclass(frozen=True, slots=True)
class Refused:
    """The gate says no; at least one reason."""

    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Undecided:
    """No verdict was to be had, and why; a later try may get one."""

    reason: str


Verdict: TypeAlias = Allowed | Refused | Undecided


def refused(reasons: Iterable[str], otherwise: str) -> Refused:
    """A refusal with the words of somebody else, made safe to show; `otherwise` where they say nothing."""
    told = [line for line in map(_plain, reasons) if line]
    return Refused(tuple(told[:MAX_REASONS]) or (otherwise,))


def _plain(text: str) -> str:
    return "".join(each if each.isprintable() else " " for each in text).strip()[:MAX_REASON]


def judge_age(facts: Facts, least: timedelta, now: datetime) -> Verdict:
    """Whether the digest has been here for `least`. Unknown, or in the future by our clock, is too young."""
    if facts.first_seen is None:
        return Refused((f"nothing tells since when {facts.digest} is here, and it must be for {_spelled(least)}",))
    if now - facts.first_seen < least:
        since = f"{facts.first_seen:%Y-%m-%d %H:%M:%SZ}"
        return Refused((f"{facts.digest} is here since {since}, for less than {_spelled(least)}",))
    return Allowed()


def _spelled(duration: timedelta) -> str:
    """As the configuration writes it."""
    seconds = duration.total_seconds()
    size, unit = next(((size, unit) for size, unit in _UNITS if seconds % size == 0), (1, "s"))
    return f"{seconds / size:g}{unit}"


def judge_result(result: Any, *, defined: bool) -> Verdict:
    """The verdict in a policy's `result` (the data API of OPA): true, or an object with `allow` and `reasons`."""
    if not defined:
        return Refused(("the policy is undefined for this promotion",))
    if result is True:
        return Allowed()
    if isinstance(result, dict) and result.get("allow") is True:
        return Allowed()
    if result is False or (isinstance(result, dict) and result.get("allow") is False):
        reasons = result.get("reasons") if isinstance(result, dict) else None
        told = [each for each in reasons if isinstance(each, str)] if isinstance(reasons, list) else []
        return refused(told, "the policy refuses and gives no reason")
    return Refused(("the policy's result is neither true nor an object that allows",))


def facts_as_json(facts: Facts) -> dict[str, Any]:
    """The facts as gates outside of us are told them; times in RFC 3339."""
    return {
        "environment": facts.environment,
        "from": facts.source,
        "reference": str(facts.reference),
        "digest": str(facts.digest),
        "replaces": None if facts.replaces is None else str(facts.replaces),
        "mediaType": facts.media_type,
        "size": facts.size,
        "platforms": list(facts.platforms),
        "pinned_at": facts.pinned_at.isoformat(),
        "first_seen": None if facts.first_seen is None else facts.first_seen.isoformat(),
        "attached": [
            {"digest": str(each.digest), "artifactType": each.artifact_type or None, "tag": each.tag or None}
            for each in facts.attached
        ],
        "actor": facts.actor,
        "reason": facts.reason,
    }


def verdict_as_json(verdict: Verdict) -> dict[str, Any]:
    """A verdict for records and scripts."""
    match verdict:
        case Allowed():
            return {"verdict": "allowed", "reasons": []}
        case Refused(reasons=reasons):
            return {"verdict": "refused", "reasons": list(reasons)}
        case Undecided(reason=reason):
            return {"verdict": "undecided", "reasons": [reason]}
        case _:
            assert_never(verdict)


def together(verdicts: Sequence[tuple[str, Verdict]]) -> Verdict:
    """What gates, by their names, say as one: all have to allow. A refusal outweighs what is undecided."""
    refusals = [
        f"{name}: {each}" for name, verdict in verdicts if isinstance(verdict, Refused) for each in verdict.reasons
    ]
    undecided = [f"{name}: {verdict.reason}" for name, verdict in verdicts if isinstance(verdict, Undecided)]
    if refusals:
        return Refused((*refusals, *undecided))
    return Undecided("; ".join(undecided)) if undecided else Allowed()
