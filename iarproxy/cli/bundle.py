"""`iarproxy bundle`: sets carried to sites that have no network, as signed bundles; each command in its own module."""

from __future__ import annotations

import typer

from iarproxy.cli.bundle_create import create

app = typer.Typer(help="Carry sets to sites without a network: create, inspect, verify, apply.", no_args_is_help=True)
app.command()(create)
