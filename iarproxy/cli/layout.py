"""`iarproxy layout`: OCI layouts and docker-archives of other tools, taken over and written.

Rule 1: what is wrong with an import is told completely before anything is changed; then all of it is changed, or
        nothing.
Rule 2: what is read or written is opened before root is given up: it is the person's, not the store's.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from iarproxy.archive.layouts.importing import act, hold
from iarproxy.archive.layouts.plan import Imported, LayoutPlan
from iarproxy.archive.layouts.planning import Planning
from iarproxy.archive.layouts.reading import Layout, open_layout
from iarproxy.cli.actor import kernel_actor
from iarproxy.cli.layout_export import export
from iarproxy.cli.options import ConfigOption, EnvironmentOption, JsonOption, environment_of, given_reason, run
from iarproxy.cli.output import Exit, as_bytes, err, out, print_error, print_json, print_table, stop
from iarproxy.cli.wiring import Rooms
from iarproxy.errors import Malformed
from iarproxy.ledger import DEFAULT
from iarproxy.oci.layout_index import Given, given

_SHOWN = 100  # lines of one kind that are listed for people; --json has all

app = typer.Typer(help="OCI layouts and docker-archives of other tools: export, import.", no_args_is_help=True)
app.command()(export)


@dataclass(frozen=True, slots=True)
class _Act:
    source: str
    reason: str
    actor: str
    repin: bool
    dry_run: bool
    quiet: bool

    async def take_over(self, rooms: Rooms, layout: Layout, plan: LayoutPlan) -> bool:
        """Whether it was done; not where pins differ and nobody insists."""
        if self.dry_run or (plan.differs and not self.repin):
            return False
        total = sum(each.size for each in plan.blobs.values())
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        with Progress(*columns, console=err, disable=self.quiet or not err.is_terminal) as bars:
            task, done = bars.add_task("content", total=total), dict.fromkeys(plan.blobs, 0)

            def advanced(blob: Any, position: int) -> None:
                bars.advance(task, position - done[blob.digest])
                done[blob.digest] = position

            await hold(layout, plan, rooms.store, advanced)
        for each in plan.wanted:  # what contains recalled content shows once its children are here
            await rooms.mirror.recalling.require(each.descriptor.digest)
        await act(plan, rooms.ledger, source=self.source, reason=self.reason, actor=self.actor)
        return True


@app.command("import")
def import_layout(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="An OCI layout folder or tar, or a docker-archive.")],
    *,
    reason: Annotated[
        str, typer.Option("--reason", metavar="TEXT", help="Why; it goes into the journal with your name.")
    ],
    name: Annotated[
        str | None,
        typer.Option("--name", metavar="REF", help="What the image is called, or its repository.", show_default=False),
    ] = None,
    env: EnvironmentOption = DEFAULT,
    repin: Annotated[bool, typer.Option("--repin", help="Change pins that differ too.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what it would change.")] = False,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Take over images that another tool wrote: all of them, or nothing.

    Content is verified on its way into the store, and nothing is unpacked. Names are those of the archive; where it has
    none, or a tag only, --name says the rest. Pins that differ are listed, and end it with exit 1, unless --repin.
    """
    why, called = given_reason(reason), _name(name)
    layout = open_layout(path)
    what = _Act(str(path), why, kernel_actor(), repin, dry_run, json)

    async def command(rooms: Rooms) -> tuple[LayoutPlan, bool]:
        planning = Planning(
            layout,
            environment_of(rooms.config, env),
            store=rooms.store,
            ledger=rooms.ledger,
            rules=rooms.config.rules,
            upstreams=rooms.config.upstreams,
        )
        plan = await planning.plan(called)
        return plan, await what.take_over(rooms, layout, plan)

    try:
        plan, done = run(config, command)
    finally:
        layout.close()
    if json:
        print_json(_as_json(plan, done=done))
    else:
        _print(plan, done=done)
    if plan.differs and not repin:
        print_error(f"{len(plan.differs)} pins differ; --repin changes them, all in one act")
        stop(Exit.REFUSED)


def _name(text: str | None) -> Given | None:
    try:
        return None if text is None else given(text)
    except Malformed as error:
        raise typer.BadParameter(f"--name: {error}") from error


def _as_json(plan: LayoutPlan, *, done: bool) -> dict[str, Any]:
    return {
        "environment": plan.environment.name,
        "done": done,
        "unchanged": list(map(_pair, plan.unchanged)),
        "new": list(map(_pair, plan.new)),
        "differs": [
            {
                "reference": str(each.wanted.reference),
                "pinned": str(each.pinned),
                "wanted": str(each.wanted.descriptor.digest),
            }
            for each in plan.differs
        ],
        "held": list(map(_pair, plan.held)),
        "attachments": [
            {"reference": str(each.reference), "digest": str(each.descriptor.digest)} for each in plan.grown
        ],
        "sparse": plan.sparse,
        "left_out": [{"what": each.what, "why": each.why} for each in plan.left_out],
        "blobs": len(plan.blobs),
        "bytes": sum(each.size for each in plan.blobs.values()),
    }


def _pair(each: Imported) -> dict[str, str]:
    return {"reference": str(each.reference), "digest": str(each.descriptor.digest)}


def _print(plan: LayoutPlan, *, done: bool) -> None:
    for each in plan.left_out[:_SHOWN]:
        print_error(f"left out: {each.what}: {each.why}")
    rows = [
        ["differs", str(each.wanted.reference), str(each.pinned), str(each.wanted.descriptor.digest)]
        for each in plan.differs
    ]
    for word, some in (("new", plan.new), ("held", plan.held)):
        rows += [[word, str(each.reference), "", str(each.descriptor.digest)] for each in some[:_SHOWN]]
        rows += [[word, f"and {len(some) - _SHOWN} more", "", ""]] if len(some) > _SHOWN else []
    if rows:
        print_table(["STATE", "REFERENCE", "PINNED", "WANTED"], rows, empty="")
    for called, count in plan.sparse.items():
        print_error(f"{called}: {count} of the manifests that its index lists are not in it")
    out.print(_summary(plan, done=done), markup=False)


def _summary(plan: LayoutPlan, *, done: bool) -> str:
    counts = f"{len(plan.unchanged)} unchanged, {len(plan.new)} new, {len(plan.differs)} differ"
    counts += f", {len(plan.held)} by digest only" if plan.held else ""
    counts += f", {len(plan.grown)} attachment tags" if plan.grown else ""
    counts += f", {len(plan.left_out)} left out" if plan.left_out else ""
    size = sum(each.size for each in plan.blobs.values())
    content = f"{len(plan.blobs)} blobs, {as_bytes(size)} {'taken in' if done else 'to be taken in'}"
    return f"{plan.environment.name}: {counts}; {content}; {'done' if done else 'nothing is changed'}"
