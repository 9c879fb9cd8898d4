"""`iarproxy explain`, `pull` and `store`: where a name stands, warming the cache, what the store holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn

from iarproxy.cli.options import ConfigOption, JsonOption, ReferenceArgument, platforms, reference, run
from iarproxy.cli.output import Exit, as_bytes, err, out, print_error, print_json, pulls, stop
from iarproxy.cli.wiring import Rooms
from iarproxy.errors import IarproxyError, Refused
from iarproxy.mirror.explain import Explanation
from iarproxy.mirror.spelling import drift_as_json, spender_as_json, upstream_as_json, used_as_json
from iarproxy.mirror.warm import Pulled
from iarproxy.oci import Descriptor, Digest
from iarproxy.trust import TagRule
from iarproxy.trust.policy import PIN_EVERYTHING
from iarproxy.upstream import WINDOW

_MOST = 3  # spenders that are named

store_app = typer.Typer(help="What the store holds.", no_args_is_help=True)


def explain(ref: ReferenceArgument, json: JsonOption = False, config: ConfigOption = None) -> None:
    """Tell where a name stands, and why.

    Upstream, rule, pin, drift, what is held, what a client gets, who pulled it. Upstream is not asked.
    """

    async def command(rooms: Rooms) -> Explanation:
        return await rooms.mirror.explain.reference(reference(ref, rooms.config))

    found = run(config, command)
    facts = _explained(found)
    if json:
        print_json(facts)
        return
    for key, value in {**facts, "used": pulls(found.used), "budget": _budget(found)}.items():
        if value not in (None, [], ""):
            out.print(f"{key.replace('_', ' '):>12}  {_plain(value)}", markup=False)


def _explained(found: Explanation) -> dict[str, Any]:
    return {
        "reference": str(found.reference),
        "outcome": found.outcome,
        "upstream": found.upstream,
        "digest": str(found.digest) if found.digest else None,
        "held": found.held.value,
        "platforms": list(found.platforms),
        "rule": _rule(found.rule),
        "pinned_at": found.pin.pinned_at if found.pin else None,
        "pinned_from": found.pin.source if found.pin else None,
        "revision": found.pin.revision if found.pin else None,
        "drift": drift_as_json(found.drift) if found.drift else None,
        "used": used_as_json(found.used),
        "budget": upstream_as_json(found.budget) if found.budget else None,
        "spent": _spent(found),
    }


def _spent(found: Explanation) -> dict[str, Any] | None:
    """What was asked of upstream for this repository in the last hours."""
    spenders = found.budget.spenders if found.budget else ()
    own = [each for each in spenders if each.repository == found.reference.repository.name]
    return spender_as_json(own[0]) if own else None


def _budget(found: Explanation) -> str:
    """What is left of the upstream, and who spends it, in one line."""
    if found.budget is None:
        return ""
    told = []
    for each in found.budget.endpoints:
        if each.quota is not None:
            of = f" of {each.quota.limit}" if each.quota.limit is not None else ""
            told.append(f"{each.quota.remaining}{of} requests left at {each.origin}")
        if each.held_until is not None:
            told.append(f"{each.origin} is not asked before {each.held_until:%H:%M:%S} UTC: it said 429")
    spenders = found.budget.spenders
    if spenders:
        most = ", ".join(f"{each.repository} {each.total}" for each in spenders[:_MOST])
        told.append(f"{sum(each.total for each in spenders)} requests in {WINDOW} hours, most for {most}")
    return "; ".join(told)


def _rule(rule: TagRule | None) -> dict[str, str] | str | None:
    if rule is None or rule is PIN_EVERYTHING:
        return None if rule is None else "none matches: pinned"
    return {"match": rule.match.text, "mode": rule.mode.value, "on_drift": rule.on_drift.value}


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(inner)}" for key, inner in value.items() if inner is not None)
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


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
                except* IarproxyError as group:
                    results.append(_first(group))
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


def _first(group: BaseExceptionGroup[IarproxyError]) -> IarproxyError:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, IarproxyError)  # noqa: S101  # except* let nothing else through
    return error


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
