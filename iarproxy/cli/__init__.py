"""The commands, and the wiring: the only room that opens the others and hands them to each other.

Rule: importing all of it makes a hundred thousand objects that stay; the collector would walk them again and again, a
      sixth of the time that a start takes. So it rests meanwhile, and what was imported is left out of its walks.
"""

from __future__ import annotations

import gc
import sys


def main() -> None:
    """The console script."""
    gc.disable()
    try:
        from iarproxy.cli import app  # noqa: PLC0415  # see the rule
    except KeyboardInterrupt:  # what tells all other ends is not there yet
        sys.stderr.write("iarproxy: interrupted before anything was done\n")
        sys.exit(130)
    gc.freeze()
    gc.enable()
    app.main()


__all__ = ["main"]
