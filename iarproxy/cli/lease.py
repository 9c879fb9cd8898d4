"""`iarproxy lease`: what somebody runs, so that no retention takes its names."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer
from pydantic import TypeAdapter, ValidationError

from iarproxy.cli import lock_files
from iarproxy.cli.actor import kernel_actor
from iarproxy.cli.lock_options import tell_skipped
from iarproxy.cli.options import ConfigOption, JsonOption, run
from iarproxy.cli.output import out, print_json, print_table, when
from iarproxy.cli.wiring import Rooms
from iarproxy.config.values import Duration
from iarproxy.ledger.leases import Lease
from iarproxy.oci.lock_reading import read_lock

app = typer.Typer(help="What somebody runs, and whose names no retention takes.", no_args_is_help=True)

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Who runs it, for example prod-cluster.")]
_DURATION: TypeAdapter[timedelta] = TypeAdapter(Duration)


@app.command("set")
def set_lease(
    name: NameArgument,
    lock: Annotated[str, typer.Option("--lock", metavar="FILE", help="A lock file; - is standard input.")],
    lasting: Annotated[str, typer.Option("--for", metavar="TIME", help="How long, for example 30d.")] = "30d",
    reason: Annotated[str, typer.Option("--reason", help="Why; it goes into the journal with your name.")] = "in use",
    config: ConfigOption = None,
) -> None:
    """Protect what a lock file names for a time. Set it again before it ends; the new one replaces the old."""
    try:
        period = _DURATION.validate_python(lasting)
    except ValidationError as error:
        raise typer.BadParameter(f'--for is not a duration: {lasting[:40]!r}; write for example "30d"') from error
    found = read_lock(lock_files.read(lock), lock_files.shown(lock))
    tell_skipped(found.skipped)
    digests, actor = [each.digest for each in found.entries], kernel_actor()

    async def command(rooms: Rooms) -> Lease:
        return await rooms.ledger.leases.set(name, digests, lasting=period, reason=reason, actor=actor)

    made = run(config, command)
    out.print(f"the lease {name} protects {len(made.digests)} digests until {when(made.until)}", markup=False)


@app.command("list")
def list_leases(json: JsonOption = False, config: ConfigOption = None) -> None:
    """List the leases."""

    async def command(rooms: Rooms) -> list[Lease]:
        return await rooms.ledger.leases.every()

    found = run(config, command)
    now = datetime.now(UTC)
    if json:
        print_json({"leases": [{**_shown(each), "ended": each.until <= now} for each in found]})
        return
    print_table(
        ["LEASE", "DIGESTS", "UNTIL", "BY", "REASON"],
        [
            [
                each.name,
                str(len(each.digests)),
                when(each.until) + (" (over)" if each.until <= now else ""),
                each.actor,
                each.reason,
            ]
            for each in found
        ],
        empty="There are no leases.",
    )


def _shown(lease: Lease) -> dict[str, object]:
    return {
        "name": lease.name,
        "until": lease.until,
        "at": lease.at,
        "actor": lease.actor,
        "reason": lease.reason,
        "digests": sorted(map(str, lease.digests)),
    }


@app.command()
def end(
    name: NameArgument,
    reason: Annotated[
        str, typer.Option("--reason", help="Why; it goes into the journal with your name.")
    ] = "not in use",
    config: ConfigOption = None,
) -> None:
    """Protect it no more."""
    actor = kernel_actor()

    async def command(rooms: Rooms) -> None:
        await rooms.ledger.leases.end(name, reason=reason, actor=actor)

    run(config, command)
    out.print(f"the lease {name} has ended", markup=False)
