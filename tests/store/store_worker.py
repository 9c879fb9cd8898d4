"""One worker process over a store, for tests that kill it. Orders come on stdin, answers go to stdout, as JSON lines.

    {"digest", "size", "path", "log", "followers", "spread", "pause"}   follow the blob whose bytes are in `path`
    {"put": "text"}                                                     put a small blob

Each transfer's start and each chunk given is appended to `log`: what upstream would have counted.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys
from collections.abc import AsyncIterator
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


async def obey(store: Store, order: dict[str, Any]) -> object:
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


async def main(root: str) -> None:
    store = Store.open(Path(root), max_size=10**9, reserve=0, patience=PATIENCE)
    loop = asyncio.get_running_loop()
    print(json.dumps("ready"), flush=True)  # noqa: T201  # the answer's way
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        print(json.dumps(await obey(store, json.loads(line))), flush=True)  # noqa: T201  # as above
    await store.close()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(sys.argv[1]))
