"""`iarproxy pins retain`: plan which names may go, and execute a plan that was approved."""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

from iarproxy.cli.actor import kernel_actor
from iarproxy.cli.lock_files import replace
from iarproxy.cli.options import ConfigOption, JsonOption, run
from iarproxy.cli.output import err, out, print_json, print_table
from iarproxy.cli.person_files import read
from iarproxy.cli.wiring import Rooms
from iarproxy.errors import Refused
from iarproxy.mirror.acts.retaining import Outcome, Retaining
from iarproxy.mirror.usage import EVERY

_MAX_PLAN = 512 * 2**20  # bytes: of a million pins
_STDOUT = "-"
_SHOWN = 20
_BYTES_STAY = "Names only: no content was removed. Bytes stay until the store needs the room."


def retain(
    plan: Annotated[
        str | None, typer.Option("--plan", metavar="FILE", help="Write what would go; - is standard output.")
    ] = None,
    *,
    apply: Annotated[
        Path | None, typer.Option("--apply", metavar="FILE", help="Take away what this plan names.")
    ] = None,
    reason: Annotated[str, typer.Option("--reason", help="Why; it goes into the journal with your name.")] = "",
    expected: Annotated[
        str, typer.Option("--sha256", metavar="HEX", help="Of the plan that was approved; another one is refused.")
    ] = "",
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Plan which names may go by the rules of [[retention]], or execute such a plan.

    A plan changes nothing. Executing takes away the names that the plan has and that may still go, in one act; each may
    be pinned again to the same content without an approval. Bytes are not touched.
    """
    if (plan is None) == (apply is None):
        raise typer.BadParameter("give --plan FILE or --apply FILE, one of them")
    if plan is not None:
        _plan(plan, run(config, _planned))
        return
    assert apply is not None  # noqa: S101  # one of them is given
    data = read(apply, _MAX_PLAN)
    if expected and hashlib.sha256(data).hexdigest() != expected.strip().lower().removeprefix("sha256:"):
        raise Refused(f"{apply} has the sha256 {hashlib.sha256(data).hexdigest()}, not {expected[:80]}")
    actor = kernel_actor()
    words = reason.strip() or "retention"

    async def command(rooms: Rooms) -> Outcome:
        retaining = _retaining(rooms)
        approved = retaining.read(data)
        if approved.items:
            # Workers write down what they served after so long: what is pulled at this moment shall count too.
            await asyncio.sleep(EVERY + 1)
        return await retaining.apply(approved, reason=words, actor=actor)

    _tell(run(config, command), json=json)


def _retaining(rooms: Rooms) -> Retaining:
    sections = rooms.config.retention
    if not sections:
        raise Refused("there are no [[retention]] rules; write some, then nothing goes but what they name")
    rules = [section.rule(number) for number, section in enumerate(sections, start=1)]
    return Retaining(rooms.store, rooms.ledger, rules, [section.spelled() for section in sections])


async def _planned(rooms: Rooms) -> bytes:
    return await _retaining(rooms).plan()


def _plan(file: str, data: bytes) -> None:
    """Write the plan, and say on standard error what it holds."""
    if file == _STDOUT:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    else:
        _write(Path(os.path.realpath(file)), data, file)
    document = orjson.loads(data)
    for item in document["items"][:_SHOWN]:
        err.print(f"{_named(item)} @ {item['digest']}: {item['reason']} ({item['rule']})", markup=False)
    if len(document["items"]) > _SHOWN:
        err.print(f"... and {len(document['items']) - _SHOWN} more", markup=False)
    counts = f"{len(document['items'])} names may go, {len(document['kept'])} are kept from going"
    err.print(f"{counts}, {document['untouched']} are untouched. Nothing was changed.", markup=False)
    err.print(f"sha256 {hashlib.sha256(data).hexdigest()}  {file}", markup=False)


def _write(path: Path, data: bytes, file: str) -> None:
    """In one step, over nothing but an earlier plan: a mistyped name must not cost anybody a file."""
    mode = None
    if path.exists():
        if not path.is_file():
            raise Refused(f"{file}: is no ordinary file; name another one, or - for standard output")
        before, mode = read(path, _MAX_PLAN), path.stat().st_mode & 0o777
        if before and not Retaining.is_plan(before):
            raise Refused(f"{file}: holds something else than a plan; name another one, or remove it")
    try:
        replace(path, data, mode)
    except OSError as error:
        raise Refused(f"{file}: cannot be written: {error.strerror}; write it where the store's owner may") from error


def _named(item: dict[str, Any]) -> str:
    return f"{item['reference']} in {item['environment']}"


def _tell(found: Outcome, *, json: bool) -> None:
    gone = [
        {"environment": it.environment, "reference": str(it.reference), "digest": str(it.digest)} for it in found.gone
    ]
    stayed = [{"environment": it.environment, "reference": str(it.reference), "why": why} for it, why in found.stayed]
    if json:
        print_json({"gone": gone, "stayed": stayed})
        return
    for each in gone:
        out.print(f"gone    {_named(each)} (was {each['digest']})", markup=False)
    print_table(["STAYS", "WHY"], [[_named(each), each["why"]] for each in stayed], empty="Nothing of the plan stays.")
    out.print(f"{len(gone)} names went, {len(stayed)} stay. {_BYTES_STAY}", markup=False)
