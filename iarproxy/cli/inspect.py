"""`iarproxy pull` and `store`: warming the cache, and what the store holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn

from iarproxy.cli.options import ConfigOption, JsonOption, platforms, reference, run
from iarproxy.cli.output import Exit, as_bytes, err, out, print_error, print_json, stop
from iarproxy.cli.wiring import Rooms
from iarproxy.errors import IarproxyError, Refused
from iarproxy.mirror.warm import Pulled
from iarproxy.oci import Descriptor, Digest

store_app = typer.Typer(help="What the store holds.", no_args_is_help=True)


class _Bars:
    """Progress bars, a blob each; nothing is drawn where standard error is no terminal."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._tasks: dict[Digest, TaskID] = {}

    def planned(self, blobs: Sequence[Descriptor]) -> None:
        for blob in blobs:
            self._tasks[blob.digest] = self._bars.add_task(blob.digest.short, total=blob.size)

    def advanced(self, blob: Descriptor, done: int) -> None:
        self._bars.update(self._tasks[blob.digest], completed=done)

    def finished(self, blob: Descriptor) -> None:
        self._bars.update(self._tasks[blob.digest], completed=blob.size)


def pull(
    refs: Annotated[list[str], typer.Argument(metavar="REF...", help="What to bring into the store.")],
    platform: Annotated[
        list[str], typer.Option("--platform", metavar="OS/ARCH", help="Of an index, only these; repeatable.")
    ] = ["all"],  # noqa: B006  # typer reads it, nobody changes it
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Bring references into the store, with progress.

    Each is resolved and pinned as a client's pull would, and all its content is fetched.
    """
    chosen = platforms(platform)

    async def command(rooms: Rooms) -> list[Pulled | IarproxyError]:
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        results: list[Pulled | IarproxyError] = []
        with Progress(*columns, console=err, disable=json or not err.is_terminal) as bars:
            for each in [reference(ref, rooms.config) for ref in refs]:
                try:
                    results.append(await rooms.mirror.warm.pull(each, chosen, _Bars(bars)))
                except IarproxyError as error:
                    results.append(error)
        return results

    results = run(config, command)
    if json:
        print_json({"pulled": [_pulled(each, result) for each, result in zip(refs, results, strict=True)]})
    for ref, result in zip(refs, results, strict=True):
        if isinstance(result, IarproxyError):
            print_error(f"{ref}: {result}")
        elif not json:
            fetched = f"{result.fetched} blobs, {as_bytes(result.bytes)} fetched"
            out.print(f"{result.reference} {result.answer.descriptor.digest} ({fetched})", markup=False)
    failed = [result for result in results if isinstance(result, IarproxyError)]
    if failed:
        stop(Exit.REFUSED if any(isinstance(each, Refused) for each in failed) else Exit.UNAVAILABLE)


def _pulled(ref: str, result: Pulled | IarproxyError) -> dict[str, Any]:
    if isinstance(result, IarproxyError):
        return {"reference": ref, "error": str(result)}
    return {
        "reference": str(result.reference),
        "digest": str(result.answer.descriptor.digest),
        "fetched": result.fetched,
        "bytes": result.bytes,
    }


@store_app.command()
def stats(json: JsonOption = False, config: ConfigOption = None) -> None:
    """Count what is held, what arrives, what room is left."""

    async def command(rooms: Rooms) -> dict[str, Any]:
        await rooms.store.recount(rest=0)  # at once: somebody waits for it
        found = await rooms.store.stats()
        return {
            "path": str(rooms.store.root),
            "identity": rooms.store.identity,
            "blobs": found.blobs,
            "bytes": found.bytes,
            "count": found.standing.value,
            "ingests": found.ingests,
            "max_size": found.max_size,
            "free": found.free,
        }

    found = run(config, command)
    if json:
        print_json(found)
        return
    for key in ("path", "identity", "count", "blobs", "ingests"):
        out.print(f"{key:>10}  {found[key]}", markup=False)
    for key in ("bytes", "max_size", "free"):
        out.print(f"{key:>10}  {as_bytes(found[key])} ({found[key]})", markup=False)
