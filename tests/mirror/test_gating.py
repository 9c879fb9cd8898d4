"""Gates outside of us: programs and policy endpoints that allow, refuse, lie, flood, hang or are away."""

from __future__ import annotations

import asyncio
import os
import stat
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson
import pytest
from aiohttp import web

from iarproxy.mirror.promotion.gate_command import CommandGate
from iarproxy.mirror.promotion.gating import AgeGate, PolicyGate, ask_all
from iarproxy.oci import Digest, Repository, Tag, TagReference
from iarproxy.oci.media_types import OCI_INDEX
from iarproxy.trust.gates import Allowed, Facts, Refused, Undecided, Verdict, facts_as_json
from iarproxy.upstream.posting import Destination, Poster

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
FACTS = Facts(
    environment="prod",
    source="default",
    reference=TagReference(Repository("registry.example.com", "team/app"), Tag("1")),
    digest=Digest.of(b"app"),
    replaces=None,
    media_type=OCI_INDEX,
    size=3,
    platforms=("linux/amd64",),
    pinned_at=NOW,
    first_seen=NOW,
    attached=(),
    actor="ann (uid 1000)",
    reason="release 7",
)


def program(folder: Path, text: str) -> str:
    """A shell script of this text; its path."""
    path = folder / "gate"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(stat.S_IRWXU)
    return str(path)


async def judged(folder: Path, text: str, patience: float = 20) -> Verdict:
    return await CommandGate([program(folder, text)], patience).judge(FACTS)


def is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


async def test_a_program_allows(tmp_path: Path) -> None:
    """Exit status 0 allows; the program was told every fact."""
    assert Allowed() == await judged(tmp_path, f"cat > {tmp_path}/told")
    assert facts_as_json(FACTS) == orjson.loads((tmp_path / "told").read_bytes())


async def test_a_program_refuses(tmp_path: Path) -> None:
    """Any other status refuses, with the first lines of what it said."""
    assert Refused(("two findings", "one is high")) == await judged(
        tmp_path, "echo two findings; echo one is high >&2; exit 3"
    )
    assert Refused((f"{tmp_path}/gate ended with status 1",)) == await judged(tmp_path, "exit 1")


async def test_arguments_are_no_shell(tmp_path: Path) -> None:
    """What the configuration spells is an argument, whatever characters it has."""
    gate = CommandGate([program(tmp_path, 'test "$1" = "; exit 1 #" && test $# = 1'), "; exit 1 #"], 20)
    assert Allowed() == await gate.judge(FACTS)


