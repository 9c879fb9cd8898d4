"""The command line: every command in one place, and how each ends.

Rule 1: an error is one line on standard error that names what, where and the remedy; never a traceback.
Rule 2: the exit code says which kind it was; `output.Exit` lists them.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
from pathlib import Path
from typing import Annotated

import structlog
import typer
from typer.exceptions import TyperException

from iarproxy import __version__
from iarproxy import config as configuration
from iarproxy.cli import (
    bundle,
    diff,
    drift,
    events,
    inspect,
    journal,
    keys,
    layout,
    lease,
    ledger,
    lock,
    pins,
    serve,
    telling,
)
from iarproxy.cli import demo as demo_command
from iarproxy.cli.explain import explain
from iarproxy.cli.logs import configure_logging
from iarproxy.cli.options import ConfigOption
from iarproxy.cli.output import Exit, drop_output, err, out, print_error, print_json
from iarproxy.cli.promote import promote
from iarproxy.cli.recall import recall
from iarproxy.cli.retain import retain
from iarproxy.cli.setup import setup
from iarproxy.cli.sync import sync
from iarproxy.errors import BundleRefused, Refused, Unavailable
from iarproxy.trust import Admission

app = typer.Typer(
    help="A pull-through mirror for OCI registries that pins every tag and refuses upstream drift, loudly.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command()(serve.serve)
pins.app.command()(retain)
app.add_typer(pins.app, name="pins")
app.add_typer(drift.app, name="drift")
app.add_typer(lock.app, name="lock")
app.add_typer(bundle.app, name="bundle")
app.add_typer(layout.app, name="layout")
app.command()(diff.diff)
app.command()(explain)
app.command()(inspect.pull)
app.command()(sync)
app.command()(promote)
app.command()(recall)
app.command()(setup)
app.add_typer(inspect.store_app, name="store")
app.add_typer(ledger.app, name="ledger")
app.add_typer(journal.app, name="journal")
app.add_typer(events.app, name="events")
app.add_typer(lease.app, name="lease")
app.add_typer(keys.app, name="keys")
app.command()(demo_command.demo)


def _version(wanted: bool) -> None:  # typer calls it with the option's value
    if wanted:
        out.print(f"iarproxy {__version__}", markup=False)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command("check-config")
def check_config(
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", readable=False, help="None: the file that `serve` would read.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the settings as JSON.")] = False,
    config: ConfigOption = None,
) -> None:
    """Check a configuration and say what it means.

    It is read as `serve` would; nothing is started.
    """
    settings = configuration.load(file or config, os.environ)
    identity = serve.tls_identity(settings)
    telling.check(settings)
    if json:
        print_json(settings.model_dump(mode="json", exclude={"tags"}) | {"tags": [str(tag) for tag in settings.tags]})
        return
    out.print(f"{settings.source or 'built-in defaults'}: ok", markup=False)
    plain = [*settings.server.listen, *settings.server.optional_listen]
    out.print(f"  listens on  {', '.join(plain) or 'TLS only'}; admin on {settings.admin.listen}", markup=False)
    if identity is not None and settings.server.tls is not None:
        tls, expires = settings.server.tls, identity.not_after.date()
        out.print(f"  TLS on      {', '.join(tls.listen)}; certificate until {expires}", markup=False)
        for remark in identity.remarks:
            out.print(f"  warning     {remark}", markup=False)
    out.print(f"  store       {settings.store.path}", markup=False)
    offline = ", never asked: offline" if settings.server.offline else ""
    for name, upstream in settings.upstreams.items():
        out.print(f"  upstream    {name} at {', else '.join(upstream.urls)}{offline}", markup=False)
    for name, section in settings.environments.items():
        out.print(f"  environment {name} on {section.described()}", markup=False)
    if settings.inbox is not None:
        keys = ", ".join(map(str, settings.inbox.trust))
        out.print(f"  inbox       {settings.inbox.path}, signed by {keys}", markup=False)
    for name, hook in settings.webhooks.items():
        out.print(f"  webhook     {name}: {', '.join(hook.events)}", markup=False)
    for rule in settings.rules:
        first = "" if rule.admit is Admission.ANY else f", admits only what is {rule.admit}"
        first += f", cools down for {rule.cool_down}" if rule.cool_down else ""
        out.print(f"  tags        {rule.match.text}: {rule.mode}, on drift {rule.on_drift}{first}", markup=False)


def main() -> None:
    """The console script."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command line; the exit code."""
    configure_logging(logging.WARNING)
    try:
        code = int(app(arguments, standalone_mode=False, prog_name="iarproxy") or Exit.DONE)
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001  # the edge of the program: it ends as one line
        if isinstance(error, BundleRefused) and "--json" in arguments:
            print_json({"error": str(error), "code": error.code})
        return _tell(error)
    return _tell(KeyboardInterrupt()) if code == Exit.INTERRUPTED else code  # typer made a code of it, without a word


def _tell(error: BaseException) -> int:
    """One line for what ended a command, and the exit code that goes with it."""
    match error:
        case BrokenPipeError():
            return Exit.DONE
        case typer.Exit():
            return error.exit_code
        case TyperException():
            if type(error).__name__ == "NoArgsIsHelpError":  # its message is the help, in many lines
                err.print(error.format_message(), markup=False)
                return Exit.USAGE
            said = error.format_message().removesuffix(".")  # typer ends a guess with "'promote'?."
            end = "" if said.endswith("?") else "."
            code, line = Exit(error.exit_code), f"{said}{end} See `iarproxy --help`."
        case KeyboardInterrupt() | typer.Abort():
            code, line = Exit.INTERRUPTED, "interrupted; what was complete is kept"
        case Refused():
            code, line = Exit.REFUSED, str(error)
        case Unavailable():
            code, line = Exit.UNAVAILABLE, str(error)
        case PermissionError(filename=str() as path):  # rooms translate theirs; this is what a person named
            owner = "as root, commands are run by the store's owner, who has to reach it too"
            code, line = Exit.REFUSED, f"{path}: {error.strerror}; {owner}"
        case OSError(errno=errno.ENOSPC | errno.EDQUOT | errno.EFBIG | errno.EIO):  # rooms translate theirs
            drop_output()
            code, line = Exit.REFUSED, f"the output cannot be written: {error.strerror}"
        case _:
            structlog.get_logger("iarproxy").error("internal error", exc_info=error)
            code, line = Exit.INTERNAL, f"internal error: {type(error).__name__}: {error}; please report it"
    print_error(line)
    return code
