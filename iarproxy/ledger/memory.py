"""The per-worker memory of pins: the only thing that the serving path asks.

Rule 1: it holds what the database said; absence means "ask", never "no pin".
Rule 2: it is bounded; the entry that was not asked for the longest goes first.
Rule 3: only the event loop touches it, in the order in which the ledger thread saw things happen: an answer read
        before a change was seen can never come in after that change was applied.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Memory(Generic[K, V]):
    """A map of at most `limit` entries."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._entries: OrderedDict[K, V] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: K) -> V | None:
        """What is held for `key`."""
        found = self._entries.get(key)
        if found is not None:
            self._entries.move_to_end(key)
        return found

    def put(self, key: K, value: V) -> None:
        """Hold `value` for `key`."""
        self._entries[key] = value
        self._entries.move_to_end(key)
        if len(self._entries) > self._limit:
            self._entries.popitem(last=False)

    def drop(self, key: K) -> None:
        """Hold nothing for `key`."""
        self._entries.pop(key, None)

    def values(self) -> list[V]:
        """What is held, the oldest first."""
        return list(self._entries.values())

    def clear(self) -> None:
        """Hold nothing."""
        self._entries.clear()
