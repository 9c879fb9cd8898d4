"""Webhooks from the configuration to the receiver: what a worker tells, and what the commands show and send again."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from ended import Ended
from iarproxy.cli.serve import build, serve_settings
from iarproxy.config import load
from iarproxy.server.faces import Faces, WorkerContext
from receiver import Receiver
from test_commands import REFERENCE, Machine, machine

__all__ = ["machine"]

SECRET = "a-secret-of-more-than-16-bytes"


def subscribe(machine: Machine, receiver: Receiver, *lines: str) -> None:
    """Add `[webhooks.ops]` to the configuration."""
    secret = machine.folder / "secret"
    secret.write_text(SECRET)
    with Path(machine.environment["IARPROXY_CONFIG"]).open("a") as file:
        events = '["repinned", "drifted", "pinned"]'
        section = [f'url = "{receiver.url}"', f'secret_file = "{secret}"', f"events = {events}", *lines]
        file.write("\n".join(["[webhooks.ops]", *section, ""]))


async def ran(machine: Machine, *arguments: str) -> Ended:
    return await asyncio.to_thread(machine.run, *arguments)


@asynccontextmanager
async def working(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Faces]:
    """A worker's faces, with its chores, in this process."""
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(machine.folder / "run"))
    settings = serve_settings(load(Path(machine.environment["IARPROXY_CONFIG"]), machine.environment), None)
    faces = await build(WorkerContext(settings, 0, 0))
    try:
        yield faces
    finally:
        await faces.close()


async def metrics_text(faces: Faces) -> str:
    """What /metrics says."""
    assert faces.admin is not None
    runner = web.AppRunner(faces.admin, access_log=None)
    await runner.setup()
    await (site := web.TCPSite(runner, "127.0.0.1", 0)).start()
    try:
        reader, writer = await asyncio.open_connection(*runner.addresses[0])
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        text = (await reader.read()).partition(b"\r\n\r\n")[2].decode()
        writer.close()
    finally:
        await site.stop()
        await runner.cleanup()
    return text


async def metrics_of(faces: Faces) -> dict[str, float]:
    """The same, by name and labels."""
    text = await metrics_text(faces)
    lines = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#") and " " in line]
    return {name: float(value) for name, _, value in lines}


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(40):
        while not condition():
            await asyncio.sleep(0.02)


async def told(machine: Machine) -> None:
    """Until the webhook has its place in the journal."""
    async with asyncio.timeout(40):
        while (await ran(machine, "events", "show", "--json")).json["webhooks"][0]["place"] is None:
            await asyncio.sleep(0.1)


async def test_a_receiver_is_told(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a command does is told by the serving process: signed, with both digests, and counted."""
    old, new = machine.publish(1), machine.publish(2, "2")
    async with Receiver() as receiver:
        subscribe(machine, receiver)
        assert 0 == (await ran(machine, "pull", REFERENCE)).code
        async with working(machine, monkeypatch) as faces:
            await told(machine)
            assert 0 == (await ran(machine, "events", "test", "ops")).code
            act = ("pins", "repin", REFERENCE, "--from", old, "--to", new, "--reason", "why not")
            assert 0 == (await ran(machine, *act)).code
            await until(lambda: len(receiver.seen) == 2)
            counted = await metrics_of(faces)
    events = [json.loads(each.body) for each in receiver.seen]
    assert ["dev.iarproxy.test", "dev.iarproxy.repinned"] == [each["type"] for each in events]
    assert ({"old": old, "new": new}, "why not") == (events[1]["data"]["digest"], events[1]["data"]["reason"])
    assert all(each.headers["webhook-signature"].startswith("v1,") for each in receiver.seen)
    names = ("events_delivered_total", "events_dead", "events_waiting", "events_stopped")
    assert [1, 0, 0, 0] == [counted[f'iarproxy_{name}{{webhook="ops"}}'] for name in names]


async def test_what_was_put_aside_is_sent_again(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The list names each dead letter and why; sending again takes it off the list, where the receiver takes it."""
    machine.publish(1)
    async with Receiver(status=400) as receiver:
        subscribe(machine, receiver, "attempts = 1")
        async with working(machine, monkeypatch):
            await told(machine)
            assert 0 == (await ran(machine, "pull", REFERENCE)).code
            await until(lambda: len(receiver.seen) == 1)
        (letter,) = (await ran(machine, "events", "dead", "--json")).json["dead"]
        assert "answered 400" in letter["reason"]
        failed = await ran(machine, "events", "retry")
        assert (4, True) == (failed.code, "answered 400" in failed.err)
        assert 1 == (await ran(machine, "events", "retry", "ops/9999")).code
        receiver.status = 200
        assert f"{letter['id']}: delivered" in (await ran(machine, "events", "retry", letter["id"])).out
        assert [] == (await ran(machine, "events", "dead", "--json")).json["dead"]
        assert 1 == len({each.headers["webhook-id"] for each in receiver.seen})
        shown = await ran(machine, "events", "show")
    assert "told" in shown.out


def test_mistakes(machine: Machine) -> None:
    """Each is one line that says what to write; the url's path is never shown."""
    nobody = Receiver(url="https://hooks.example/canary-path")
    subscribe(machine, nobody)
    assert "canary" not in machine.run("events", "show", "--json").out + machine.run("check-config", "--json").out
    assert "there is no webhook 'x'; configured are: ops" in machine.run("events", "test", "x").err
    (machine.folder / "secret").write_text("short")
    for command in (("events", "show"), ("serve",), ("check-config",)):
        refused = machine.run(*command)
        assert (1, True) == (refused.code, "webhooks.ops.secret_file" in refused.err)
    file = Path(machine.environment["IARPROXY_CONFIG"])
    file.write_text(file.read_text().replace('"drifted"', '"drift"'))
    assert "there are no events 'drift'" in machine.run("events", "show").err
    file.write_text(f'{file.read_text()}environments = ["prd"]\n')
    assert "webhooks.ops.environments names 'prd'" in machine.run("events", "show").err
