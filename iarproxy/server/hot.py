"""The hot lane: an answer to a request whose very bytes were answered before, given before any parsing.

Rule 1: the lane parses nothing, so that it cannot read a request in another way than the parser did: it knows whole
        request heads, byte for byte, that the ordinary path found plain (no body, range or condition) and answered.
Rule 2: it asks the mirror each time, by `peek`, which neither waits nor does I/O; what is not certain there (no pin in
        memory, a denied tag, a repository whose right must be looked up) takes the ordinary path.
Rule 3: it is bounded: `capacity` heads of at most `MAX_HEAD` bytes, each with an answer to a manifest of at most
        `MAX_BODY`; the least recently learned leave first.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from iarproxy.mirror.answers import ManifestAnswer
from iarproxy.oci import Digest, Repository, Tag
from iarproxy.server import contents

MAX_HEAD = 4096
MAX_BODY = 32 * 1024  # bytes: the largest usual index has half of it; each head keeps its answer
_END = b"\r\n\r\n"

Peek = Callable[[Repository, Tag | Digest], ManifestAnswer | None]


@dataclass(slots=True)
class Known:
    """A request that was answered before.

    Attributes:
        made, second, wire: the last answer, the second that its `Date` names, and its bytes.
    """

    repository: Repository
    wanted: Tag | Digest
    namespace: str | None
    with_body: bool
    facts: dict[str, str | int | float | None]
    made: ManifestAnswer | None = None
    second: int = 0
    wire: bytes = b""

    def answer(self, found: ManifestAnswer) -> bytes:
        """The bytes that answer this request with what the mirror found now."""
        second = int(time.time())  # noqa: TID251  # the wire's Date, no decision
        if self.second != second or self.made != found:
            shown = contents.route_headers(self.repository, self.namespace)
            answer = contents.manifest(found, self.wanted, None, shown)
            self.wire = answer.head() + (answer.body if self.with_body else b"")
            self.made, self.second = found, second
        return self.wire


class HotLane:
    """The known requests of one listener, and whom to ask."""

    def __init__(
        self, peek: Peek, account: Callable[[Known, ManifestAnswer, float], None], capacity: int = 2048
    ) -> None:
        self._peek, self._account, self._capacity = peek, account, capacity
        self._known: OrderedDict[bytes, Known] = OrderedDict()

    def learn(self, head: bytes, known: Known) -> None:
        """The plain request `head` was answered with the manifest that `known` names."""
        if len(head) <= MAX_HEAD:
            self._known[head] = known
            if len(self._known) > self._capacity:
                self._known.popitem(last=False)

    def answer(self, head: bytes) -> bytes | None:
        """The whole answer to `head`; None: it takes the ordinary path."""
        known = self._known.get(head)
        if known is None:
            return None
        started = time.monotonic()
        found = self._peek(known.repository, known.wanted)
        if found is None or len(found.raw) > MAX_BODY:
            return None
        wire = known.answer(found)
        self._account(known, found, time.monotonic() - started)
        return wire


def is_one_head(data: bytes) -> bool:
    """Whether `data` is the head of one GET or HEAD request and nothing more, as far as its outline tells."""
    return data.startswith((b"GET ", b"HEAD ")) and data.find(_END) == len(data) - len(_END)
