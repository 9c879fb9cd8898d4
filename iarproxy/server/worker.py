"""One worker process: from the fork to its exit.

Rule 1: the loop, the store, the ledger and every thread are made here, after the fork.
Rule 2: a sign of life needs the loop and one store read that came back, whatever it said: a store that fails is
        reported and served around, one that hangs takes the worker with it.
Rule 3: SIGTERM begins to leave, and only once; SIGINT is the master's business (a terminal sends it to all of us).
        A worker whose master died leaves too.
Rule 4: what comes after the loop is `os._exit`: nothing of the master's that the fork copied runs twice.
"""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import mmap
import os
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable, Coroutine, Iterable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import structlog
from aiohttp import web

from iarproxy.errors import IarproxyError
from iarproxy.server.door import Door
from iarproxy.server.faces import Build, Faces, ServeSettings, WorkerContext
from iarproxy.server.frame import RegistryServer
from iarproxy.server.handshake import Gate
from iarproxy.server.limits import connection_limit
from iarproxy.server.listeners import Listener, Role
from iarproxy.server.registry import Answering
from iarproxy.server.rehearsal import misfit
from iarproxy.server.tls import Tls

if TYPE_CHECKING:
    from iarproxy.server.master import Application

_log = structlog.get_logger("iarproxy.server")

BOOT_FAILED = 10  # exit status of a worker that never served
_CLOSE_TIMEOUT = 5.0  # seconds for `Faces.close`
_REGISTRY = (Role.REGISTRY, Role.TLS, Role.ENVIRONMENT)
_IGNORED = ("SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGWINCH", "SIGTTIN", "SIGTTOU")


class Heart:
    """Memory that a worker shares with the master: when it last gave a sign of life, in monotonic seconds.

    It begins in the future by what a worker may take to boot.
    """

    def __init__(self, boot_timeout: float) -> None:
        self._page = mmap.mmap(-1, mmap.PAGESIZE)
        self._write(time.monotonic() + boot_timeout, beats=0)

    def notify(self) -> None:
        """A sign of life."""
        self._write(time.monotonic(), beats=1)

    def last_update(self) -> float:
        """When the last one was given. The arbiter asks by this name."""
        return float(struct.unpack_from("d", self._page)[0])

    @property
    def ready(self) -> bool:
        """Whether the worker has served at all."""
        return bool(self._page[8])

    def close(self) -> None:
        """Let go of the memory."""
        self._page.close()

    def _write(self, moment: float, *, beats: int) -> None:
        struct.pack_into("d", self._page, 0, moment)
        self._page[8] = beats


class Worker:
    """What the arbiter makes, forks and watches. Its constructor runs in the master."""

    def __init__(self, age: int, ppid: int, _sockets: object, app: Application, *_rest: object) -> None:
        self.age, self.ppid = age, ppid
        self.pid: int | str = "booting"
        self.aborted = False
        self.booted = False
        self.app = app
        self.slot, self.generation = app.slot, app.generation
        self.leave_until: float | None = None  # monotonic; None: it is not asked to leave
        self.tmp = Heart(app.settings.boot_timeout)

    @property
    def ready(self) -> bool:
        """Whether it serves."""
        return self.tmp.ready

    def init_process(self) -> None:
        """The child's life. Never returns."""
        status = 1
        try:
            _reset_signals()
            status = self._live()
        except BaseException as error:  # noqa: BLE001  # the last frame of the process: everything is reported here
            _log.critical("a worker died", exc_info=error)
        finally:
            for stream in (sys.stdout, sys.stderr):
                with suppress(OSError, ValueError):
                    stream.flush()
            os._exit(status)

    def _live(self) -> int:
        app = self.app
        tls = None if app.settings.tls is None else Tls(app.settings.tls, loud=self.slot == 0)
        context = WorkerContext(app.settings, self.slot, self.generation, tls)
        with asyncio.Runner(loop_factory=_loop_factory(app.settings)) as runner:
            return runner.run(work(context, app.build, app.listeners, self.tmp.notify, self.ppid))


