"""`iarproxy bundle receipt`: what this site holds of a set, signed, to be carried back; and the site's public key."""

from __future__ import annotations

from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from iarproxy.archive.acknowledging import Acknowledging
from iarproxy.cli.holdings import Holdings, checkpointing
from iarproxy.cli.options import ConfigOption, run_held
from iarproxy.cli.output import out
from iarproxy.cli.writing import output
from iarproxy.ledger.own_keys import receipt_key


def acknowledging(holdings: Holdings) -> Acknowledging:
    """What writes receipts of these rooms; makes the site's key where there is none.

    Raises:
        Refused: the key cannot be used.
    """
    key = receipt_key(holdings.config.ledger_path.parent)
    sign = checkpointing(holdings).make_checkpoint
    return Acknowledging(holdings.store, holdings.ledger, key, sign, lambda: datetime.now(UTC))


def receipt(
    name: Annotated[str, typer.Argument(metavar="SET", help="The set whose last bundle was applied here.")],
    to: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", writable=False, help="A new file; default: standard output."),
    ] = None,
    public: Annotated[
        Path | None,
        typer.Option(
            "--pub",
            metavar="FILE",
            writable=False,
            help="Write this site's public key to a new file; without -o nothing else.",
        ),
    ] = None,
    origin: Annotated[
        str | None, typer.Option("--origin", metavar="NAME", help="Whose bundles, where several have such a set.")
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Write the receipt of a set again, as its origin's `bundle create --receipt FILE --trust SITE.pub` takes it.

    Hand the public key over once, by a way that you trust; it stays the same, and is there before the first bundle is.
    """
    with ExitStack() as files:
        sink = None if to is None and public is not None else files.enter_context(output(to))
        shown = None if public is None else files.enter_context(output(public))

        async def command(holdings: Holdings) -> None:
            site = acknowledging(holdings)
            if sink is not None:
                sink.write(await site.receipt(await site.applied(name, origin)))
            if shown is not None:
                shown.write(site.key.public.pem)

        run_held(config, command)
    if to is not None:
        out.print(f"{to}: receipt of set {name}; carry it to the origin", markup=False)
    if public is not None:
        out.print(f"{public}: this site's key; give it to the origin, by a way that you trust", markup=False)
