"""`iarproxy bundle create`: a signed bundle of a set that was synced, for one site.

Rule: what only the person may read (keys, receipts, the sets file) is read before root is given up; the folder is made
      then too, and becomes the store's owner's, who writes it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, assert_never

import typer
from pydantic import TypeAdapter, ValidationError
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from iarproxy.archive.making.creating import Creating
from iarproxy.archive.making.gathering import Gathering
from iarproxy.archive.making.order import Acknowledged, Created, Draft, Nothing, On, Order, Since
from iarproxy.archive.staging import MANIFEST, begin, staging, translated, volume_name
from iarproxy.cli.actor import kernel_actor
from iarproxy.cli.holdings import Holdings, checkpointing
from iarproxy.cli.key_reading import rotations_beside, signers, signing_key
from iarproxy.cli.options import ConfigOption, JsonOption, load, run_held
from iarproxy.cli.output import as_bytes, err, out, print_json, when
from iarproxy.cli.person_files import read
from iarproxy.config.sets import load_sets
from iarproxy.config.values import Duration, Size
from iarproxy.oci.bundle_manifest import MAX_BUNDLE, BundleManifest
from iarproxy.store import OsDisk
from iarproxy.trust.bundle_statement import BaseKind
from iarproxy.trust.receipts import MAX_RECEIPT, receipt_in

_SIZE: TypeAdapter[int] = TypeAdapter(Size)
_DURATION: TypeAdapter[timedelta] = TypeAdapter(Duration)
_LONGEST = timedelta(days=36_525)  # a hundred years

SetsOption = Annotated[
    Path, typer.Option("--sets", metavar="FILE", readable=False, help="The sets file, as for `iarproxy sync`.")
]
VolumeSizeOption = Annotated[
    str, typer.Option("--volume-size", metavar="SIZE", help="The most of a volume, as 4GB or 4GiB; else one file.")
]
ExpiresOption = Annotated[str, typer.Option("--expires", metavar="TIME", help="How long sites may apply it: 90d, 12h.")]


def create(
    name: Annotated[str, typer.Argument(metavar="SET", help="The set, as the sets file calls it.")],
    *,
    sets: SetsOption = Path("sets.toml"),
    key: Annotated[
        Path, typer.Option("--key", metavar="NAME.key", readable=False, help="What signs; `keys create` makes one.")
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="DIR", writable=False, help="A new folder, or an empty one.")
    ],
    receipt: Annotated[
        Path | None,
        typer.Option("--receipt", metavar="FILE", readable=False, help="Only what the site lacks by this receipt."),
    ] = None,
    trust: Annotated[
        list[Path] | None,
        typer.Option("--trust", metavar="SITE.pub", readable=False, help="The site's key, which signed the receipt."),
    ] = None,
    since: Annotated[
        Path | None,
        typer.Option("--since", metavar="BUNDLE_DIR", readable=False, help="Only what came to the set since then."),
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="All of it, for a site that has nothing.")] = False,
    volume_size: VolumeSizeOption = "",
    expires: ExpiresOption = "90d",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would travel.")] = False,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Write a signed bundle of a set, as its last `iarproxy sync` left it; nothing is fetched.

    Say what the site holds: by the --receipt that it wrote when it applied the last bundle, by the last bundle itself
    (--since), or nothing (--full). The folder is the bundle: carry all of it.
    """
    on = _on(receipt, trust or [], since, full=full)
    most = _given(_SIZE, volume_size, "--volume-size") if volume_size else None
    order = _order(name, sets, key, on, lifetime=_lifetime(expires), most=most)
    if not dry_run:
        _hand_over(output, load(config).store.path)

    async def command(holdings: Holdings) -> Draft | Created:
        creating = Creating(holdings.store, holdings.ledger, _gathering(holdings).gather, lambda: datetime.now(UTC))
        draft = await creating.draft(order)
        if dry_run:
            return draft
        with staging(output, OsDisk()) as made, _telling(draft, quiet=json) as told:
            return await creating.create(draft, made, told)

    done = run_held(config, command)
    if json:
        print_json(_as_json(done, output))
    else:
        _print(done, output)


def _order(name: str, sets: Path, key: Path, on: On, *, lifetime: timedelta, most: int | None) -> Order:
    """What is wanted, with what the person's files say; `most`: bytes of a volume."""
    definition, signer = load_sets(sets)[name].definition, signing_key(key)
    return Order(
        set=name,
        definition=definition,
        on=on,
        key=signer,
        lifetime=lifetime,
        actor=kernel_actor(),
        volume_size=most,
        rotations=rotations_beside(key, signer.public),
    )


