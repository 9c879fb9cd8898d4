"""Checkpoints in the background: made where the journal grew, by one process, told to the outside."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from iarproxy.errors import LedgerDamaged
from iarproxy.ledger import Ledger
from iarproxy.ledger.proof import checkpoint_file
from iarproxy.ledger.proof.checkpoint_rows import SignedCheckpoint
from iarproxy.ledger.recovery import rebuild
from iarproxy.mirror.events.checkpointing import Checkpointing
from iarproxy.oci import Descriptor, Digest, Repository, Tag, TagReference
from iarproxy.oci.media_types import OCI_INDEX

STORE = "a-store"
NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


@pytest_asyncio.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[Ledger]:
    path = tmp_path / "ledger.db"
    made = await Ledger.open(path, store_identity=STORE, store_is_empty=True, now=lambda: NOW)
    try:
        yield made
    finally:
        await made.close()


async def pin(ledger: Ledger, name: str) -> None:
    reference = TagReference(Repository("registry.example.com", "app"), Tag(name))
    await ledger.add(reference, Descriptor(OCI_INDEX, Digest.of(b"x"), 1), "http://127.0.0.1/")


def signing(ledger: Ledger, folder: Path, file: Path | None) -> Checkpointing:
    return Checkpointing(ledger, folder / "journal.key", file, lambda: NOW + timedelta(seconds=42))


async def test_a_checkpoint_leaves_the_machine(ledger: Ledger, tmp_path: Path) -> None:
    """It is logged with its signatures, appended to the file, and given to who listens; once."""
    made: list[SignedCheckpoint] = []
    service = signing(ledger, tmp_path, tmp_path / "witness")
    service.on_checkpoint(made.append)
    with capture_logs() as logs:
        await service.make_checkpoint()
        assert None is await service.make_checkpoint()
    assert [{"event": "checkpoint", "size": 2, "checkpoint": str(made[0].note), "log_level": "info"}] == logs
    assert made == list(checkpoint_file.read(tmp_path / "witness"))
    await pin(ledger, "1")
    await service.make_checkpoint()
    assert [2, 3] == [each.size for each in made]


async def test_a_file_that_cannot_be_written_is_a_warning(ledger: Ledger, tmp_path: Path) -> None:
    """The checkpoint stands, and the next one tries again."""
    service = signing(ledger, tmp_path, tmp_path / "nowhere" / "witness")
    with capture_logs() as logs:
        assert None is not await service.make_checkpoint()
    assert ["info", "warning"] == [each["log_level"] for each in logs]
    assert "cannot be written" in logs[1]["reason"]
    (tmp_path / "nowhere").mkdir()
    await pin(ledger, "1")
    await service.make_checkpoint()
    assert [3] == [each.size for each in checkpoint_file.read(tmp_path / "nowhere" / "witness")]


async def test_readings(ledger: Ledger, tmp_path: Path) -> None:
    """How far the journal is signed, and how long ago."""
    service = signing(ledger, tmp_path, None)
    assert {"journal_size": 1, "checkpoint_size": 0} == await service.readings()
    await service.make_checkpoint()
    await pin(ledger, "1")
    expected = {"journal_size": 3, "checkpoint_size": 2, "checkpoint_age_seconds": 42.0}
    assert expected == await service.readings()


async def test_what_was_copied_comes_back_after_a_rebuild(tmp_path: Path) -> None:
    """A ledger that was rebuilt takes back from the file the checkpoints that agree with it, and no others."""
    path, witness = tmp_path / "ledger.db", tmp_path / "witness"

    async def opened(**options: Any) -> Ledger:
        return await Ledger.open(path, store_identity=STORE, now=lambda: NOW, **options)

    made = await opened(store_is_empty=True)
    service = signing(made, tmp_path, witness)
    for name in ("1", "2", "3"):
        await pin(made, name)
        await service.make_checkpoint()
    await made.close()
    path.unlink()
    await rebuild(path, store_identity=STORE, actor="ann", reason="lost", now=lambda: NOW)
    made = await opened(store_is_empty=False)
    try:
        service = signing(made, tmp_path, witness)
        assert 3 == await service.take_back()
        assert 0 == await service.take_back()
        last = (await made.checkpoints.standing()).last
        assert last == list(checkpoint_file.read(witness))[-1]
        assert None is not await service.make_checkpoint()
        assert 0 == await signing(made, tmp_path, None).take_back()
    finally:
        await made.close()
    await asyncio.sleep(0)


async def test_no_fork_is_signed(tmp_path: Path) -> None:
    """A ledger that was restored with all that lay beside it is not signed before what left the machine is put away.

    Neither while it is shorter, nor when it has grown past what it once was.
    """
    folder, witness = tmp_path / "store", tmp_path / "witness"
    folder.mkdir()
    made = await Ledger.open(folder / "ledger.db", store_identity=STORE, store_is_empty=True, now=lambda: NOW)
    await pin(made, "1")
    await signing(made, folder, witness).make_checkpoint()
    await made.close()
    shutil.copytree(folder, tmp_path / "older")
    made = await Ledger.open(folder / "ledger.db", store_identity=STORE, store_is_empty=False, now=lambda: NOW)
    for name in ("2", "3"):
        await pin(made, name)
    await signing(made, folder, witness).make_checkpoint()
    await made.close()
    made = await Ledger.open(tmp_path / "older" / "ledger.db", store_identity=STORE, store_is_empty=False)
    try:
        for name in ("other", "names", "come"):
            await pin(made, name)
            with pytest.raises(LedgerDamaged, match=r"left this machine.*moved away"):
                await signing(made, tmp_path / "older", witness).make_checkpoint()
        with pytest.raises(LedgerDamaged, match="left this machine"):
            await signing(made, tmp_path / "older", witness).rotate(lost=False, reason="r", actor="ann")
        witness.rename(tmp_path / "kept")
        assert None is not await signing(made, tmp_path / "older", witness).make_checkpoint()
    finally:
        await made.close()


async def test_copies_of_others_hinder_nothing(ledger: Ledger, tmp_path: Path) -> None:
    """The file may hold other journals' checkpoints, or what cannot be read."""
    (tmp_path / "other").mkdir()
    other = await Ledger.open(tmp_path / "other" / "ledger.db", store_identity="another", store_is_empty=True)
    for number in range(9):
        await pin(other, str(number))
    witness = tmp_path / "witness"
    await Checkpointing(other, tmp_path / "other" / "journal.key", witness).make_checkpoint()
    await other.close()
    assert None is not await signing(ledger, tmp_path, witness).make_checkpoint()
    with witness.open("ab") as file:
        file.write(b'{"checkpoint": "broken"}\n')
    await pin(ledger, "1")
    with capture_logs() as logs:
        assert None is not await signing(ledger, tmp_path, witness).make_checkpoint()
    assert "copies of checkpoints are not compared" == logs[0]["event"]
