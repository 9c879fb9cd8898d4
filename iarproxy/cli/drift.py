"""`iarproxy drift`: ask upstream what it offers now for pinned tags, see what differs, and settle what is expected."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, assert_never

import typer

from iarproxy.cli.actor import kernel_actor
from iarproxy.cli.options import (
    ConfigOption,
    EnvironmentOption,
    JsonOption,
    ReferenceArgument,
    digest,
    environment_of,
    given_reason,
    run,
    tag_reference,
)
from iarproxy.cli.output import Exit, out, print_error, print_json, print_table, stop, when
from iarproxy.cli.pin_acts import ReasonOption
from iarproxy.cli.wiring import Rooms
from iarproxy.errors import IarproxyError, Refused, UnknownManifest
from iarproxy.ledger import DEFAULT, Name
from iarproxy.mirror.drift import alarms
from iarproxy.mirror.drift.alarms import Alarm
from iarproxy.mirror.drift.checking import Checked
from iarproxy.mirror.serving.refusing import acceptance, settlement
from iarproxy.mirror.spelling import drift_as_json
from iarproxy.oci import TagReference
from iarproxy.together import together
from iarproxy.trust import Drifted, Steady, Vanished, Verdict
from iarproxy.trust.environments import Environment, env_option
from iarproxy.trust.telling import span
from iarproxy.upstream import Purpose

app = typer.Typer(help="What upstream offers now for pinned tags.", no_args_is_help=True)

_PARALLEL = 4

ExitCodeOption = Annotated[
    bool, typer.Option("--exit-code", help="Exit with 3 when any tag drifted or vanished, and nobody acknowledged it.")
]
AnyEnvironmentOption = Annotated[
    str | None, typer.Option("--env", metavar="ENV", help="Only this environment; none: all.", show_default=False)
]


@dataclass(frozen=True, slots=True)
class Unjudged:
    """A pin that could not be checked, and why."""

    reference: TagReference
    error: IarproxyError


@app.command()
def check(
    refs: Annotated[list[str] | None, typer.Argument(metavar="[REF]...", help="Pinned tags; none: all.")] = None,
    *,
    json: JsonOption = False,
    exit_code: ExitCodeOption = False,
    env: EnvironmentOption = DEFAULT,
    config: ConfigOption = None,
) -> None:
    """Ask upstream now; no pin is changed."""

    async def command(rooms: Rooms) -> list[Checked | Unjudged]:
        place = _drifting(environment_of(rooms.config, env))
        rooms.insist_on_upstreams()
        wanted = [tag_reference(ref, rooms.config) for ref in refs or []]
        found = await _check_all(rooms, place, wanted or await rooms.mirror.drift.watched(place))
        await rooms.mirror.holding.settle()  # what upstream no longer offers is fetched now or never
        return found

    results = run(config, command)
    if json:
        print_json({"checked": [_as_json(result) for result in results]})
    else:
        rows = [_row(result) for result in results]
        columns = ["REFERENCE", "VERDICT", "PINNED", "OFFERED", "DIFFERENCE"]
        print_table(columns, rows, empty="Nothing is pinned: nothing to check.")
        for result in results:
            if isinstance(result, Unjudged):
                print_error(f"{result.reference}: not judged: {result.error}")
    _stop(results, exit_code=exit_code)


def _drifting(environment: Environment) -> str:
    """The name of an environment whose pins are what upstream once offered.

    Raises:
        Refused: nothing drifts there; an alarm would be about an act of a person.
    """
    if environment.pins_first_fetches:
        return environment.name
    compare = f"`iarproxy diff env:{environment.name} upstream` compares"
    raise Refused(f"{environment.name} takes nothing from upstream by itself, so nothing drifts there; {compare}")


async def _check_all(rooms: Rooms, place: str, references: list[TagReference]) -> list[Checked | Unjudged]:
    async def one(reference: TagReference) -> Checked | Unjudged:
        try:
            if reference.repository.registry not in rooms.upstreams:
                raise UnknownManifest(f"{reference.repository.registry} is not one of the configured upstreams")
            return await rooms.mirror.drift.check(reference, Purpose.PERSON, place)
        except IarproxyError as error:
            return Unjudged(reference, error)

    return await together(references, one, at_a_time=_PARALLEL)


def _stop(results: list[Checked | Unjudged], *, exit_code: bool) -> None:
    failed = [result for result in results if isinstance(result, Unjudged)]
    checked = [result for result in results if isinstance(result, Checked)]
    if exit_code and any(not isinstance(each.verdict, Steady) and not each.acknowledged for each in checked):
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
        case _:
            assert_never(verdict)


def _as_json(result: Checked | Unjudged) -> dict[str, Any]:
    if isinstance(result, Unjudged):
        return {"reference": str(result.reference), "verdict": None, "error": str(result.error)}
    verdict, offered = _verdict(result.verdict)
    return {
        "reference": str(result.pin.reference),
        "environment": result.pin.environment,
        "verdict": verdict,
        "acknowledged": result.acknowledged,
        "pinned": str(result.verdict.pinned),
        "offered": offered,
        "pinned_at": result.pin.pinned_at,
        "news": result.news,
        "summary": result.evidence.get("summary"),
        "evidence": result.evidence,
    }


def _row(result: Checked | Unjudged) -> list[str]:
    if isinstance(result, Unjudged):
        return [str(result.reference), "not judged", "", "", ""]
    verdict, offered = _verdict(result.verdict)
    told = f"{verdict}, acknowledged" if result.acknowledged else verdict
    summary = str(result.evidence.get("summary", "")) if offered else ""
    return [str(result.pin.reference), told, str(result.verdict.pinned), offered or "nothing", summary]


@app.command("list")
def list_drifts(
    json: JsonOption = False,
    exit_code: ExitCodeOption = False,
    env: AnyEnvironmentOption = None,
    config: ConfigOption = None,
) -> None:
    """List what drifted or vanished, as seen last."""

    async def command(rooms: Rooms) -> list[Alarm]:
        place = None if env is None else environment_of(rooms.config, env).name
        return await alarms.with_evidence(rooms.ledger, await alarms.drifting(rooms.ledger, place))

    found = run(config, command)
    if json:
        print_json({"drifts": [_listed(each) for each in found]})
    else:
        columns = ["REFERENCE", "VERDICT", "AGE", "PINNED", "OFFERED", "DIFFERENCE"]
        empty = "No drift is known. `iarproxy drift check` asks upstream now."
        print_table(columns, [_alarm_row(each) for each in found], empty=empty)
    if exit_code and any(each.drift.alarms for each in found):
        stop(Exit.FOUND)


def _listed(alarm: Alarm) -> dict[str, Any]:
    pin = alarm.pin
    named = {"reference": str(pin.reference), "environment": pin.environment, "pinned": str(pin.descriptor.digest)}
    return {**named, **drift_as_json(alarm.drift), "summary": alarm.summary}


def _alarm_row(alarm: Alarm) -> list[str]:
    drift = alarm.drift
    return [
        str(alarm.pin.name),
        str(drift.verdict) if drift.alarms else f"{drift.verdict}, acknowledged",
        span(datetime.now(UTC) - drift.first_seen),
        str(alarm.pin.descriptor.digest),
        str(drift.offered.digest) if drift.offered else "nothing",
        alarm.summary if drift.offered else "",
    ]


@app.command()
def show(
    ref: ReferenceArgument, json: JsonOption = False, env: EnvironmentOption = DEFAULT, config: ConfigOption = None
) -> None:
    """Show all that is known of one drift: the difference, the evidence, and what to do.

    What is said of signatures is upstream's word: nobody verified it.
    """

    async def command(rooms: Rooms) -> Alarm:
        place = environment_of(rooms.config, env).name
        return await alarms.of(rooms.ledger, place, tag_reference(ref, rooms.config))

    found = run(config, command)
    if json:
        print_json(alarms.alarm_in_full(found))
        return
    for key, value in _facts(found).items():
        if value:
            out.print(f"{key:>12}  {value}", markup=False)
    for heading, lines in (("what differs", found.evidence.get("text")), ("what to do", _remedies(found))):
        if isinstance(lines, list) and lines:
            out.print(f"\n{heading}:", markup=False)
            for line in lines:
                out.print(f"  {line}", markup=False)


def _facts(alarm: Alarm) -> dict[str, str]:
    pin, drift, evidence = alarm.pin, alarm.drift, alarm.evidence
    headers = evidence.get("headers")
    by = drift.acknowledged
    return {
        "reference": str(pin.name),
        "verdict": str(drift.verdict),
        "pinned": f"{pin.descriptor.digest} ({pin.descriptor.media_type}, {pin.descriptor.size} bytes)",
        "since": f"{when(pin.pinned_at)}, from {pin.source}",
        "offered": f"{drift.offered.digest} ({drift.offered.media_type}, {drift.offered.size} bytes)"
        if drift.offered
        else "nothing: upstream has no such tag any more",
        "seen first": f"{when(drift.first_seen)}, by {evidence.get('offered_by') or pin.reference.repository.registry}",
        "seen last": when(drift.checked_at),
        "headers": "; ".join(f"{key}: {value}" for key, value in headers.items()) if isinstance(headers, dict) else "",
        "journal": f"serial {alarm.accusation.serial}" if alarm.accusation else "",
        "difference": alarm.summary,
        "acknowledged": f"{when(by.at)} by {by.actor}: {by.reason}" if by else "",
    }


def _remedies(alarm: Alarm) -> list[str]:
    pin, drift = alarm.pin, alarm.drift
    where = env_option(pin.environment)
    remove = f"iarproxy pins remove {pin.reference} --digest {pin.descriptor.digest}{where} --reason TEXT"
    if drift.offered is None:
        return [f"{remove}  # refuse the tag from now on; else it is served on from what is held"]
    accept = f"{acceptance(pin, str(drift.offered.digest))}  # serve what upstream offers"
    expected = settlement(pin, str(drift.offered.digest))
    return [accept] if drift.acknowledged else [accept, f"{expected}  # it is expected; the pin stays"]


@app.command()
def ack(
    ref: ReferenceArgument,
    offered: Annotated[str, typer.Option("--digest", metavar="DIGEST", help="The digest that upstream offers.")],
    reason: ReasonOption,
    env: EnvironmentOption = DEFAULT,
    config: ConfigOption = None,
) -> None:
    """Settle the alarm about exactly this digest, for example of an expected rebuild. The pin stays.

    Should upstream offer yet another digest, that is an alarm again.
    """
    chosen = digest(offered)
    why, actor = given_reason(reason), kernel_actor()

    async def command(rooms: Rooms) -> Name:
        name = Name(environment_of(rooms.config, env).name, tag_reference(ref, rooms.config))
        await rooms.ledger.watching.acknowledge(name, chosen, reason=why, actor=actor)
        return name

    name = run(config, command)
    out.print(f"{name} stays as it is pinned; that upstream offers {chosen} is settled, by {actor}", markup=False)
