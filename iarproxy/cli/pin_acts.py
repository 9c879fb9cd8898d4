"""`iarproxy pins repin|rollback|approve|remove`: the deliberate change of one pin, with a reason, by a person."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, TypeVar

import typer

from iarproxy.cli.actor import kernel_actor
from iarproxy.cli.options import (
    ConfigOption,
    EnvironmentOption,
    ReferenceArgument,
    digest,
    environment_of,
    given_reason,
    run,
    tag_reference,
)
from iarproxy.cli.output import out
from iarproxy.cli.wiring import Rooms
from iarproxy.ledger import DEFAULT
from iarproxy.mirror.acts.acting import Act, Acting

T = TypeVar("T")

ReasonOption = Annotated[str, typer.Option("--reason", help="Why; it goes into the journal with your name.")]


def repin(
    ref: ReferenceArgument,
    *,
    old: Annotated[str, typer.Option("--from", metavar="DIGEST", help="The digest that is pinned now.")],
    new: Annotated[str, typer.Option("--to", metavar="DIGEST", help="The digest that clients shall get.")],
    reason: ReasonOption,
    env: EnvironmentOption = DEFAULT,
    config: ConfigOption = None,
) -> None:
    """Change a pin on purpose.

    Refused unless the tag is pinned to exactly the digest that you name with --from.
    """
    before, after = digest(old), digest(new)
    act, pin = _do(ref, env, reason, config, lambda acting, act: acting.repin(act, before, after))
    _say(act, f"is now pinned to {pin.descriptor.digest} (was {before})")


def rollback(
    ref: ReferenceArgument,
    *,
    reason: ReasonOption,
    to: Annotated[
        str | None,
        typer.Option("--to", metavar="DIGEST", help="One that it was; none: the one before.", show_default=False),
    ] = None,
    old: Annotated[
        str | None,
        typer.Option("--from", metavar="DIGEST", help="What it has to be now, or it stays.", show_default=False),
    ] = None,
    env: EnvironmentOption = DEFAULT,
    config: ConfigOption = None,
) -> None:
    """Let a tag be what it was before.

    `pins history` shows what it was. With its content on disk this needs no upstream. A tag that was rolled back stays
    as it is, unless --to names what it shall be.
    """
    chosen, now = (None if each is None else digest(each) for each in (to, old))
    act, (pin, before) = _do(ref, env, reason, config, lambda acting, act: acting.roll_back(act, chosen, now))
    _say(act, f"is back on {pin.descriptor.digest} (was {before})")


def approve(
    ref: ReferenceArgument,
    wanted: Annotated[str, typer.Option("--digest", metavar="DIGEST", help="The digest that clients shall get.")],
    reason: ReasonOption,
    env: EnvironmentOption = DEFAULT,
    config: ConfigOption = None,
) -> None:
    """Pin a tag that has no pin to a digest of your choice.

    It lets in what is withheld (`pins list --waiting`), what was removed, and what nobody pulled yet.
    """
    chosen = digest(wanted)
    act, pin = _do(ref, env, reason, config, lambda acting, act: acting.approve(act, chosen))
    _say(act, f"is pinned to {pin.descriptor.digest}")


def remove(
    ref: ReferenceArgument,
    pinned: Annotated[str, typer.Option("--digest", metavar="DIGEST", help="The digest that is pinned now.")],
    reason: ReasonOption,
    env: EnvironmentOption = DEFAULT,
    config: ConfigOption = None,
) -> None:
    """Take a pin away.

    The tag is refused from then on, until `pins approve` names a digest. The history and the bytes stay.
    """
    chosen = digest(pinned)
    act, _ = _do(ref, env, reason, config, lambda acting, act: acting.remove(act, chosen))
    _say(act, f"is not pinned to {chosen} any more")


def _do(
    ref: str, env: str, reason: str, config: ConfigOption, what: Callable[[Acting, Act], Awaitable[T]]
) -> tuple[Act, T]:
    """Carry out an act as the person who runs this process; what it was and what came of it."""
    why, actor = given_reason(reason), kernel_actor()

    async def command(rooms: Rooms) -> tuple[Act, T]:
        environment = environment_of(rooms.config, env)
        act = Act(environment, tag_reference(ref, rooms.config), why, actor)
        done = await what(Acting(rooms.mirror, rooms.upstreams, rooms.config.rules), act)
        await rooms.mirror.holding.settle()  # what a pull needs first is fetched now or by the first client
        return act, done

    return run(config, command)


def _say(act: Act, what: str) -> None:
    where = "" if act.environment.name == DEFAULT else f" in {act.environment.name}"
    out.print(f"{act.reference} {what}{where}, by {act.actor}", markup=False)