async def test_a_program_gets_nothing_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It finds its own things, and no variable of this process that is not meant for programs."""
    monkeypatch.setenv("IARPROXY_CONFIG", "/etc/iarproxy/iarproxy.toml")
    assert Allowed() == await judged(tmp_path, 'test -z "$IARPROXY_CONFIG" && test -n "$PATH" && test "$PWD" = /')


@pytest.mark.parametrize("command", ["/does/not/exist", "/etc/passwd"])
async def test_a_program_that_cannot_be_run(command: str) -> None:
    """It is no verdict, and the message says why."""
    verdict = await CommandGate([command], 20).judge(FACTS)
    assert isinstance(verdict, Undecided)
    assert f"{command} cannot be run" in verdict.reason


async def test_a_program_that_is_killed(tmp_path: Path) -> None:
    """Who was ended by a signal did not judge."""
    assert Undecided(f"{tmp_path}/gate was ended by signal 15") == await judged(tmp_path, "kill -TERM $$")


async def test_a_program_that_hangs(tmp_path: Path) -> None:
    """It is ended at its deadline, together with what it started, even if that ignores signals that can be ignored."""
    text = f"trap '' TERM HUP INT\nsleep 1000 &\necho $! > {tmp_path}/child\necho $$ > {tmp_path}/itself\nwait"
    started = time.monotonic()
    verdict = await judged(tmp_path, text, patience=1.0)
    assert Undecided(f"{tmp_path}/gate did not end within 1 s, and was ended") == verdict
    assert time.monotonic() - started < 60
    for each in ("child", "itself"):
        await gone(int((tmp_path / each).read_text()))


async def gone(process: int) -> None:
    async with asyncio.timeout(20):
        while is_alive(process):
            await asyncio.sleep(0.01)


async def test_a_program_that_leaves_somebody_behind(tmp_path: Path) -> None:
    """What it started does not outlive a verdict either."""
    text = f"sleep 1000 > /dev/null 2>&1 < /dev/null &\necho $! > {tmp_path}/child"
    assert Allowed() == await judged(tmp_path, text)
    await gone(int((tmp_path / "child").read_text()))


async def test_a_program_whose_child_left_the_session(tmp_path: Path) -> None:
    """Somebody who left and holds its output for ever changes nothing of a verdict, and holds it up but shortly."""
    text = f"echo no\nsetsid sleep 60 &\necho $! > {tmp_path}/child\nexit 1"
    assert Refused(("no",)) == await judged(tmp_path, text)
    os.kill(int((tmp_path / "child").read_text()), 9)


async def test_a_program_that_says_too_much(tmp_path: Path) -> None:
    """Megabytes of output neither block it nor are kept; it still has its verdict."""
    refused = await judged(tmp_path, "yes 'no no no' | head -c 20000000; exit 1")
    assert isinstance(refused, Refused)
    assert (10, "no no no") == (len(refused.reasons), refused.reasons[0])
    assert Allowed() == await judged(tmp_path, "yes | head -c 20000000 >&2; exit 0")


async def test_a_program_that_floods_for_ever(tmp_path: Path) -> None:
    """Its deadline ends it."""
    assert isinstance(await judged(tmp_path, "exec yes", patience=0.5), Undecided)


async def test_the_age_gate() -> None:
    """What is here for less than the time asked for does not pass."""
    gate = AgeGate(timedelta(hours=1), lambda: NOW + timedelta(minutes=59))
    assert isinstance(await gate.judge(FACTS), Refused)
    assert Allowed() == await AgeGate(timedelta(hours=1), lambda: NOW + timedelta(hours=1)).judge(FACTS)


@asynccontextmanager
async def endpoint(answer: web.Response | float, seen: list[tuple[bytes, str]]) -> AsyncIterator[str]:
    """A policy endpoint that gives this answer, or is silent for so many seconds; its URL."""

    async def handle(request: web.BaseRequest) -> web.Response:
        seen.append((await request.read(), request.headers.get("Authorization", "")))
        if isinstance(answer, float):
            await asyncio.sleep(answer)
            return web.Response()
        return answer

    server = web.Server(handle, handler_cancellation=True)
    listening = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/v1/data/iarproxy/allow"
    finally:
        listening.close()
        await server.shutdown(0.1)


async def asked(
    answer: web.Response | float, token_file: Path | None = None, patience: float = 20
) -> tuple[Verdict, list[tuple[bytes, str]]]:
    seen: list[tuple[bytes, str]] = []
    async with endpoint(answer, seen) as url:
        poster = Poster(Destination("environments.prod.gates.policy_url", url), timeout=patience)
        try:
            return await PolicyGate(poster, token_file).judge(FACTS), seen
        finally:
            await poster.close()


def said(document: object, status: int = 200) -> web.Response:
    return web.Response(status=status, body=orjson.dumps(document), content_type="application/json")


async def test_a_policy_allows(tmp_path: Path) -> None:
    """`result: true` allows; the endpoint was told the facts as its input, and shown the token."""
    token = tmp_path / "token"
    token.write_text("of no worth\n")
    verdict, seen = await asked(said({"result": True}), token)
    assert (Allowed(), [{"input": facts_as_json(FACTS)}], ["Bearer of no worth"]) == (
        verdict,
        [orjson.loads(body) for body, _ in seen],
        [shown for _, shown in seen],
    )


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (lambda: said({"result": {"allow": False, "reasons": ["unsigned"]}}), Refused(("unsigned",))),
        (lambda: said({}), Refused(("the policy is undefined for this promotion",))),
        (lambda: said({"result": "true"}), Refused(("the policy's result is neither true nor an object that allows",))),
        (lambda: said([True]), Undecided("the policy endpoint's answer is no JSON object")),
        (lambda: web.Response(text="allowed"), Undecided("the policy endpoint's answer is no JSON object")),
        (lambda: web.Response(status=204), Undecided("the policy endpoint's answer is no JSON object")),
    ],
    ids=["refuses", "undefined", "lies", "list", "text", "nothing"],
)
async def test_a_policy_that_does_not_allow(answer: Callable[[], web.Response], expected: Verdict) -> None:
    """Refusals keep their reasons; what is no result of the protocol does not pass."""
    assert expected == (await asked(answer()))[0]


async def test_a_policy_that_fails() -> None:
    """A server's failure, silence, a flood or a redirect is no permission; all but the last may be tried again."""
    assert isinstance((await asked(said({"result": True}, 500)))[0], Undecided)
    assert isinstance((await asked(60.0, patience=0.5))[0], Undecided)
    assert isinstance((await asked(said({"result": True, "padding": "x" * 100_000})))[0], Undecided)
    elsewhere = web.Response(status=307, headers={"Location": "http://127.0.0.1:1/"})
    assert isinstance((await asked(elsewhere))[0], Refused)


async def test_a_policy_that_is_away() -> None:
    """Nobody listens: undecided."""
    poster = Poster(Destination("environments.prod.gates.policy_url", "http://127.0.0.1:1/"), timeout=5)
    assert isinstance(await PolicyGate(poster).judge(FACTS), Undecided)
    await poster.close()


@pytest.mark.parametrize("text", [None, "", "\n", "a\nb", "caf\u00e9", "x" * 20_000])
async def test_a_token_that_cannot_be_used(tmp_path: Path, text: str | None) -> None:
    """It is refused before anybody is asked, and its content is not told."""
    token = tmp_path / "token"
    if text is not None:
        token.write_text(text)
    verdict, seen = await asked(said({"result": True}), token)
    assert isinstance(verdict, Refused)
    assert [] == seen
    assert "policy_token_file" in verdict.reasons[0]
    assert "caf" not in verdict.reasons[0]


async def test_all_are_asked_at_once(tmp_path: Path) -> None:
    """Two programs that wait for each other both pass: neither waits for the other's end."""
    meet = "touch {0}/{1}; while ! test -e {0}/{2}; do sleep 0.01; done"
    gates = []
    for own, other in (("a", "b"), ("b", "a")):
        folder = tmp_path / f"of {own}"
        folder.mkdir()
        gates.append(CommandGate([program(folder, meet.format("'" + str(tmp_path) + "'", own, other))], 60))
    assert (("command", Allowed()), ("command", Allowed())) == await ask_all(gates, FACTS)
