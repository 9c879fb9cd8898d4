"""The world of the mirror's tests: a real registry in-process as upstream, a store and a ledger on disk."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from iarproxy import config
from iarproxy.ledger import Ledger
from iarproxy.mirror.drift.checking import Checked
from iarproxy.mirror.explain.missing import Missing
from iarproxy.mirror.mirror import Mirror
from iarproxy.mirror.serving.answers import FileSpan, ManifestAnswer
from iarproxy.oci import Digest, Platform, Repository, Tag, TagReference
from iarproxy.store import Store
from iarproxy.trust.environments import Environment
from iarproxy.upstream import Upstreams
from registry import FakeRegistry

NAME = "registry.example.com"


@dataclass
class Clock:
    """A clock that moves when a test says so."""

    moment: datetime = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.moment

    def advance(self, by: timedelta) -> None:
        self.moment += by


@dataclass
class World:
    """A mirror and everything around it."""

    registry: FakeRegistry
    store: Store
    ledger: Ledger
    upstreams: Upstreams
    mirror: Mirror
    clock: Clock
    verdicts: list[Checked] = field(default_factory=list)

    def repository(self, name: str = "team/app") -> Repository:
        return Repository.of(NAME, name)

    def reference(self, tag: str = "1", name: str = "team/app") -> TagReference:
        return TagReference(self.repository(name), Tag(tag))

    async def tag(self, tag: str = "1", name: str = "team/app") -> ManifestAnswer:
        return await self.mirror.manifest(self.repository(name), Tag(tag))

    async def blob(self, digest: Digest, start: int = 0, stop: int | None = None, name: str = "team/app") -> bytes:
        async with await self.mirror.blob(self.repository(name), digest) as body:
            return await read(body, start, body.size if stop is None else stop)


async def read(body: Any, start: int, stop: int) -> bytes:
    """What a client gets: spans as they come, files read like the kernel would."""
    received = b""
    async for span in body.spans(start, stop):
        match span:
            case FileSpan(fd, offset, count):
                piece = os.pread(fd, count, offset)
                assert count == len(piece)
                received += piece
            case _:
                received += span
    return received


@asynccontextmanager
async def a_world(
    folder: Path,
    registry: FakeRegistry,
    *,
    tags: list[dict[str, str]] | None = None,
    password_file: Path | None = None,
    max_size: int = 10**9,
    refusal: str = "error",
    section: dict[str, Any] | None = None,
    environments: Sequence[Environment] = (),
    platforms: Sequence[str] = ("linux/amd64",),
    offline: bool = False,
) -> AsyncIterator[World]:
    """A mirror of `registry` whose store is in `folder`; what is there already is used.

    `section`: further keys of the upstream's section.
    """
    upstream = {"url": registry.url} | (section or {})
    if password_file is not None:
        upstream |= {"username": "robot", "password_file": str(password_file)}
    settings = config.parse(
        {"store": {"path": folder / "store"}, "upstreams": {NAME: upstream}, "tags": tags or []}
        | {"server": {"refusal": refusal}},
        None,
    )
    clock = Clock()
    verdicts: list[Checked] = []
    async with AsyncExitStack() as stack:
        kept = Store.open(settings.store.path, max_size=max_size)
        stack.push_async_callback(kept.close)
        ledger = await Ledger.open(
            settings.ledger_path, store_identity=kept.identity, store_is_empty=kept.is_empty(), now=clock
        )
        stack.push_async_callback(ledger.close)
        missing = Missing(kept, ledger)
        stack.push_async_callback(missing.close)
        if offline:
            upstreams = Upstreams.offline(settings.upstreams, missing.lack)
        else:
            upstreams = await Upstreams.open(settings.upstreams, cache_dir=folder / "run")
        stack.push_async_callback(upstreams.close)
        mirror = Mirror(
            store=kept,
            ledger=ledger,
            upstreams=upstreams,
            missing=missing,
            rules=settings.rules,
            platforms=[Platform.parse(each) for each in platforms],
            environments=environments,
            refusal=settings.server.refusal,
            private=password_file is not None,
            now=clock,
            on_verdict=verdicts.append,
        )
        stack.push_async_callback(mirror.close)
        yield World(registry, kept, ledger, upstreams, mirror, clock, verdicts)
