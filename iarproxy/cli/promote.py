"""`iarproxy promote`: let names of one environment into another one, with evidence and past its gates."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated

import typer

from iarproxy.cli.actor import kernel_actor
from iarproxy.cli.holdings import become_owner
from iarproxy.cli.options import ConfigOption, JsonOption, digest, environment_of, load, run, tag_reference
from iarproxy.cli.output import print_json
from iarproxy.cli.promotion_report import end, plan_as_json, print_plan
from iarproxy.cli.wiring import Rooms
from iarproxy.config import Config
from iarproxy.config.gates import GateSettings
from iarproxy.errors import Malformed, Refused
from iarproxy.ledger import Pin
from iarproxy.ledger.own_keys import promotion_key
from iarproxy.ledger.proof.keyring import origin_of
from iarproxy.mirror.promotion.gate_command import CommandGate
from iarproxy.mirror.promotion.gating import AgeGate, Gate, PolicyGate
from iarproxy.mirror.promotion.plan import Order, Plan, Wanted
from iarproxy.mirror.promotion.promoting import MOST
from iarproxy.oci import Digest, TagReference
from iarproxy.trust import Pattern
from iarproxy.trust.environments import Environment, PinsFrom
from iarproxy.upstream.posting import Destination, Poster

RefsArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="REF...",
        help="Names to promote: REPOSITORY:TAG; REPOSITORY:TAG@DIGEST, which has to be the digest that the source has;"
        " or a pattern over the source's names, for example 'ghcr.io/org/**:v1.*'.",
        show_default=False,
    ),
]
ToOption = Annotated[
    str | None, typer.Option("--to", metavar="ENV", help="The environment to let them into.", show_default=False)
]
FromOption = Annotated[
    str | None,
    typer.Option("--from", metavar="ENV", help="Where they come from; else promote_from.", show_default=False),
]
ReasonOption = Annotated[
    str, typer.Option("--reason", help="Why; journal and record keep it with your name.", show_default=False)
]
ReplaceOption = Annotated[
    list[str] | None,
    typer.Option(
        "--replace",
        metavar="[REF=]DIGEST",
        help="Move a name that is there already, from exactly this digest. With several names write REF=DIGEST, once"
        " for each.",
        show_default=False,
    ),
]


@dataclass(frozen=True, slots=True)
class _Asked:
    """What the command line says."""

    names: tuple[str, ...]
    replacements: tuple[str, ...]
    source: Environment
    target: Environment
    reason: str
    partial: bool


def promote(
    refs: RefsArgument = None,
    *,
    to: ToOption = None,
    source: FromOption = None,
    reason: ReasonOption = "",
    replace: ReplaceOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Ask the gates, and change nothing.")] = False,
    partial: Annotated[bool, typer.Option("--partial", help="Also what cannot be held completely.")] = False,
    public_key: Annotated[bool, typer.Option("--public-key", help="Print the key that verifies records.")] = False,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Let names into an environment, by digest.

    A pointer moves; nothing is built or copied. All names are promoted together, or none is. A name that stands for
    something else in ENV is not moved without --replace. The signed record of each is attached to its image.
    """
    if public_key:
        _print_key(load(config))
        return
    if not refs:
        raise typer.BadParameter("name at least one REF")
    source_and_target = _environments(load(config), source, to)
    if not reason.strip() and not dry_run:
        raise typer.BadParameter("--reason is missing or empty; say why, the journal keeps it")
    asked = _Asked(tuple(refs), tuple(replace or ()), *source_and_target, reason.strip(), partial)
    actor = kernel_actor()

    async def command(rooms: Rooms) -> tuple[Plan, list[Pin]]:
        order = await _order(rooms, asked, actor)
        async with _gates_of(rooms.config, asked.target.name) as gates:
            plan = await rooms.mirror.promotion.plan(order, gates, fetch=not dry_run)
        if dry_run or not plan.is_possible:
            return plan, []
        key = promotion_key(rooms.config.ledger_path.parent)
        return plan, await rooms.mirror.promotion.carry_out(plan, key, origin_of(rooms.store.identity))

    plan, promoted = run(config, command)
    if json:
        print_json(plan_as_json(plan, promoted))
    else:
        print_plan(plan, promoted)
    end(plan)


