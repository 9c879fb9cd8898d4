"""One worker process over a store, for tests that kill it. Orders come on stdin, answers go to stdout, as JSON lines.

    {"digest", "size", "path", "log", "followers", "spread", "pause"}   follow the blob whose bytes are in `path`
    {"put": "text"}                                                     put a small blob
    {"inline": true}                                                    from now on do all disk work in the main thread
    {"kill_at": n}                                                      die of SIGKILL right before the n-th disk call

With `--nursery` it imports once and then forks a worker per line {"root", "orders", "answers"}: two named pipes in the
place of stdin and stdout. It answers each worker's process id.

Each transfer's start and each chunk given is appended to `log`: what upstream would have counted.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import itertools
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor, Future
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop

from iarproxy.errors import IarproxyError
from iarproxy.oci import Digest
from iarproxy.store import Following, Patience, Store

CHUNK = 16 * 1024
PATIENCE = Patience(tick=0.02, watchdog=5.0, stall=10.0, pause=0.001)


@dataclass
class FileTransfer:
    """Bytes of a file, slowly."""

    path: Path
    log: int
    offset: int
    pause: float
    size: int

    async def chunks(self) -> AsyncIterator[bytes]:
        with self.path.open("rb") as file:
            file.seek(self.offset)
            while chunk := file.read(CHUNK):
                await asyncio.sleep(self.pause)
                os.write(self.log, b"%d\n" % len(chunk))
                yield chunk


class FileSource:
    """An upstream that several processes share: one file of bytes, one log of what was fetched."""

    def __init__(self, order: dict[str, Any]) -> None:
        self.path = Path(order["path"])
        self.pause = order["pause"]
        self.log = os.open(order["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def fetch(self, offset: int) -> AbstractAsyncContextManager[FileTransfer]:
        return self._fetch(offset)

    @asynccontextmanager
    async def _fetch(self, offset: int) -> AsyncIterator[FileTransfer]:
        os.write(self.log, b"start %d\n" % offset)
        yield FileTransfer(self.path, self.log, offset, self.pause, self.path.stat().st_size)


async def digest_of(following: Following, number: int, spread: float) -> str:
    """The digest of the body that one client got, or the failure's type."""
    await asyncio.sleep(number * spread)
    hasher, taken = hashlib.sha256(), 0
    try:
        async with following as held:
            while taken < held.size:
                end = await held.readable(taken)
                hasher.update(os.pread(held.fd, end - taken, taken))
                taken = end
    except IarproxyError as error:
        return f"{type(error).__name__}: {error}"
    return hasher.hexdigest()


class Inline(Executor):
    """Runs work at once, in the caller's thread: disk calls then come in one order, which can be counted."""

    def submit(self, call: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(call(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001  # the waiter gets it
            future.set_exception(error)
        return future


def die_before(number: int) -> None:
    """Count the calls that change files or locks, and die right before the `number`-th."""
    calls = itertools.count(1)

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            if next(calls) == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **kwargs)

        return wrapper

    for name in ("open", "write", "pwrite", "fsync", "fchmod", "chmod", "link", "unlink", "rename", "close"):
        setattr(os, name, counted(getattr(os, name)))
    fcntl.flock = counted(fcntl.flock)


async def obey(store: Store, order: dict[str, Any]) -> object:
    if "inline" in order:
        store._means.threads.close()
        threads = store._means.threads
        threads.writers = threads.hashers = threads._slow = Inline()
        return "inline"
    if "kill_at" in order:
        die_before(order["kill_at"])
        return "armed"
    if "put" in order:
        data = order["put"].encode()
        return str((await store.put(Digest.of(data), data)).digest)
    source, digest = FileSource(order), Digest.parse(order["digest"])
    clients = (store.follow(digest, order["size"], source.fetch) for _ in range(order["followers"]))
    bodies = await asyncio.gather(*(digest_of(one, number, order["spread"]) for number, one in enumerate(clients)))
    while store._ingests:
        await asyncio.sleep(0.005)
    os.close(source.log)
    return bodies


def nursery() -> None:
    """Fork workers, until stdin ends. Nothing is running yet that a fork could break."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        born = json.loads(line)
        child = os.fork()
        if child == 0:
            os.dup2(os.open(born["orders"], os.O_RDONLY), 0)
            os.dup2(os.open(born["answers"], os.O_WRONLY), 1)
            sys.stdin = open(0, encoding="utf-8")  # noqa: SIM115  # a descriptor; it lives as long as the worker
            start(born["root"])
            os._exit(0)
        print(json.dumps(child), flush=True)  # noqa: T201  # the answer's way


def start(root: str) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(root))


async def main(root: str) -> None:
    store = Store.open(Path(root), max_size=10**9, reserve=0, patience=PATIENCE)
    loop = asyncio.get_running_loop()
    print(json.dumps("ready"), flush=True)  # noqa: T201  # the answer's way
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        print(json.dumps(await obey(store, json.loads(line))), flush=True)  # noqa: T201  # as above
    await store.close()


if __name__ == "__main__":
    if sys.argv[1] == "--nursery":
        nursery()
    else:
        start(sys.argv[1])
