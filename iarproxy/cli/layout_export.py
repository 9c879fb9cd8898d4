"""`iarproxy layout export`: what other tools read, from the store or from a bundle's volumes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from iarproxy.archive.held import load_from, size_in
from iarproxy.archive.layouts.exporting import Export, Exported, Exporting, LayoutFormat
from iarproxy.archive.layouts.store import attached_in, chunks_of, joined
from iarproxy.archive.layouts.writing import Chunks, write_archive, write_folder
from iarproxy.cli.options import (
    ConfigOption,
    EnvironmentOption,
    JsonOption,
    environment_of,
    load,
    platforms,
    reference,
    run,
)
from iarproxy.cli.output import as_bytes, out, print_error, print_json
from iarproxy.cli.wiring import Rooms
from iarproxy.cli.writing import output
from iarproxy.errors import Refused
from iarproxy.ledger import DEFAULT, PinSet
from iarproxy.oci import MAX_MANIFEST, Reference, TagReference, parse_manifest
from iarproxy.oci.volumes import Literal, Piece

Write: TypeAlias = Callable[[Sequence[Literal | Piece], Chunks], None]


def export(
    refs: Annotated[
        list[str], typer.Argument(metavar="[REF...]", help="What is pinned here, or digests.", show_default=False)
    ] = [],  # noqa: B006  # typer reads it, nobody changes it
    *,
    target: Annotated[Path, typer.Option("-o", "--output", metavar="PATH", help="A new file, or a new folder.")],
    form: Annotated[LayoutFormat, typer.Option("--format", help="What to write.")] = LayoutFormat.OCI_ARCHIVE,
    platform: Annotated[
        list[str], typer.Option("--platform", metavar="OS/ARCH", help="Of an index, only these; repeatable.")
    ] = ["all"],  # noqa: B006  # typer reads it, nobody changes it
    flat: Annotated[
        bool, typer.Option("--flat", help="Name the one platform's image, and not its index without the others.")
    ] = False,
    referrers: Annotated[
        bool, typer.Option("--referrers", help="With signatures, SBOMs and whatever else refers to the images.")
    ] = False,
    bundle: Annotated[
        list[Path] | None,
        typer.Option(
            "--bundle", metavar="DIR", readable=False, help="Join a bundle's volumes; repeat for each medium."
        ),
    ] = None,
    env: EnvironmentOption = DEFAULT,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Write pinned images, with all that belongs to them, as skopeo, podman, ctr, crane, oras and regctl read it.

    The same content gives the same bytes. An index of which --platform leaves something out keeps its digest: runtimes
    read it, and what copies whole indexes does not (--flat helps there). A docker-archive is of one platform.
    """
    if bool(refs) == bool(bundle):
        raise typer.BadParameter("name what to export: REF..., or --bundle DIR")
    chosen = platforms(platform)
    if bundle:
        if chosen or flat or referrers or form is LayoutFormat.DOCKER_ARCHIVE:
            raise typer.BadParameter(
                "--bundle writes all of a bundle as --format oci or oci-archive; leave the rest out"
            )
        with joined(bundle) as (contents, chunks), _writer(target, form, None) as write:
            write(contents, chunks)
        return _tell(Export(), contents, target, json=json)

    async def command(rooms: Rooms) -> Export:
        pins = rooms.ledger.within(environment_of(rooms.config, env).name)
        names = dict.fromkeys(reference(ref, rooms.config) for ref in refs)
        wanted = [await _wanted(rooms, pins, each) for each in names]
        attached = attached_in(rooms.store, rooms.ledger)
        exporting = Exporting(
            load_from(rooms.store), size_in(rooms.store), chosen, attached, flat=flat, referrers=referrers
        )
        found = await exporting.gather(wanted, form)
        await asyncio.to_thread(write, found.contents(), chunks_of(rooms.store))
        return found

    with _writer(target, form, load(config).store.path) as write:
        found = run(config, command)
    return _tell(found, found.contents(), target, json=json)


async def _wanted(rooms: Rooms, pins: PinSet, reference: Reference) -> Exported:
    """What a name stands for here.

    Raises:
        Refused: nothing.
    """
    if isinstance(reference, TagReference):
        pin = await pins.pin_of(reference)
        if pin is not None:
            return Exported(reference, pin.descriptor)
        followed = await rooms.ledger.followed(reference)
        if followed is not None:
            return Exported(reference, followed[0])
        raise Refused(f"{reference} is not pinned here; `iarproxy pull {reference}` pins and fetches it")
    raw = await rooms.store.read(reference.digest, MAX_MANIFEST)
    if raw is None:
        raise Refused(f"{reference} is not held here; `iarproxy pull {reference}` fetches it")
    return Exported(reference, parse_manifest(raw, "", reference.digest).descriptor)


@contextmanager
def _writer(target: Path, form: LayoutFormat, store: Path | None) -> Iterator[Write]:
    """What writes to the new file or folder, which is made while we may: root is given up for the store's owner.

    Raises:
        Refused: it exists, or cannot be made or written.
    """
    if form is not LayoutFormat.OCI:
        with output(target) as sink:
            yield lambda contents, chunks: _translated(target, partial(write_archive, sink, contents, chunks))
        return
    folder = _new_folder(target, store)
    try:
        yield lambda contents, chunks: _translated(target, partial(write_folder, folder, contents, chunks))
    finally:
        os.close(folder)
        with suppress(OSError):  # it has the layout, or what was written of it
            target.rmdir()


def _new_folder(target: Path, store: Path | None) -> int:
    """A descriptor of a new folder, or an empty one."""
    try:
        target.mkdir(exist_ok=True)
        folder = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
        _insist_on_empty(target, folder)
        if os.geteuid() == 0 and store is not None and store.exists():
            os.fchown(folder, store.stat().st_uid, store.stat().st_gid)
    except OSError as error:
        raise Refused(f"{target} cannot be made: {error.strerror}") from error
    return folder


def _insist_on_empty(target: Path, folder: int) -> None:
    with os.scandir(folder) as found:
        if not any(found):
            return
    os.close(folder)
    raise Refused(f"{target} is not empty; name a new folder")


def _translated(target: Path, write: Callable[[], None]) -> None:
    try:
        write()
    except OSError as error:
        raise Refused(f"{target} cannot be written: {error.strerror}") from error


def _tell(export: Export, contents: Sequence[Literal | Piece], target: Path, *, json: bool) -> None:
    blobs = [each for each in contents if isinstance(each, Piece)]
    size = sum(each.size for each in blobs)
    if json:
        listed = [
            {"reference": str(each.reference), "digest": str(each.descriptor.digest), "omitted": len(each.omitted)}
            for each in export.names
        ]
        attachments = {"attachments": list(export.attachments), "attachments_left_out": export.left}
        print_json({"path": str(target), "images": listed, "blobs": len(blobs), "bytes": size, **attachments})
        return
    for each in export.names:
        left = f" (without {len(each.omitted)} manifests of its index)" if each.omitted else ""
        out.print(f"{each.reference} {each.descriptor.digest}{left}", markup=False)
    if export.left:
        print_error(f"{export.left} lists or tags of what is attached are left out; --referrers takes them along")
    attached = f" and {len(export.attachments)} lists or tags of what is attached" if export.attachments else ""
    out.print(f"{len(blobs)} blobs, {as_bytes(size)}{attached} written to {target}", markup=False)
