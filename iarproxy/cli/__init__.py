"""The commands, and the wiring: the only room that opens the others and hands them to each other.

Rule: nothing is imported before Ctrl-C ends the process quietly, and then only what the called command needs.
"""

from __future__ import annotations

from iarproxy.cli import interrupts


def main() -> None:
    """The console script."""
    interrupts.end_by_them()
    from iarproxy.cli import app  # noqa: PLC0415  # see the rule

    app.main()


__all__ = ["main"]
