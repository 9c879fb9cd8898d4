"""`iarproxy sync`: everything that a set needs, pinned and held."""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import TypeAdapter, ValidationError

from iarproxy.cli.actor import kernel_actor
from iarproxy.cli.options import ConfigOption, JsonOption, run
from iarproxy.cli.output import Exit, as_bytes, err, out, plain, print_error, print_json, print_table, stop
from iarproxy.cli.sync_bars import showing
from iarproxy.cli.wiring import Rooms
from iarproxy.config.sets import load_sets
from iarproxy.config.values import Duration
from iarproxy.errors import Refused
from iarproxy.mirror.sync.values import Failed, Plan, PlannedName, Synced
from iarproxy.oci.attached_kind import AttachedKind
from iarproxy.oci.set_record import Member

_KINDS = {
    AttachedKind.SIGNATURE: "signatures",
    AttachedKind.SBOM: "an SBOM",
    AttachedKind.PROVENANCE: "provenance",
}
_SHOWN = 20  # failures and remarks that are spelled out


class Part(StrEnum):
    """What of a set may be asked for or left out."""

    REFERRERS = "referrers"


SetArgument = Annotated[str, typer.Argument(metavar="SET", help="The name of a [[set]] in the sets file.")]
SetsOption = Annotated[
    Path, typer.Option("--sets", metavar="FILE", readable=False, help="The file that says what sets need.")
]


