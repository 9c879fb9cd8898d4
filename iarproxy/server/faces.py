"""What the supervisor is told and what a worker is made of: values that `cli` fills in.

Rule 1: nothing that owns a thread, a database, a loop or a lock exists before the fork: `Build` makes it all, in the
        worker, inside its loop.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from aiohttp import web

from iarproxy.server.handshake import Outcome
from iarproxy.server.listeners import Role
from iarproxy.server.registry import Answering
from iarproxy.server.tls import Identity, Tls


@dataclass(frozen=True, slots=True)
class ServeSettings:
    """How to serve. Times are in seconds.

    Attributes:
        listen: addresses of the registry face, `host:port` or `unix:/path`.
        optional: those of them that need not exist on this machine.
        tls_listen: addresses where the registry face speaks TLS, as `tls` says; without that there are none.
        environment_listen: addresses where it shows the pins of one environment, without TLS.
        tls_interval: between two looks at the files of `tls`.
        admin, probes: addresses of those faces; None: no such face.
        workers: processes; 0 means one per CPU.
        graceful_timeout: what accepted requests get to finish in when a worker leaves.
        worker_timeout: a worker that gives no sign for so long is replaced.
        boot_timeout: what a worker may take until it serves.
        max_connections: per worker; more wait in the listening socket's queue.
        handshake_deadline: from a connection on a TLS listener to the end of its handshake.
        header_deadline: to send a whole request head, and to stay idle between two requests.
        uvloop: use it where it is installed.
        metrics_dir: an existing folder on a fast file system for the workers' counters; it is emptied at start.
        config: handed on to `Build` unread.
    """

    listen: tuple[str, ...]
    optional: tuple[str, ...] = ()
    tls_listen: tuple[str, ...] = ()
    tls: Identity | None = None
    environment_listen: tuple[str, ...] = ()
    tls_interval: float = 3.0
    admin: str | None = None
    probes: str | None = None
    workers: int = 0
    graceful_timeout: float = 30.0
    worker_timeout: float = 10.0
    boot_timeout: float = 60.0
    max_connections: int = 10_000
    handshake_deadline: float = 10.0
    header_deadline: float = 20.0
    uvloop: bool = True
    metrics_dir: Path | None = None
    config: Any = None

    @property
    def addresses(self) -> tuple[tuple[Role, str], ...]:
        """Every address with its role."""
        others = ((Role.ADMIN, self.admin), (Role.PROBES, self.probes))
        named = tuple((role, address) for role, address in others if address is not None)
        plain = tuple((Role.REGISTRY, address) for address in self.listen)
        shown = tuple((Role.ENVIRONMENT, address) for address in self.environment_listen)
        return plain + shown + tuple((Role.TLS, address) for address in self.tls_listen) + named


@dataclass(frozen=True, slots=True)
class WorkerContext:
    """Which worker this is.

    Attributes:
        slot: 0 up to the number of workers; no two workers of one generation have the same at a time.
        generation: 0 at first, one more after each reload.
        leaving: whether the worker has begun to leave (`/readyz` then says no).
        tls: what it shows in handshakes; None: nothing speaks TLS.
    """

    settings: ServeSettings
    slot: int
    generation: int
    tls: Tls | None = None
    leaving: Callable[[], bool] = field(default=lambda: False)


@dataclass(frozen=True, slots=True)
class Faces:
    """What a worker serves.

    Attributes:
        registry: the handler for the registry listener of the given address (`RegistryFace.on`).
        admin, probes: their applications; None: nothing listens for them.
        beat: one store read; while it hangs the worker gives no sign of life.
        close: releases everything; has a few seconds.
        handshake: told how each TLS handshake ended.
    """

    registry: Callable[[str], Answering]
    admin: web.Application | None
    probes: web.Application | None
    beat: Callable[[], Awaitable[None]]
    close: Callable[[], Awaitable[None]]
    handshake: Callable[[Outcome], None] = field(default=lambda _: None)


Build: TypeAlias = Callable[[WorkerContext], Awaitable[Faces]]
