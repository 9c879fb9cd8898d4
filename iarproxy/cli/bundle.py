"""`iarproxy bundle`: sets carried to sites that have no network, as signed bundles; each command in its own module."""

from __future__ import annotations

from typing import ClassVar

import typer

from iarproxy.cli.on_demand import TableGroup


class Commands(TableGroup):
    """In the order of a bundle's life, as help lists them."""

    TABLE: ClassVar = (
        (
            "create",
            "bundle_create:create",
            "Write a signed bundle of a set, as its last `iarproxy sync` left it; nothing is fetched.",
        ),
        (
            "sign",
            "bundle_sign:sign",
            "Sign a bundle that somebody else made: sites may want several signatures (`bundle apply --threshold`).",
        ),
        (
            "receipt",
            "bundle_receipt:receipt",
            (
                "Write the receipt of a set again,"
                " as its origin's `bundle create --receipt FILE --trust SITE.pub` takes it."
            ),
        ),
        (
            "inspect",
            "bundle_inspect:inspect",
            "Tell what a bundle says of itself: names, sizes, what of it travels, who seems to have signed it.",
        ),
        (
            "verify",
            "bundle_verify:verify",
            "Check the signatures of a bundle and read every byte of it; all that is wrong is told.",
        ),
        (
            "apply",
            "bundle_apply:apply",
            "Verify a bundle and take it in: all of its names change at once, or nothing does.",
        ),
        (
            "inbox",
            "bundle_inbox:inbox",
            (
                "Apply what arrived in the watched folder, in order, and end;"
                " what is not all there is left for the next time."
            ),
        ),
    )


app = typer.Typer(
    cls=Commands,
    help="Carry sets to sites without a network: create, inspect, verify, apply.",
    no_args_is_help=True,
)
