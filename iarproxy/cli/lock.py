"""`iarproxy lock`: pins as text for git, written and taken over, and the lock of what a cluster runs.

Rule: what is wrong with an import is told completely, entry by entry, before anything is changed; then all of it is
      changed, or nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from iarproxy.cli import cluster, diff, lock_files
from iarproxy.cli.actor import kernel_actor
from iarproxy.cli.lock_options import (
    FormatOption,
    OutputFormatOption,
    PrefixOption,
    insist_writable,
    locking,
    pair,
    tell_skipped,
)
from iarproxy.cli.options import ConfigOption, EnvironmentOption, JsonOption, environment_of, run
from iarproxy.cli.output import Exit, err, out, print_error, print_json, print_table, stop
from iarproxy.cli.wiring import Rooms
from iarproxy.errors import Refused
from iarproxy.ledger import DEFAULT
from iarproxy.mirror.acts.locking import Failed, Plan
from iarproxy.oci.lock import Lock, LockFormat
from iarproxy.oci.lock_reading import read_lock, write_lock
from iarproxy.trust import Pattern
from iarproxy.trust.environments import PinsFrom

_SHOWN = 100  # new pins that are listed for people; --json has all

app = typer.Typer(help="Pins as text for git: export, import, compare.", no_args_is_help=True)
app.command("diff")(diff.diff)
app.command("from-cluster")(cluster.from_cluster)

# --- export ----------------------------------------------------------------------------------------------------------


@app.command("export")
def export(
    file: Annotated[str, typer.Argument(metavar="FILE", help="Where to; - is standard output.")],
    *,
    env: EnvironmentOption = DEFAULT,
    match: Annotated[str, typer.Option("--match", metavar="PATTERN", help="Only references that fit.")] = "**",
    form: OutputFormatOption = LockFormat.IAR,
    config: ConfigOption = None,
) -> None:
    """Write the pins of an environment to a file for git.

    The same pins give the same bytes. An existing file is replaced only if it is a lock of the same kind.
    """
    pattern = Pattern(match)
    insist_writable(form)

    async def command(rooms: Rooms) -> Lock:
        return await locking(rooms).pins(environment_of(rooms.config, env).name, pattern)

    found = run(config, command)
    lock_files.write(file, write_lock(found, form, env), form)
    if file != lock_files.STANDARD:
        out.print(f"{len(found.entries)} pins of {env} written to {file}", markup=False)


# --- import ----------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Told:
    """How an import went, for whoever prints it."""

    plan: Plan
    seeded: int | None = None
    failed: list[Failed] = field(default_factory=list)
    done: bool = False
    removes: bool = False

    def as_json(self) -> dict[str, Any]:
        plan = self.plan
        return {
            "environment": plan.environment.name,
            "done": self.done,
            "unchanged": len(plan.unchanged),
            "new": [pair(each.reference, each.digest) for each in plan.new],
            "differs": [
                {"reference": str(each.entry.reference), "pinned": str(each.pinned), "wanted": str(each.entry.digest)}
                for each in plan.differs
            ],
            "gone": [pair(each.reference, each.descriptor.digest) for each in plan.gone],
            "removed": self.done and self.removes,
            "failed": [
                pair(each.entry.reference, each.entry.digest) | {"error": str(each.error)} for each in self.failed
            ],
            "skipped": [str(each) for each in plan.skipped],
            "seeded": self.seeded,
        }


@app.command("import")
def import_lock(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A lock of any kind; - is standard input.")],
    *,
    env: EnvironmentOption = DEFAULT,
    seeds: Annotated[
        bool, typer.Option("--seeds", help="Only expect these digests at the first fetch; nothing is fetched.")
    ] = False,
    repin: Annotated[bool, typer.Option("--repin", help="Change pins that differ too; give a --reason.")] = False,
    prune: Annotated[
        bool, typer.Option("--prune", help="Remove pins that are not in the file (pins_from = lock only).")
    ] = False,
    reason: Annotated[
        str, typer.Option("--reason", metavar="TEXT", help="Why; it goes into the journal with your name.")
    ] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what it would change.")] = False,
    form: FormatOption = None,
    prefix: PrefixOption = None,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Pin what a lock file says: all of it, or nothing.

    What is new is fetched by digest and verified first. Pins that differ are listed, and end it with exit 1, unless
    --repin. An ImagesLock entry, or another one, without a tag is listed and left out: only tags are pinned.
    """
    if (repin or prune) and not reason.strip():
        raise typer.BadParameter("--repin and --prune change what clients get; say why with --reason")
    if seeds and (repin or prune):
        raise typer.BadParameter("--seeds records what is expected, and changes no pin; leave --repin and --prune out")
    lock = read_lock(lock_files.read(file), lock_files.shown(file), form, prefix)
    why, actor = reason.strip() or f"imported from {lock_files.shown(file)}"[:1000], kernel_actor()
    act = _Act(lock_files.shown(file), why, actor, repin=repin, prune=prune)

    async def command(rooms: Rooms) -> _Told:
        environment = environment_of(rooms.config, env)
        if prune and environment.pins_from is not PinsFrom.LOCK:
            raise typer.BadParameter(f'--prune is for environments with pins_from = "lock"; {env} is none')
        told = _Told(await locking(rooms).plan(lock, environment), removes=prune)
        if prune:
            _insist_on_names(told.plan, lock_files.shown(file))
        if dry_run or (told.plan.differs and not repin):
            return told
        return await (_seed(rooms, told, act) if seeds else act.take_over(rooms, told, quiet=json))

    told = run(config, command)
    if json:
        print_json(told.as_json())
    else:
        _print(told, dry_run=dry_run)
    _stop(told, repin=repin)


