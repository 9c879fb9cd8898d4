"""A refusal manifest goes to clients that would fall through, and to nobody who would keep it."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from iarproxy.errors import Stopped
from iarproxy.oci import Digest
from serving import FakeMirror, both_loops, serving

TARGET = "/v2/library/alpine/manifests/3"
PRIVATE = "application/vnd.iarproxy.refused.v1.tag-drift-refused+json"
STOPPED = Stopped("docker.io/library/alpine:3 drifted", "tag-drift", pinned="a", offered="b")
RUNTIMES = [
    "containerd/1.6.20~ds1",
    "docker/20.10.24+dfsg1 go/go1.19.8 git-commit/5d6db84 kernel/6.18 os/linux arch/amd64 UpstreamClient(x)",
    "containers/5.23.1 (github.com/containers/image)",
    "libpod/5.4.2",
    "Buildah/1.28.2",
    "buildkit/v0.14",
    "cri-o/1.30",
    "skopeo/1.9.3",
]
KEEPERS = ["go-containerregistry", "oras/1.3.3", "Helm/4.2", "regclient/regctl (v0.9)", "iarproxy/0.1", "curl/7.88", ""]


@both_loops
@pytest.mark.parametrize("agent", RUNTIMES)
async def test_runtimes_get_the_refusal_manifest(tmp_path: Path, agent: str) -> None:
    """200 under the private type, of its own digest, not to be kept; HEAD has the same head."""
    mirror = FakeMirror(tmp_path, failure=STOPPED)
    async with serving(mirror) as served:
        reply = await served.ask(TARGET, **{"User-Agent": agent})
        assert (200, PRIVATE, "no-store") == (
            reply.status,
            reply.headers["content-type"],
            reply.headers["cache-control"],
        )
        assert str(Digest.of(reply.body)) == reply.headers["docker-content-digest"]
        assert "drifted" in reply.headers["warning"]
        head = await served.ask(TARGET, "HEAD", **{"User-Agent": agent})
        assert {**reply.headers, "date": ""} == {**head.headers, "date": ""}


@both_loops
async def test_a_client_that_sends_ns_has_a_mirror(tmp_path: Path) -> None:
    """Whatever it calls itself, unless it is known to keep what it gets."""
    async with serving(FakeMirror(tmp_path, failure=STOPPED)) as served:
        assert (await served.ask(f"{TARGET}?ns=docker.io")).headers["content-type"] == PRIVATE
        for agent in ("regclient/regctl (v0.9)", "iarproxy/0.1", "go-containerregistry", "oras/1.3.3", "Helm/4.2"):
            assert (await served.ask(f"{TARGET}?ns=docker.io", **{"User-Agent": agent})).status == 403


@both_loops
@pytest.mark.parametrize("agent", KEEPERS)
async def test_others_get_the_error(tmp_path: Path, agent: str) -> None:
    """A copier or another registry would take the refusal manifest for the image: 403 DENIED instead."""
    async with serving(FakeMirror(tmp_path, failure=STOPPED)) as served:
        reply = await served.ask(TARGET, **{"User-Agent": agent})
        assert (403, "DENIED") == (reply.status, orjson.loads(reply.body)["errors"][0]["code"])


@both_loops
async def test_by_digest_nothing_is_replaced(tmp_path: Path) -> None:
    """A refusal manifest has another digest than the one asked for: a client would call it damage."""
    async with serving(FakeMirror(tmp_path, failure=STOPPED)) as served:
        reply = await served.ask(f"/v2/library/alpine/manifests/{Digest.of(b'x')}", **{"User-Agent": RUNTIMES[0]})
        assert reply.status == 403
