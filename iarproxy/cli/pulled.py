"""Who pulled something, in words."""

from __future__ import annotations

from collections.abc import Iterable
from typing import assert_never

from iarproxy.cli.output import when
from iarproxy.ledger import KEPT, NotUsed, Use, Used, UseSummary, UsesUnreadable


def pulls(used: UseSummary) -> str:
    """Who pulled something, as one line for people."""
    match used:
        case Used(clients=0):
            return f"{_times(used)}; clients are not recorded"
        case Used():
            newest = ", ".join(_client(each) for each in _one_each(used.newest))
            return f"{_times(used)}, by {used.clients} {'client' if used.clients == 1 else 'clients'}: {newest}"
        case NotUsed():
            return f"not pulled yet, or not in the last {KEPT.days} days"
        case UsesUnreadable(reason=reason):
            return f"not known now: {reason}"
        case _:
            assert_never(used)


def _times(used: Used) -> str:
    if used.count == 1:
        return f"once, {when(used.last)}"
    return f"{used.count} times since {when(used.first)}, last {when(used.last)}"


def _one_each(newest: Iterable[Use]) -> list[Use]:
    """The newest use of each client that is known: one may have been given several digests."""
    found: dict[str, Use] = {}
    for use in newest:
        if use.client:
            found.setdefault(use.client, use)
    return list(found.values())


def _client(use: Use) -> str:
    return f"{use.client} {when(use.last)}"
