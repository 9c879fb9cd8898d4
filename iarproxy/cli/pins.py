"""`iarproxy pins`: what is pinned, since when, and the deliberate change of a pin."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any

import typer

from iarproxy.cli.actor import kernel_actor
from iarproxy.cli.options import ConfigOption, JsonOption, ReferenceArgument, digest, run, tag_reference
from iarproxy.cli.output import Exit, Table, out, print_error, print_json, print_table, pulls, stop, when
from iarproxy.cli.wiring import Rooms
from iarproxy.errors import StoreFull, UnknownManifest
from iarproxy.ledger import Damage, DriftState, Event, Pin, UseSummary
from iarproxy.mirror.holding import Held
from iarproxy.mirror.spelling import drift_as_json, event_as_json, pin_as_json, used_as_json
from iarproxy.oci import TagReference
from iarproxy.trust import Pattern

_PAGE = 200  # rows whose columns are aligned together

app = typer.Typer(help="What is pinned, and the deliberate change of a pin.", no_args_is_help=True)


def _shown(pin: Pin, drift: DriftState | None, held: Held) -> dict[str, Any]:
    """A pin with its standing, for scripts."""
    return {**pin_as_json(pin), "held": held.value, "drift": None if drift is None else drift_as_json(drift)}


@app.command("list")
def list_pins(
    match: Annotated[str, typer.Argument(help="Only references that fit, for example 'docker.io/library/*'.")] = "**",
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """List pins: tag, digest, since when, what is held."""
    pattern = Pattern(match)

    async def command(rooms: Rooms) -> list[Damage]:
        if json:
            found = [await _standing(rooms, pin) async for pin in _matching(rooms, pattern)]
            damaged = [each.reference for each in rooms.ledger.damaged()]
            print_json({"pins": [_shown(*row) for row in found], "damaged": damaged})
        else:
            await _print_pins(rooms, pattern)
        return rooms.ledger.damaged()

    damaged = run(config, command)
    for each in damaged:
        print_error(f"{each.reference}: not served, {each.reason}")
    if damaged:
        stop(Exit.UNAVAILABLE)


async def _matching(rooms: Rooms, pattern: Pattern) -> AsyncIterator[Pin]:
    async for pin in rooms.ledger.every_pin():
        if pattern.matches(pin.reference):
            yield pin


async def _print_pins(rooms: Rooms, pattern: Pattern) -> None:
    """Page by page: of a million pins the first are shown at once, and none are kept."""
    table, rows = Table(["REFERENCE", "DIGEST", "PINNED", "HELD", "UPSTREAM"]), list[list[str]]()
    async for each in _matching(rooms, pattern):
        pin, drift, held = await _standing(rooms, each)
        verdict = _verdict(drift)
        rows.append([str(pin.reference), pin.descriptor.digest.short, when(pin.pinned_at), held.value, verdict])
        if len(rows) == _PAGE:
            table.print(rows)
            rows = []
    if rows:
        table.print(rows)
    table.end("Nothing is pinned yet: the first pull of a tag pins it.")


async def _standing(rooms: Rooms, pin: Pin) -> tuple[Pin, DriftState | None, Held]:
    await rooms.ledger.pin_of(pin.reference)  # brings its drift state into memory
    return pin, rooms.ledger.peek_drift(pin.reference), await rooms.mirror.holding.of(pin.descriptor.digest)


def _verdict(drift: DriftState | None) -> str:
    return "not checked" if drift is None else str(drift.verdict)


@app.command()
def show(ref: ReferenceArgument, json: JsonOption = False, config: ConfigOption = None) -> None:
    """Show one pin."""

    async def command(rooms: Rooms) -> tuple[dict[str, Any], UseSummary]:
        wanted = tag_reference(ref, rooms.config)
        pin = await _pin(rooms, wanted)
        held = await rooms.mirror.holding.of(pin.descriptor.digest)
        return _shown(pin, rooms.ledger.peek_drift(wanted), held), await rooms.ledger.uses.summary(wanted)

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


async def _pin(rooms: Rooms, reference: TagReference) -> Pin:
    pin = await rooms.ledger.pin_of(reference)
    if pin is None:
        raise UnknownManifest(f"{reference} is not pinned; `iarproxy pins list` shows what is")
    return pin


@app.command()
def history(ref: ReferenceArgument, json: JsonOption = False, config: ConfigOption = None) -> None:
    """Show what the journal knows of a tag.

    Who pinned it, what drifted, who changed it and why.
    """

    async def command(rooms: Rooms) -> list[Event]:
        wanted = tag_reference(ref, rooms.config)
        return await rooms.ledger.history(wanted)

    events = run(config, command)
    if json:
        print_json([{**event_as_json(each), "reference": str(each.reference)} for each in events])
        return
    print_table(
        ["SERIAL", "WHEN", "WHAT", "BY", "DETAIL"],
        [[str(e.serial), when(e.at), e.kind.value, e.actor, e.reason or _digests(e.body)] for e in events],
        empty=f"The journal knows nothing of {ref}.",
    )


def _digests(body: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in body.items() if isinstance(value, str) and "sha" in value)


@app.command()
def repin(
    ref: ReferenceArgument,
    old: Annotated[str, typer.Option("--from", metavar="DIGEST", help="The digest that is pinned now.")],
    new: Annotated[str, typer.Option("--to", metavar="DIGEST", help="The digest that clients shall get.")],
    reason: Annotated[str, typer.Option("--reason", help="Why; it goes into the journal with your name.")],
    config: ConfigOption = None,
) -> None:
    """Change a pin on purpose.

    Refused unless the tag is pinned to exactly the digest that you name with --from.
    """
    before, after = digest(old), digest(new)
    if not reason.strip():
        raise typer.BadParameter("--reason is empty; say why, the journal keeps it")
    actor = kernel_actor()

    async def command(rooms: Rooms) -> Pin:
        wanted = tag_reference(ref, rooms.config)
        await _pin(rooms, wanted)
        answer = await rooms.mirror.manifest(wanted.repository, after)
        if rooms.store.find(after) is None:
            raise StoreFull(f"{after} cannot be kept: the disk is full; a pin needs its manifest on disk")
        return await rooms.ledger.repin(
            wanted,
            before,
            answer.descriptor,
            reason=reason.strip(),
            actor=actor,
            source=rooms.upstreams[wanted.repository.registry].source,
        )

    pin = run(config, command)
    out.print(f"{pin.reference} is now pinned to {pin.descriptor.digest} (was {before}), by {actor}", markup=False)
