"""The commands, and the wiring: the only room that opens the others and hands them to each other."""

from iarproxy.cli.app import main

__all__ = ["main"]
