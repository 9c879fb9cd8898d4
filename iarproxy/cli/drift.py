"""`iarproxy drift`: ask upstream what it offers now for pinned tags, and list what differs."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from iarproxy.cli.options import ConfigOption, JsonOption, run, tag_reference
from iarproxy.cli.output import Exit, print_error, print_json, print_table, stop, when
from iarproxy.cli.wiring import Rooms
from iarproxy.errors import IarproxyError, Refused, UnknownManifest
from iarproxy.mirror.drift import Checked
from iarproxy.mirror.spelling import drift_as_json
from iarproxy.oci import TagReference
from iarproxy.trust import Drifted, Steady, Vanished, Verdict

app = typer.Typer(help="What upstream offers now for pinned tags.", no_args_is_help=True)

_PARALLEL = 4

ExitCodeOption = Annotated[bool, typer.Option("--exit-code", help="Exit with 3 when any tag drifted or vanished.")]


@dataclass(frozen=True, slots=True)
class Unjudged:
    """A pin that could not be checked, and why."""

    reference: TagReference
    error: IarproxyError


@app.command()
def check(
    refs: Annotated[list[str] | None, typer.Argument(metavar="[REF]...", help="Pinned tags; none: all.")] = None,
    json: JsonOption = False,
    exit_code: ExitCodeOption = False,
    config: ConfigOption = None,
) -> None:
    """Ask upstream now; no pin is changed."""

    async def command(rooms: Rooms) -> list[Checked | Unjudged]:
        wanted = [tag_reference(ref, rooms.config) for ref in refs or []]
        found = await _check_all(rooms, wanted or await rooms.mirror.drift.watched())
        await rooms.mirror.holding.settle()  # what upstream no longer offers is fetched now or never
        return found

    results = run(config, command)
    if json:
        print_json({"checked": [_as_json(result) for result in results]})
    else:
        rows = [_row(result) for result in results]
        print_table(["REFERENCE", "VERDICT", "PINNED", "OFFERED"], rows, empty="Nothing is pinned: nothing to check.")
        for result in results:
            if isinstance(result, Unjudged):
                print_error(f"{result.reference}: not judged: {result.error}")
    _stop(results, exit_code=exit_code)


async def _check_all(rooms: Rooms, references: list[TagReference]) -> list[Checked | Unjudged]:
    gate = asyncio.Semaphore(_PARALLEL)

    async def one(reference: TagReference) -> Checked | Unjudged:
        async with gate:
            try:
                if reference.repository.registry not in rooms.upstreams:
                    raise UnknownManifest(f"{reference.repository.registry} is not one of the configured upstreams")
                return await rooms.mirror.drift.check(reference)
            except IarproxyError as error:
                return Unjudged(reference, error)

    return await asyncio.gather(*map(one, references))


def _stop(results: list[Checked | Unjudged], *, exit_code: bool) -> None:
    failed = [result for result in results if isinstance(result, Unjudged)]
    moved = [result for result in results if isinstance(result, Checked) and not isinstance(result.verdict, Steady)]
    if moved and exit_code:
        stop(Exit.FOUND)
    if any(isinstance(result.error, Refused) for result in failed):
        stop(Exit.REFUSED)
    if failed:
        stop(Exit.UNAVAILABLE)


def _verdict(verdict: Verdict) -> tuple[str, str | None]:
    match verdict:
        case Steady(pinned):
            return "steady", str(pinned)
        case Drifted(offered=offered):
            return "drifted", str(offered)
        case Vanished():
            return "vanished", None


def _as_json(result: Checked | Unjudged) -> dict[str, Any]:
    if isinstance(result, Unjudged):
        return {"reference": str(result.reference), "verdict": None, "error": str(result.error)}
    verdict, offered = _verdict(result.verdict)
    return {
        "reference": str(result.pin.reference),
        "verdict": verdict,
        "pinned": str(result.verdict.pinned),
        "offered": offered,
        "pinned_at": result.pin.pinned_at,
        "news": result.news,
        "evidence": result.evidence,
    }


def _row(result: Checked | Unjudged) -> list[str]:
    if isinstance(result, Unjudged):
        return [str(result.reference), "not judged", "", ""]
    verdict, offered = _verdict(result.verdict)
    return [str(result.pin.reference), verdict, str(result.verdict.pinned), offered or "nothing"]


@app.command("list")
def list_drifts(json: JsonOption = False, exit_code: ExitCodeOption = False, config: ConfigOption = None) -> None:
    """List what drifted or vanished, as seen last."""

    async def command(rooms: Rooms) -> list[Any]:
        return [each for each in await rooms.ledger.drifts() if each[1].verdict != "steady"]

    found = run(config, command)
    if json:
        rows = [
            {"reference": str(pin.reference), "pinned": str(pin.descriptor.digest), **drift_as_json(state)}
            for pin, state in found
        ]
        print_json({"drifts": rows})
    else:
        print_table(
            ["REFERENCE", "VERDICT", "PINNED", "OFFERED", "SINCE"],
            [
                [
                    str(pin.reference),
                    str(state.verdict),
                    str(pin.descriptor.digest),
                    str(state.offered.digest) if state.offered else "nothing",
                    when(state.first_seen),
                ]
                for pin, state in found
            ],
            empty="No drift is known. `iarproxy drift check` asks upstream now.",
        )
    if found and exit_code:
        stop(Exit.FOUND)
