"""What a worker looks at before it serves."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

import pytest

from iarproxy.cli.serve import build, serve_settings
from iarproxy.config import load
from iarproxy.errors import ConfigError
from iarproxy.server.faces import WorkerContext
from test_commands import REFERENCE, Machine, machine

__all__ = ["machine"]


def damage(ledger: Path) -> None:
    """A page that nothing reads at the start is blank: only a look at the whole structure finds it."""
    connection = sqlite3.connect(ledger)
    [size] = connection.execute("PRAGMA page_size").fetchone()
    [page] = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'followed'").fetchone()
    connection.close()
    with ledger.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(bytes(size))


async def test_a_worker_that_is_started_later_checks_the_ledger_itself(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check at the start says nothing of a file that was damaged since: a reload must not put up with it."""
    machine.publish(1)
    assert 0 == machine.run("pull", REFERENCE).code
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(machine.folder / "run"))
    settings = serve_settings(load(Path(machine.environment["IARPROXY_CONFIG"]), machine.environment), None)
    damage(machine.folder / "store" / "ledger.db")
    faces = await build(WorkerContext(settings, 0, 0), checked_until=time.monotonic() + 60)
    await faces.close()
    with pytest.raises(ConfigError, match="damaged"):
        await build(WorkerContext(settings, 0, 1), checked_until=time.monotonic() - 1)