def sync(
    name: SetArgument,
    *,
    sets: SetsOption = Path("sets.toml"),
    plan: Annotated[
        bool, typer.Option("--plan", help="Only tell what it would do: counts, bytes, reasons. Nothing is written.")
    ] = False,
    wanted_parts: Annotated[
        list[Part],
        typer.Option("--with", metavar="referrers", help="Signatures, SBOMs, attestations too, whatever the set says."),
    ] = [],  # noqa: B006  # typer reads it, nobody changes it
    unwanted_parts: Annotated[
        list[Part],
        typer.Option(
            "--without", metavar="referrers", help="No signatures, SBOMs, attestations, whatever the set says."
        ),
    ] = [],  # noqa: B006  # as above
    wait: Annotated[
        str, typer.Option("--wait", metavar="TIME", help="How long limits of upstreams may be waited for.")
    ] = "10m",
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Bring everything that a set needs into the store, and pin it.

    Tags are pinned as a client's pull would. What is held is not fetched again, so it may be broken off and run again.
    What fails is listed at the end, and the rest is there: exit 1, or 4 where a later try may help. It leaves the last
    of an upstream's quota to clients.
    """
    if wanted_parts and unwanted_parts:
        raise typer.BadParameter("give --with referrers or --without referrers, one of them")
    patience = _seconds(wait)
    wanted = load_sets(sets)[name]
    referrers = bool(wanted_parts) if wanted_parts or unwanted_parts else None
    actor = kernel_actor()

    async def command(rooms: Rooms) -> Plan | Synced:
        if rooms.upstreams.is_offline:
            raise Refused("this configuration is offline, so nothing can be synced; sync where upstreams can be asked")
        with showing(quiet=json) as bars:
            if plan:
                return await rooms.mirror.planning.plan(wanted, referrers=referrers, patience=patience, progress=bars)
            return await rooms.mirror.syncing.sync(
                wanted, referrers=referrers, patience=patience, progress=bars, actor=actor
            )

    result = run(config, command)
    if json:
        print_json(_plan_json(name, result) if isinstance(result, Plan) else _synced_json(result))
    elif isinstance(result, Plan):
        _print_plan(name, result)
    else:
        _print_synced(result)
    _stop(name, result)


def _seconds(text: str) -> float:
    try:
        found: timedelta = TypeAdapter(Duration).validate_python(text)
    except ValidationError as error:
        raise typer.BadParameter(
            f'--wait: not a time: {text[:40]!r}; write for example "30s", "10m" or "6h"'
        ) from error
    return found.total_seconds()


def _stop(name: str, result: Plan | Synced) -> None:
    if not result.failed:
        return
    for each in result.failed[:_SHOWN]:
        print_error(f"{each.what}: {each.why}")
    if len(result.failed) > _SHOWN:
        print_error(f"and {len(result.failed) - _SHOWN} more; --json has them all")
    what = "would be" if isinstance(result, Plan) else "is"
    print_error(f"set {name} {what} incomplete: {_count(len(result.failed), 'part')} of it cannot be had")
    stop(Exit.REFUSED if any(each.refused for each in result.failed) else Exit.UNAVAILABLE)


# --- for people ------------------------------------------------------------------------------------------------------


def _print_plan(name: str, plan: Plan) -> None:
    rows = [_row(each) for each in sorted(plan.names, key=lambda each: str(each.reference))]
    print_table(["NAME", "STATE", "DIGEST", "SIZE", "TO FETCH", "WHY"], rows, empty="The set names nothing.")
    _remarks(plan.remarks)
    new = sum(each.new for each in plan.names)
    lines = [f"{name}: {_count(len(plan.names), 'name')}, {new} to be pinned"]
    lines += [f"{len(plan.contents)} blobs and manifests of {as_bytes(sum(plan.contents.values()))}"]
    lines += [f"{len(plan.missing)} of {as_bytes(sum(plan.missing.values()))} to be fetched"]
    if plan.omitted:
        lines.append(f"{_count(plan.omitted, 'manifest')} for other platforms left out")
    if plan.attached is not None:
        lines.append(f"to {plan.attached} of {plan.manifests} manifests something is attached, not counted above")
    lines += [f"{each}, as far as lists of what is attached tell" for each in _kinds(plan.kinds, len(plan.names))]
    out.print("; ".join(lines) + ". Nothing was written.", markup=False)


def _row(each: PlannedName) -> list[str]:
    state = "new" if each.new else "held" if not each.missing else "to fetch"
    size, missing = as_bytes(each.bytes), as_bytes(each.missing) if each.missing else "-"
    return [str(each.reference), state, each.digest.short, size, missing, ", ".join(each.why)]


def _print_synced(synced: Synced) -> None:
    record = synced.record
    _remarks((*synced.remarks, *(f"left out: {each.what}: {each.why}" for each in synced.left_out)))
    for each in record.unresolved[:_SHOWN]:
        out.print(f"looks like an image and did not resolve: {plain(each)}", markup=False)
    lines = [f"{record.name}: {_count(len(record.members), 'name')}, {len(synced.pinned)} newly pinned"]
    if record.referrers:
        lines.append(_count(len(record.attachments), "list or tag", "lists or tags") + " of what is attached")
    lines += _kinds(synced.kinds, len(record.members))
    lines.append(f"{_count(synced.fetched, 'blob')}, {as_bytes(synced.bytes)} fetched; {as_bytes(synced.held)} held")
    out.print("; ".join(lines), markup=False)
    if record.is_complete:
        out.print(f"complete; `iarproxy bundle create {record.name}` makes a bundle of it", markup=False)


def _kinds(kinds: dict[AttachedKind, int] | None, names: int) -> list[str]:
    """How many names are signed, and so on."""
    if kinds is None or not names:
        return []
    told = ", ".join(f"{kinds[kind]} have {words}" for kind, words in _KINDS.items())
    return [f"of {_count(names, 'name')} {told}"]


def _remarks(remarks: tuple[str, ...]) -> None:
    for each in remarks[:_SHOWN]:
        err.print(plain(f"note: {each}"), markup=False)
    if len(remarks) > _SHOWN:
        err.print(f"note: and {len(remarks) - _SHOWN} more; --json has them all", markup=False)


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"


# --- for scripts -----------------------------------------------------------------------------------------------------


def _plan_json(name: str, plan: Plan) -> dict[str, Any]:
    return {
        "set": name,
        "names": [
            {
                "reference": str(each.reference),
                "digest": str(each.digest),
                "new": each.new,
                "bytes": each.bytes,
                "missing": each.missing,
                "why": each.why,
                "referrers": not each.without,
            }
            for each in plan.names
        ],
        "contents": {"count": len(plan.contents), "bytes": sum(plan.contents.values())},
        "missing": {"count": len(plan.missing), "bytes": sum(plan.missing.values())},
        "omitted": plan.omitted,
        "manifests": plan.manifests,
        "attached": plan.attached,
        "kinds": _named(plan.kinds),
        "lacking": _lacking(plan.failed),
        "remarks": plan.remarks,
    }


def _synced_json(synced: Synced) -> dict[str, Any]:
    record, new = synced.record, set(synced.pinned)
    return {
        "set": record.name,
        "complete": record.is_complete,
        "record": str(synced.kept.digest),
        "definition": str(record.definition),
        "names": [_member(each, new=each.reference in new) for each in record.members],
        "referrers": record.referrers,
        "attachments": [str(each.reference) for each in record.attachments],
        "fetched": {"count": synced.fetched, "bytes": synced.bytes},
        "held": synced.held,
        "kinds": _named(synced.kinds),
        "lacking": _lacking(synced.failed),
        "left_out": [{"what": each.what, "why": each.why} for each in synced.left_out],
        "unresolved": record.unresolved,
        "remarks": synced.remarks,
    }


def _named(kinds: dict[AttachedKind, int] | None) -> dict[str, int] | None:
    return None if kinds is None else {kind.value: count for kind, count in kinds.items()}


def _member(member: Member, *, new: bool) -> dict[str, Any]:
    return {
        "reference": str(member.reference),
        "digest": str(member.descriptor.digest),
        "new": new,
        "why": member.why,
        "platforms": list(map(str, member.platforms)),
        "referrers": member.referrers,
    }


def _lacking(failed: tuple[Failed, ...]) -> list[dict[str, Any]]:
    return [{"what": each.what, "why": each.why, "refused": each.refused} for each in failed]
