"""`iarproxy pins`: what is pinned, since when and why, and what waits to be; `pin_acts` has what changes it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Annotated, Any, assert_never

import typer

from iarproxy.cli import pin_acts
from iarproxy.cli.options import (
    ConfigOption,
    EnvironmentOption,
    JsonOption,
    ReferenceArgument,
    environment_of,
    run,
    tag_reference,
)
from iarproxy.cli.output import Exit, Table, out, print_error, print_json, print_table, stop, when
from iarproxy.cli.pulled import pulls
from iarproxy.cli.retain import retain
from iarproxy.cli.wiring import Rooms
from iarproxy.errors import UnknownManifest
from iarproxy.ledger import DEFAULT, Damage, DriftState, Event, Pin, PinSet, UseSummary, Withheld
from iarproxy.mirror.serving.holding import Held
from iarproxy.mirror.serving.withholding import approval, is_over, told
from iarproxy.mirror.spelling import drift_as_json, event_as_json, pin_as_json, used_as_json, withheld_as_json
from iarproxy.oci import TagReference
from iarproxy.trust import Pattern
from iarproxy.trust.environments import Environment, PinsFrom, env_option

_ALL = Pattern("**")
_PAGE = 200  # rows whose columns are aligned together

app = typer.Typer(help="What is pinned, and the deliberate change of a pin.", no_args_is_help=True)


def _shown(pin: Pin, drift: DriftState | None, held: Held) -> dict[str, Any]:
    """A pin with its standing, for scripts."""
    return {**pin_as_json(pin), "held": held.value, "drift": None if drift is None else drift_as_json(drift)}


@app.command("list")
def list_pins(
    match: Annotated[str, typer.Argument(help="Only references that fit, for example 'docker.io/library/*'.")] = "**",
    waiting: Annotated[bool, typer.Option("--waiting", help="What is withheld from tags that have no pin.")] = False,
    env: EnvironmentOption = DEFAULT,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """List pins: tag, digest, since when, what is held, what upstream does.

    With --waiting: what upstream offers for tags without a pin, and why it is not their pin yet.
    """
    pattern = Pattern(match)

    async def command(rooms: Rooms) -> list[Damage]:
        pins = _pins(rooms, env)
        if waiting:
            await _list_waiting(pins, pattern, json=json)
        elif json:
            found = [await _standing(rooms, pins, pin) async for pin in _matching(pins, pattern)]
            damaged = [each.reference for each in rooms.ledger.damaged()]
            print_json({"pins": [_shown(*row) for row in found], "damaged": damaged})
        else:
            await _print_pins(rooms, environment_of(rooms.config, env), pattern)
        return rooms.ledger.damaged()

    damaged = run(config, command)
    for each in damaged:
        print_error(f"{each.reference}: not served, {each.reason}")
    if damaged:
        stop(Exit.UNAVAILABLE)


def _pins(rooms: Rooms, env: str) -> PinSet:
    return rooms.ledger.within(environment_of(rooms.config, env).name)


async def _list_waiting(pins: PinSet, pattern: Pattern, *, json: bool) -> None:
    found = [each for each in await _every_candidate(pins) if pattern.matches(each.name.reference)]
    if json:
        print_json({"waiting": [withheld_as_json(each) for each in found]})
        return
    rows = [
        [str(each.name.reference), str(each.descriptor.digest), when(each.offered_at), _why(each)] for each in found
    ]
    print_table(["REFERENCE", "DIGEST", "OFFERED", "WHY"], rows, empty="Nothing is withheld.")
    if rows:
        approve = f"iarproxy pins approve REFERENCE --digest DIGEST{env_option(pins.environment)} --reason TEXT"
        out.print(f"\n`{approve}` lets one in.", markup=False)


async def _every_candidate(pins: PinSet) -> list[Withheld]:
    found: list[Withheld] = []
    while page := await pins.waiting(after=found[-1].name.reference if found else None):
        found += page
    return found


def _why(withheld: Withheld) -> str:
    over = is_over(withheld, datetime.now(UTC))
    return "has cooled down; the next pull lets it in" if over else told(withheld)


async def _matching(pins: PinSet, pattern: Pattern) -> AsyncIterator[Pin]:
    async for pin in pins.every_pin():
        if pattern.matches(pin.reference):
            yield pin


def _way_in(environment: Environment) -> str:
    match environment.pins_from:
        case PinsFrom.FIRST_FETCH:
            return "the first pull of a tag pins it"
        case PinsFrom.PROMOTION:
            return f"`iarproxy promote REF --to {environment.name} --reason TEXT` does it"
        case PinsFrom.LOCK:
            return f"`iarproxy lock import FILE --env {environment.name}` does it"
        case _:
            assert_never(environment.pins_from)


async def _print_pins(rooms: Rooms, environment: Environment, pattern: Pattern) -> None:
    """Page by page: of a million pins the first are shown at once, and none are kept."""
    pins = rooms.ledger.within(environment.name)
    table, rows = Table(["REFERENCE", "DIGEST", "PINNED", "HELD", "UPSTREAM"]), list[list[str]]()
    async for each in _matching(pins, pattern):
        pin, drift, held = await _standing(rooms, pins, each)
        verdict = _verdict(drift)
        rows.append([str(pin.reference), pin.descriptor.digest.short, when(pin.pinned_at), held.value, verdict])
        if len(rows) == _PAGE:
            table.print(rows)
            rows = []
    if rows:
        table.print(rows)
    nothing = f"Nothing is pinned yet: {_way_in(environment)}."
    table.end(
        nothing if pattern == _ALL else f"No pin fits {pattern.text}; patterns begin with a registry, or with **."
    )
    waiting = len(await pins.waiting(limit=_PAGE))
    if waiting:
        more = " or more" if waiting == _PAGE else ""
        count = "1 tag is" if waiting == 1 else f"{waiting}{more} tags are"
        out.print(
            f"\n{count} withheld; `iarproxy pins list --waiting{env_option(pins.environment)}` tells why.", markup=False
        )


async def _standing(rooms: Rooms, pins: PinSet, pin: Pin) -> tuple[Pin, DriftState | None, Held]:
    await pins.pin_of(pin.reference)  # brings its drift state into memory
    return pin, pins.peek_drift(pin.reference), await rooms.mirror.holding.of(pin.descriptor.digest)


def _verdict(drift: DriftState | None) -> str:
    return "not checked" if drift is None else str(drift.verdict)


@app.command()
def show(
    ref: ReferenceArgument, env: EnvironmentOption = DEFAULT, json: JsonOption = False, config: ConfigOption = None
) -> None:
    """Show one pin."""

    async def command(rooms: Rooms) -> tuple[dict[str, Any], UseSummary]:
        wanted = tag_reference(ref, rooms.config)
        pins = _pins(rooms, env)
        pin = await _pin(pins, wanted)
        held = await rooms.mirror.holding.of(pin.descriptor.digest)
        return _shown(pin, pins.peek_drift(wanted), held), await rooms.ledger.uses.summary(wanted)

    shown, used = run(config, command)
    if json:
        print_json({**shown, "used": used_as_json(used)})
        return
    for key, value in {**shown, "used": pulls(used)}.items():
        out.print(f"{key:>10}  {_plain(value)}", markup=False)


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(inner)}" for key, inner in value.items() if inner is not None)
    return "never checked" if value is None else str(value)


async def _pin(pins: PinSet, reference: TagReference) -> Pin:
    pin = await pins.pin_of(reference)
    if pin is None:
        withheld = await pins.candidate(reference)
        if withheld is not None:
            offered = withheld.descriptor.digest
            remedy = approval(withheld, offered)
            raise UnknownManifest(f"{reference} is not pinned; {offered} {told(withheld)}; `{remedy}` lets it in")
        raise UnknownManifest(f"{reference} is not pinned; `iarproxy pins list` shows what is")
    return pin


@app.command()
def history(
    ref: ReferenceArgument, env: EnvironmentOption = DEFAULT, json: JsonOption = False, config: ConfigOption = None
) -> None:
    """Show what the journal knows of a tag.

    Who pinned it, what drifted, who changed it and why.
    """

    async def command(rooms: Rooms) -> list[Event]:
        wanted = tag_reference(ref, rooms.config)
        return await _pins(rooms, env).history(wanted)

    events = run(config, command)
    if json:
        print_json([{**event_as_json(each), "reference": str(each.reference)} for each in events])
        return
    print_table(
        ["SERIAL", "WHEN", "WHAT", "BY", "DETAIL"],
        [[str(e.serial), when(e.at), e.kind.value, e.actor, _detail(e)] for e in events],
        empty=f"The journal knows nothing of {ref}.",
    )


def _detail(event: Event) -> str:
    """The digests, since other commands want them, and why."""
    made = event.body.get("descriptor")
    now = [str(made["digest"])] if isinstance(made, dict) else []
    told = [f"{key} {value}" for key, value in event.body.items() if isinstance(value, str) and "sha" in value]
    return "; ".join(filter(None, [", ".join([*now, *told]), event.reason]))


for act in (pin_acts.repin, pin_acts.rollback, pin_acts.approve, pin_acts.remove, retain):
    app.command()(act)
