"""The command line: every command in one place, and how each ends.

Rule 1: an error is one line on standard error that names what, where and the remedy; never a traceback.
Rule 2: the exit code says which kind it was; `output.Exit` lists them.
"""

from __future__ import annotations

import errno
import logging
import sys
from typing import Annotated, ClassVar

import typer
from typer.exceptions import TyperException

import iarproxy
from iarproxy.cli import interrupts
from iarproxy.cli.on_demand import TableGroup
from iarproxy.cli.output import Exit, drop_output, err, out, print_error, print_json
from iarproxy.errors import BundleRefused, Refused, Unavailable


class Commands(TableGroup):
    """Every command, in the order in which help lists them."""

    TABLE: ClassVar = (
        ("serve", "serve:serve", "Serve the mirror."),
        ("diff", "diff:diff", "Compare pins: from A to B, what was added, removed, changed."),
        ("explain", "explain:explain", "Tell where a name stands, and why."),
        ("pull", "inspect:pull", "Bring references into the store, with progress."),
        ("sync", "sync:sync", "Bring everything that a set needs into the store, and pin it."),
        ("promote", "promote:promote", "Let names into an environment, by digest."),
        (
            "recall",
            "recall:recall",
            "Deny a digest, everything that contains it, and every tag that leads to it; tell who pulled it.",
        ),
        ("setup", "setup:setup", "Set up a client to pull through this mirror, and prove it."),
        ("demo", "demo:demo", "Tell the whole story in a few seconds."),
        ("check-config", "check_config:check_config", "Check a configuration and say what it means."),
        ("pins", "pins:app", "What is pinned, and the deliberate change of a pin."),
        ("drift", "drift:app", "What upstream offers now for pinned tags."),
        ("lock", "lock:app", "Pins as text for git: export, import, compare."),
        ("bundle", "bundle:app", "Carry sets to sites without a network: create, inspect, verify, apply."),
        ("layout", "layout:app", "OCI layouts and docker-archives of other tools: export, import."),
        ("store", "inspect:store_app", "What the store holds."),
        ("ledger", "ledger:app", "Back up, restore, rebuild and verify the ledger."),
        ("journal", "journal:app", "The journal: read it, verify it, prove it to others."),
        ("events", "events:app", "Webhooks: who is told of what happens, and what could not be delivered."),
        ("lease", "lease:app", "What somebody runs, and whose names no retention takes."),
        ("keys", "keys:app", "Keys that sign bundles, and those of others that are trusted."),
    )


app = typer.Typer(
    cls=Commands,
    help="A pull-through mirror for OCI registries that pins every tag and refuses upstream drift, loudly.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(wanted: bool) -> None:  # typer calls it with the option's value
    if wanted:
        out.print(f"iarproxy {iarproxy.__version__}", markup=False)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[  # noqa: ARG001  # typer calls what reads it
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    _log_what_is_wrong()


def main() -> None:
    """The console script."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command line; the exit code."""
    try:
        interrupts.notice_them()
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
            _internal(error)
            code, line = Exit.INTERNAL, f"internal error: {type(error).__name__}: {error}; please report it"
    print_error(line)
    return code


def _internal(error: BaseException) -> None:
    import structlog  # noqa: PLC0415  # as below

    _log_what_is_wrong()
    structlog.get_logger("iarproxy").error("internal error", exc_info=error)


def _log_what_is_wrong() -> None:
    """Have warnings and errors logged; a command that has more to tell says so."""
    from iarproxy.cli.logs import configure_logging  # noqa: PLC0415  # structlog is half of what help would import

    configure_logging(logging.WARNING)
