"""`iarproxy bundle sign`: the signature of a further person, who need not have the machine that made the bundle.

Rule: no store and no ledger is looked at; the bundle is only read, but for the signature that comes to lie beside it.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from iarproxy.archive.folder import BundleFolder
from iarproxy.archive.making.countersigning import signable
from iarproxy.cli.key_reading import rotations_beside, signers, signing_key
from iarproxy.cli.options import JsonOption
from iarproxy.cli.output import out, print_json, when
from iarproxy.cli.writing import output
from iarproxy.trust.bundles import file_of


def sign(
    folder: Annotated[Path, typer.Argument(metavar="DIR", readable=False, help="The bundle.")],
    *,
    key: Annotated[
        Path, typer.Option("--key", metavar="NAME.key", readable=False, help="What signs; `keys create` makes one.")
    ],
    trust: Annotated[
        list[Path] | None,
        typer.Option("--trust", metavar="NAME.pub", readable=False, help="Who has to have signed it before."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Sign a bundle that somebody else made: sites may want several signatures (`bundle apply --threshold`).

    The volumes are not read: `bundle inspect` shows what you vouch for, `bundle verify` whether it is all there.
    """
    signer = signing_key(key)
    with BundleFolder.open([folder]) as bundle:
        found = signable(bundle, signers(trust or []))
    beside = {file_of(signer.public): found.signed(signer), **rotations_beside(key, signer.public)}
    with ExitStack() as files:
        for name, raw in beside.items():
            if name == file_of(signer.public) or not (folder / name).exists():
                files.enter_context(output(folder / name)).write(raw)
    said = found.statement
    if json:
        told = {"set": said.set, "sequence": said.sequence, "origin": said.origin, "bundle": str(said.bundle)}
        told |= {"key": signer.public.fingerprint}
        print_json({**told, "expires": said.expires, "signatures": len(found.hints) + 1})
        return
    names = said.sections["names"][0]
    out.print(
        f"{folder}: bundle {said.sequence} of set {said.set} from {said.origin}, {names} names, to be applied until "
        f"{when(said.expires)}",
        markup=False,
    )
    out.print(f"  signed by {signer.public.fingerprint}; {len(found.hints) + 1} signatures now", markup=False)
    if not trust:
        out.print("  the other signatures were not checked: say whom you trust by --trust", markup=False)
