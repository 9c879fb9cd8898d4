"""`iarproxy recall`: deny a digest and everything that contains it, at once; and find out who has it.

Rule: the act comes first and is said first. Whatever is looked for after it, and however that ends, it holds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer
from rich.progress import Progress, SpinnerColumn, TextColumn

from iarproxy.cli.actor import kernel_actor
from iarproxy.cli.options import ConfigOption, JsonOption, run
from iarproxy.cli.options import digest as parse_digest
from iarproxy.cli.output import err, out, print_error, print_json, print_table, when
from iarproxy.cli.wiring import Rooms
from iarproxy.ledger import KEPT, Recall, Use
from iarproxy.ledger.recalls import MAX_REASON, one_line
from iarproxy.mirror.recall.reach import Reach, Reached, below
from iarproxy.mirror.spelling import recall_as_json
from iarproxy.mirror.usage import EVERY
from iarproxy.oci import Digest

_WRITTEN = timedelta(seconds=EVERY + 1)  # after which workers have written down what they served before

Say = Callable[[str], None]


def recall(
    digest: Annotated[
        str | None, typer.Argument(metavar="[DIGEST]", help="Of a manifest, an index, a layer or a config.")
    ] = None,
    *,
    reason: Annotated[str, typer.Option("--reason", help="Why; it goes into the journal, and clients are told.")] = "",
    children: Annotated[
        bool, typer.Option("--children", help="Of an index, its platform manifests too; with --undo likewise.")
    ] = False,
    undo: Annotated[bool, typer.Option("--undo", help="Let it be served again.")] = False,
    listed: Annotated[bool, typer.Option("--list", help="List what is recalled.")] = False,
    pullers: Annotated[bool, typer.Option("--pullers", help="Tell who pulled it; change nothing.")] = False,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Deny a digest, everything that contains it, and every tag that leads to it; tell who pulled it.

    It holds at once, in all workers and environments, whether or not the content was ever seen here.
    """
    if listed + undo + pullers > 1:
        raise typer.BadParameter("--list, --undo and --pullers are three commands; give one of them")
    if listed:
        _print_list(run(config, _known), json=json)
        return
    if digest is None:
        raise typer.BadParameter("give the digest to recall; `iarproxy pins show REF` tells a tag's")
    wanted = parse_digest(digest)
    if pullers:
        run(config, lambda rooms: _tell_pullers(rooms, wanted, json=json))
        return
    if not reason.strip() or len(reason) > MAX_REASON:
        raise typer.BadParameter(f"--reason says why, in at most {MAX_REASON} characters; the journal keeps it")
    actor, act = kernel_actor(), _undo if undo else _recall
    run(config, lambda rooms: act(rooms, wanted, reason, actor, children=children, json=json))


async def _known(rooms: Rooms) -> list[Recall]:
    return sorted(rooms.ledger.recalls.known.values(), key=lambda each: (each.at, each.digest))


def _print_list(found: Sequence[Recall], *, json: bool) -> None:
    if json:
        print_json({"recalls": [recall_as_json(each) for each in found]})
        return
    rows = [[str(each.digest), when(each.at), one_line(each.actor), _why(each)] for each in found]
    print_table(["DIGEST", "SINCE", "BY", "REASON"], rows, empty="Nothing is recalled.")


def _why(recall: Recall) -> str:
    above = "" if recall.within is None else f" (with {recall.within.short})"
    return f"{one_line(recall.reason)}{above}{recall.damage and f' ({recall.damage})'}"


async def _recall(rooms: Rooms, digest: Digest, reason: str, actor: str, *, children: bool, json: bool) -> None:
    say: Say = print_error if json else _print
    under = await asyncio.to_thread(below, rooms.store, digest)
    wanted = [digest, *(under or () if children else ())]
    done = await rooms.ledger.recalls.recall(wanted, reason=reason, actor=actor, within=digest)
    for each in done.stood:
        say(f"{each}; that stands, nothing was changed")
    for each in done.made:
        say(str(each))
    if done.made:
        say("It holds from now on: every worker refuses it, and what contains it, within a second.")
    served = [] if children else [each for each in under or () if await rooms.mirror.recalling.why(each) is None]
    for line in _about_children(digest, under, served, asked=children):
        say(line)
    facts: dict[str, Any] = {
        "made": [recall_as_json(each) for each in done.made],
        "stood": [recall_as_json(each) for each in done.stood],
        "children_served": [str(each) for each in served],
    }
    await _tell_reach(rooms, wanted, max(each.at for each in (*done.made, *done.stood)), facts, json=json)


def _about_children(digest: Digest, under: list[Digest] | None, served: list[Digest], *, asked: bool) -> Iterator[str]:
    if under is None and asked:
        yield f"{digest} is not held here as an index, so what is below it is not known: recall that by its digests."
    elif asked and not under:
        yield f"{digest} is no index: there is nothing below it to recall."
    elif served:
        yield (
            f"It is an index: its {len(served)} manifests are still served to whoever asks for them by digest; "
            f"`iarproxy recall {digest} --children --reason TEXT` recalls them too."
        )


