"""What a right upstream gives, and how it is asked."""

from __future__ import annotations

import pytest

import iarproxy
from dialing import dialing, whole
from iarproxy.config import UpstreamSettings
from iarproxy.errors import UnknownBlob, UnknownManifest, UnknownName
from iarproxy.oci import Digest, Tag
from iarproxy.oci.media_types import ACCEPT_MANIFESTS
from iarproxy.upstream import Upstreams
from images import artifact, index, random_blob, small_image
from registry import FakeRegistry

NOWHERE = Digest("sha256", "0" * 64)


async def test_manifests_by_tag_and_digest() -> None:
    """The exact bytes, the media type, the digest upstream names; HEAD agrees."""
    async with FakeRegistry() as registry, dialing(registry) as upstream:
        published = registry.content.publish("org/app", "1", index([small_image(1), small_image(2, docker=True)]))
        names: list[Tag | Digest] = [Tag("1"), published.digest, *(child.digest for child in published.children)]
        for wanted in names:
            fetched = await upstream.manifest("org/app", wanted)
            assert await upstream.head_manifest("org/app", wanted) == Digest.of(fetched.raw)
        fetched = await upstream.manifest("org/app", Tag("1"))
        expected = (published.raw, published.media_type, str(published.digest))
        assert expected == (fetched.raw, fetched.media_type, fetched.digest_header)
        assert fetched.headers["docker-content-digest"] == str(published.digest)


async def test_what_is_sent() -> None:
    """GET and HEAD ask alike: full Accept list, identity coding, our own name, and nothing else."""
    async with FakeRegistry() as registry, dialing(registry) as upstream:
        registry.content.publish("org/app", "1", small_image())
        await upstream.manifest("org/app", Tag("1"))
        await upstream.head_manifest("org/app", Tag("1"))
        expected = {
            "Host": registry.address,
            "User-Agent": f"iarproxy/{iarproxy.__version__}",
            "Accept": ACCEPT_MANIFESTS,
            "Accept-Encoding": "identity",
        }
        assert [dict(seen.headers) for seen in registry.log] == [expected, expected]


async def test_blobs_whole_and_from_an_offset() -> None:
    """The bytes, the size of the whole blob, and where they start; HEAD tells the size."""
    data = random_blob(300_000)
    async with FakeRegistry() as registry, dialing(registry) as upstream:
        digest = registry.content.publish_blob("a/b", data)
        assert await upstream.blob_size("a/b", digest) == len(data)
        for offset in (0, 1, 299_999):
            async with upstream.blob("a/b", digest, offset) as transfer:
                assert (transfer.size, transfer.offset) == (len(data), offset)
                assert data[offset:] == b"".join([piece async for piece in transfer.chunks()])
        assert await whole(upstream, "a/b", digest) == data


async def test_a_transfer_may_be_left() -> None:
    """A consumer that stops early leaves no connection, no task and no slot behind."""
    async with FakeRegistry() as registry, dialing(registry, max_connections=1) as upstream:
        digest = registry.content.publish_blob("a/b", random_blob(5_000_000))
        for _ in range(3):
            async with upstream.blob("a/b", digest) as transfer:
                async for _piece in transfer.chunks():
                    break
        assert len(await whole(upstream, "a/b", digest)) == 5_000_000


async def test_what_is_not_there() -> None:
    """Each kind of name has its own error, by GET and by HEAD."""
    async with FakeRegistry() as registry, dialing(registry) as upstream:
        registry.content.publish("a/b", "1", small_image())
        for ask in (upstream.manifest, upstream.head_manifest):
            with pytest.raises(UnknownManifest, match=r"registry\.example\.com has no .*manifest a/b:none \(404"):
                await ask("a/b", Tag("none"))
            with pytest.raises(UnknownManifest):
                await ask("a/b", NOWHERE)
        with pytest.raises(UnknownName):
            await upstream.manifest("a/none", Tag("1"))
        with pytest.raises(UnknownName):
            await upstream.tags("a/none")
        with pytest.raises(UnknownBlob):
            await whole(upstream, "a/b", NOWHERE)
        with pytest.raises(UnknownBlob):
            await upstream.blob_size("a/b", NOWHERE)


async def test_tags_and_referrers() -> None:
    """All pages of the tags, in order; the referrers' index where there is the API, else None."""
    async with FakeRegistry() as registry, dialing(registry) as upstream:
        image = registry.content.publish("a/b", None, small_image())
        names = [f"t{number:03}" for number in range(25)]
        for name in names:
            registry.content.publish("a/b", name, image)
        registry.max_page = 10
        assert await upstream.tags("a/b") == names
        assert registry.count("GET", "tags/list") == 3
        signature = registry.content.publish("a/b", None, artifact(image))
        assert str(signature.digest).encode() in (await upstream.referrers("a/b", image.digest) or b"")
        registry.answer_referrers = False
        assert await upstream.referrers("a/b", image.digest) is None


async def test_docker_hub_names() -> None:
    """docker.io is asked at registry-1.docker.io, and a name of one component in library/."""
    asked: list[str] = []

    async def lookup(host: str, port: int) -> list[str]:
        asked.append(f"{host}:{port}")
        raise OSError("no network in tests")

    settings = {"docker.io": UpstreamSettings(url="https://docker.io")}
    upstreams = await Upstreams.open(settings, cache_dir=None, lookup=lookup)
    assert upstreams["docker.io"].source == "https://registry-1.docker.io"
    await upstreams.close()
    async with FakeRegistry() as registry, dialing(registry, name="docker.io") as upstream:
        registry.content.publish("library/tiny", "1", small_image())
        await upstream.manifest("tiny", Tag("1"))
        await upstream.manifest("library/tiny", Tag("1"))
        assert [seen.path for seen in registry.log] == ["/v2/library/tiny/manifests/1"] * 2


async def test_the_list_is_closed() -> None:
    """A name outside the list is unknown, whatever it looks like; opening dials nothing."""
    async with FakeRegistry() as registry:
        upstreams = await Upstreams.open({"a.example": UpstreamSettings(url=registry.url)}, cache_dir=None)
        assert "a.example" in upstreams
        assert upstreams.names == {"a.example"}
        for name in ("b.example", registry.address, "a.example.evil", ""):
            assert name not in upstreams
            with pytest.raises(UnknownName, match=r"a\.example"):
                upstreams[name]
        assert registry.log == []
        await upstreams.close()