def _print_key(config: Config) -> None:
    become_owner(config.store.path)
    sys.stdout.buffer.write(promotion_key(config.ledger_path.parent).public.pem)
    sys.stdout.buffer.flush()


def _environments(config: Config, source: str | None, to: str | None) -> tuple[Environment, Environment]:
    """Where from, and where to."""
    if to is None:
        raise typer.BadParameter("--to is missing; name the environment")
    target = environment_of(config, to)
    origin = environment_of(config, target.promote_from if source is None else source)
    if origin.name == target.name:
        raise typer.BadParameter(f"--from and --to both name {target.name}; name two environments")
    if target.pins_from is PinsFrom.LOCK:
        raise Refused(f"{target.name} takes pins from lock files only; use `iarproxy lock import`, or change pins_from")
    return origin, target


async def _order(rooms: Rooms, asked: _Asked, actor: str) -> Order:
    wanted: dict[TagReference, Digest | None] = {}
    for text in asked.names:
        for name, of in await _named(rooms, asked.source.name, text):
            if wanted.setdefault(name, of) != of:
                raise typer.BadParameter(f"{name} is named twice, with two digests")
    if len(wanted) > MOST:
        raise Malformed(f"{len(wanted)} names; promote at most {MOST} at once")
    moved = _replacements(rooms.config, asked.replacements, list(wanted))
    return Order(
        asked.source.name,
        asked.target.name,
        [Wanted(name, of, moved.get(name)) for name, of in wanted.items()],
        asked.reason,
        actor,
        asked.partial,
    )


async def _named(rooms: Rooms, source: str, text: str) -> list[tuple[TagReference, Digest | None]]:
    """The names that one argument means."""
    if "*" in text:
        found = await rooms.mirror.promotion.names(source, Pattern(text))
        if not found:
            raise Refused(f"{text} fits no name of {source}; `iarproxy pins list` shows what is pinned")
        return [(name, None) for name in found]
    name, at, of = text.partition("@")
    return [(tag_reference(name, rooms.config), digest(of) if at else None)]


def _replacements(config: Config, texts: tuple[str, ...], names: list[TagReference]) -> dict[TagReference, Digest]:
    found: dict[TagReference, Digest] = {}
    for text in texts:
        name, equals, of = text.rpartition("=")
        if not equals and len(names) != 1:
            raise typer.BadParameter(f"--replace {of}: which of the {len(names)} names? Write REF={of}")
        meant = tag_reference(name, config) if equals else names[0]
        if meant not in names:
            raise typer.BadParameter(f"--replace names {meant}, which is not among the names to promote")
        if found.setdefault(meant, digest(of)) != digest(of):
            raise typer.BadParameter(f"--replace names two digests for {meant}; it has one")
    return found


@asynccontextmanager
async def _gates_of(config: Config, environment: str) -> AsyncIterator[list[Gate]]:
    """The gates that the configuration has for an environment."""
    section = config.environments.get(environment)
    settings = GateSettings() if section is None else section.gates
    patience = settings.timeout.total_seconds()
    gates: list[Gate] = []
    if settings.min_age is not None:
        gates.append(AgeGate(settings.min_age, lambda: datetime.now(UTC)))
    if settings.command:
        gates.append(CommandGate(settings.command, patience))
    if settings.policy_url is None:
        yield gates
        return
    where = f"environments.{environment}.gates.policy_url"
    destination = Destination(
        where, settings.policy_url, ca_file=settings.policy_ca_file, allow_private=settings.policy_allow_private
    )
    poster = Poster(destination, timeout=patience)
    try:
        yield [*gates, PolicyGate(poster, settings.policy_token_file)]
    finally:
        await poster.close()
