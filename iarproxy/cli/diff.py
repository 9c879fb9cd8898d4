"""`iarproxy diff`, also `iarproxy lock diff`: what differs between lock files, environments, and upstreams now.

Rule: what upstream says is a hint, by HEAD, marked as such, and asked only for the tags of the other side. Where it
      says nothing, nothing is concluded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from iarproxy.cli import lock_files
from iarproxy.cli.lock_options import FormatOption, locking, tell_skipped
from iarproxy.cli.options import ConfigOption, JsonOption, environment_of, run
from iarproxy.cli.output import Exit, print_error, print_json, print_table, stop
from iarproxy.cli.wiring import Rooms
from iarproxy.mirror.acts.locking import Offer
from iarproxy.oci.lock import Lock, Locked, LockFormat, Skipped, locked
from iarproxy.oci.lock_difference import Difference, differences
from iarproxy.oci.lock_reading import read_lock

UPSTREAM = "upstream"
_ENVIRONMENT = "env:"
_SIDE = "A lock file, env:NAME for the pins of an environment, or upstream for what is offered now."


@dataclass(frozen=True, slots=True)
class _Compared:
    found: list[Difference]
    unknown: list[Offer]
    skipped: list[Skipped]


def diff(
    before: Annotated[str, typer.Argument(metavar="A", help=_SIDE)],
    after: Annotated[str, typer.Argument(metavar="B", help="As A.")],
    *,
    form: FormatOption = None,
    exit_code: Annotated[bool, typer.Option("--exit-code", help="Exit with 3 when anything differs.")] = False,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Compare pins: from A to B, what was added, removed, changed.

    A and B are lock files of any kind, environments (env:prod, env:default), or upstream, which is asked now for the
    tags of the other side; what it says is a hint.
    """
    sides = (before, after)
    if sides == (UPSTREAM, UPSTREAM):
        raise typer.BadParameter("upstream against upstream says nothing; name a lock file or env:NAME")
    files = {
        side: _file(side, form)
        for side in dict.fromkeys(sides)
        if side != UPSTREAM and not side.startswith(_ENVIRONMENT)
    }

    async def command(rooms: Rooms) -> _Compared:
        return await _compare(rooms, sides, files)

    compared = _compare_files(sides, files) if len(files) == len({*sides}) else run(config, command)
    hinted = UPSTREAM in sides
    if json:
        print_json(_as_json(sides, compared, hinted=hinted))
    else:
        _print(compared, hinted=hinted)
    if compared.unknown:
        stop(Exit.UNAVAILABLE)
    if compared.found and exit_code:
        stop(Exit.FOUND)


def _file(side: str, form: LockFormat | None) -> Lock:
    return read_lock(lock_files.read(side), lock_files.shown(side), form)


def _compare_files(sides: tuple[str, str], files: dict[str, Lock]) -> _Compared:
    before, after = (files[side] for side in sides)
    return _Compared(differences(before, after), [], [*before.skipped, *after.skipped])


async def _compare(rooms: Rooms, sides: tuple[str, str], files: dict[str, Lock]) -> _Compared:
    use = locking(rooms)
    known = dict(files)
    for side in sides:
        if side.startswith(_ENVIRONMENT):
            known[side] = await use.pins(environment_of(rooms.config, side.removeprefix(_ENVIRONMENT)).name)
    unknown: list[Offer] = []
    if UPSTREAM in sides:
        rooms.insist_on_upstreams()
        ((other, lock),) = known.items()
        offers = await use.offers([each.reference for each in lock.entries])
        unknown = [each for each in offers if each.error is not None]
        silent = {each.reference for each in unknown}
        known[other] = Lock(tuple(each for each in lock.entries if each.reference not in silent), lock.skipped)
        known[UPSTREAM] = locked(Locked(each.reference, each.digest) for each in offers if each.digest is not None)
    before, after = (known[side] for side in sides)
    return _Compared(differences(before, after), unknown, [*before.skipped, *after.skipped])


def _print(compared: _Compared, *, hinted: bool) -> None:
    tell_skipped(compared.skipped)
    for offer in compared.unknown:
        print_error(f"{offer.reference}: upstream says nothing: {offer.error}")
    mark: Callable[[Difference], str] = lambda each: f"{each.kind} (hint)" if hinted else each.kind  # noqa: E731
    print_table(
        ["CHANGE", "REFERENCE", "A", "B"],
        [[mark(each), str(each.reference), str(each.before or ""), str(each.after or "")] for each in compared.found],
        empty="Nothing is known to differ." if compared.unknown else "Nothing differs.",
    )


def _as_json(sides: tuple[str, str], compared: _Compared, *, hinted: bool) -> dict[str, Any]:
    return {
        "a": sides[0],
        "b": sides[1],
        "hint": hinted,
        "differences": [
            {
                "reference": str(each.reference),
                "change": each.kind,
                "a": str(each.before) if each.before else None,
                "b": str(each.after) if each.after else None,
            }
            for each in compared.found
        ],
        "unknown": [{"reference": str(each.reference), "error": str(each.error)} for each in compared.unknown],
        "skipped": [str(each) for each in compared.skipped],
    }
