"""`iarproxy bundle inspect`: what a bundle says of itself. It needs no key, store or configuration."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from iarproxy.archive.folder import BundleFolder
from iarproxy.archive.inspecting import Inspected, Part, Signature
from iarproxy.archive.inspecting import inspect as look
from iarproxy.cli import collector
from iarproxy.cli.options import JsonOption
from iarproxy.cli.output import as_bytes, out, plain, print_error, print_json, print_table, when
from iarproxy.trust.bundles import BundleStatement

_UNVERIFIED = "nothing of this was verified, and anybody may have written it; `iarproxy bundle verify` checks a bundle"
_SHORT = 16  # hex digits of a fingerprint
_SHOWN = 50  # lines of a kind


def inspect(
    folders: Annotated[
        list[Path], typer.Argument(metavar="DIR...", readable=False, help="The bundle; several: its media.")
    ],
    *,
    json: JsonOption = False,
) -> None:
    """Tell what a bundle says of itself: names, sizes, what of it travels, who seems to have signed it.

    Nothing is verified.
    """
    with collector.resting(), BundleFolder.open(folders) as folder:
        found = look(folder)
    if json:
        print_json(_as_json(found))
    else:
        _print(found)


def _as_json(found: Inspected) -> dict[str, Any]:
    manifest = found.manifest
    return {
        "verified": False,
        "bundle": str(manifest.identity),
        "set": manifest.set,
        "names": [
            {
                "reference": str(each.reference),
                "digest": str(each.descriptor.digest),
                "mediaType": each.descriptor.media_type,
                "travels": travels.value,
                "omitted": list(map(str, each.omitted)),
            }
            for each, travels in zip(manifest.names, found.travels, strict=True)
        ],
        "attachments": [
            {
                "reference": str(each.reference),
                "digest": str(each.descriptor.digest),
                "manifests": list(map(str, each.manifests)),
            }
            for each in manifest.attachments
        ],
        "provides": {"blobs": len(manifest.provides), "bytes": found.carried},
        "requires": list(map(str, manifest.requires)),
        "volumes": [
            {"number": each.number, "size": each.size, "file": each.found or None, "problem": each.problem or None}
            for each in found.parts
        ],
        "signatures": list(map(_signature, found.signatures)),
        "rotations": found.rotations,
        "strangers": list(found.strangers),
    }


def _signature(each: Signature) -> dict[str, Any]:
    told: dict[str, Any] = {"key": each.key, "fits": each.fits}
    said = each.said
    if said is None:
        return told | {"error": each.why}
    base = {"kind": said.base.kind.value, "bundle": said.base.identity and str(said.base.identity)}
    return told | {
        "origin": said.origin,
        "sequence": said.sequence,
        "created": said.created,
        "expires": said.expires,
        "base": base | {"sequence": said.base.sequence},
    }


def _print(found: Inspected) -> None:
    manifest = found.manifest
    out.print(f"bundle      {manifest.identity} of set {manifest.set}", markup=False)
    for each in found.signatures:
        out.print(f"signature   {plain(_claim(each))}", markup=False)
    if not found.signatures:
        out.print("signature   none", markup=False)
    here = sum(not each.problem for each in found.parts)
    size = as_bytes(sum(each.size for each in found.parts))
    carried = f"{len(manifest.provides)} blobs, {as_bytes(found.carried)}"
    out.print(f"travels     {carried}, as {size}; volumes here: {here} of {len(found.parts)}", markup=False)
    out.print(f"requires    {len(manifest.requires)} blobs that the site must hold", markup=False)
    out.print(f"names       {len(manifest.names)}, and {len(manifest.attachments)} attachments", markup=False)
    _list("missing", [_told(part) for part in found.parts if part.problem])
    _list("stranger", [f"{path} is no part of it" for path in found.strangers])
    rows = [
        [
            str(each.reference),
            str(each.descriptor.digest),
            travels.value,
            f"{len(each.omitted)} left out" if each.omitted else "",
        ]
        for each, travels in zip(manifest.names, found.travels, strict=True)
    ]
    print_table(["NAME", "DIGEST", "TRAVELS", "PLATFORMS"], rows, empty="it has no names")
    print_error(_UNVERIFIED)


def _list(what: str, lines: Sequence[str]) -> None:
    """At most `_SHOWN` lines, and how many more there are."""
    for line in lines[:_SHOWN]:
        out.print(f"{what:11} {plain(line)}", markup=False)
    if len(lines) > _SHOWN:
        out.print(f"{what:11} and {len(lines) - _SHOWN} more; --json lists them", markup=False)


def _claim(each: Signature) -> str:
    said = each.said
    if said is None:
        return f"cannot be read: {each.why}"
    fits = "" if each.fits else "; it is about another bundle.json"
    until = f"made {when(said.created)}, to be applied until {when(said.expires)}"
    return f"key {each.key[:_SHORT]}: bundle {said.sequence} of {said.origin}{_base(said)}; {until}{fits}"


def _base(said: BundleStatement) -> str:
    return "" if said.base.sequence is None else f", since bundle {said.base.sequence} by {said.base.kind.value}"


def _told(part: Part) -> str:
    where = f"{part.found}: " if part.found else ""
    return f"{where}volume {part.number} of {part.size} bytes {part.problem}"
