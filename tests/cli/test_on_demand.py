"""Commands that are imported when they are called: what that saves, and that nobody else can tell."""

from __future__ import annotations

import subprocess
import sys

import pytest
from typer.main import get_group

from iarproxy.cli import app, bundle
from iarproxy.cli.on_demand import OnDemand

_LIBRARIES = frozenset(("aiohttp", "cryptography", "gunicorn", "prometheus_client", "sqlalchemy", "structlog", "yaml"))
_ASK_NOBODY = frozenset(("aiohttp", "gunicorn", "prometheus_client"))
_RUN = "import sys; from iarproxy.cli import app; app.run(sys.argv[1:]); print(*sys.modules, sep='\\n')"
_ROWS = [
    pytest.param(row, id=f"{path} {row.name}")
    for path, group in (("iarproxy", app.app), ("iarproxy bundle", bundle.app))
    for row in get_group(group).commands.values()
]


@pytest.mark.parametrize("row", _ROWS)
def test_a_row_says_what_the_command_says_of_itself(row: OnDemand) -> None:
    """What help lists of a command is how the command's own help begins."""
    loaded = row.loaded()
    assert (loaded.name, loaded.get_short_help_str(1000)) == (row.name, row.get_short_help_str(1000))


@pytest.mark.parametrize(
    ("words", "unwanted"),
    [
        (["--help"], _LIBRARIES),
        (["--version"], _LIBRARIES),
        (["promot"], _LIBRARIES),
        (["bundle", "--help"], _LIBRARIES - {"structlog"}),
        (["bundle", "inspect", "nowhere"], _ASK_NOBODY | {"sqlalchemy"}),
        (["bundle", "verify", "nowhere", "--trust", "none.pub"], _ASK_NOBODY),
        (["bundle", "apply", "nowhere", "--trust", "none.pub"], _ASK_NOBODY),
    ],
)
def test_a_command_imports_no_library_that_it_does_not_need(words: list[str], unwanted: frozenset[str]) -> None:
    """Nobody waits for what other commands are made of."""
    ran = subprocess.run([sys.executable, "-c", _RUN, *words], capture_output=True, text=True, check=True, timeout=60)
    assert frozenset() == unwanted.intersection(ran.stdout.split())
