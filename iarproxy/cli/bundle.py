"""`iarproxy bundle`: sets carried to sites that have no network, as signed bundles; each command in its own module."""

from __future__ import annotations

import typer

from iarproxy.cli.bundle_apply import apply, verify
from iarproxy.cli.bundle_create import create
from iarproxy.cli.bundle_inbox import inbox
from iarproxy.cli.bundle_inspect import inspect
from iarproxy.cli.bundle_receipt import receipt
from iarproxy.cli.bundle_sign import sign

app = typer.Typer(help="Carry sets to sites without a network: create, inspect, verify, apply.", no_args_is_help=True)
app.command()(create)
app.command()(sign)
app.command()(receipt)
app.command()(inspect)
app.command()(verify)
app.command()(apply)
app.command()(inbox)
