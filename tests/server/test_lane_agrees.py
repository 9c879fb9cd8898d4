"""The fast lane answers what the ordinary path answers, or leaves the request to it: over generated conversations.

`IARPROXY_SEEDS` sets how much is tried: 30 here, 200 before a release.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import uvloop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conversing import LARGE, MIDDLE, SMALL, Pair, Talk, pair
from iarproxy.oci import Digest

EXAMPLES = 8 * int(os.environ.get("IARPROXY_SEEDS", "30"))
LOOPS = pytest.mark.parametrize(
    "loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]
)
BLOBS = {name: Digest.of(data) for name, data in (("s", SMALL), ("m", MIDDLE), ("l", LARGE), ("e", b""))}
S, M, L, E = BLOBS.values()
NONE = f"sha256:{'0' * 64}"

PLAIN = (
    *("/v2/", "/v2", "/v2/library/alpine/manifests/3", "/v2/alpine/manifests/3", "/v2/alpine/manifests/drifted"),
    *(f"/v2/a/b/blobs/{S}", f"/v2/a/b/blobs/{M}", f"/v2/a/b/blobs/{L}", f"/v2/a/b/blobs/{E}"),
    *("/v2/alpine/manifests/long", "/v2/docker.io/library/alpine/manifests/3", "/v2/ghcr.io/a/b/manifests/long"),
)
ODD = (
    *("/v2/alpine/manifests/missing", f"/v2/alpine/blobs/{NONE}", "/v2/alpine/tags/list", "/v2/alpine/tags/list?n=0"),
    *(f"/v2/alpine/referrers/{S}", "/v2/_catalog", "/", "/healthz", "*", "/v2/alpine/blobs/uploads/", "//v2/"),
    *(f"/v2/a/b/blobs/{str(S).replace(':', '%3A')}", f"/v2/a/b/blobs/{str(S).replace(':', '%3a')}"),
    *(f"/v2/a/b/blobs/sha256:{S.hex.upper()}", f"/v2/a/b/blobs/{S}/", f"/v2/a/b/blobs/{S}%00", "/v2/?", "/v2/?x=%ff"),
    *(
        "http://other.test/v2/",
        "HTTPS://other.test:5/v2/alpine/manifests/3",
        f"http://o/v2/a/b/blobs/{S}",
        "http:///v2/",
    ),
    *("http://[::1/v2/", "http://a:b/v2/", "http://a:99999/v2/", "http://u:p@h/v2/", "ftp://h/v2/", "http://h", "h:80"),
    *(
        "/v2/#x",
        "/v2\\",
        '/v2/"',
        "/v2/alpine/manifests/3;x",
        "/v2/alpine/../alpine/manifests/3",
        "/v2/ALPINE/manifests/3",
    ),
    *("/v2/registry.example.com:5000/a/b/manifests/3", "/v2/registry.example.com_5000_/a/b/manifests/3"),
    *("/v2/quay.io/a/manifests/3", "/v2/[::1]/a/manifests/3", "/v2/" + "a/" * 100 + "manifests/3"),
)
QUERIES = (
    *("?ns=docker.io", "?ns=ghcr.io", "?ns=GHCR.io", "?ns=quay.io", "?ns=", "?ns=ghcr.io&ns=ghcr.io", "?ns=a&ns=b"),
    *("?ns=registry.example.com:5000", "?ns=registry.example.com%3A5000", "?ns=ghcr.io%0d%0aX:%20y", "?x", "??", "?ns"),
)
HOSTS = ("m", "m:5000", "bound.test", "BOUND.test:80", "bound.test:x", "[::1]:5000", "a b", "h" * 300, "m, n")
RANGES = (
    *("bytes=0-0", "bytes=0-", "bytes=-1", "bytes=5-90", "bytes=100-", "bytes=-100000", "bytes=99999-", "bytes=4-2"),
    *(
        "bytes=0-999999",
        "bytes=100000-",
        "bytes=9999999-",
        "bytes=-0",
        "bytes=-",
        "bytes=",
        "bytes=0-1,3-4",
        "BYTES=1-2",
    ),
    *(
        "bytes= 1-2",
        "bytes=1-2 ",
        "bytes=1 -2",
        "lines=1-2",
        "x",
        "bytes=\t1-2",
        f"bytes={'9' * 19}-",
        f"bytes=-{'9' * 20}",
    ),
)
DIGESTS = tuple(f'"{each}"' for each in BLOBS.values())
FIELDS = {
    "User-Agent": ("containerd/2.1", "curl", "", "a\tb"),
    "Accept": ("*/*", "application/json, text/html;q=0.1", ""),
    "Accept-Encoding": ("gzip", "identity"),
    "Authorization": ("Bearer x", "Basic Og=="),
    "Range": RANGES,
    "If-Range": (*DIGESTS, f" {DIGESTS[0]} ", f"W/{DIGESTS[0]}", "Sun, 06 Nov 1994 08:49:37 GMT", "x"),
    "If-None-Match": (*DIGESTS, "*", f"W/{DIGESTS[0]}", '"x"'),
    "If-Match": ("*", '"x"'),
    "If-Modified-Since": ("Sun, 06 Nov 1994 08:49:37 GMT",),
    "Connection": (
        "keep-alive",
        "Keep-Alive",
        "close",
        "CLOSE",
        "keep-alive, close",
        "Upgrade",
        "TE",
        "",
        "range",
        "x",
    ),
    "Keep-Alive": ("timeout=5",),
    "Proxy-Connection": ("close", "keep-alive"),
    "Upgrade": ("h2c", "websocket", "HTTP/2.0", "TLS/1.2"),
    "HTTP2-Settings": ("AAMAAABkAAQAAP__",),
    "Sec-WebSocket-Key1": ("x",),
    "Sec-WebSocket-Key": ("dGhlIHNhbXBsZSBub25jZQ==",),
    "Sec-WebSocket-Version": ("13",),
    "Expect": ("100-continue", "x"),
    "TE": ("trailers", "chunked"),
    "Trailer": ("X",),
    "Transfer-Encoding": ("chunked", "identity", "", "gzip, chunked", "x"),
    "Content-Length": ("0", "00", "+0", "-1", "", "5", "0x0", "0, 0", "99999999999999999999"),
    "Content-Type": ("text/plain",),
    "Content-Encoding": ("gzip",),
    "Host": HOSTS,
    "Forwarded": ("host=bound.test",),
    "X-Forwarded-Host": ("bound.test",),
    "X-HTTP-Method-Override": ("DELETE",),
    "Cookie": ("a=b",),
    "!#$%&'*+-.^_`|~9": ("odd",),
    "X Y": ("z",),
    "": ("z",),
    "X\x80": ("z",),
    "X": ("\x80", "\x00", "a\x7fb", "a" * 5000, "\u00e9", "a\x0bb", "(comment)"),
}
COMMON = ("User-Agent", "Accept", "Accept-Encoding", "Range", "If-Range", "Authorization")


CASES: tuple[Callable[[str], str], ...] = (str, str, str.lower, str.upper, str.swapcase)
ODD_HOSTS = ("", *(f"Host: {each}\r\n" for each in HOSTS), "Host:\r\n", "host:m\r\n", "Host: m\r\nHost: n\r\n")
# What a request is made of: first what most clients send, then what could be read in two ways, or is wrong.
PARTS: dict[str, tuple[Sequence[str], Sequence[str]]] = {
    "before": (("",), ("\r\n", "\n", "\r\n\r\n", "\x16\x03\x01")),
    "method": (("GET", "GET", "HEAD"), ("POST", "OPTIONS", "get", "DELETE", "CONNECT", "PRI", "G", " GET")),
    "gap": ((" ",), ("  ", "\t", "")),
    "target": (PLAIN, ODD),
    "query": (("",), QUERIES),
    "version": (("HTTP/1.1",), ("HTTP/1.0", "HTTP/1.1 ", "HTTP/1.2", "HTTP/2.0", "http/1.1", "HTTP/1.11", "")),
    "host": (("Host: m\r\n",), ODD_HOSTS),
    "name": (COMMON, tuple(FIELDS)),
    "colon": ((": ", ": ", ":"), (":  ", ":\t", " : ", "\t: ", "", ":\r\n ", ": \t ")),
    "end": (("\r\n",), (" \r\n", "\t\r\n", "\n", "\r", "\r\r\n", "\r\n\t\r\n")),
    "more": (("",), ("X: y\r\n" * 40, "X-Y: y\r\n" * 70, "Accept: a\r\n" * 3, "Range: bytes=0-1\r\n" * 2)),
    "body": (("",), ("0\r\n\r\n", "hello", "\r\n", "5\r\nhello\r\n0\r\n\r\n", "5;x=y\r\nhello\r\n0\r\nX: y\r\n\r\n")),
}


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """One request that is plain, or odd in at most two ways."""
    odd = draw(st.just(set[str]()) | st.sets(st.sampled_from(sorted(PARTS)), max_size=2))

    def part(name: str) -> str:
        return draw(st.sampled_from(PARTS[name][name in odd]))

    lines = [part("host")]
    for _ in range(draw(st.integers(0, 3)) + ("name" in odd)):
        name = part("name")
        value = draw(st.sampled_from(FIELDS[name]))
        lines.append(f"{draw(st.sampled_from(CASES))(name)}{part('colon')}{value}{part('end')}")
    head = f"{part('method')}{part('gap')}{part('target')}{part('query')}{part('gap')}{part('version')}"
    fields = "".join(draw(st.permutations(lines))) + part("more")
    return f"{part('before')}{head}\r\n{fields}\r\n{part('body')}".encode("latin-1")


@st.composite
def talks(draw: st.DrawFn) -> Talk:
    """A conversation of one to five requests, cut into packets in some way."""
    asked = draw(st.lists(requests(), min_size=1, max_size=3))
    asked = draw(st.permutations([each for each in asked for _ in range(draw(st.integers(1, 2)))]))
    whole = b"".join(asked)
    how = draw(st.sampled_from(("requests", "requests", "requests", "whole", "pieces", "bytes")))
    if how == "requests":
        pieces = list(asked)
    elif how == "whole":
        pieces = [whole]
    elif how == "bytes" and len(whole) < 600:
        pieces = [whole[at : at + 1] for at in range(len(whole))]
    else:
        cuts = sorted(draw(st.sets(st.integers(0, len(whole)), max_size=4)))
        pieces = [whole[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    turns = draw(st.sampled_from((4, 0, 1, 2, 30)))
    return Talk(tuple((each, turns) for each in pieces if each), draw(st.booleans()), draw(st.booleans()))


@LOOPS
def test_generated_conversations(tmp_path: Path, loop_factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """Whatever is sent, in whatever pieces, both servers answer the same, as often, and count the same."""
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        context = pair(tmp_path)
        both: Pair = runner.run(context.__aenter__())

        @settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
        @given(talks())
        def agree(talk: Talk) -> None:
            runner.run(both.agree(talk))

        try:
            agree()
        finally:
            runner.run(context.__aexit__(None, None, None))
        asked = len(both.fast.mirror.asked), len(both.slow.mirror.asked)
    assert asked[0] < asked[1], "the lane answered nothing"
