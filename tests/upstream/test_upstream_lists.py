"""Lists in pages: bounded, on one host, and never in a circle (T45); what is remembered of them."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from dialing import dialing
from iarproxy.errors import IarproxyError, UnknownBlob, UpstreamUnavailable, UpstreamWrong
from iarproxy.oci import Digest, Tag
from iarproxy.oci.media_types import OCI_INDEX
from iarproxy.upstream import Purpose
from iarproxy.upstream.listing import MAX_PAGES, MAX_TAGS
from images import artifact, random_blob, small_image
from registry import FakeRegistry
from registry_faults import Fault

NEXT = "/v2/a/b/tags/list?n=1&last="


def _tags(registry: FakeRegistry, *names: str) -> None:
    for name in names:
        registry.content.publish("a/b", name, small_image())


@pytest.mark.parametrize(
    "link",
    [
        '<{url}/v2/a/b/tags/list?n=1&last=t1>; rel="next"',
        "</v2/a/b/tags/list?n=1&last=t1>; rel=next",
        '<list?n=1&last=t1>;rel="next"',
        '<?n=1&last=t1> ; title="a, b" ; rel="next"',
        '</elsewhere>; rel="prev", </v2/a/b/tags/list?n=1&last=t1>; rel="next"',
        "</v2/a/b/tags/list?n=1&last=t1>; REL=NEXT",
    ],
)
async def test_a_link_in_any_form(link: str) -> None:
    """Absolute, relative, among others: the next page is asked of our own URL with its query."""
    async with FakeRegistry() as registry, dialing(registry) as upstream:
        _tags(registry, "t1", "t2")
        registry.max_page = 1
        registry.faults.add("*/tags/*", Fault(headers={"Link": link.format(url=registry.url)}), times=1)
        assert await upstream.tags("a/b") == ["t1", "t2"]
        assert registry.log[1].path == f"{NEXT}t1"


@pytest.mark.parametrize("link", ['</v2/a/b/tags/list>; rel="prev"', "nonsense", "<>; rel=next", '<x; rel="next"', ""])
async def test_no_next_page(link: str) -> None:
    """A Link that is not the next page ends the list."""
    async with FakeRegistry() as registry, dialing(registry) as upstream:
        _tags(registry, "t1")
        registry.faults.add("*", Fault(headers={"Link": link}))
        assert await upstream.tags("a/b") == ["t1"]
        assert registry.count() == 1


@pytest.mark.parametrize("host", ["http://127.0.0.2:9", "http://user:pw@127.0.0.1:9", "//127.0.0.2:9"])
async def test_a_link_to_another_host(host: str) -> None:
    """It is refused, not asked."""
    async with FakeRegistry() as registry, dialing(registry) as upstream:
        _tags(registry, "t1")
        registry.faults.add("*", Fault(headers={"Link": f'<{host}/v2/a/b/tags/list?last=t1>; rel="next"'}))
        with pytest.raises(UpstreamWrong):
            await upstream.tags("a/b")
        assert registry.count() == 1


async def test_a_list_in_a_circle() -> None:
    """A page that was seen already ends the walk."""
    async with FakeRegistry() as registry, dialing(registry) as upstream:
        _tags(registry, "t1")
        registry.faults.add("*", Fault(headers={"Link": f'<{NEXT}t0>; rel="next"'}))
        assert await upstream.tags("a/b") == ["t1"]
        assert registry.count() == 2


async def test_endless_pages() -> None:
    """A registry that always has one more page is left after a hundred."""
    async with FakeRegistry() as registry, dialing(registry) as upstream:
        for number in range(MAX_PAGES + 20):
            body = orjson.dumps({"tags": [f"t{number}"]})
            registry.faults.add("*", Fault(body=body, headers={"Link": f'<{NEXT}{number}>; rel="next"'}), times=1)
        registry.content.publish("a/b", "1", small_image())
        assert len(await upstream.tags("a/b")) == MAX_PAGES
        assert registry.count() == MAX_PAGES


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"name":"a/b","tags":null}', []),
        (b'{"name":"a/b"}', []),
        (b'{"tags":["ok","-bad","b\\nad",7,null,"ok"]}', ["ok"]),
        (orjson.dumps({"tags": [f"t{number}" for number in range(MAX_TAGS + 5)]}), None),
        (b'{"tags":"ok"}', UpstreamWrong),
        (b"[]", UpstreamWrong),
        (b"<html>", UpstreamWrong),
        (b'{"tags":["' + b"x" * (4 * 2**20) + b'"]}', UpstreamWrong),
    ],
    ids=["null", "absent", "bad tags", "many", "text", "list", "html", "long"],
)
async def test_what_a_page_may_hold(body: bytes, expected: list[str] | type[IarproxyError] | None) -> None:
    """Tags by the grammar, each once, so many; anything else is refused."""
    async with FakeRegistry() as registry, dialing(registry) as upstream:
        _tags(registry, "1")
        registry.faults.add("*", Fault(body=body))
        if isinstance(expected, type):
            with pytest.raises(expected):
                await upstream.tags("a/b")
        elif expected is None:
            assert len(await upstream.tags("a/b")) == MAX_TAGS
        else:
            assert await upstream.tags("a/b") == expected


async def test_long_lists_are_kept_and_short_ones_are_not(tmp_path: Path) -> None:
    """One page is asked each time; several pages once a minute, by all workers together."""
    async with FakeRegistry() as registry:
        _tags(registry, "t1", "t2")
        for pages, expected in [(1, 2), (2, 2)]:
            registry.max_page = 2 // pages
            registry.forget()
            for _ in range(2):
                async with dialing(registry, cache_dir=tmp_path / "cache") as upstream:
                    assert await upstream.tags("a/b") == ["t1", "t2"]
            assert registry.count() == expected


@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=404, body=b"404 page not found"),
        Fault(status=400),
        Fault(status=405),
        Fault(status=406),
        Fault(body=b"<html>welcome</html>", headers={"Content-Type": "text/html"}),
    ],
    ids=str,
)
async def test_no_referrers_api(fault: Fault, tmp_path: Path) -> None:
    """None, whatever a registry without it says; and it is not asked again at once."""
    async with FakeRegistry() as registry, dialing(registry, cache_dir=tmp_path / "cache") as upstream:
        image = registry.content.publish("a/b", "1", small_image())
        registry.faults.add("*/referrers/*", fault)
        for _ in range(2):
            assert await upstream.referrers("a/b", image.digest) is None
        assert registry.count() == 1


async def test_a_referrers_api_that_fails() -> None:
    """A failure is a failure: no empty answer is made of it."""
    async with FakeRegistry() as registry, dialing(registry) as upstream:
        image = registry.content.publish("a/b", "1", small_image())
        registry.faults.add("*/referrers/*", Fault(status=503))
        with pytest.raises(UpstreamUnavailable):
            await upstream.referrers("a/b", image.digest)


async def test_referrers_in_pages() -> None:
    """One page is passed on byte by byte; several become one index."""
    async with FakeRegistry() as registry, dialing(registry) as upstream:
        image = registry.content.publish("a/b", "1", small_image())
        registry.content.publish("a/b", None, artifact(image))
        whole = await upstream.referrers("a/b", image.digest)
        assert whole == registry.content.repositories["a/b"].referrers(str(image.digest))
        link = f'</v2/a/b/referrers/{image.digest}?page=2>; rel="next"'
        registry.faults.add("*/referrers/*", Fault(headers={"Link": link}), times=1)
        joined = orjson.loads(await upstream.referrers("a/b", image.digest) or b"")
        assert (joined["mediaType"], len(joined["manifests"])) == (OCI_INDEX, 2)


async def test_a_missing_digest_is_remembered_for_a_moment(tmp_path: Path) -> None:
    """A herd that asks for what is not there costs one request, of a tag too; the drift watch asks each time."""
    digest = Digest.of(random_blob(10))
    async with FakeRegistry() as registry, dialing(registry, cache_dir=tmp_path / "cache") as upstream:
        _tags(registry, "1")
        for _ in range(3):
            with pytest.raises(UnknownBlob, match=r"404|a moment ago"):
                await upstream.blob_size("a/b", digest)
        assert registry.count() == 1
        for _ in range(3):
            with pytest.raises(IarproxyError):
                await upstream.manifest("a/b", Tag("none"))
        assert registry.count() == 2
        for _ in range(3):
            with pytest.raises(IarproxyError):
                await upstream.manifest("a/b", Tag("none"), Purpose.BACKGROUND)
        assert registry.count() == 5


async def test_whoever_must_miss_nothing_gets_all_or_a_failure(tmp_path: Path) -> None:
    """A missing API is asked for anew each time, and a list that goes on behind what is read is no answer."""
    async with FakeRegistry() as registry, dialing(registry, cache_dir=tmp_path / "cache") as upstream:
        image = registry.content.publish("a/b", "1", small_image())
        registry.faults.add("*/referrers/*", Fault(status=404), times=2)
        assert [None, None] == [await upstream.referrers("a/b", image.digest) for _ in range(2)]
        assert await upstream.attached("a/b", image.digest) is None
        assert await upstream.attached("a/b", image.digest) == registry.content.repositories["a/b"].referrers("")
        for number in range(MAX_PAGES):
            link = f'</v2/a/b/referrers/{image.digest}?page={number}>; rel="next"'
            registry.faults.add("*/referrers/*", Fault(headers={"Link": link}), times=1)
        with pytest.raises(UpstreamWrong, match="more than"):
            await upstream.attached("a/b", image.digest)


@pytest.mark.parametrize(
    "document",
    [{"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": 5}, {"errors": []}],
    ids=["a number", "an error"],
)
async def test_pages_of_referrers_that_are_no_lists(document: dict[str, object]) -> None:
    """Several pages of which one is no list are a wrong answer, and no failure of ours."""
    async with FakeRegistry() as registry, dialing(registry) as upstream:
        image = registry.content.publish("a/b", "1", small_image())
        link = f'</v2/a/b/referrers/{image.digest}?page=2>; rel="next"'
        told = {"Link": link, "Content-Type": OCI_INDEX}
        registry.faults.add("*/referrers/*", Fault(status=200, body=orjson.dumps(document), headers=told), times=1)
        with pytest.raises(UpstreamWrong, match="no list"):
            await upstream.referrers("a/b", image.digest)
