"""A whole server over a fake mirror, for tests that need real processes: `daemon.py SETTINGS_FILE`.

The settings file is JSON and is read again on SIGHUP. Keys: listen, admin, workers, graceful, timeout, blob (bytes of
the one blob), word (what every manifest says), broken (build fails), slow (seconds that a manifest takes), tls_listen,
optional (addresses), tls (certificate and key).
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

from aiohttp import web

from iarproxy.errors import ConfigError, StoreUnavailable
from iarproxy.mirror.serving.answers import ManifestAnswer
from iarproxy.oci import Digest, Repository, Tag
from iarproxy.server.faces import Faces, ServeSettings, WorkerContext
from iarproxy.server.registry import RegistryFace
from iarproxy.server.supervisor import serve
from iarproxy.server.tls import TlsFiles, read_identity
from serving import ROUTES, FakeMirror

FILE = Path(sys.argv[1])


def read() -> ServeSettings:
    given = json.loads(FILE.read_text())
    if given.get("unreadable"):
        raise ConfigError("the configuration is broken")
    certificate, key = map(Path, given.get("tls", ("", "")))
    files = TlsFiles(certificate, key) if "tls" in given else None
    return ServeSettings(
        listen=tuple(given["listen"]),
        optional=tuple(given.get("optional", ())),
        tls_listen=tuple(given.get("tls_listen", ())),
        tls=None if files is None else read_identity(files),
        tls_interval=0.1,
        admin=given.get("admin"),
        workers=given.get("workers", 2),
        graceful_timeout=given.get("graceful", 10),
        worker_timeout=given.get("timeout", 10),
        boot_timeout=10,
        config=given,
    )


class SlowMirror(FakeMirror):
    """Takes its time for manifests, and says who answers."""

    slow = 0.0

    async def manifest(self, repository: Repository, wanted: Tag | Digest) -> ManifestAnswer:
        await asyncio.sleep(self.slow)
        return await super().manifest(repository, wanted)


async def build(context: WorkerContext) -> Faces:
    given: dict[str, Any] = context.settings.config
    if given.get("broken"):
        raise StoreUnavailable("the store is broken")
    mirror = SlowMirror(FILE.parent)
    mirror.slow = given.get("slow", 0.0)
    mirror.pin("docker.io/library/alpine:word", str(given.get("word", "")).encode())
    mirror.pin("docker.io/library/alpine:pid", str(os.getpid()).encode())
    mirror.pin("docker.io/library/alpine:slot", f"{context.slot} {context.generation}".encode())
    mirror.add(bytes(given.get("blob", 1000)))

    async def beat() -> None:
        FILE.stat()

    async def close() -> None:
        (FILE.parent / f"closed-{os.getpid()}").touch()

    app = web.Application()

    async def ready(_: web.Request) -> web.Response:
        return web.Response(text=f"{os.getpid()} {context.leaving()}")

    app.router.add_get("/readyz", ready)
    face = RegistryFace(mirror, ROUTES)
    return Faces(face.on, app, None, beat, close)


if __name__ == "__main__":
    try:
        sys.exit(serve(read(), build, read))
    except ConfigError as error:
        sys.exit(str(error))