def _on(receipt: Path | None, trust: list[Path], since: Path | None, *, full: bool) -> On:
    """What the site holds."""
    if sum((receipt is not None, since is not None, full)) != 1:
        raise typer.BadParameter("what does the site hold? Give one of --receipt (with --trust), --since and --full")
    if (receipt is None) == bool(trust):
        raise typer.BadParameter("--receipt and --trust go together: the .pub of the site that signed the receipt")
    if receipt is not None:
        keys = [key for each in signers(trust) for key in each]
        return Acknowledged(receipt_in(read(receipt, MAX_RECEIPT), keys))
    if since is not None:
        return Since(BundleManifest.parse(read(since / MANIFEST, MAX_BUNDLE)))
    return Nothing()


def _lifetime(text: str) -> timedelta:
    found: timedelta = _given(_DURATION, text, "--expires")
    if not timedelta() < found <= _LONGEST:
        raise typer.BadParameter(f"--expires: {text} is no time that a bundle could be good for; write for example 90d")
    return found


def _given(kind: TypeAdapter[Any], text: str, option: str) -> Any:
    try:
        return kind.validate_python(text)
    except OverflowError as error:
        raise typer.BadParameter(f"{option}: {text[:40]} is too much for anything") from error
    except ValidationError as error:
        said = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise typer.BadParameter(f"{option}: {said}") from error


def _hand_over(target: Path, store: Path) -> None:
    """Where root is given up: make the folder while we still may, for the store's owner, who will write to it."""
    if os.geteuid() != 0 or not store.exists() or store.stat().st_uid == 0:
        return
    if begin(target.absolute()):
        with translated(target):
            os.chown(target, store.stat().st_uid, store.stat().st_gid)


def _gathering(holdings: Holdings) -> Gathering:
    """What of the journal travels."""
    return Gathering(holdings.ledger, checkpointing(holdings).make_checkpoint)


@contextmanager
def _telling(draft: Draft, *, quiet: bool) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True))
    shown = Progress(*columns, TransferSpeedColumn(), TimeRemainingColumn(), console=err, disable=_is_silent(quiet))
    with shown as bars:
        task = bars.add_task("blobs", total=sum(each.size for each in draft.manifest.provides))
        yield lambda size: bars.advance(task, size)


def _is_silent(quiet: bool) -> bool:
    return quiet or not err.is_terminal


# --- what is told ----------------------------------------------------------------------------------------------------


def _as_json(done: Draft | Created, folder: Path) -> dict[str, Any]:
    draft = done.draft if isinstance(done, Created) else done
    manifest, base = draft.manifest, draft.base
    found = {
        "set": manifest.set,
        "bundle": str(manifest.identity),
        "base": {"kind": base.kind.value, "bundle": base.identity and str(base.identity), "sequence": base.sequence},
        "names": len(manifest.names),
        "attachments": len(manifest.attachments),
        "provides": {"blobs": len(manifest.provides), "bytes": sum(each.size for each in manifest.provides)},
        "requires": len(manifest.requires),
        "volumes": [{"file": volume_name(each.number), "size": each.size} for each in draft.volumes],
        "done": isinstance(done, Created),
    }
    if isinstance(done, Created):
        said = done.statement
        found |= {"path": str(folder.absolute()), "origin": said.origin, "sequence": said.sequence}
        found |= {"created": said.created, "expires": said.expires, "key": draft.order.key.public.fingerprint}
    return found


def _print(done: Draft | Created, folder: Path) -> None:
    draft = done.draft if isinstance(done, Created) else done
    manifest, size = draft.manifest, sum(each.size for each in draft.manifest.provides)
    held = f"; the site holds the other {len(manifest.requires)}, {_told(draft)}" if manifest.requires else ""
    carried = f"{len(manifest.provides)} blobs ({as_bytes(size)}) travel{held}"
    files = f"{len(draft.volumes)} volume{'s' if len(draft.volumes) > 1 else ''} of {as_bytes(draft.size)} together"
    what = f"{len(manifest.names)} names and {len(manifest.attachments)} attachments of set {manifest.set}"
    match done:
        case Created(statement=said):
            out.print(f"{folder}: bundle {said.sequence}: {what}; {carried}", markup=False)
            out.print(f"  {files}, to be applied until {when(said.expires)}", markup=False)
            out.print(f"  signed by {draft.order.key.public.fingerprint}", markup=False)
        case Draft():
            out.print(f"{what}; {carried}; {files}; nothing was written", markup=False)


def _told(draft: Draft) -> str:
    match draft.base.kind:
        case BaseKind.RECEIPT:
            return f"as its receipt of bundle {draft.base.sequence} says"
        case BaseKind.BUNDLE:
            return f"if it applied bundle {draft.base.sequence}"
        case BaseKind.NONE:
            return "for what that is worth"
        case _:
            assert_never(draft.base.kind)
