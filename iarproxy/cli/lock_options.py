"""What the commands about locks share: options, and how an environment and what was left out are told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from iarproxy.cli.output import print_error
from iarproxy.cli.wiring import Rooms
from iarproxy.mirror.acts.locking import Locking
from iarproxy.oci import Digest, TagReference
from iarproxy.oci.lock import WRITABLE, LockFormat, Skipped

_TOLD = 100

FormatOption = Annotated[
    LockFormat | None, typer.Option("--format", help="How to read the file; else its content says.", show_default=False)
]
OutputFormatOption = Annotated[LockFormat, typer.Option("--format", help=f"One of {', '.join(WRITABLE)}.")]
PrefixOption = Annotated[
    str | None,
    typer.Option("--prefix", metavar="REGISTRY", help="In front of the names of a kpromo list.", show_default=False),
]


def locking(rooms: Rooms) -> Locking:
    """The use case over opened rooms."""
    return Locking(rooms.mirror, rooms.ledger, rooms.upstreams, rooms.config.rules)


def insist_writable(form: LockFormat) -> None:
    """Refuse a format that is only read.

    Raises:
        typer.BadParameter: that is what it is.
    """
    if form not in WRITABLE:
        raise typer.BadParameter(f"{form} is only read; write {', '.join(WRITABLE)}")


def tell_skipped(skipped: Sequence[Skipped]) -> None:
    """What was not read, one line each; --json has all of it."""
    for each in skipped[:_TOLD]:
        print_error(f"left out: {each}")
    if len(skipped) > _TOLD:
        print_error(f"left out: {len(skipped) - _TOLD} more; --json names them")


def pair(reference: TagReference, digest: Digest) -> dict[str, str]:
    """A tag and a digest, in JSON."""
    return {"reference": str(reference), "digest": str(digest)}
