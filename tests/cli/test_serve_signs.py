"""A worker that serves signs the journal, as the configuration says."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from iarproxy.cli.serve import build, serve_settings
from iarproxy.config import Config, load
from iarproxy.ledger.audit.auditing import audit
from iarproxy.ledger.proof import checkpoint_file
from iarproxy.server.faces import Faces, WorkerContext
from test_commands import Machine, machine

__all__ = ["machine"]


async def serving(machine: Machine, text: str) -> tuple[Config, Faces]:
    with Path(machine.environment["IARPROXY_CONFIG"]).open("a") as file:
        file.write(text)
    config = load(Path(machine.environment["IARPROXY_CONFIG"]), machine.environment)
    return config, await build(WorkerContext(serve_settings(config, None), 0, 0))


async def test_a_worker_signs_the_journal(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """It makes the key where the configuration wants it, and copies the checkpoint to the file."""
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(machine.folder / "run"))
    witness, key = machine.folder / "witness", machine.folder / "own.key"
    section = f'[journal]\ncheckpoint_interval = "100ms"\ncheckpoint_file = "{witness}"\nkey_file = "{key}"\n'
    config, faces = await serving(machine, section)
    try:
        async with asyncio.timeout(30):
            while not witness.exists() or not witness.stat().st_size:  # nobody tells
                await asyncio.sleep(0.05)
    finally:
        await faces.close()
    report = await audit(config.ledger_path, brought=list(checkpoint_file.read(witness)))
    assert ((), 1, True) == (report.findings, report.brought, key.exists())
    assert not config.ledger_path.with_name("journal.key").exists()


async def test_zero_means_never(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """With an interval of zero nothing is signed, and no key is made."""
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(machine.folder / "run"))
    config, faces = await serving(machine, '[journal]\ncheckpoint_interval = "0s"\n')
    await asyncio.sleep(0.3)
    await faces.close()
    assert not config.journal_key.exists()