def _insist_on_names(plan: Plan, file: str) -> None:
    """An empty file is what is left of a command that failed, and never meant that nothing shall be pinned."""
    if plan.gone and not (plan.unchanged or plan.new or plan.differs):
        raise Refused(
            f"{file} names no tag, and --prune would remove all {len(plan.gone)} pins of {plan.environment.name};"
            " name the right file, or remove the environment from the configuration"
        )


@dataclass(frozen=True, slots=True)
class _Act:
    source: str
    reason: str
    actor: str
    repin: bool
    prune: bool

    async def take_over(self, rooms: Rooms, told: _Told, *, quiet: bool) -> _Told:
        use, plan = locking(rooms), told.plan
        wanted = [*plan.new, *(each.entry for each in plan.differs)]
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, console=err, disable=quiet or not err.is_terminal) as bars:
            task = bars.add_task("manifests", total=len(wanted))
            held, told.failed = await use.fetch(wanted, lambda: bars.advance(task))
        if told.failed:
            return told
        made = await use.act(plan, held, prune=self.prune, source=self.source, reason=self.reason, actor=self.actor)
        told.done = True
        await use.complete(made)
        return told


async def _seed(rooms: Rooms, told: _Told, act: _Act) -> _Told:
    environment = told.plan.environment
    if not environment.pins_first_fetches:
        raise Refused(f"{environment.name} pins nothing at a first fetch, so seeds mean nothing there; import the file")
    wanted = [(environment.name, each.reference, each.digest) for each in (*told.plan.new, *told.plan.unchanged)]
    told.seeded = len(await rooms.ledger.seeds.put(wanted, reason=act.reason, actor=act.actor)) if wanted else 0
    told.done = True
    return told


def _print(told: _Told, *, dry_run: bool) -> None:
    plan = told.plan
    tell_skipped(plan.skipped)
    rows = [["differs", str(each.entry.reference), str(each.pinned), str(each.entry.digest)] for each in plan.differs]
    rows += [["new", str(each.reference), "", str(each.digest)] for each in plan.new[:_SHOWN]]
    rows += [["new", f"and {len(plan.new) - _SHOWN} more", "", ""]] if len(plan.new) > _SHOWN else []
    word = "not in the file" if not told.removes else "removed" if told.done else "to be removed"
    rows += [[word, str(each.reference), str(each.descriptor.digest), ""] for each in plan.gone]
    if rows:
        print_table(["STATE", "REFERENCE", "PINNED", "WANTED"], rows, empty="")
    for each in told.failed:
        print_error(f"{each.entry.reference}: {each.entry.digest} cannot be had: {each.error}")
    out.print(_summary(told, dry_run=dry_run), markup=False)


def _summary(told: _Told, *, dry_run: bool) -> str:
    plan = told.plan
    counts = f"{len(plan.unchanged)} unchanged, {len(plan.new)} new, {len(plan.differs)} differ"
    counts += f", {len(plan.gone)} not in the file" if plan.gone else ""
    counts += f", {len(plan.skipped)} left out" if plan.skipped else ""
    if dry_run:
        return f"{plan.environment.name}: {counts}; nothing is changed"
    if told.seeded is not None:
        return f"{plan.environment.name}: {counts}; {told.seeded} seeds recorded"
    changed = told.done and (plan.new or plan.differs or (told.removes and plan.gone))
    return f"{plan.environment.name}: {counts}; {'done' if changed else 'nothing is changed'}"


def _stop(told: _Told, *, repin: bool) -> None:
    plan = told.plan
    if plan.differs and not repin:
        print_error(f"{len(plan.differs)} pins differ; --repin --reason TEXT changes them, all in one act")
        stop(Exit.REFUSED)
    if told.failed:
        stop(Exit.REFUSED if any(each.is_refused for each in told.failed) else Exit.UNAVAILABLE)
    if not (plan.unchanged or plan.new or plan.differs or plan.gone) and plan.skipped:
        print_error("the file has nothing that could be pinned")
        stop(Exit.REFUSED)
