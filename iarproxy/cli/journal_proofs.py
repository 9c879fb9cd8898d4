"""`iarproxy journal prove|check|proof|compare`: what leaves the machine, and what others check without it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, assert_never

import orjson
import typer

from iarproxy.cli.holdings import checkpointing
from iarproxy.cli.options import (
    ConfigOption,
    EnvironmentOption,
    JsonOption,
    ReferenceArgument,
    environment_of,
    run,
    tag_reference,
)
from iarproxy.cli.output import Exit, out, plain, print_error, print_json, stop, when
from iarproxy.cli.person_files import read
from iarproxy.cli.wiring import Rooms
from iarproxy.cli.writing import output
from iarproxy.errors import LedgerDamaged, Malformed, Refused, UnknownManifest
from iarproxy.ledger import DEFAULT, Event
from iarproxy.ledger.proof import checkpoint_file, evidence
from iarproxy.ledger.proof.checkpoint_rows import SignedCheckpoint
from iarproxy.ledger.proof.keyring import origin_of
from iarproxy.ledger.recalls import one_line
from iarproxy.ledger.values import Name
from iarproxy.mirror.spelling import event_as_json
from iarproxy.trust import comparing
from iarproxy.trust.comparing import (
    Comparison,
    ConsistencyProof,
    Continued,
    Same,
    Split,
    Undecided,
    Unproven,
    Unrelated,
)
from iarproxy.trust.note import VerifierKey

_LINE = 1000  # characters: a file from elsewhere is printed

KeyOption = Annotated[
    str | None, typer.Option("--key", metavar="VKEY", help="The key that you trust, as `journal keys` prints it.")
]
OutputOption = Annotated[
    Path | None,
    typer.Option("-o", "--output", metavar="FILE", writable=False, help="A new file; default: standard output."),
]
FileArgument = Annotated[Path, typer.Argument(metavar="FILE", readable=False)]


def one_key(text: str | None) -> VerifierKey | None:
    """The key that a person wrote."""
    try:
        return None if text is None else VerifierKey.parse(text)
    except Malformed as error:
        raise typer.BadParameter(str(error)) from error


def _keys(texts: list[str] | None) -> list[VerifierKey]:
    return [found for found in map(one_key, texts or []) if found is not None]


def prove(
    ref: ReferenceArgument,
    env: EnvironmentOption = DEFAULT,
    to: OutputOption = None,
    config: ConfigOption = None,
) -> None:
    """Write a file that proves which pins a tag ever had here; `journal check` checks it anywhere.

    It holds the entries that made the pins, and shows each of them to be in a signed checkpoint.
    """
    with output(to) as sink:

        async def command(rooms: Rooms) -> bytes:
            name = Name(environment_of(rooms.config, env).name, tag_reference(ref, rooms.config))
            entries = await rooms.ledger.checkpoints.pinnings(name)
            signed = (await rooms.ledger.checkpoints.standing()).last
            if entries and (signed is None or signed.size < entries[-1].serial):
                made = await checkpointing(rooms).make_checkpoint()
                signed = made or (await rooms.ledger.checkpoints.standing()).last  # `serve` may have been quicker
            if not entries:
                raise UnknownManifest(f"{name} was never pinned; `iarproxy pins list` shows what is")
            if signed is None:
                raise LedgerDamaged("there is no checkpoint that can be read; run `iarproxy journal verify`")
            return await evidence.prove(rooms.ledger.checkpoints, name, signed, entries)

        sink.write(run(config, command))


def check(
    file: FileArgument,
    key: Annotated[list[str] | None, typer.Option("--key", metavar="VKEY", help="A key that you trust.")] = None,
    json: JsonOption = False,
) -> None:
    """Check a file that `journal prove` wrote, with nothing else: no ledger, no network, no configuration."""
    trusted = _keys(key)
    proven = evidence.check(read(file, evidence.MAX_SIZE), trusted)
    if json:
        print_json(_as_json(proven))
        return
    name = one_line(str(proven.name), _LINE)
    out.print(f"{name}: {len(proven.pins)} entries, in a journal of {proven.checkpoint.size}", markup=False)
    for each in proven.pins:
        out.print(f"  {each.serial:>8}  {when(each.at)}  {_told(each)}", markup=False)
    out.print(plain(f"signed by   {proven.key}"), markup=False)
    for text in evidence.PROVES:
        out.print(f"proves      {text}", markup=False)
    for text in evidence.PROVES_NOT:
        out.print(f"proves not  {text}", markup=False)
    if proven.lost:
        print_error("a key of this journal was lost and replaced; nobody vouches for the one that came then")
    if not proven.trusted:
        print_error(
            "the key is the file's own word, and anybody may have made it: give the key that you trust by --key"
        )


def _as_json(proven: evidence.Proven) -> dict[str, Any]:
    return {
        "reference": str(proven.name.reference),
        "environment": proven.name.environment,
        "origin": proven.checkpoint.checkpoint.origin,
        "size": proven.checkpoint.size,
        "key": str(proven.key),
        "trusted": proven.trusted,
        "key_lost": proven.lost,
        "pins": [event_as_json(each) for each in proven.pins],
        "proves": evidence.PROVES,
        "proves_not": evidence.PROVES_NOT,
    }


def _told(event: Event) -> str:
    descriptor = event.body.get("descriptor")
    what = descriptor.get("digest") if isinstance(descriptor, dict) else "no pin"
    why = f": {event.reason}" if event.reason else ""
    return one_line(f"{event.kind.value} {what} by {event.actor}{why}", _LINE)


def proof(
    old: Annotated[int, typer.Option("--from", metavar="SIZE", min=0, help="The size of the smaller checkpoint.")],
    new: Annotated[int, typer.Option("--to", metavar="SIZE", min=0, help="The size of the larger checkpoint.")],
    to: OutputOption = None,
    config: ConfigOption = None,
) -> None:
    """Write a file that proves that a larger checkpoint continues a smaller one, for `journal compare`."""
    if old > new:
        raise typer.BadParameter("--from is larger than --to")
    with output(to) as sink:

        async def command(rooms: Rooms) -> ConsistencyProof:
            _, _, hashes = await rooms.ledger.checkpoints.consistency(old, new)
            return ConsistencyProof(origin_of(rooms.store.identity), old, new, tuple(hashes))

        made = run(config, command)
        sink.write(orjson.dumps(made.document(), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


def compare(
    first: FileArgument,
    second: FileArgument,
    by: Annotated[
        Path | None,
        typer.Option("--proof", metavar="FILE", readable=False, help="What `journal proof` wrote, for two sizes."),
    ] = None,
    key: Annotated[
        list[str] | None, typer.Option("--key", metavar="VKEY", help="A key that has to have signed both.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Compare checkpoints that two people hold of one journal: were they shown one history?

    One size and two roots is a split view. For two sizes the site that holds the larger one writes a proof. A file may
    hold many checkpoints: each is compared with all of its journal and size, then the newest two of a journal.
    """
    trusted = _keys(key)
    ones, others = _signed(first, trusted), _signed(second, trusted)
    shown = None if by is None else ConsistencyProof.parse(read(by, comparing.MAX_SIZE))
    found = _compared(ones, others, shown)
    if json:
        kind = type(found).__name__.lower()
        sizes = {name: getattr(found, name) for name in found.__dataclass_fields__}
        print_json({"verdict": kind, **sizes, "signatures": "checked" if trusted else "not checked"})
    else:
        out.print(plain(_verdict(found)), markup=False)
        if not trusted:
            print_error("signatures were not checked, and prove nothing so: give the journal's key by --key")
    if not isinstance(found, Same | Continued):
        stop(Exit.REFUSED)


