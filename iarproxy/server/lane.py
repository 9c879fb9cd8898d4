"""The fast lane: requests that are answered before aiohttp builds anything of them.

Rule 1: it answers what the ordinary path would, byte for byte, or leaves the request to it: `head` says which requests
        are plain enough, `ready` makes the answers.
Rule 2: a ready answer lives until the second of its `Date` is over, and not beyond the next change of anything that the
        mirror told; so a hit is one look in one table, and a recall, repin or drift shows as soon as the mirror knows.
Rule 3: the same bytes mean the same: a head that was read once is not read again.
Rule 4: bounded: `CAPACITY` heads and answers, `MAX_FILES` open files; then all are forgotten and made anew.
"""

from __future__ import annotations

import asyncio
import time

from iarproxy.server.accounts import Accounts, Outcome, Topic
from iarproxy.server.head import MAX_HEAD, Plain, read_head
from iarproxy.server.ready import Kitchen, Ready

CAPACITY = 4096
MAX_FILES = 256


class Lane:
    """The fast lane of one listener.

    Attributes:
        ready: answers by the exact bytes of the request's head.
    """

    def __init__(self, kitchen: Kitchen, accounts: Accounts) -> None:
        self.ready: dict[bytes, Ready] = {}
        self._kitchen, self._accounts = kitchen, accounts
        self._hits, self._limit = accounts.hits, accounts.limit
        self._known: dict[bytes, Plain | None] = {}
        self._answers: dict[Plain, Ready] = {}
        self._files = 0
        self._timer: asyncio.TimerHandle | None = None
        kitchen.memory.on_change(self.forget)

    def find(self, head: bytes) -> Ready | None:
        """The answer to `head`, which is not in `ready`; None: it takes the ordinary path."""
        plain = self._read(head) if len(head) <= MAX_HEAD else None
        if plain is None:
            return None
        ready = self._answers.get(plain)
        if ready is None:
            ready = self._kitchen.prepare(plain)
            if ready is None:
                return None
            self._keep(plain, ready)
        if len(self.ready) >= CAPACITY:
            self.ready.clear()
        self.ready[head] = ready
        return ready

    def hit(self, topic: Topic, client: str, moment: float) -> None:
        """An answer from memory was given at `moment` (the loop's time)."""
        self._hits.append((topic, client, moment))
        if len(self._hits) >= self._limit:
            self._accounts.flush()

    def sent(self, topic: Topic, client: str, outcome: Outcome, seconds: float, moment: float) -> None:
        """An answer from a file ended at `moment`, `seconds` after its request came."""
        if outcome == "sent":
            self._accounts.took(topic.kind, seconds)
            self.hit(topic, client, moment)
            self._accounts.wake()  # it may have outlived the table's timer
        else:
            self._accounts.answered(topic, client, outcome, seconds)

    def forget(self) -> None:
        """Have every answer made anew; those under way go on."""
        for each in self._answers.values():
            if each.file is not None:
                each.file.release()
        self._files = 0
        self._answers.clear()
        self.ready.clear()

    def close(self) -> None:
        """Forget all, and account for what was answered."""
        self.forget()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._accounts.flush()

    def _read(self, head: bytes) -> Plain | None:
        try:
            return self._known[head]
        except KeyError:
            plain = read_head(head)
        if len(self._known) >= CAPACITY:
            self._known.clear()
        self._known[head] = plain
        return plain

    def _keep(self, plain: Plain, ready: Ready) -> None:
        if len(self._answers) >= CAPACITY or self._files >= MAX_FILES:
            self.forget()
        self._answers[plain] = ready
        self._files += ready.file is not None
        if self._timer is None:
            left = 1.001 - time.time() % 1  # noqa: TID251  # until the wire's `Date` changes, no decision
            self._timer = asyncio.get_running_loop().call_later(left, self.close)
