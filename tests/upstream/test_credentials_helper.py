"""Credential helpers, by the protocol: real programs in a folder of the PATH."""

from __future__ import annotations

import asyncio
import os
import shlex
import stat
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import orjson
import pytest
import structlog

from dialing import Clock, dialing
from iarproxy.errors import Denied, Unavailable, UpstreamUnavailable
from iarproxy.oci import Tag
from iarproxy.upstream.credentials import IdentityToken, Login, Secret
from iarproxy.upstream.credentials_helper import Helper, helper_environment
from images import small_image
from registry import FakeRegistry
from registry_auth import Authority

NOT_FOUND = "credentials not found in native keychain"
Writes = Callable[[str], None]


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Writes:
    """Writes `docker-credential-test`, a shell script that notes what it is asked and then does as told."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("AWS_PROFILE", "here")
    monkeypatch.setenv("IARPROXY_CONFIG", "secret")

    def write(does: str) -> None:
        script = folder / "new"
        script.write_text(
            f'#!/bin/sh\nread server\necho "$1 $server" >> {shlex.quote(str(tmp_path / "asked"))}\n{does}\n'
        )
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
        script.replace(folder / "docker-credential-test")

    return write


def answers(username: str, secret: str, code: int = 0) -> str:
    """What a helper does that has this login."""
    answer = orjson.dumps({"ServerURL": "x", "Username": username, "Secret": secret}).decode()
    return f"printf %s {shlex.quote(answer)}; exit {code}"


def asked(folder: Path) -> list[str]:
    """What the helper was asked so far."""
    file = folder / "asked"
    return file.read_text().splitlines() if file.exists() else []


@asynccontextmanager
async def a_helper(name: str = "test", *, patience: float = 10.0) -> AsyncIterator[tuple[Helper, Clock]]:
    """A helper for ghcr.io with a clock of its own."""
    clock = Clock()
    helper = Helper("ghcr.io", name, "ghcr.io", clock.seconds, patience)
    try:
        yield helper, clock
    finally:
        await helper.close()


async def test_the_protocol(tmp_path: Path, program: Writes) -> None:
    """`get`, the server on standard input, JSON on standard output; the user `<token>` has an identity token."""
    program(answers("AWS", "canary:ü"))
    async with a_helper() as (helper, _):
        assert Login("AWS", Secret("canary:ü")) == await helper.find("a/b")
    assert ["get ghcr.io"] == asked(tmp_path)
    program(answers("<token>", "it"))
    async with a_helper() as (helper, _):
        assert IdentityToken(Secret("it")) == await helper.find("a/b")


@pytest.mark.parametrize("text", [NOT_FOUND, f"{NOT_FOUND}\n", "credentials not found"])
async def test_not_found_is_anonymous(tmp_path: Path, program: Writes, text: str) -> None:
    """The protocol's words for it on standard output and exit status 1; said once."""
    program(f"printf %s {shlex.quote(text)}; exit 1")
    async with a_helper() as (helper, clock):
        with structlog.testing.capture_logs() as said:
            for _ in range(3):
                assert await helper.find("a/b") is None
                clock.at = clock.at.replace(minute=clock.at.minute + 2)
    assert 3 == len(asked(tmp_path))
    assert 1 == len(said)


@pytest.mark.parametrize(
    ("does", "failure"),
    [
        ("echo canary; exit 1", "it ended with status 1"),
        ("echo canary >&2; exit 3", "it ended with status 3"),
        ("kill -9 $$", "it ended with status -9"),
        ("echo canary", "its answer is not the JSON of the protocol"),
        ("exit 0", "its answer is not the JSON of the protocol"),
        ("echo '[]'", "its answer is not the JSON of the protocol"),
        ("""echo '{"Username": "me", "Secret": ""}'""", "its answer is not the JSON of the protocol"),
        ("""echo '{"Username": "a:b", "Secret": "canary"}'""", "its answer is not the JSON of the protocol"),
        ("while :; do echo canarycanarycanarycanarycanarycanary; done", "it ended with status -1"),
    ],
)
async def test_a_helper_that_fails(program: Writes, does: str, failure: str) -> None:
    """One line in our words; it may be better in a moment, and is not started again at once."""
    program(does)
    async with a_helper() as (helper, clock):
        for _ in range(2):
            with pytest.raises(UpstreamUnavailable) as raised:
                await helper.find("a/b")
            assert f"docker-credential-test gave no login for ghcr.io: {failure}" == str(raised.value)
        program(answers("me", "pw"))
        clock.at = clock.at.replace(second=6)
        assert Login("me", Secret("pw")) == await helper.find("a/b")


async def test_a_helper_that_is_not_there() -> None:
    """The message says what is missing."""
    async with a_helper("none-such") as (helper, _):
        with pytest.raises(UpstreamUnavailable, match=r"docker-credential-none-such .* no such program in the PATH"):
            await helper.find("a/b")


async def test_a_helper_that_does_not_end(tmp_path: Path, program: Writes) -> None:
    """It is ended when its time is up, and what it started with it."""
    child = tmp_path / "child"
    program(f"sleep 1000 & echo $! > {child}; wait")
    async with a_helper(patience=0.5) as (helper, _):
        with pytest.raises(UpstreamUnavailable, match=r"it did not end within 0\.5 s"):
            await helper.find("a/b")
    pid, deadline = int(child.read_text()), time.monotonic() + 10
    while _runs(pid):
        assert time.monotonic() < deadline
        time.sleep(0.01)