async def work(
    context: WorkerContext, build: Build, listeners: Iterable[Listener], beat: Callable[[], None], master: int
) -> int:
    """Serve until asked to leave; the exit status."""
    leave = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, leave.set)
    context = replace(context, leaving=leave.is_set)
    try:
        faces = await build(context)
    except IarproxyError as error:
        _log.error("a worker cannot start", reason=str(error))
        return BOOT_FAILED
    except Exception as error:  # noqa: BLE001  # whatever it is, the master must hear that the worker never served
        _log.critical("a worker cannot start", exc_info=error)
        return BOOT_FAILED
    gc.freeze()  # what serves for as long as the worker lives: connections come and go, and collections with them
    life = partial(_beat, faces, beat, master, leave, context.settings)
    try:
        await _serve(faces, context, list(listeners), leave, life)
    finally:
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_TIMEOUT):
                await faces.close()
    return 0


async def _serve(
    faces: Faces,
    context: WorkerContext,
    listeners: list[Listener],
    leave: asyncio.Event,
    life: Callable[[], Coroutine[None, None, None]],
) -> None:
    settings = context.settings
    answered = [(faces.registry(each.address), each) for each in listeners if each.role in _REGISTRY]
    reason = await misfit()
    if reason is not None:
        _log.warning("the fast lane is off", reason=reason, remedy="install the aiohttp that iarproxy was tested with")
    gate = None if context.tls is None else Gate(context.tls, settings.handshake_deadline, faces.handshake)
    doors = [
        _door(answering, settings, each, gate if each.role is Role.TLS else None, fast=reason is None)
        for answering, each in answered
    ]
    runners = [await _open_app(app, sock) for app, sock in _apps(faces, listeners)]
    for door in doors:
        door.open()
    background = [asyncio.create_task(life(), name="beat")]  # its first sign of life means: this worker serves
    if context.tls is not None:
        background.append(asyncio.create_task(context.tls.watch(settings.tls_interval), name="certificate"))
    await leave.wait()
    deadline = asyncio.get_running_loop().time() + settings.graceful_timeout
    for door in doors:
        door.leave()
    complete = await asyncio.gather(*(door.drained(deadline) for door in doors))
    if not all(complete):
        _log.warning("requests were cut at the graceful timeout", seconds=settings.graceful_timeout)
    for door in doors:
        await door.close()
    for answering, _ in answered:
        answering.close()
    for runner in runners:
        await runner.cleanup()
    for task in background:
        task.cancel()


def _door(answering: Answering, settings: ServeSettings, listener: Listener, gate: Gate | None, *, fast: bool) -> Door:
    lane = answering.lane if fast else None
    server = RegistryServer(answering, lane=lane, pace=answering.pace, header_deadline=settings.header_deadline)
    return Door(listener.sock, server, connection_limit(settings.max_connections), gate)


def _apps(faces: Faces, listeners: Iterable[Listener]) -> list[tuple[web.Application, socket.socket]]:
    by_role = {Role.ADMIN: faces.admin, Role.PROBES: faces.probes}
    found = [(by_role.get(listener.role), listener.sock) for listener in listeners]
    return [(app, sock) for app, sock in found if app is not None]


async def _open_app(app: web.Application, sock: socket.socket) -> web.AppRunner:
    runner = web.AppRunner(
        app, access_log=None, keepalive_timeout=20, auto_decompress=False, max_headers=64, shutdown_timeout=2.0
    )
    await runner.setup()
    loop = asyncio.get_running_loop()
    make: Callable[..., Any] = loop.create_unix_server if sock.family == socket.AF_UNIX else loop.create_server
    await make(runner.server, sock=sock)
    return runner


async def _beat(
    faces: Faces, beat: Callable[[], None], master: int, leave: asyncio.Event, settings: ServeSettings
) -> None:
    failing = False
    while True:
        try:
            await faces.beat()
        except Exception as error:  # noqa: BLE001  # rule 2: it came back
            if not failing:
                _log.error("the store cannot be read", reason=str(error))
            failing = True
        else:
            failing = False
        beat()
        if os.getppid() != master:
            leave.set()
        await asyncio.sleep(min(1.0, settings.worker_timeout / 4))


def _loop_factory(settings: ServeSettings) -> Callable[[], asyncio.AbstractEventLoop]:
    if settings.uvloop:
        with suppress(ImportError):
            import uvloop  # noqa: PLC0415  # optional: some systems have none

            return uvloop.new_event_loop
    return asyncio.new_event_loop


def _reset_signals() -> None:
    """Undo what the master set. SIGABRT, the arbiter's last word to a hung worker, prints where it hangs."""
    for name in _IGNORED:
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    for number in (signal.SIGCHLD, signal.SIGQUIT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    with suppress(OSError, ValueError, RuntimeError, AttributeError):  # stderr may be no file
        faulthandler.enable()