async def _undo(rooms: Rooms, digest: Digest, reason: str, actor: str, *, children: bool, json: bool) -> None:
    with_it = [each.digest for each in await _known(rooms) if each.within == digest]
    alone = children and with_it and digest not in rooms.ledger.recalls.known  # it was let go before, without them
    wanted = [*(() if alone else (digest,)), *(with_it if children else ())]
    undone = await rooms.ledger.recalls.undo(wanted, reason=reason, actor=actor)
    left = [] if children else with_it
    if json:
        print_json(
            {"undone": [recall_as_json(each) for each in undone], "children_recalled": [str(each) for each in left]}
        )
        return
    for each in undone:
        _print(str(each))
    told = "unless another recall denies it"
    _print(f"Undone by {actor}: every worker serves it again within a second, {told}.")
    if left:
        _print(f"{len(left)} manifests that were recalled with it stay so; --children lets them go too.")


async def _tell_pullers(rooms: Rooms, digest: Digest, *, json: bool) -> None:
    found = rooms.ledger.recalls.known.get(digest)
    facts = {"recall": None if found is None else recall_as_json(found)}
    if not json:
        _print(str(found) if found is not None else f"{digest} is not recalled.")
    moment = datetime.fromtimestamp(0, UTC) if found is None else found.at
    await _tell_reach(rooms, [digest], moment, facts, json=json)


async def _tell_reach(
    rooms: Rooms, wanted: Sequence[Digest], since: datetime, facts: dict[str, Any], *, json: bool
) -> None:
    with _progress(shown=not json) as looked:
        rest = (since + _WRITTEN - datetime.now(UTC)).total_seconds()
        if rooms.store.is_served():
            await asyncio.sleep(max(0.0, min(rest, _WRITTEN.total_seconds())))
        found = await Reach(rooms.store, rooms.ledger).of(wanted, looked)
    unknown = [*found.unknown, *_never_known(rooms)]
    if json:
        print_json({**facts, **_reach_as_json(found), "unknown": unknown})
        return
    _print_reach(found, set(wanted))
    _print("What cannot be known here:")
    for each in unknown:
        _print(f"  - {each}")


def _never_known(rooms: Rooms) -> Iterator[str]:
    if not rooms.config.server.record_clients:
        yield "clients' addresses: [server] record_clients is off"
    yield f"pulls of more than {KEPT.days} days ago, and what nobody was ever given through this mirror"
    yield "bytes that are on nodes already: a node that pulled it keeps it and can run it"
    yield "a client with another host configured, such as the registry itself, which asks there for any digest"


def _print_reach(found: Reached, wanted: set[Digest]) -> None:
    leads = [[each.environment, str(each.reference), str(each.digest), each.how] for each in found.leads]
    _print(f"\nTags that lead to it now: {len(leads)}")
    _table(["ENVIRONMENT", "REFERENCE", "DIGEST", "HOW"], leads)
    containers = [each for each in found.containers if each.digest not in wanted]
    _print(f"Manifests that contain it: {len(containers)} (of {found.looked} looked through)")
    _table(["DIGEST", "KIND"], [[str(each.digest), "index" if each.is_index else "manifest"] for each in containers])
    _print(f"Given to: {len({use.client for use in found.pulls if use.client})} clients")
    _table(["CLIENT", "NAME", "FIRST", "LAST", "COUNT", "DIGEST"], [_pull_row(use) for use in found.pulls])


def _table(columns: list[str], rows: list[list[str]]) -> None:
    if rows:
        print_table(columns, rows, empty="")
    _print("")


def _pull_row(use: Use) -> list[str]:
    named = [use.client or "(not recorded)", _name(use), when(use.first), when(use.last), str(use.count)]
    return [*named, str(use.digest)]


def _name(use: Use) -> str:
    if use.wanted is None:
        return f"{use.repository} (a blob)"
    return f"{use.repository}{'@' if isinstance(use.wanted, Digest) else ':'}{use.wanted}"


def _reach_as_json(found: Reached) -> dict[str, Any]:
    return {
        "tags": [
            {"environment": it.environment, "reference": str(it.reference), "digest": str(it.digest), "how": it.how}
            for it in found.leads
        ],
        "contained_in": [{"digest": str(each.digest), "index": each.is_index} for each in found.containers],
        "pulls": [
            {
                "client": use.client,
                "repository": str(use.repository),
                "wanted": None if use.wanted is None else str(use.wanted),
                "digest": str(use.digest),
                "first": use.first,
                "last": use.last,
                "count": use.count,
            }
            for use in found.pulls
        ],
        "looked_through": found.looked,
        "not_held": found.unread,
    }


@contextmanager
def _progress(*, shown: bool) -> Iterator[Callable[[int], None]]:
    """Counts manifests, for a person on a terminal."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TextColumn("{task.completed:.0f}"))
    with Progress(*columns, console=err, disable=not shown or not err.is_terminal, transient=True) as bars:
        task = bars.add_task("manifests looked through for it")
        yield lambda more: bars.advance(task, more)


def _print(line: str) -> None:
    out.print(line, markup=False)