def _compared(
    ones: list[SignedCheckpoint], others: list[SignedCheckpoint], shown: ConsistencyProof | None
) -> Comparison:
    return comparing.compare_all([each.checkpoint for each in ones], [each.checkpoint for each in others], shown)


def _signed(file: Path, trusted: list[VerifierKey]) -> list[SignedCheckpoint]:
    found, count = checkpoint_file.thinned(checkpoint_file.read(file))
    if len(found) < count:
        print_error(f"of the {count} checkpoints in {file} {len(found)} are compared: split it for all")
    for each in found if trusted else []:
        if not each.note.signers(trusted):
            raise Refused(f"{file}: the checkpoint of {each.size} entries is not signed by a key that you trust")
    return found


def _verdict(found: Comparison) -> str:
    match found:
        case Same(size):
            return f"the same {size} entries"
        case Continued(old, new):
            return f"one history: the {new} entries begin with the {old}"
        case Split(size):
            return f"SPLIT VIEW: two histories of {size} entries were signed; keep both checkpoints, they prove it"
        case Unproven(old, new):
            return f"the proof does not show that the {new} entries begin with the {old}: it is wrong, or they do not"
        case Undecided(old, new):
            return f"not known; ask the site for a proof: `iarproxy journal proof --from {old} --to {new}`"
        case Unrelated(first, second):
            return f"two journals: {first} and {second}"
        case _:
            assert_never(found)
