"""`iarproxy journal`: read it, verify it, sign it, and take it along."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from iarproxy.cli import journal_proofs
from iarproxy.cli.actor import kernel_actor
from iarproxy.cli.holdings import become_owner, checkpointing
from iarproxy.cli.options import ConfigOption, JsonOption, given_reason, load, run
from iarproxy.cli.output import Exit, out, print_error, print_json, print_table, stop, when
from iarproxy.cli.wiring import Rooms
from iarproxy.cli.writing import output
from iarproxy.errors import LedgerDamaged, Refused
from iarproxy.ledger import Event, EventKind
from iarproxy.ledger.audit.auditing import AuditReport, audit
from iarproxy.ledger.journal import Entry
from iarproxy.ledger.proof import checkpoint_file
from iarproxy.ledger.proof.checkpoint_rows import SignedCheckpoint
from iarproxy.ledger.proof.keyring import How, Keyed
from iarproxy.ledger.recalls import one_line
from iarproxy.ledger.values import Name
from iarproxy.mirror.events.cloud_events import cloud_event, to_bytes
from iarproxy.mirror.spelling import event_as_json
from iarproxy.trust.note import to_base64

_PAGE = 200  # entries
_MOST = 10_000  # entries shown at once
_DETAIL = 80  # characters
_FINDING = 1000  # characters

app = typer.Typer(help="The journal: read it, verify it, prove it to others.", no_args_is_help=True)
app.command()(journal_proofs.prove)
app.command()(journal_proofs.check)
app.command()(journal_proofs.proof)
app.command()(journal_proofs.compare)

AfterOption = Annotated[int, typer.Option("--after", metavar="N", min=0, help="Only entries after that serial.")]
ReasonOption = Annotated[str, typer.Option("--reason", help="Why; it goes into the journal with your name.")]


class Format(StrEnum):
    """How `export` writes."""

    JSONL = "jsonl"
    CLOUDEVENTS = "cloudevents"


@app.command()
def verify(
    against: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE", readable=False, help="Checkpoints that left this machine: a note, or lines of JSON."
        ),
    ] = None,
    key: journal_proofs.KeyOption = None,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Check the whole journal as it lies: chain, rows, file, tree, checkpoints, keys.

    A history that was rewritten as a whole is found only by a checkpoint that left this machine: name files of them
    with --against. What [journal] checkpoint_file holds is compared too.
    """
    trusted = journal_proofs.one_key(key)
    copies = Copies()
    for file in against or []:
        copies.add(file)
    settings = load(config)
    become_owner(settings.store.path)
    kept = settings.journal.checkpoint_file
    if kept is not None and _has_content(kept):
        copies.add(kept)
    elif kept is not None:
        copies.remarks.append(
            f"{kept}, the [journal] checkpoint_file, is missing or empty: it was compared with nothing"
        )
    try:
        report = asyncio.run(audit(settings.ledger_path, brought=copies.found, key=trusted))
    except LedgerDamaged as damaged:
        print_error(str(damaged))
        stop(Exit.REFUSED)
    report = replace(report, remarks=(*report.remarks, *copies.remarks))
    if json:
        findings = [{"entry": each.serial, "last": each.last, "text": each.text} for each in report.findings]
        print_json({**asdict(report), "ok": report.ok, "first": report.first, "findings": findings})
    else:
        _tell(report)
    if not report.ok:
        stop(Exit.REFUSED)


@dataclass
class Copies:
    """Checkpoints that left the machine, and what has to be known of how they were read."""

    found: list[SignedCheckpoint] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def add(self, file: Path) -> None:
        """Those in a file."""
        kept, count = checkpoint_file.thinned(checkpoint_file.read(file))
        self.found += kept
        if len(kept) < count:
            self.remarks.append(f"of the {count} checkpoints in {file} {len(kept)} were compared: split it for all")


