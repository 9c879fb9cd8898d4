"""What `setup` prints: of a plan, of what was written or undone, of a check.

Rule: of a file of others only our part is shown; the rest may hold secrets.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, assert_never

from iarproxy.cli.output import out
from iarproxy.cli.setup.checking import Held, Report, Verdict
from iarproxy.cli.setup.plan import Change, Merged, NoStrictForm, Plan, Whole, Wish
from iarproxy.cli.setup.writing import Standing, Step, backup_of


def show_plan(plan: Plan) -> None:
    """What would be written."""
    for each in plan.changes:
        merged = " (merged into what is there)" if isinstance(each, Merged) else ""
        out.print(f"# --- {each.path}{merged}", markup=False)
        out.print(_shown(each), markup=False)
    _advise(plan)
    out.print("nothing was written; --write does it", markup=False)


def show_written(plan: Plan, steps: Sequence[Step]) -> None:
    """What was written, and what is to be done now."""
    for step in steps:
        kept = backup_of(step.path)
        before = f" (before: {kept})" if kept and step.standing is not Standing.SAME else ""
        done = "written" if step.standing in (Standing.NEW, Standing.CHANGED) else step.standing.value
        out.print(f"{step.path}: {done}{before}", markup=False)
    if all(step.standing is Standing.SAME for step in steps):
        out.print("nothing to do", markup=False)
        return
    _advise(plan)


def show_undone(done: Sequence[tuple[Path, Standing]]) -> None:
    """What was taken back."""
    for path, standing in done:
        out.print(f"{path}: {standing}", markup=False)
    if not done:
        out.print("nothing to do: no file that iarproxy wrote is there", markup=False)


def show_instead(error: NoStrictForm) -> None:
    """What to do where there is no strict form."""
    out.print("There is no strict form for this client. Instead:", markup=False)
    for each in error.instead:
        out.print(f"  - {each}", markup=False)


def plan_as_json(client: str, wish: Wish, plan: Plan, steps: Sequence[Step]) -> dict[str, Any]:
    """A plan for scripts. `written` of a file: how it stood; null: nothing was to be written."""
    standings = {step.path: step.standing for step in steps}
    files = [
        {
            "path": str(each.path),
            "merge": isinstance(each, Merged),
            "content": _shown(each),
            "written": standings.get(each.path),
        }
        for each in plan.changes
    ]
    told = {"client": client, "url": wish.mirror.url, "registries": list(wish.mirror.registries)}
    return {**told, "strict": wish.strict, "files": files, "then": list(plan.then), "notes": list(plan.notes)}


def show_check(report: Report, url: str) -> None:
    """What a check found, and what follows from it."""
    for each in report.findings:
        about = f"{each.registry}: " if each.registry else ""
        out.print(f"{each.weight:>8}  {about}{each.where}: {each.text}", markup=False)
    for proof in report.proofs:
        refusal = f"; a refusal is {proof.held}" if proof.held else ""
        out.print(f"{proof.program:>8}  {proof.registry}: a pull {proof.arrival}{refusal}", markup=False)
        if proof.held is not Held.HELD:
            out.print(f"          {proof.said}", markup=False)
    for why in report.absent:
        out.print(f"    note  not tried: {why}", markup=False)
    out.print(_conclusion(report.verdict, url), markup=False)


def check_as_json(client: str, wish: Wish, report: Report) -> dict[str, Any]:
    """A check for scripts."""
    return {
        "client": client,
        "url": wish.mirror.url,
        "verdict": report.verdict,
        "findings": [
            {"weight": each.weight, "registry": each.registry, "where": each.where, "text": each.text}
            for each in report.findings
        ],
        "pulls": [
            {
                "program": each.program,
                "registry": each.registry,
                "arrival": each.arrival,
                "refusal": each.held,
                "said": each.said,
            }
            for each in report.proofs
        ],
        "not_tried": list(report.absent),
    }


def _shown(change: Change) -> str:
    match change:
        case Whole():
            return change.content.decode(errors="replace")
        case Merged():
            return change.part
        case _:
            assert_never(change)


def _advise(plan: Plan) -> None:
    for each in plan.then:
        out.print(f"then: {each}", markup=False)
    for each in plan.notes:
        out.print(f"note: {each}", markup=False)


def _conclusion(verdict: Verdict, url: str) -> str:
    match verdict:
        case Verdict.PROVEN:
            return "proven: pulls arrive here, and what is refused is not asked of the real registry"
        case Verdict.BYPASSED:
            return (
                "bypassed: pulls arrive here, but what is refused is asked of the real registry; write the strict form"
                ' (--strict --write), or have the mirror answer with [server] refusal = "stop" and on_drift = "stop"'
            )
        case Verdict.WRONG:
            return f"wrong: not all pulls arrive at {url}; see above. --write sets the client up"
        case Verdict.UNPROVEN:
            return "not proven: no pull could be tried"
        case _:
            assert_never(verdict)
