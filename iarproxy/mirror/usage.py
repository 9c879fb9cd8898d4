"""What was served to whom, gathered until the ledger keeps it."""

from __future__ import annotations

from collections.abc import Iterable

from iarproxy.mirror.answers import Served


class Usage:
    """Takes note of what was served."""

    def note(self, served: Iterable[Served]) -> None:
        """Take note, on the loop; it neither waits nor raises."""

    async def flush(self) -> None:
        """Hand what was noted to the ledger."""

    async def close(self) -> None:
        """Hand the rest to the ledger."""
