"""What artifact tools do when a transfer breaks in the middle of a blob: between upstream and us, and between us."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from artifacts import ArtifactWorld, Tools
from layers import image
from taps import Tap

pytestmark = [pytest.mark.xdist_group("artifacts"), pytest.mark.real("docker-registry")]
NAME, CUT = "shelf.example.com", 1_000_000
# By client: its version, and how it takes an image from the mirror into the folder OUT.
PULLING = {
    "crane": (["crane", "version"], ["crane", "pull", "--format", "oci", "REF", "OUT"]),
    "oras": (["oras", "version"], ["oras", "copy", "--from-plain-http", "--to-oci-layout", "REF", "OUT:1"]),
    "regctl": (["regctl", "version"], ["regctl", "image", "copy", "REF", "ocidir://OUT:1"]),
}
every_client = pytest.mark.parametrize(
    "client",
    [
        pytest.param(each, marks=[pytest.mark.real(each), pytest.mark.client(each, *PULLING[each][0])])
        for each in PULLING
    ],
)


async def pull(tools: Tools, client: str, port: int) -> str:
    """Pull the image from a port where the mirror is, into the folder `layout`; all that the client said."""
    if client == "regctl":
        tools("regctl", "registry", "set", f"127.0.0.1:{port}", "--tls", "disabled", "--skip-check")
    words = {"REF": f"127.0.0.1:{port}/{NAME}/team/large:1", "OUT": str(tools.folder / "layout")}
    command = PULLING[client][1]
    for name, word in words.items():
        command = [each.replace(name, word) for each in command]
    return await asyncio.to_thread(tools.saying, *command)


def blob(folder: Path, digest: str) -> bytes:
    """The blob as it lies in the layout `layout`; empty where it does not."""
    file = folder / "layout/blobs/sha256" / digest.removeprefix("sha256:")
    return file.read_bytes() if file.exists() else b""


@every_client
async def test_upstream_breaks(tmp_path: Path, client: str) -> None:
    """What breaks twice between upstream and us is resumed by us: the client notices nothing."""
    world, tools = ArtifactWorld(tmp_path / "world"), Tools(tmp_path)
    async with Tap(world.shelf.port) as tap:
        settings = world.proxy.config.read_text()
        world.proxy.config.write_text(settings.replace(f"127.0.0.1:{world.shelf.port}", f"127.0.0.1:{tap.port}"))
        with world:
            app = world.upstreams[NAME].push("team/large", "1", image(client, 3_000_000))
            layer = app.layers[1]
            tap.cuts[layer] = [CUT, CUT]
            said = await pull(tools, client, world.proxy.port)
            assert (blob(tmp_path, layer) == app.blobs[layer], tap.cuts[layer]) == (True, []), said


async def broken_pull(folder: Path, client: str) -> tuple[bool, list[str]]:
    """Pull while the way to us breaks once in a layer; whether it arrived, and the ranges that were asked for."""
    with ArtifactWorld(folder / "world") as world:
        app = world.upstreams[NAME].push("team/large", "1", image(client, 3_000_000))
        layer = app.layers[1]
        async with Tap(world.proxy.port) as tap:
            tap.cuts[layer] = [CUT]
            await pull(Tools(folder), client, tap.port)
            lines = [line for head in tap.heads if layer in head for line in head.splitlines()]
        ranges = [line for line in lines if line.lower().startswith("range:")]
        return blob(folder, layer) == app.blobs[layer], ranges


@pytest.mark.real("regctl")
@pytest.mark.client("regctl", *PULLING["regctl"][0])
@pytest.mark.proves("resume")
async def test_regctl_resumes(tmp_path: Path) -> None:
    """Regctl asks for the rest, up to one byte behind the end, and gets it."""
    arrived, ranges = await broken_pull(tmp_path, "regctl")
    assert (arrived, len(ranges)) == (True, 1), ranges


@pytest.mark.parametrize(
    "client",
    [
        pytest.param(
            each,
            marks=[
                pytest.mark.real(each),
                pytest.mark.client(each, *PULLING[each][0]),
                pytest.mark.lacks("resume", "it gives up; what breaks between upstream and us is resumed by us"),
            ],
        )
        for each in ("crane", "oras")
    ],
)
async def test_others_give_up(tmp_path: Path, client: str) -> None:
    """Crane and oras do not ask again; nothing wrong is kept."""
    assert await broken_pull(tmp_path, client) == (False, [])
