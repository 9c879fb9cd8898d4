"""The fast lane: requests that are answered before aiohttp builds anything of them.

Rule 1: it answers what the ordinary path would, byte for byte, or leaves the request to it: `head` says which requests
        are plain enough, `ready` makes the answers.
Rule 2: what an answer is made from lives until the mirror tells that its tag changed, and an answer until the second of
        its `Date` is over; so a hit is one look in one table, and a recall, repin or drift shows as soon as the mirror
        knows. What holds a file, or is true for a time only, lives until the second is over too.
Rule 3: the same bytes mean the same: a head that was read once is not read again.
Rule 4: each table is bounded, to `CAPACITY` entries and `BUDGET` bytes, and files to `MAX_FILES` open ones; what would
        exceed that begins the table anew, which costs nothing for each request that it had.
"""

from __future__ import annotations

import asyncio
import time
from typing import TypeVar

from iarproxy.oci import TagReference
from iarproxy.server.accounts import Accounts, Outcome, Topic
from iarproxy.server.answer import date_line
from iarproxy.server.head import MAX_HEAD, Plain, read_head
from iarproxy.server.ready import Kitchen, Prepared

CAPACITY = 16_384
BUDGET = 16 * 2**20
MAX_FILES = 256

K = TypeVar("K")
V = TypeVar("V")


class Table(dict[K, V]):
    """A dict within bounds. `weight`: the bytes that its entries were put in with."""

    __slots__ = ("weight",)

    def __init__(self) -> None:
        super().__init__()
        self.weight = 0

    def takes(self, weight: int) -> bool:
        """Whether an entry of so many bytes fits."""
        return len(self) < CAPACITY and self.weight + weight <= BUDGET

    def put(self, key: K, value: V, weight: int) -> None:
        """Add an entry; where it does not fit, it is the first one of a new table."""
        if not self.takes(weight):
            self.clear()
        self[key] = value
        self.weight += weight

    def clear(self) -> None:
        """Have no entries."""
        super().clear()
        self.weight = 0


class Lane:
    """The fast lane of one listener.

    Attributes:
        ready: the head to send, and the answer that it begins, by the exact bytes of the request's head.
    """

    def __init__(self, kitchen: Kitchen, accounts: Accounts) -> None:
        self.ready: Table[bytes, tuple[bytes, Prepared]] = Table()
        self._kitchen, self._accounts = kitchen, accounts
        self._hits, self._limit = accounts.hits, accounts.limit
        self._known: Table[bytes, Plain | None] = Table()
        self._answers: Table[Plain, Prepared] = Table()
        self._brief: list[Plain] = []
        self._timer: asyncio.TimerHandle | None = None
        kitchen.memory.on_change(self.forget)

    def find(self, head: bytes) -> tuple[bytes, Prepared] | None:
        """What `ready` would have for `head`, which it has not; None: the request takes the ordinary path."""
        plain = self._read(head) if len(head) <= MAX_HEAD else None
        if plain is None:
            return None
        prepared = self._answers.get(plain)
        if prepared is None:
            prepared = self._kitchen.prepare(plain)
            if prepared is None:
                return None
            self._keep(plain, prepared)
        now = time.time()  # noqa: TID251  # the wire's `Date`, no decision
        ready = prepared.head(date_line(int(now))), prepared
        self.ready.put(head, ready, len(head) + len(ready[0]))
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(1.001 - now % 1, self._turn)
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

    def forget(self, reference: TagReference | None = None) -> None:
        """Have the tag's answers made anew, or (None) all of them; those under way go on."""
        self.ready.clear()
        gone = [plain for plain, each in self._answers.items() if reference is None or _tells_of(each, reference)]
        for plain in gone:
            self._drop(plain)
        if reference is None:
            self._brief.clear()

    def close(self) -> None:
        """Forget all, and account for what was answered."""
        self.forget()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._accounts.flush()

    def _turn(self) -> None:
        """The second is over."""
        self._timer = None
        self.ready.clear()
        brief, self._brief = self._brief, []
        for plain in brief:
            self._drop(plain)
        self._accounts.flush()

    def _drop(self, plain: Plain) -> None:
        prepared = self._answers.pop(plain, None)
        if prepared is None:
            return
        self._answers.weight -= prepared.weight
        if prepared.file is not None:
            prepared.file.release()

    def _read(self, head: bytes) -> Plain | None:
        try:
            return self._known[head]
        except KeyError:
            plain = read_head(head)
        self._known.put(head, plain, 2 * len(head))
        return plain

    def _keep(self, plain: Plain, prepared: Prepared) -> None:
        if not self._answers.takes(prepared.weight) or len(self._brief) >= MAX_FILES:
            self.forget()
        self._answers.put(plain, prepared, prepared.weight)
        if prepared.brief:
            self._brief.append(plain)


def _tells_of(prepared: Prepared, reference: TagReference) -> bool:
    content = prepared.topic.content
    return content is not None and (content.repository, content.wanted) == (reference.repository, reference.tag)
