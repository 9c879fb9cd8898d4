"""The options of `iarproxy setup`, as types."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from iarproxy.cli.setup.plan import ImageStore

ClientArgument = Annotated[str | None, typer.Argument(metavar="[CLIENT]", help="Without it: the clients there are.")]
WriteOption = Annotated[bool, typer.Option("--write", help="Write the files, keeping what was there beside them.")]
UndoOption = Annotated[bool, typer.Option("--undo", help="Bring back what was there before --write.")]
CheckOption = Annotated[bool, typer.Option("--check", help="Prove that pulls arrive, and that refusals hold.")]
StrictOption = Annotated[
    bool, typer.Option("--strict", help="The form in which the real registry is never asked instead.")
]
PushOption = Annotated[
    bool, typer.Option("--push", help="With --strict: tags resolve here alone, pushes and digests may pass by.")
]
UrlOption = Annotated[
    str | None,
    typer.Option("--url", "--address", metavar="URL", help="The mirror as the client sees it: http://HOST:PORT."),
]
CaOption = Annotated[
    Path | None, typer.Option("--ca-file", metavar="FILE", help="The authority of the mirror's certificate.")
]
RegistryOption = Annotated[
    list[str],
    typer.Option("--registry", metavar="NAME", help="Only this upstream; repeatable. '*': whatever is asked for."),
]
RootOption = Annotated[
    Path | None, typer.Option("--root", metavar="DIR", help="Instead of the client's folder (containerd: of certs.d).")
]
ClientConfigOption = Annotated[
    Path | None, typer.Option("--client-config", metavar="FILE", help="containerd's config.toml, if elsewhere.")
]
VersionOption = Annotated[
    str | None, typer.Option("--client-version", metavar="X.Y", help="If the client is not on this machine.")
]
StoreOption = Annotated[
    ImageStore | None, typer.Option("--store", help="dockerd's image store; by default dockerd is asked.")
]
ArgumentOption = Annotated[
    list[str],
    typer.Option("--client-arg", metavar="ARG", help="For --check: before the client's own arguments; repeatable."),
]
ImageOption = Annotated[str, typer.Option("--image", metavar="REF", help="kubernetes: what writes the files.")]
OverwriteOption = Annotated[
    bool, typer.Option("--overwrite", help="With --write: also files that others wrote or edited.")
]
