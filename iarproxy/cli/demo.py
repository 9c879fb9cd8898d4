"""`iarproxy demo`: the whole story on one machine, with no network and no root, in a few seconds."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import ClientSession, ClientTimeout

from iarproxy import config as configuration
from iarproxy.cli.demo_world import DemoUpstream, Pull, pull
from iarproxy.cli.output import as_bytes, out, when
from iarproxy.cli.wiring import Rooms, open_rooms, routes_of
from iarproxy.config import Config
from iarproxy.oci import Repository, Tag, TagReference
from iarproxy.server.frame import RegistryServer
from iarproxy.server.registry import RegistryFace
from iarproxy.trust import Drifted

_NAME, _TAG, _REGISTRY = "team/app", "1.0", "registry.example.com"


def demo() -> None:
    """Tell the whole story in a few seconds.

    Pinning, refusal of drift, serving with upstream down: no network, no root, no traces left.
    """
    with tempfile.TemporaryDirectory(prefix="iarproxy-demo-") as folder:
        asyncio.run(_story(Path(folder)))


async def _story(folder: Path) -> None:
    async with DemoUpstream() as upstream, _proxy(folder, upstream) as (rooms, base), _client() as session:
        out.print(f"[bold]iarproxy demo[/]: an upstream on port {upstream.port}, a mirror at {base}, all in {folder}\n")
        reference = TagReference(Repository.of(_REGISTRY, _NAME), Tag(_TAG))
        first = upstream.publish(_TAG, "the good build")
        _step(1, f"The publisher pushes {reference}", f"upstream offers {first}")
        await _first_pulls(rooms, upstream, session, base, reference)
        moved = upstream.publish(_TAG, "something else under the same name")
        _step(4, "Somebody moves the tag upstream", f"upstream now offers {moved}")
        again = await _pull(session, base)
        _step(5, "The client pulls once more", f"still gets {again.digest}", f"unchanged: {again.digest == first}")
        await _accusation(rooms, session, base, reference)
        await upstream.stop()
        last = await _pull(session, base)
        _step(8, "Upstream goes down, and the client pulls again", f"got {last.digest}: what is held is served")
        events = await rooms.ledger.history(reference)
        _step(9, "The journal has it all", *(f"{when(e.at)}  {e.kind.value:<9} {e.hash[:16]}" for e in events))
        out.print("The pin changes only if a person says so:\n", style="bold")
        out.print(f"    iarproxy pins repin {reference} \\\n        --from {first} \\", markup=False)
        out.print(f'        --to {moved} --reason "reviewed"', markup=False)


async def _first_pulls(
    rooms: Rooms, upstream: DemoUpstream, session: ClientSession, base: str, reference: TagReference
) -> None:
    pulled = await _pull(session, base)
    pin = await rooms.ledger.pin_of(reference)
    _step(
        2,
        "A client pulls it through the mirror",
        f"got {pulled.digest}, {as_bytes(pulled.bytes)}, every byte verified",
        f"pinned since {when(pin.pinned_at)}; upstream was asked {upstream.requests} times" if pin else "",
    )
    before = upstream.requests
    await _pull(session, base)
    _step(3, "It pulls again", f"upstream was asked {upstream.requests - before} times: all of it is held")


async def _accusation(rooms: Rooms, session: ClientSession, base: str, reference: TagReference) -> None:
    checked = await rooms.mirror.drift.check(reference)
    verdict = checked.verdict
    _step(
        6,
        "The mirror checks what upstream offers",
        f"verdict: {type(verdict).__name__.lower()}",
        f"pinned  {verdict.pinned}",
        f"offered {verdict.offered}" if isinstance(verdict, Drifted) else "",
        f"what differs: {checked.evidence.get('summary', '')}",
        "evidence kept: both manifests, headers, times",
    )
    headers = (await _pull(session, base)).headers
    shown = (f"{name}: {headers.get(name, '')}" for name in ("IAR-Pin", "IAR-Upstream-Digest", "Warning"))
    _step(7, "Now the answer itself says so", *shown)


def _step(number: int, title: str, *lines: str) -> None:
    out.print(f"[bold cyan]{number}[/] [bold]{title}[/]")
    for line in filter(None, lines):
        out.print(f"    {line}", markup=False)
    out.print()


def _config(folder: Path, upstream: DemoUpstream) -> Config:
    return configuration.parse(
        {
            "store": {"path": folder / "store", "max_size": "1GiB"},
            "upstreams": {_REGISTRY: {"url": f"http://127.0.0.1:{upstream.port}"}},
            "server": {"default_upstream": _REGISTRY},
        },
        None,
    )


@asynccontextmanager
async def _proxy(folder: Path, upstream: DemoUpstream) -> AsyncIterator[tuple[Rooms, str]]:
    config = _config(folder, upstream)
    async with open_rooms(config, {"RUNTIME_DIRECTORY": str(folder / "run")}) as rooms:
        face = RegistryFace(rooms.mirror, routes_of(config))
        server = RegistryServer(face.on("demo"))
        listening = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0)
        try:
            yield rooms, f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        finally:
            listening.close()
            await server.shutdown(1.0)


def _client() -> ClientSession:
    return ClientSession(timeout=ClientTimeout(total=30))


async def _pull(session: ClientSession, base: str) -> Pull:
    return await pull(session, base, _NAME, _TAG)
