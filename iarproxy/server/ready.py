"""Answers that only have to be sent, made from what the mirror can tell without waiting.

Rule 1: they are built by the functions that the ordinary path uses (`contents`, `ranges`, `Answer.head`).
Rule 2: what is not a plain 200 or 206 is not made here.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from iarproxy.errors import IarproxyError
from iarproxy.mirror.serving.answers import Followed
from iarproxy.oci import Digest, Tag
from iarproxy.oci.request import BlobTarget, ManifestTarget, Ping, RegistryRequest
from iarproxy.oci.routing import Place
from iarproxy.server import access, contents
from iarproxy.server.accounts import Content, Facts, Topic
from iarproxy.server.answer import Answer
from iarproxy.server.head import Plain
from iarproxy.server.ports import Memory
from iarproxy.server.ranges import Part, Parts, select

_JOINED = 4096  # bytes of a body that is copied behind its head: one buffer is sent faster than two

Route = Callable[[str, str | None, str], Place]


class OpenFile:
    """A descriptor that the lane and the answers under way share; the last one who lets go closes it."""

    __slots__ = ("_holders", "fd")

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._holders = 1

    def hold(self) -> None:
        """One more needs it."""
        self._holders += 1

    def release(self) -> None:
        """One less needs it."""
        self._holders -= 1
        if self._holders == 0:
            os.close(self.fd)


@dataclass(slots=True, eq=False)
class Prepared:
    """A whole answer but for the second that its `Date` names: a head, then `body`, or `count` bytes of `file`.

    Attributes:
        closes: the connection ends with it.
        before, after: what of the head comes before and after the `Date`; behind it a short body.
        body: empty where there is nothing more to send from memory; a part of a blob is not copied.
        file: None: the answer is in memory.
        start, count: which bytes of the file.
        brief: it holds a file, or is true only for a time: it is not kept beyond the second.
    """

    topic: Topic
    closes: bool
    before: bytes
    after: bytes
    body: bytes | memoryview = b""
    file: OpenFile | None = None
    start: int = 0
    count: int = 0
    brief: bool = False

    @property
    def weight(self) -> int:
        """Bytes that are its own: a longer body belongs to the mirror's memory."""
        return len(self.before) + len(self.after)

    def head(self, date: bytes) -> bytes:
        """What is sent first, with this `Date` line."""
        return self.before + date + self.after


@dataclass(frozen=True, slots=True)
class Kitchen:
    """Makes answers ready for one listener.

    Attributes:
        memory: what can be told without waiting.
        read_target, route: as the ordinary path parses and routes; both may raise `Refused`.
        files: whether a body may be a file.
        logs: whether the log wants facts.
    """

    memory: Memory
    read_target: Callable[[str], RegistryRequest]
    route: Route
    files: bool
    logs: bool

    def prepare(self, plain: Plain) -> Prepared | None:
        """The answer to `plain`; None: only the ordinary path can tell."""
        try:
            asked = self.read_target(plain.target)
            match asked.target:
                case Ping():
                    return self._ping(plain, asked)
                case ManifestTarget(name=name, wanted=wanted):
                    return self._manifest(plain, asked, self.route(name, asked.namespace, plain.host), wanted)
                case BlobTarget(name=name, digest=digest):
                    return self._blob(plain, asked, self.route(name, asked.namespace, plain.host), digest)
                case _:
                    return None
        except IarproxyError:
            return None  # its answer is an error, which is not prepared

    def _ping(self, plain: Plain, asked: RegistryRequest) -> Prepared:
        answer = contents.ping()
        sent = len(answer.body) if plain.with_body else 0
        return _whole(plain, answer, Topic("ping", "", "", 200, sent, self._facts(plain, asked, None), None))

    def _manifest(self, plain: Plain, asked: RegistryRequest, place: Place, wanted: Tag | Digest) -> Prepared | None:
        repository = place.repository
        found = self.memory.within(place.environment).peek(repository, wanted)
        if found is None:
            return None
        answer = contents.manifest(found, wanted, None, contents.place_headers(place, wanted, asked.namespace))
        facts = self._facts(plain, asked, place)
        content = Content(repository, wanted, found.descriptor.digest, is_manifest=True)
        sent = len(found.raw) if plain.with_body else 0
        topic = Topic("manifest", repository.registry, contents.state_of(found), 200, sent, facts, content)
        prepared = _whole(plain, answer, topic)
        prepared.brief = found.brief or isinstance(found.standing, Followed)
        return prepared

    def _blob(self, plain: Plain, asked: RegistryRequest, place: Place, digest: Digest) -> Prepared | None:
        repository = place.repository
        held = self.memory.peek_blob(repository, digest)
        if held is None or (held.raw is None and plain.with_body and not self.files):
            return None
        shown = contents.route_headers(repository, asked.namespace)
        facts = self._facts(plain, asked, place)
        if not plain.with_body:
            answer = contents.blob(digest, held.size, None, shown)
            return _whole(plain, answer, Topic("blob", repository.registry, "", 200, 0, facts, None))
        chosen = select(plain.range, plain.if_range, f'"{digest}"', held.size)
        if isinstance(chosen, Parts):
            return None
        part = chosen if isinstance(chosen, Part) else None
        answer = contents.blob(digest, held.size, part, shown)
        content = Content(repository, digest, digest, is_manifest=False)
        start, stop = (part.start, part.stop) if part else (0, held.size)
        topic = Topic("blob", repository.registry, "hit", answer.status, stop - start, facts, content)
        if held.raw is not None or start == stop:
            return _joined(plain, topic, answer, memoryview(held.raw or b"")[start:stop] if part else held.raw or b"")
        file, around = OpenFile(held.open()), _head(plain, answer)
        return Prepared(topic, plain.closes, *around, b"", file, start, stop - start, brief=True)

    def _facts(self, plain: Plain, asked: RegistryRequest, place: Place | None) -> Facts:
        if not self.logs:
            return {}
        method = "GET" if plain.with_body else "HEAD"
        return access.facts(
            method,
            plain.target,
            namespace=asked.namespace,
            asked_range=plain.range,
            agent=plain.agent,
            place=place,
        )


def _whole(plain: Plain, answer: Answer, topic: Topic) -> Prepared:
    return _joined(plain, topic, answer, answer.body if plain.with_body else b"")


def _joined(plain: Plain, topic: Topic, answer: Answer, body: bytes | memoryview) -> Prepared:
    before, after = _head(plain, answer)
    if len(body) <= _JOINED:
        return Prepared(topic, plain.closes, before, after + body)
    return Prepared(topic, plain.closes, before, after, body)


def _head(plain: Plain, answer: Answer) -> tuple[bytes, bytes]:
    return answer.head_around_date("close" if plain.closes else "")
