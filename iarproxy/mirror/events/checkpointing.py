"""Checkpoints of the journal, made and told: to the log, to a file, and to whoever listens.

Rule 1: it leaves the machine as soon as it is made: what only this machine knows can be rewritten here.
Rule 2: a file that cannot be written is a warning; the checkpoint stands, and the next one tries again.
Rule 3: before a process signs anything it looks at what left the machine before: a journal that does not continue it
        was restored from older copies, and is not signed. Whoever wants it so moves the file away, and keeps it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import structlog

from iarproxy.errors import LedgerDamaged, Refused, Unavailable
from iarproxy.ledger import Ledger
from iarproxy.ledger.proof import checkpoint_file
from iarproxy.ledger.proof.checkpoint_rows import SignedCheckpoint
from iarproxy.ledger.proof.keys import KeyFile

log = structlog.get_logger("iarproxy.journal")


class Checkpointing:
    """Makes checkpoints of a ledger's journal with the key in `key_file`, and copies them to `file`, if given."""

    def __init__(
        self,
        ledger: Ledger,
        key_file: Path,
        file: Path | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._ledger = ledger
        self._now = now
        self.keys = KeyFile(key_file)
        self._file = file
        self._agrees = file is None  # with what left the machine before
        self._listeners: list[Callable[[SignedCheckpoint], None]] = []

    def on_checkpoint(self, callback: Callable[[SignedCheckpoint], None]) -> None:
        """Have `callback` called on the loop with each checkpoint that is made here. It must not raise or wait."""
        self._listeners.append(callback)

    async def make_checkpoint(self) -> SignedCheckpoint | None:
        """Sign the journal as it is; None: it did not grow since the last one.

        Raises:
            Refused: the key cannot be used.
            LedgerDamaged: the journal disagrees with its last checkpoint, here or in the file.
        """
        await self._insist_on_copies()
        made = await self._ledger.checkpoints.make(self.keys)
        if made is not None:
            await self.tell(made)
        return made

    async def rotate(self, *, lost: bool, reason: str, actor: str) -> SignedCheckpoint:
        """A person's act: another key signs from now on; see `Checkpoints.rotate`. Raises as `make_checkpoint` too."""
        await self._insist_on_copies()
        made = await self._ledger.checkpoints.rotate(self.keys, lost=lost, reason=reason, actor=actor)
        await self.tell(made)
        return made

    async def take_back(self) -> int:
        """Bring the checkpoints that were copied to the file back into a ledger that lost them; how many.

        Raises:
            LedgerDamaged: the journal disagrees with one of them.
            Refused: the file cannot be read.
        """
        if self._file is None or not await asyncio.to_thread(_has_content, self._file):
            return 0
        copies = await asyncio.to_thread(_copies, self._file)
        return await self._ledger.checkpoints.take_back(copies)

    async def tell(self, made: SignedCheckpoint) -> None:
        """Let it leave the machine."""
        log.info("checkpoint", size=made.size, checkpoint=str(made.note))
        if self._file is not None:
            try:
                await asyncio.to_thread(checkpoint_file.append, self._file, made)
            except Unavailable as error:
                log.warning("a checkpoint was not copied", size=made.size, reason=str(error))
        for listener in self._listeners:
            listener(made)

    async def _insist_on_copies(self) -> None:
        if self._agrees or self._file is None or not await asyncio.to_thread(_has_content, self._file):
            return
        try:
            copies = await asyncio.to_thread(_copies, self._file)
        except Refused as error:
            log.warning("copies of checkpoints are not compared", reason=str(error))
        else:
            await self._ledger.checkpoints.insist(copies, str(self._file))
        self._agrees = True

    async def readings(self) -> dict[str, float]:
        """How far the journal is signed, for metrics."""
        try:
            now = await self._ledger.checkpoints.standing()
        except LedgerDamaged:  # who reads metrics shall have the others
            return {}
        told: dict[str, float] = {"journal_size": now.head.serial, "checkpoint_size": 0}
        if now.last is not None and now.last.at is not None:
            age = max(0.0, (self._now() - now.last.at).total_seconds())
            told |= {"checkpoint_size": now.last.size, "checkpoint_age_seconds": age}
        return told


def _copies(file: Path) -> list[SignedCheckpoint]:
    return checkpoint_file.thinned(checkpoint_file.read(file)).kept


def _has_content(file: Path) -> bool:
    try:
        return file.stat().st_size > 0
    except OSError:
        return False
