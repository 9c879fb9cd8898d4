"""Commands that are imported when they are called: most need a tenth of a second of libraries that others do not.

Rule 1: a group that lists its commands in `TABLE` imports none of them, whatever it is asked for: help, completion, the
        nearest to a mistyped word. The one that is called is imported, and from there on takes the place of its row.
Rule 2: a row says what the command's own help begins with; tests/cli/test_on_demand.py compares them.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, ClassVar, cast

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_group

from iarproxy.cli import collector, interrupts


class OnDemand(TyperCommand):
    """A row of a group's table: stands for a command, or a group of them, until it is called.

    Args:
        name: as people type it.
        lies: `module:attribute`, below `iarproxy.cli`; a function, or a `typer.Typer`.
        said: the first sentence of its help.
    """

    def __init__(self, name: str, lies: str, said: str) -> None:
        super().__init__(name, help=said)
        self.name: str = name
        self._lies = lies

    def make_context(self, *given: Any, **more: Any) -> typer.Context:
        """Read the command line as the command itself does: the context is its own, and so is what runs."""
        return self.loaded().make_context(*given, **more)  # type: ignore[return-value]  # typer's own base of it

    def loaded(self) -> TyperCommand | TyperGroup:
        """The command itself, imported."""
        module, _, attribute = self._lies.partition(":")
        with interrupts.importing(), collector.resting():
            found = getattr(import_module(f"iarproxy.cli.{module}"), attribute)
        around = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
        if isinstance(found, typer.Typer):
            around.add_typer(found, name=self.name)
        else:
            around.command(self.name)(found)
        return cast("TyperCommand | TyperGroup", get_group(around).commands[self.name])


class TableGroup(TyperGroup):
    """A group whose commands are imported when they are called, in the order in which help lists them."""

    TABLE: ClassVar[tuple[tuple[str, str, str], ...]] = ()

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = {row[0]: OnDemand(*row) for row in self.TABLE}
