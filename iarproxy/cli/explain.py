"""`iarproxy explain`: where a name stands, and why."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from iarproxy.cli.options import (
    ConfigOption,
    EnvironmentOption,
    JsonOption,
    ReferenceArgument,
    environment_of,
    reference,
    run,
)
from iarproxy.cli.output import out, print_json, when
from iarproxy.cli.pulled import pulls
from iarproxy.cli.wiring import Rooms
from iarproxy.ledger import DEFAULT
from iarproxy.mirror.explain.explained import explanation_as_json
from iarproxy.mirror.explain.explaining import Explanation
from iarproxy.upstream import WINDOW

_MOST = 3  # spenders that are named
# told in words
_LATER = ("blocked", "changes", "path", "by", "reason", "kind", "environment", "pins_from", "brought", "offline")


def explain(
    ref: ReferenceArgument, env: EnvironmentOption = DEFAULT, json: JsonOption = False, config: ConfigOption = None
) -> None:
    """Tell where a name stands, and why.

    What a client gets and what blocks it, the command that would change it, pin, rule, drift, where the bytes are,
    who pulled it. Upstream is not asked.
    """

    async def command(rooms: Rooms) -> Explanation:
        place = environment_of(rooms.config, env)
        return await rooms.mirror.explain.reference(reference(ref, rooms.config), place.name)

    found = run(config, command)
    facts = explanation_as_json(found)
    if json:
        print_json(facts)
        return
    told = {key: value for key, value in facts.items() if key not in _LATER}
    for key, value in {
        **_first(found),
        **told,
        "upstream": f"{found.upstream}, never asked: offline" if found.offline and found.upstream else found.upstream,
        "held": _held(found),
        "used": pulls(found.used),
        "budget": _budget(found),
    }.items():
        if value not in (None, [], {}, ""):
            out.print(f"{key.replace('_', ' '):>12}  {_plain(value)}", markup=False)
    for each in found.changes:
        out.print(f"{'to change':>12}  {each}", markup=False)


def _first(found: Explanation) -> dict[str, Any]:
    """What people look for before all else."""
    made = found.made
    by = None if made is None else f"{made.actor}, {made.kind}{f': {made.reason}' if made.reason else ''}"
    environment = None if found.environment.name == DEFAULT else f"{found.environment.name}, {_pins(found)}"
    return {
        "reference": str(found.reference),
        "environment": environment,
        "outcome": found.outcome,
        "digest": None if found.digest is None else str(found.digest),
        "made by": by,
        "brought": None if found.brought is None else str(found.brought),
    }


def _pins(found: Explanation) -> str:
    return f"pins from {found.environment.pins_from.value.replace('-', ' ')}"


def _held(found: Explanation) -> str:
    return found.held.value if found.path is None else f"{found.held.value}, manifest at {found.path}"


def _budget(found: Explanation) -> str:
    """What is left of the upstream, and who spends it, in one line."""
    if found.budget is None:
        return ""
    told = []
    for each in found.budget.endpoints:
        if each.quota is not None:
            of = f" of {each.quota.limit}" if each.quota.limit is not None else ""
            told.append(f"{each.quota.remaining}{of} requests left at {each.origin}")
        if each.held_until is not None:
            told.append(f"{each.origin} is not asked before {each.held_until:%H:%M:%S} UTC: it said 429")
    spenders = found.budget.spenders
    if spenders:
        most = ", ".join(f"{each.repository} {each.total}" for each in spenders[:_MOST])
        told.append(f"{sum(each.total for each in spenders)} requests in {WINDOW} hours, most for {most}")
    return "; ".join(told)


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(inner)}" for key, inner in value.items() if inner is not None)
    if isinstance(value, datetime):
        return when(value)
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
