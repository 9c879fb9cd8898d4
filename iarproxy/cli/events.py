"""`iarproxy events`: who is told of what happens, and what could not be delivered."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from iarproxy.cli import telling
from iarproxy.cli.options import ConfigOption, JsonOption, run
from iarproxy.cli.output import Exit, out, print_error, print_json, print_table, stop, when
from iarproxy.cli.wiring import Rooms
from iarproxy.config.webhooks import WebhookSettings
from iarproxy.errors import IarproxyError, UnknownName
from iarproxy.ledger import EventKind
from iarproxy.ledger.deliveries import DeadLetter, Receiver
from iarproxy.mirror.events.cloud_events import CHECKPOINT, EVERYTHING, MEDIA_TYPE, cloud_event, to_bytes
from iarproxy.mirror.events.deliveries import send_test

app = typer.Typer(help="Webhooks: who is told of what happens, and what could not be delivered.", no_args_is_help=True)


@app.command()
def show(json: JsonOption = False, config: ConfigOption = None) -> None:
    """Show the webhooks, where each stands, and the kinds of events that there are."""

    async def command(rooms: Rooms) -> dict[str, Any]:
        telling.check(rooms.config)
        known = {receiver.name: (receiver, count) for receiver, count in await telling.waiting(rooms)}
        head = await rooms.ledger.serial()
        sections = rooms.config.webhooks.items()
        return {
            "journal": head,
            "kinds": [*map(str, EventKind), CHECKPOINT, EVERYTHING],
            "webhooks": [_shown(name, section, *known.get(name, (None, 0))) for name, section in sections],
        }

    found = run(config, command)
    if json:
        print_json(found)
        return
    print_table(
        ["WEBHOOK", "AT", "EVENTS", "PLACE", "WAITING", "DEAD", "STATE"],
        [
            [each["webhook"], each["at"], ", ".join(each["events"]), str(each["place"]), *map(str, _counts(each))]
            for each in found["webhooks"]
        ],
        empty="No webhook is configured.",
    )
    out.print(f"the journal is at {found['journal']}; kinds of events: {', '.join(found['kinds'])}", markup=False)


def _shown(name: str, section: WebhookSettings, receiver: Receiver | None, waiting: int) -> dict[str, Any]:
    return {
        "webhook": name,
        "at": section.model_dump(mode="json")["url"],
        "events": list(section.events),
        "environments": None if section.environments is None else list(section.environments),
        "place": None if receiver is None else receiver.serial,
        "waiting": waiting,
        "dead": 0 if receiver is None else receiver.dead,
        "dropped": 0 if receiver is None else receiver.dropped,
        "stopped": None if receiver is None else receiver.stopped or None,
    }


def _counts(shown: dict[str, Any]) -> tuple[int, str, str]:
    dropped = f" (and {shown['dropped']} dropped)" if shown["dropped"] else ""
    state = "begins with the next serve" if shown["place"] is None else "told"
    return shown["waiting"], f"{shown['dead']}{dropped}", f"stopped: {shown['stopped']}" if shown["stopped"] else state


@app.command()
def dead(json: JsonOption = False, config: ConfigOption = None) -> None:
    """List the events that a webhook could not be told of."""

    async def command(rooms: Rooms) -> list[DeadLetter]:
        return await rooms.ledger.deliveries.dead()

    letters = run(config, command)
    if json:
        rows = [
            {"id": _id(each), "webhook": each.receiver, "serial": each.serial, "at": each.at, "reason": each.reason}
            for each in letters
        ]
        print_json({"dead": rows})
        return
    print_table(
        ["ID", "GIVEN UP", "WHY"],
        [[_id(each), when(each.at), each.reason] for each in letters],
        empty="Every event was delivered, or waits for its turn.",
    )


def _id(letter: DeadLetter) -> str:
    return f"{letter.receiver}/{letter.serial}"


@app.command()
def retry(
    ids: Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="From `events dead`; none: all.")] = None,
    config: ConfigOption = None,
) -> None:
    """Send events from the dead-letter list again, once each, now and under their old ids."""

    async def command(rooms: Rooms) -> list[tuple[DeadLetter, IarproxyError | None]]:
        letters = {_id(each): each for each in await rooms.ledger.deliveries.dead()}
        unknown = [each for each in ids or [] if each not in letters]
        if unknown:
            raise UnknownName(f"{unknown[0][:120]} is no dead letter; `iarproxy events dead` lists them")
        return [(letters[each], await _sent_again(rooms, letters[each])) for each in ids or letters]

    results = run(config, command)
    for letter, error in results:
        if error is None:
            out.print(f"{_id(letter)}: delivered", markup=False)
        else:
            print_error(f"{_id(letter)}: {error}")
    if not results:
        out.print("There is nothing to send again.", markup=False)
    if any(error is not None for _, error in results):
        stop(Exit.UNAVAILABLE)


async def _sent_again(rooms: Rooms, letter: DeadLetter) -> IarproxyError | None:
    try:
        section = _section(rooms, letter.receiver)
        event = await rooms.ledger.deliveries.event(letter.serial)
        if event is None:
            raise UnknownName(f"the journal has no entry {letter.serial}")
        told = cloud_event(event, rooms.store.identity)
        hook = telling.webhook(letter.receiver, section)
        try:
            await hook.send(told["id"], to_bytes(told), media_type=MEDIA_TYPE)
        finally:
            await hook.close()
        await rooms.ledger.deliveries.unearth(letter)
    except IarproxyError as error:
        return error
    return None


def _section(rooms: Rooms, name: str) -> WebhookSettings:
    section = rooms.config.webhooks.get(name)
    if section is None:
        known = ", ".join(rooms.config.webhooks) or "none"
        raise UnknownName(f"there is no webhook {name[:80]!r}; configured are: {known}")
    return section


@app.command("test")
def try_out(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the section [webhooks.NAME].")],
    config: ConfigOption = None,
) -> None:
    """Send a test event now, and say what came back.

    A webhook that stopped because it answered 410 is told events again once this succeeds.
    """

    async def command(rooms: Rooms) -> None:
        hook = telling.webhook(name, _section(rooms, name))
        try:
            await send_test(hook, rooms.store.identity, secrets.token_hex(8), datetime.now(UTC))
        finally:
            await hook.close()
        if any(each.name == name and each.stopped for each in await rooms.ledger.deliveries.receivers()):
            await rooms.ledger.deliveries.stop(name, "")

    run(config, command)
    out.print(f"{name} took the test event", markup=False)