def _has_content(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except FileNotFoundError:
        return False
    except OSError as error:
        raise Refused(f"{path} cannot be read: {error.strerror}") from error


def _tell(report: AuditReport) -> None:
    out.print(f"{report.origin}: {report.size} entries, {report.pins} revisions of pins", markup=False)
    out.print(f"head        {report.hash}", markup=False)
    out.print(f"checkpoints {report.checkpoints} hold, up to entry {report.signed}", markup=False)
    out.print(f"brought     {report.brought} that left this machine hold", markup=False)
    for remark in report.remarks:
        out.print(f"remark      {remark}", markup=False)
    for finding in report.findings:
        print_error(one_line(str(finding), _FINDING))
    first = "" if report.ok else one_line(str(report.findings[0]), _FINDING)
    out.print("all of it agrees" if report.ok else f"{len(report.findings)} problems; the first: {first}", markup=False)


@app.command()
def show(
    after: Annotated[
        int | None, typer.Option("--after", metavar="N", min=0, help="From that serial on; default: the newest.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, max=_MOST, help="How many at most.")] = 50,
    kind: Annotated[EventKind | None, typer.Option("--kind", metavar="KIND", help="Only entries of that kind.")] = None,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Show entries of the journal, oldest first."""

    async def command(rooms: Rooms) -> list[Event]:
        return await rooms.ledger.reading.events(after=after, kind=kind, limit=limit)

    events = run(config, command)
    if json:
        print_json([_as_json(each) for each in events])
        return
    print_table(
        ["SERIAL", "WHEN", "WHAT", "ABOUT", "BY", "DETAIL"],
        [[str(e.serial), when(e.at), e.kind.value, _about(e), one_line(e.actor), _detail(e)] for e in events],
        empty="The journal has no such entries.",
    )


def _as_json(event: Event) -> dict[str, Any]:
    about = {"environment": event.environment, "reference": None if event.reference is None else str(event.reference)}
    return {**event_as_json(event), **about}


def _about(event: Event) -> str:
    if event.reference is None:
        return str(event.body.get("digest") or "-")
    return str(Name(event.environment, event.reference))


def _detail(event: Event) -> str:
    body = event.body
    descriptor = body.get("descriptor") or body.get("offered")
    digest = descriptor.get("digest", "") if isinstance(descriptor, dict) else ""
    told = " ".join(filter(None, [digest, event.reason, str(body.get("key") or "")]))
    return one_line(told, _DETAIL + len(digest))


@app.command()
def export(
    after: AfterOption = 0,
    form: Annotated[Format, typer.Option("--format", help="The journal's own lines, or CloudEvents.")] = Format.JSONL,
    to: journal_proofs.OutputOption = None,
    config: ConfigOption = None,
) -> None:
    """Write the journal out, a line for each entry: its own lines, or CloudEvents.

    Lines of the journal's own form are those of `journal.jsonl`, byte for byte.
    """
    with output(to) as sink:

        async def command(rooms: Rooms) -> None:
            async for page in _pages(rooms, after):
                for entry in page:
                    sink.write(_spelled(entry, form, rooms.store.identity))

        run(config, command)


async def _pages(rooms: Rooms, after: int) -> AsyncIterator[list[Entry]]:
    while page := await rooms.ledger.reading.entries(after, _PAGE):
        yield page
        after = page[-1].serial


def _spelled(entry: Entry, form: Format, identity: str) -> bytes:
    if form is Format.JSONL:
        return entry.line()
    return to_bytes(cloud_event(entry.event(), identity)) + b"\n"


@app.command()
def checkpoint(json: JsonOption = False, config: ConfigOption = None) -> None:
    """Sign the journal as it is now, and print the checkpoint. `serve` does so by itself.

    Keep what it prints somewhere else: `journal verify --against` compares with it.
    """

    async def command(rooms: Rooms) -> SignedCheckpoint:
        made = await checkpointing(rooms).make_checkpoint() or (await rooms.ledger.checkpoints.standing()).last
        if made is None:
            raise LedgerDamaged("the newest checkpoint cannot be read; run `iarproxy journal verify`")
        return made

    _print_checkpoint(run(config, command), json=json)


def _print_checkpoint(made: SignedCheckpoint, *, json: bool) -> None:
    if json:
        facts = {"origin": made.checkpoint.origin, "size": made.size, "root": to_base64(made.checkpoint.root)}
        print_json({**facts, "at": made.at, "checkpoint": str(made.note)})
    else:
        out.print(str(made.note), markup=False, end="")


@app.command("rotate-key")
def rotate_key(
    reason: ReasonOption,
    lost: Annotated[
        bool, typer.Option("--lost", help="The old key is gone and cannot sign for its successor.")
    ] = False,
    config: ConfigOption = None,
) -> None:
    """Sign the journal with another key from now on; the old one vouches for it.

    The first checkpoint after it is signed by both. With --lost nobody vouches for the new key, and the journal shows
    that for ever.
    """
    why, actor = given_reason(reason), kernel_actor()

    async def command(rooms: Rooms) -> tuple[SignedCheckpoint, Keyed | None]:
        made = await checkpointing(rooms).rotate(lost=lost, reason=why, actor=actor)
        return made, (await rooms.ledger.checkpoints.ring()).current

    made, now = run(config, command)
    if now is not None:
        out.print(f"the journal's key is now {now.key}, by {actor}", markup=False)
    out.print("tell it to those who verify this journal; its first checkpoint:", markup=False)
    _print_checkpoint(made, json=False)


@app.command()
def keys(json: JsonOption = False, config: ConfigOption = None) -> None:
    """List the keys that signed the journal, and from which entry on each counts."""

    async def command(rooms: Rooms) -> list[tuple[Keyed, Event]]:
        entries = await rooms.ledger.checkpoints.keyed()
        return [(Keyed.of(each), each.event()) for each in entries]

    found = run(config, command)
    if json:
        print_json([_key_as_json(*each) for each in found])
        return
    print_table(
        ["FROM", "SINCE", "HOW", "BY", "KEY"],
        [[str(keyed.serial), when(e.at), _how(keyed.how), e.actor, str(keyed.key)] for keyed, e in found],
        empty="Nothing was signed yet: `iarproxy journal checkpoint`, or `serve` after its first minute, makes a key.",
    )


def _key_as_json(keyed: Keyed, event: Event) -> dict[str, Any]:
    facts = {"from": keyed.serial, "key": str(keyed.key), "how": keyed.how.value}
    return {**facts, "at": event.at, "by": event.actor, "reason": event.reason}


def _how(how: How) -> str:
    match how:
        case How.FIRST:
            return "first"
        case How.ROTATED:
            return "rotated, the old key vouches"
        case How.LOST:
            return "LOST: nobody vouches"
