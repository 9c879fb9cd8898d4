"""Upstreams that are offline: every ask is answered at once, and nothing is there that could dial."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from iarproxy.config import UpstreamSettings
from iarproxy.errors import Offline
from iarproxy.oci import Digest, Repository, Tag
from iarproxy.upstream import Lack, Upstream, Upstreams
from iarproxy.upstream.offline import OfflineUpstream

NAME = "registry.example.com"
DIGEST = Digest.of(b"anything")


def _offline(**fields: object) -> Upstreams:
    settings = UpstreamSettings.model_validate({"url": "https://registry.example.com", **fields})
    return Upstreams.offline({NAME: settings})


async def _blob(upstream: Upstream) -> object:
    async with upstream.blob("team/app", DIGEST) as transfer:
        return transfer


@pytest.mark.parametrize(
    "ask",
    [
        lambda it: it.manifest("team/app", Tag("1")),
        lambda it: it.head_manifest("team/app", DIGEST),
        lambda it: it.told("team/app", Tag("1")),
        lambda it: it.referrers("team/app", DIGEST),
        lambda it: it.attached("team/app", DIGEST),
        lambda it: it.blob_size("team/app", DIGEST),
        _blob,
        lambda it: it.tags("team/app"),
    ],
)
async def test_every_ask_fails(ask: Callable[[Upstream], Awaitable[object]]) -> None:
    """Each ask fails at once, and says that this is offline: no word of upstream's that there is none."""
    with pytest.raises(Offline, match="offline") as refused:
        await ask(_offline()[NAME])
    assert ("offline", NAME) == (refused.value.detail["cause"], refused.value.detail["upstream"])


async def test_what_it_inherits() -> None:
    """Nothing of an upstream that dials is left in one that is offline, also when the former learns to do more."""
    rest = {"head_manifest", "_said_by", "_once", "_sought"}  # by way of `told`; and what only the overridden call
    inherited = {name for name, _ in inspect.getmembers(Upstream, callable) if name in vars(Upstream)}
    assert rest == {name for name in inherited if name not in vars(OfflineUpstream)}


async def test_nothing_is_made(tmp_path: Path) -> None:
    """Neither threads nor files; what could not be read, such as credentials and certificates, is not."""
    before = threading.active_count()
    absent = tmp_path / "absent"
    upstreams = _offline(username="robot", password_file=absent, ca_file=absent)
    await upstreams[NAME].foreign.learn("team/app", ())
    assert (True, before, [True]) == (
        upstreams.is_offline,
        threading.active_count(),
        [each.offline for each in await upstreams.standings()],
    )
    await upstreams.close()


async def test_who_explains() -> None:
    """The message and the facts of a refusal are those of whoever knows what was brought."""

    async def lacks(repository: Repository, wanted: Tag | Digest | None) -> Lack:
        return Lack(f"ask for {repository} {wanted}", {"set": "site-a"})

    upstreams = Upstreams.offline({NAME: UpstreamSettings(url="https://registry.example.com")}, lacks)
    with pytest.raises(Offline, match=r"ask for registry\.example\.com/team/app 1") as refused:
        await upstreams[NAME].manifest("team/app", Tag("1"))
    assert "site-a" == refused.value.detail["set"]
