"""Refusals as JSON, for commands that scripts run: what is wrong, and the word that it is known by."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from iarproxy.cli.output import Exit, plain, print_json, stop
from iarproxy.errors import BundleRefused, Conflict, Denied, IarproxyError, Recalled, Unavailable


@contextmanager
def refusals(*, json: bool) -> Iterator[None]:
    """Let what ends the block be told as JSON, where that is wanted; with the same exit code."""
    try:
        yield
    except IarproxyError as error:
        if not json:
            raise
        print_json({"error": plain(str(error)), "code": code_of(error)})
        stop(Exit.UNAVAILABLE if isinstance(error, Unavailable) else Exit.REFUSED)


def code_of(error: IarproxyError) -> str:
    """The word for an error: a bundle's own, else the nearest."""
    match error:
        case BundleRefused():
            return error.code
        case Conflict() | Recalled() | Denied():
            return "conflict"
        case Unavailable():
            return "unavailable"
        case _:
            return "malformed"
