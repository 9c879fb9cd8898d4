"""How a promotion is told: as a table, as JSON, and by the exit code."""

from __future__ import annotations

from typing import Any, assert_never

from iarproxy.cli.output import Exit, out, print_error, print_table, stop
from iarproxy.ledger import Pin
from iarproxy.mirror.promotion.plan import New, NotNow, NotPromoted, Plan, Replaces, Step, Unchanged
from iarproxy.trust.gates import verdict_as_json


def plan_as_json(plan: Plan, promoted: list[Pin]) -> dict[str, Any]:
    """The plan, and which of its names changed, for scripts."""
    return {
        "from": plan.order.source,
        "to": plan.order.target,
        "possible": plan.is_possible,
        "promoted": [str(pin.reference) for pin in promoted],
        "steps": [_step_as_json(step) for step in plan.steps],
    }


def _step_as_json(step: Step) -> dict[str, Any]:
    found = None if step.pin is None else step.pin.descriptor.digest
    return {
        "reference": str(step.reference),
        "digest": None if found is None else str(found),
        "execute": None if found is None else f"{step.reference}@{found}",
        "outcome": _word(step),
        "replaces": str(step.outcome.old) if isinstance(step.outcome, Replaces) else None,
        "reasons": list(step.outcome.reasons) if isinstance(step.outcome, NotPromoted | NotNow) else [],
        "held": None if step.held is None else step.held.value,
        "gates": [{"gate": name, **verdict_as_json(verdict)} for name, verdict in step.verdicts],
    }


def _word(step: Step) -> str:
    match step.outcome:
        case Unchanged():
            return "unchanged"
        case New():
            return "new"
        case Replaces():
            return "replaces"
        case NotPromoted():
            return "refused"
        case NotNow():
            return "undecided"
        case _:
            assert_never(step.outcome)


def print_plan(plan: Plan, promoted: list[Pin]) -> None:
    """The same for people."""
    order = plan.order
    rows = [[_execute(step), _word(step), _detail(step)] for step in plan.steps]
    print_table(["NAME", "WHAT", "DETAIL"], rows, empty="There is nothing to promote.")
    if promoted:
        names = "1 name" if len(promoted) == 1 else f"{len(promoted)} names"
        out.print(f"{names} promoted from {order.source} to {order.target}, by {order.actor}", markup=False)
    elif plan.is_possible and not plan.changing:
        out.print(f"{order.target} has it all: unchanged", markup=False)


def _execute(step: Step) -> str:
    return str(step.reference) if step.pin is None else f"{step.reference}@{step.pin.descriptor.digest}"


def _detail(step: Step) -> str:
    if isinstance(step.outcome, NotPromoted | NotNow):
        return "; ".join(step.outcome.reasons)
    replaced = [str(step.outcome.old)] if isinstance(step.outcome, Replaces) else []
    held = [] if step.held is None else [f"held: {step.held}"]
    return ", ".join([*replaced, *held, *(f"{name} allows" for name, _ in step.verdicts)])


def end(plan: Plan) -> None:
    """Say what stands in the way, and end with its code."""
    for step in (*plan.refused, *plan.undecided):
        print_error(f"{step.reference} is not promoted to {plan.order.target}: {_detail(step)}")
    if plan.refused:
        stop(Exit.REFUSED)
    if plan.undecided:
        stop(Exit.UNAVAILABLE)