async def test_closing_ends_a_helper(tmp_path: Path, program: Writes) -> None:
    """What is still running when the worker stops is ended, and whoever waited for it is told."""
    child = tmp_path / "child"
    program(f"echo $$ > {child}.new; mv {child}.new {child}; exec sleep 1000")
    async with a_helper() as (helper, _):
        waiting = asyncio.create_task(helper.find("a/b"))
        while not child.exists():
            await asyncio.sleep(0.01)
    with pytest.raises(Unavailable, match="iarproxy is stopping"):
        await waiting
    assert not _runs(int(child.read_text()))


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] not in "ZX"
    except OSError:
        return False


async def test_how_long_an_answer_is_remembered(tmp_path: Path, program: Writes) -> None:
    """A minute; one that was refused, five seconds."""
    program(answers("me", "one"))
    async with a_helper() as (helper, clock):
        await helper.find("a/b")
        program(answers("me", "two"))
        clock.at = clock.at.replace(second=4)
        for refused in (False, True):
            assert Login("me", Secret("one")) == await helper.find("a/b", refused=refused)
        clock.at = clock.at.replace(second=59)
        assert Login("me", Secret("one")) == await helper.find("a/b")
        assert Login("me", Secret("two")) == await helper.find("a/b", refused=True)
        assert 2 == len(asked(tmp_path))


def test_what_a_helper_may_know() -> None:
    """What helpers need to find their own credentials and the network, and nothing that we were told."""
    ours = {"PATH": "/bin", "AWS_PROFILE": "p", "XDG_RUNTIME_DIR": "/run", "LD_PRELOAD": "x", "IARPROXY_CONFIG": "y"}
    expected = {"PATH": "/bin", "AWS_PROFILE": "p", "XDG_RUNTIME_DIR": "/run"}
    assert expected == helper_environment(ours)


async def test_what_a_helper_sees(tmp_path: Path, program: Writes) -> None:
    """It runs in the root folder with that environment and no file of ours."""
    program(f"(env; pwd; ls /proc/$$/fd | wc -l) > {tmp_path / 'seen'}; {answers('me', 'pw')}")
    async with a_helper() as (helper, _):
        await helper.find("a/b")
    *seen, folder, count = (tmp_path / "seen").read_text().splitlines()
    assert "AWS_PROFILE=here" in seen
    assert not [each for each in seen if each.startswith("IARPROXY")]
    assert "/" == folder
    assert int(count) <= 5  # its standard ones, the script, and the folder that is listed


async def test_a_login_that_expires(tmp_path: Path, program: Writes) -> None:
    """ECR: Basic with a password of twelve hours; when it is refused, by 403 or 401, the helper is asked again."""
    clock = Clock()
    authority = Authority("basic", users={"AWS": "one"})
    program(answers("AWS", "one"))
    async with (
        FakeRegistry(authority=authority) as registry,
        dialing(registry, credential_helper="test", now=clock) as upstream,
    ):
        image = registry.content.publish("a/b", "1", small_image())
        await upstream.manifest("a/b", Tag("1"))
        for number, password in enumerate(["two", "three"], 2):
            authority.refusal = 403 if password == "two" else 401
            authority.users["AWS"] = password
            program(answers("AWS", password))
            clock.at = clock.at.replace(second=6 * number)
            assert image.raw == (await upstream.manifest("a/b", Tag("1"))).raw
            assert number == len(asked(tmp_path))
        assert {f"get {registry.address}"} == set(asked(tmp_path))


async def test_a_login_that_stays_refused(tmp_path: Path, program: Writes) -> None:
    """A password that got a 401 is not sent again for a while, and the helper is not run in a loop."""
    clock = Clock()
    program(answers("AWS", "wrong"))
    async with (
        FakeRegistry(authority=Authority("basic")) as registry,
        dialing(registry, credential_helper="test", now=clock) as upstream,
    ):
        for _ in range(5):
            with pytest.raises(Denied):
                await upstream.manifest("a/b", Tag("1"))
        assert 1 == sum("Authorization" in seen.headers for seen in registry.log)
        assert 1 == len(asked(tmp_path))
        clock.at = clock.at.replace(second=11)
        with pytest.raises(Denied):
            await upstream.manifest("a/b", Tag("1"))
        assert 2 == sum("Authorization" in seen.headers for seen in registry.log)


async def test_helpers_of_an_auth_file(tmp_path: Path, program: Writes) -> None:
    """`credHelpers` comes before `credsStore`, and both before `auths`, which counts where they have nothing."""
    authority = Authority("bearer", users={"helped": "1", "written": "2"}, anonymous=False)
    file = tmp_path / "config.json"
    async with FakeRegistry(authority=authority) as registry:
        registry.content.publish("a/b", "1", small_image())
        auths = {registry.address: {"username": "written", "password": "2"}}
        helped: list[tuple[dict[str, object], str, str]] = [
            ({"credHelpers": {registry.address: "test"}, "credsStore": "none-such"}, answers("helped", "1"), "helped"),
            ({"credsStore": "test"}, answers("helped", "1"), "helped"),
            ({"credsStore": "test"}, f"echo {NOT_FOUND}; exit 1", "written"),
            ({"credHelpers": {"other.example": "none-such"}}, "exit 1", "written"),
        ]
        for document, does, user in helped:
            program(does)
            file.write_bytes(orjson.dumps({"auths": auths, **document}))
            async with dialing(registry, auth_file=file) as upstream:
                await upstream.manifest("a/b", Tag("1"))
            assert f"account={user}" in registry.seen(part="/token")[-1].path
