"""`iarproxy ledger`: the way out when the ledger is lost, old or damaged.

Rule: `restore` and `rebuild` replace the database, so they hold the store's serving lock: no `serve` runs meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import closing
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from iarproxy import ledger as ledgers
from iarproxy.archive.applying.naming import Naming
from iarproxy.archive.applying.reattaching import reattach_all
from iarproxy.cli.actor import kernel_actor
from iarproxy.cli.bundle_apply import naming_of
from iarproxy.cli.holdings import become_owner
from iarproxy.cli.options import ConfigOption, JsonOption, environment_of, load, run
from iarproxy.cli.output import Exit, out, print_error, print_json, stop
from iarproxy.cli.wiring import Rooms
from iarproxy.config import Config
from iarproxy.mirror.events.checkpointing import Checkpointing
from iarproxy.store import Store

ReasonOption = Annotated[str, typer.Option("--reason", help="Why; it goes into the journal with your name.")]

app = typer.Typer(help="Back up, restore, rebuild and verify the ledger.", no_args_is_help=True)


@app.command()
def backup(
    to: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where the copy is written; made if missing.")],
    config: ConfigOption = None,
) -> None:
    """Copy the ledger while it is in use."""
    target = to.absolute()
    settings = load(config)
    become_owner(settings.store.path)
    asyncio.run(ledgers.backup(settings.ledger_path, target))
    out.print(f"backed up to {target}", markup=False)


@app.command()
def restore(
    source: Annotated[Path, typer.Argument(metavar="FOLDER", help="What `ledger backup` wrote.")],
    reason: ReasonOption = "restored after a loss",
    config: ConfigOption = None,
) -> None:
    """Put a backup in place and bring it forward by the journal. Stop `iarproxy serve` first."""
    origin, actor = source.absolute(), kernel_actor()

    async def act(path: Path, identity: str) -> ledgers.RecoveryReport:
        return await ledgers.restore(path, origin, store_identity=identity, actor=actor, reason=reason)

    _tell("restored", _offline(config, act))


@app.command()
def rebuild(reason: ReasonOption = "rebuilt after a loss", config: ConfigOption = None) -> None:
    """Make a new database from the journal beside it. The old one is kept aside. Stop `iarproxy serve` first."""
    actor = kernel_actor()

    async def act(path: Path, identity: str) -> ledgers.RecoveryReport:
        return await ledgers.rebuild(path, store_identity=identity, actor=actor, reason=reason)

    _tell("rebuilt", _offline(config, act))


def _offline(
    chosen: Path | None, act: Callable[[Path, str], Awaitable[ledgers.RecoveryReport]]
) -> ledgers.RecoveryReport:
    settings = load(chosen)
    become_owner(settings.store.path)

    async def inside() -> ledgers.RecoveryReport:
        store = Store.open(settings.store.path, max_size=settings.store.max_size)
        try:
            with closing(store.lock_for_serving()):
                report = await act(settings.ledger_path, store.identity)
                await _take_back(settings, store)
                return report
        finally:
            await store.close()

    return asyncio.run(inside())


async def _take_back(settings: Config, store: Store) -> None:
    """Bring back what is not in the journal: checkpoints, from where they were copied; what bundles attached."""
    path = settings.ledger_path
    ledger = await ledgers.Ledger.open(path, store_identity=store.identity, store_is_empty=False, create=False)
    try:
        bundles = await reattach_all(store, ledger, partial(_naming, settings, ledger))
        taken = await Checkpointing(ledger, settings.journal_key, settings.journal.checkpoint_file).take_back()
        last = (await ledger.checkpoints.standing()).last
    finally:
        await ledger.close()
    if bundles:
        out.print(f"what {bundles} bundles attached to content is attached again", markup=False)
    if taken:
        out.print(f"{taken} checkpoints taken back from {settings.journal.checkpoint_file}", markup=False)
    elif last is None:
        out.print("checkpoints begin anew; of those before it only copies tell", markup=False)


def _naming(settings: Config, ledger: ledgers.Ledger, environment: str) -> Naming | None:
    """How the names of bundles are taken in an environment; None: it is not configured any more."""
    if environment != ledgers.DEFAULT and environment not in settings.environments:
        return None
    return naming_of(settings, ledger, environment_of(settings, environment))


def _tell(done: str, report: ledgers.RecoveryReport) -> None:
    out.print(f"{done} {report.path}: serial {report.serial}, {report.replayed} events replayed", markup=False)
    if report.kept_aside:
        out.print(f"what was there is kept as {report.kept_aside}", markup=False)
    if report.blind:
        print_error(
            "the journal file was missing or shorter than the backup: tags pinned or repinned after it are forgotten "
            "and would be pinned anew; before `serve` starts, compare `pins list` with index.json in the store"
        )


@app.command()
def verify(json: JsonOption = False, config: ConfigOption = None) -> None:
    """Check the journal's chain, every row's checksum, and that pins and journal agree."""

    async def command(rooms: Rooms) -> ledgers.VerifyReport:
        return await rooms.ledger.verify()

    report = run(config, command)
    if json:
        print_json(asdict(report))
    else:
        out.print(f"{report.serial} events, {report.pins} revisions of pins, head {report.hash}", markup=False)
        for problem in report.problems:
            print_error(problem)
        out.print("all of it agrees" if report.ok else f"{len(report.problems)} problems", markup=False)
    if not report.ok:
        stop(Exit.REFUSED)
