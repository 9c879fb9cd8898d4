"""An explanation in JSON: the same in the API and in `iarproxy explain`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from iarproxy.mirror.explain.explaining import Explanation
from iarproxy.mirror.spelling import describe, drift_as_json, spender_as_json, upstream_as_json, used_as_json
from iarproxy.trust import Mode, TagRule
from iarproxy.trust.policy import PIN_EVERYTHING


def explanation_as_json(found: Explanation) -> dict[str, Any]:
    """Every fact, named; what is not known, or does not apply, is null."""
    made, withheld = found.made, found.withheld
    return {
        "reference": str(found.reference),
        "environment": found.environment.name,
        "pins_from": found.environment.pins_from.value,
        "outcome": found.outcome,
        "blocked": [{"message": str(each), **each.detail} for each in found.blocked],
        "changes": list(found.changes),
        "digest": str(found.digest) if found.digest else None,
        "pinned_at": found.pin.pinned_at if found.pin else None,
        "pinned_from": found.pin.source if found.pin else None,
        "revision": found.pin.revision if found.pin else None,
        "kind": made.kind.value if made else None,
        "by": made.actor if made else None,
        "reason": (made.reason or None) if made else None,
        "elsewhere": {name: str(digest) for name, digest in found.elsewhere.items()},
        "withheld": describe(withheld.descriptor) | {"offered_at": withheld.offered_at} if withheld else None,
        "drift": drift_as_json(found.drift) if found.drift else None,
        "held": found.held.value,
        "path": found.path,
        "platforms": list(found.platforms),
        "rule": _rule(found.rule),
        "upstream": found.upstream,
        "used": used_as_json(found.used),
        "budget": upstream_as_json(found.budget) if found.budget else None,
        "spent": _spent(found),
        "brought": asdict(found.brought) if found.brought else None,
        "offline": found.offline,
    }


def _rule(rule: TagRule | None) -> dict[str, str] | str | None:
    if rule is None:
        return None
    if rule == PIN_EVERYTHING:
        return "none matches: pinned"
    facts = {"match": rule.match.text, "mode": rule.mode.value}
    if rule.mode is Mode.PIN:
        facts |= {"on_drift": rule.on_drift.value, "admit": rule.admit.value, "cool_down": str(rule.cool_down)}
    return facts | ({"ttl": str(rule.ttl)} if rule.mode is Mode.FOLLOW else {})


def _spent(found: Explanation) -> dict[str, Any] | None:
    """What was asked of upstream for this repository in the last hours."""
    spenders = found.budget.spenders if found.budget else ()
    own = [each for each in spenders if each.repository == found.reference.repository.name]
    return spender_as_json(own[0]) if own else None
