"""A fake mirror, a registry face in front of it on a loopback port, and a client that shows raw bytes."""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import pytest
import uvloop

from iarproxy.errors import Stopped, UnknownBlob, UnknownManifest
from iarproxy.mirror.serving.answers import (
    ByDigest,
    FileSpan,
    ManifestAnswer,
    Pinned,
    ReferrersAnswer,
    RefusalAnswer,
    Standing,
    TagList,
)
from iarproxy.oci import Descriptor, Digest, Repository, Tag, TagReference
from iarproxy.oci.media_types import OCI_MANIFEST
from iarproxy.oci.refusal import refuse
from iarproxy.oci.routing import Routes
from iarproxy.server.frame import RegistryServer
from iarproxy.server.registry import RegistryFace
from iarproxy.server.sending import Pace

SINCE = datetime(2026, 11, 1, 12, 30, 0, tzinfo=UTC)
HUB = "docker.io"
ROUTES = Routes(frozenset({HUB, "ghcr.io", "registry.example.com:5000"}), default=HUB)
MANIFEST = b'{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json"}'
ALPINE = Repository.of(HUB, "alpine")


def both_loops(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an async test on asyncio's loop and on uvloop."""

    def run(loop_factory: Callable[[], asyncio.AbstractEventLoop], **fixtures: Any) -> None:
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(test(**fixtures))

    signature = inspect.signature(test)
    extra = inspect.Parameter("loop_factory", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = [extra, *signature.parameters.values()]
    run.__name__, run.__doc__, run.__module__ = test.__name__, test.__doc__, test.__module__
    run.__signature__ = signature.replace(parameters=parameters, return_annotation=None)  # type: ignore[attr-defined]  # functions take it
    loops = pytest.mark.parametrize(
        "loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]
    )
    marked: Callable[..., None] = loops(run)
    for mark in getattr(test, "pytestmark", []):
        marked = getattr(pytest.mark, mark.name)(*mark.args, **mark.kwargs)(marked)
    return marked


# --- the mirror ------------------------------------------------------------------------------------------------------


@dataclass
class FakeBody:
    """A blob in a file: `plan` yields what may be sent, from the range that is asked for."""

    size: int
    cached: bool
    fd: int
    plan: Callable[[int, int], AsyncIterator[FileSpan | bytes]]
    closed: bool = False

    def spans(self, start: int, stop: int) -> AsyncIterator[FileSpan | bytes]:
        return self.plan(start, stop)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        os.close(self.fd)
        self.closed = True


@dataclass
class FakeMirror:
    """Holds what a test puts into it, and remembers what it was asked."""

    folder: Path
    manifests: dict[tuple[str, str], ManifestAnswer] = field(default_factory=dict)
    blobs: dict[Digest, Path] = field(default_factory=dict)
    listed: TagList | None = None
    index: ReferrersAnswer | None = None
    failure: Exception | None = None
    growing: Callable[[int, int, int], AsyncIterator[FileSpan | bytes]] | None = None
    asked: list[str] = field(default_factory=list)
    bodies: list[FakeBody] = field(default_factory=list)

    def pin(self, reference: str, raw: bytes = MANIFEST, standing: Standing | None = None, **facts: Any) -> Digest:
        """Hold a manifest under `repository:tag` and under its digest."""
        name, _, tag = reference.rpartition(":")
        registry, _, path = name.partition("/")
        repository = Repository.of(registry, path)
        descriptor = Descriptor(OCI_MANIFEST, Digest.of(raw), len(raw))
        answer = ManifestAnswer(repository, descriptor, raw, standing or Pinned(SINCE), **facts)
        self.manifests[str(repository), tag] = answer
        self.manifests[str(repository), str(descriptor.digest)] = ManifestAnswer(
            repository, descriptor, raw, ByDigest()
        )
        return descriptor.digest

    def add(self, data: bytes) -> Digest:
        digest = Digest.of(data)
        path = self.folder / digest.hex
        path.write_bytes(data)
        self.blobs[digest] = path
        return digest

    def _ask(self, what: str) -> None:
        self.asked.append(what)
        if self.failure is not None:
            raise self.failure

    def within(self, environment: str) -> Self:
        if environment != "default":
            self.asked.append(f"within {environment}")
        return self

    async def manifest(self, repository: Repository, wanted: Tag | Digest) -> ManifestAnswer:
        self._ask(f"manifest {repository} {wanted}")
        found = self.manifests.get((str(repository), str(wanted)))
        if found is None:
            raise UnknownManifest(f"{repository} has no {wanted}")
        return found

    async def refusal(self, reference: TagReference, stopped: Stopped) -> RefusalAnswer:
        return RefusalAnswer(reference.repository, refuse(stopped.reason, {"message": str(stopped)}))

    async def blob(self, repository: Repository, digest: Digest) -> FakeBody:
        self._ask(f"blob {repository} {digest}")
        if digest not in self.blobs:
            raise UnknownBlob(f"{repository} has no {digest}")
        fd = os.open(self.blobs[digest], os.O_RDONLY | os.O_CLOEXEC)
        size = os.fstat(fd).st_size

        async def whole(start: int, stop: int) -> AsyncIterator[FileSpan | bytes]:
            if stop > start:
                yield FileSpan(fd, start, stop - start)

        growing = self.growing
        plan = whole if growing is None else lambda start, stop: growing(fd, start, stop)
        body = FakeBody(size, growing is None, fd, plan)
        self.bodies.append(body)
        return body

    async def blob_size(self, repository: Repository, digest: Digest) -> int:
        self._ask(f"size {repository} {digest}")
        if digest not in self.blobs:
            raise UnknownBlob(f"{repository} has no {digest}")
        return self.blobs[digest].stat().st_size

    async def tags(self, repository: Repository) -> TagList:
        self._ask(f"tags {repository}")
        return self.listed or TagList(repository, (), complete=True)

    async def referrers(
        self, repository: Repository, digest: Digest, artifact_types: tuple[str, ...]
    ) -> ReferrersAnswer:
        self._ask(f"referrers {repository} {digest} {','.join(artifact_types)}")
        if self.index is None:
            raise UnknownManifest("nothing refers to it")
        return self.index


# --- the server ------------------------------------------------------------------------------------------------------


@dataclass
class Served:
    """A registry face that listens on `port` (or on a unix socket at `path`)."""

    port: int
    server: RegistryServer
    path: str = ""

    async def connect(self, limit: int = 2**16) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self.path:
            return await asyncio.open_unix_connection(self.path, limit=limit)
        return await asyncio.open_connection("127.0.0.1", self.port, limit=limit)

    async def raw(self, request: bytes) -> bytes:
        """All that comes back for `request` until the server closes."""
        reader, writer = await self.connect()
        try:
            writer.write(request)
            return await asyncio.wait_for(reader.read(), 10)
        finally:
            writer.close()

    async def ask(self, target: str, method: str = "GET", **headers: str) -> Reply:
        """One request on its own connection. Header names are given with `_` for `-`."""
        lines = [f"{method} {target} HTTP/1.1", "Host: mirror.test", "Connection: close"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        raw = await self.raw(("\r\n".join(lines) + "\r\n\r\n").encode())
        return Reply.parse(raw)


@dataclass
class Reply:
    """A parsed answer; header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @classmethod
    def parse(cls, raw: bytes) -> Reply:
        head, separator, body = raw.partition(b"\r\n\r\n")
        assert separator, f"no head in {raw[:200]!r}"
        line, *fields = head.decode("ascii").split("\r\n")
        pairs = [field.split(": ", 1) for field in fields]
        headers = {name.lower(): value for name, value in pairs}
        assert len(headers) == len(pairs), f"a header is repeated: {fields}"
        return cls(int(line.split()[1]), headers, body)


@asynccontextmanager
async def serving(
    mirror: Any,
    *,
    routes: Routes = ROUTES,
    pace: Pace | None = None,
    header_deadline: float = 20.0,
    unix: Path | None = None,
    ssl: Any = None,
    **settings: Any,
) -> AsyncIterator[Served]:
    """A registry face in front of `mirror`."""
    loop = asyncio.get_running_loop()
    face = RegistryFace(mirror, routes, pace=pace or Pace(), **settings)
    answering = face.on("the-listener")
    server = RegistryServer(answering, lane=answering.lane, pace=answering.pace, header_deadline=header_deadline)
    if unix is not None:
        listener: Any = await loop.create_unix_server(server, str(unix))
        served = Served(0, server, str(unix))
    else:
        listener = await loop.create_server(server, "127.0.0.1", 0, ssl=ssl)
        served = Served(listener.sockets[0].getsockname()[1], server)
    try:
        yield served
    finally:
        listener.close()
        await server.shutdown(0.5)
        answering.close()
        await listener.wait_closed()


async def read_reply(reader: asyncio.StreamReader, *, body: bool = True) -> Reply:
    """One answer of a connection that stays open."""
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
    reply = Reply.parse(head)
    if body:
        reply.body = await asyncio.wait_for(reader.readexactly(int(reply.headers.get("content-length", "0"))), 10)
    return reply


async def until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    """Wait until `condition` holds."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


def failing(error: Exception, after: int) -> Callable[[int, int, int], AsyncIterator[FileSpan | bytes]]:
    """A growing body that sends `after` bytes of the file and then fails."""

    async def plan(fd: int, start: int, stop: int) -> AsyncIterator[FileSpan | bytes]:
        yield FileSpan(fd, start, min(after, stop - start))
        await asyncio.sleep(0.01)
        raise error

    return plan
