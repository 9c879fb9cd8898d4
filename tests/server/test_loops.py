"""A request that comes back to the server that sent it is noticed by its `Via` (clients.md section 10, item 64)."""

from __future__ import annotations

import asyncio
from pathlib import Path

import orjson
import pytest

from iarproxy.oci import Repository, Tag
from iarproxy.server.head import read_head
from iarproxy.upstream.via import MAX_HOPS, on_the_way, parse_via, pseudonym, via_header
from serving import FakeMirror, serving

OWN, OTHER = pseudonym("one store"), pseudonym("another store")
TARGET = "/v2/library/alpine/manifests/3?ns=docker.io"


async def test_a_request_that_comes_back(tmp_path: Path) -> None:
    """508 with the OCI errors JSON, which says what is configured wrongly; nothing is asked of the mirror."""
    mirror = FakeMirror(tmp_path)
    mirror.pin("docker.io/library/alpine:3")
    async with serving(mirror, via=OWN) as served:
        for header in (f"1.1 {OWN}", f"1.0 squid (x), 1.1 {OTHER}, HTTP/1.1 {OWN} (comment)"):
            reply = await served.ask(TARGET, Via=header)
            error = orjson.loads(reply.body)["errors"][0]
            assert (508, "UNAVAILABLE") == (reply.status, error["code"])
            assert "leads to this server again" in error["message"]
        assert 200 == (await served.ask(TARGET, Via=f"1.1 {OTHER}, 1.1 squid")).status
        assert 200 == (await served.ask(TARGET)).status


async def test_a_chain_without_end(tmp_path: Path) -> None:
    """More mirrors behind each other than anybody needs are a loop that we are not in."""
    mirror = FakeMirror(tmp_path)
    mirror.pin("docker.io/library/alpine:3")
    hops = ", ".join(f"1.1 {pseudonym(str(each))}" for each in range(MAX_HOPS))
    async with serving(mirror, via=OWN) as served:
        reply = await served.ask(TARGET, Via=hops)
    assert 508 == reply.status
    assert f"came through {MAX_HOPS} mirrors".encode() in reply.body


async def test_the_way_goes_with_what_is_asked_for_it(tmp_path: Path) -> None:
    """What the mirror asks of upstream, in whatever task, carries the way of this request and not of the one before."""
    ways: list[dict[str, str]] = []

    class Asking(FakeMirror):
        async def manifest(self, repository: Repository, wanted: Tag | object) -> object:  # type: ignore[override]  # a fake
            async def ask() -> None:
                ways.append(via_header(OWN))

            await asyncio.create_task(ask())
            return await super().manifest(repository, wanted)  # type: ignore[arg-type]  # a fake

    mirror = Asking(tmp_path)
    mirror.pin("docker.io/library/alpine:3")
    head = f"GET {TARGET} HTTP/1.1\r\nHost: a\r\n"
    async with serving(mirror, via=OWN) as served:
        await served.raw(f"{head}Via: 1.1 {OTHER}\r\n\r\n{head}Connection: close\r\n\r\n".encode())
    assert [{"Via": f"1.1 {OTHER}, 1.1 {OWN}"}, {"Via": f"1.1 {OWN}"}] == ways


def test_a_way_keeps_no_request_from_the_fast_lane() -> None:
    """What is held is answered from memory whoever asks: such an answer asks nobody, and ends any loop."""
    head = f"GET {TARGET} HTTP/1.1\r\nHost: mirror.test\r\nVia: 1.1 {OTHER}, 1.1 squid (x)\r\n\r\n"
    plain = read_head(head.encode())
    assert plain is not None
    assert TARGET == plain.target


@pytest.mark.parametrize(
    ("header", "hops"),
    [
        ([], ()),
        ([f"1.1 {OWN}"], (OWN,)),
        ([f"1.1 {OWN} (a comment), 1.1 {OTHER}"], (OWN, OTHER)),
        ([f"1.1 {OWN}", f"2 {OTHER}"], (OWN, OTHER)),
        (["1.1 proxy.internal.example:3128"], ()),
        (["1.1 iarproxy-NOTHEX000000, iarproxy, ,,1.1", "\x7f"], ()),
        ([f"1.1 {OWN}x"], ()),
    ],
)
def test_what_is_read(header: list[str], hops: tuple[str, ...]) -> None:
    """Only pseudonyms of our own kind are taken; the names of other proxies go no further."""
    assert hops == parse_via(header)


def test_what_is_told() -> None:
    """A pseudonym is stable and does not hold what it is made of; without one there is no header."""
    assert pseudonym("5f2e-secret") == pseudonym("5f2e-secret") != OWN
    assert "secret" not in pseudonym("5f2e-secret")
    with on_the_way((OTHER,)):
        assert {} == via_header(None)
        assert {"Via": f"1.1 {OTHER}, 1.1 {OWN}"} == via_header(OWN)
    assert {"Via": f"1.1 {OWN}"} == via_header(OWN)
