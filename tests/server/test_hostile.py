"""Hostile targets and framing at the socket: 400 or 404, and nobody is asked (threats T11, T57, T76)."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from serving import FakeMirror, serving

DIGEST = f"sha256:{'a' * 64}"
DOTS = [
    "..",
    ".",
    "%2e%2e",
    "%2E%2e",
    "..%2f",
    "%2f..%2f..",
    "..;",
    "...%00",
    "%00",
    "%252e%252e",
    "\\..",
    "%5c..",
    "",
    "~",
    "a%2fb",
]
PLACES = [
    *(
        "/v2/{0}/manifests/x",
        "/v2/a/{0}/manifests/x",
        "/v2/{0}/{0}/etc/passwd",
        "/v2/a/manifests/{0}",
        "/v2/a/blobs/{0}",
    ),
    *(
        f"/v2/{{0}}/blobs/{DIGEST}",
        "/v2/a/blobs/sha256:{0}",
        "/v2/a/referrers/{0}",
        "/v2/a/manifests/{0}/x",
        "/{0}/v2/",
    ),
    *(
        "/v2/{0}/tags/list",
        "/v2/a/tags/{0}",
        f"/v2/a/{{0}}/blobs/{DIGEST}",
        "/v2{0}/a/manifests/x",
        "/v2//{0}/manifests/x",
    ),
]
ODD = [
    *(
        "/v2/a/manifests/x#frag",
        "/v2/a/manifests/x%0d%0aSet-Cookie:%20a",
        "/v2/a/manifests/\u0661".encode().decode("latin-1"),
    ),
    *(
        "/v2/A/manifests/x",
        "/v2/a//manifests/x",
        "/v2/a/manifests/x/",
        "/v2/a/b/",
        "//v2/a/manifests/x",
        "/V2/a/manifests/x",
    ),
    *(
        f"/v2/a/blobs/{DIGEST}%0a",
        f"/v2/a/blobs/{DIGEST.upper()}",
        f"/v2/a/blobs/{DIGEST}0",
        "/v2/a/blobs/sha1:" + "a" * 40,
    ),
    *("/v2/" + "a" * 300 + "/manifests/x", "/v2/" + "a/" * 200 + "manifests/x", "/v2/a/manifests/" + "t" * 129),
    *(
        "/v2/a/manifests/x?ns=a&ns=b",
        "/v2/a/tags/list?n=-1",
        "/v2/a/tags/list?n=1e9",
        "/v2/a/tags/list?last=../x",
        "*",
        "v2/",
    ),
    *(
        "http://evil/../v2/a/manifests/x",
        "file:///etc/passwd",
        "/v2/a/manifests/x?ns=%ff",
        "/.well-known/x",
        "/metrics",
        "/healthz",
    ),
    *(
        "/api/v1/pins",
        "/v2/a/blobs/uploads/",
        "/v2/_catalog/../a/manifests/x",
        "/v2/a:80/manifests/x",
        "/v2/[::1]/a/manifests/x",
    ),
]
_MADE = {place.format(dots) for place, dots in itertools.product(PLACES, DOTS)}
TARGETS = sorted((_MADE | set(ODD)) - {"/v2/a/manifests/x"})


async def test_hostile_targets(tmp_path: Path) -> None:
    """T11, T57: every target of the corpus is refused with 400, 404 or 405, and the mirror is never asked."""
    mirror = FakeMirror(tmp_path)
    answers: dict[str, bytes] = {}
    reached: dict[str, list[str]] = {}
    async with serving(mirror) as served:
        for target in TARGETS:
            raw = await served.raw(f"GET {target} HTTP/1.1\r\nHost: m\r\nConnection: close\r\n\r\n".encode("latin-1"))
            answers[target] = raw.split(b" ", 2)[1]
            if mirror.asked:
                reached[target] = [mirror.asked.pop()]
    wrong = {target: status for target, status in answers.items() if status not in (b"400", b"404", b"405")}
    assert wrong == {}
    assert reached == {}
    assert len(TARGETS) > 200


FRAMES = {
    "CL and TE": b"GET /v2/ HTTP/1.1\r\nHost: m\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": b"GET /v2/ HTTP/1.1\r\nHost: m\r\nContent-Length: 0\r\nContent-Length: 5\r\n\r\nhello",
    "xchunked": b"POST /v2/ HTTP/1.1\r\nHost: m\r\nTransfer-Encoding: xchunked\r\n\r\n",
    "bare LF": b"GET /v2/ HTTP/1.1\nHost: m\n\n",
    "two hosts": b"GET /v2/ HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "space before colon": b"GET /v2/ HTTP/1.1\r\nHost : m\r\n\r\n",
    "folded header": b"GET /v2/ HTTP/1.1\r\nHost: m\r\nX: a\r\n b\r\n\r\n",
    "NUL": b"GET /v2/ HTTP/1.1\r\nHost: m\r\nX: a\0b\r\n\r\n",
    "no version": b"GET /v2/\r\n\r\n",
    "HTTP/2.0": b"GET /v2/ HTTP/2.0\r\nHost: m\r\n\r\n",
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/0.9": b"GET /v2/ HTTP/0.9\r\n\r\n",
    "noise": bytes(range(128, 256)),
    "many headers": b"GET /v2/ HTTP/1.1\r\nHost: m\r\n" + b"".join(b"X%d: y\r\n" % at for at in range(5000)) + b"\r\n",
    "space in target": b"GET /v2/ /x HTTP/1.1\r\nHost: m\r\n\r\n",
    "SSH": b"SSH-2.0-OpenSSH_9.2\r\n",
}


@pytest.mark.parametrize("name", FRAMES)
async def test_hostile_frames(tmp_path: Path, name: str) -> None:
    """T76: ambiguous or foreign framing gets one 400 (or 431) and a close."""
    async with serving(FakeMirror(tmp_path)) as served:
        raw = await served.raw(FRAMES[name])
    assert raw.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 431 ")), raw[:100]
    assert raw.count(b"HTTP/1.1 4") == 1
    assert b"Connection: close" in raw
