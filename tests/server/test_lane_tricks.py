"""The fast lane against a corpus of requests that two parsers may read in two ways.

It is in the spirit of the published ones on request smuggling.

Rule 1: behind each trick stand the number of its answers and whether the connection takes another request behind it,
        so that no change of a parser passes unseen. aiohttp may refuse more one day; it must not answer more.
Rule 2: each is tried whole and cut in two, before and behind what the lane answers. `IARPROXY_SEEDS` sets in how many
        places it is cut: 3 for 30, 20 for 200.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

from conversing import Pair, Talk, pair
from serving import both_loops

CUTS = int(os.environ.get("IARPROXY_SEEDS", "30")) // 10
AT_ONCE = 60  # conversations: many of them wait


def get(*lines: str, target: str = "/v2/", first: str = "") -> bytes:
    """A request with these header lines behind its `Host`, and whatever follows."""
    return "\r\n".join([first or f"GET {target} HTTP/1.1", "Host: m", *lines, "", ""]).encode("latin-1")


PING = get()
TRICKS: dict[str, tuple[bytes, int, bool]] = {
    "CL.0 with a request as body": (get("Content-Length: 5") + b"hello" + PING, 1, False),
    "CL 0": (get("Content-Length: 0"), 1, True),
    "CL 00": (get("Content-Length: 00"), 1, False),
    "CL of the request behind": (get(f"Content-Length: {len(PING)}") + PING, 1, False),
    "CL.TE": (get("Content-Length: 6", "Transfer-Encoding: chunked") + b"0\r\n\r\nG", 1, False),
    "TE.CL": (get("Transfer-Encoding: chunked", "Content-Length: 3") + b"8\r\nSMUGGLED\r\n0\r\n\r\n", 1, False),
    "TE twice": (get("Transfer-Encoding: chunked", "Transfer-Encoding: x") + b"0\r\n\r\n", 1, False),
    "TE identity": (get("Transfer-Encoding: identity"), 1, False),
    "TE xchunked": (get("Transfer-Encoding: xchunked") + b"0\r\n\r\n", 1, False),
    "TE with a space before the colon": (get("Transfer-Encoding : chunked") + b"0\r\n\r\n", 1, False),
    "TE behind a tab": (get("Transfer-Encoding:\tchunked") + b"0\r\n\r\n", 1, False),
    "TE behind a vertical tab": (get("Transfer-Encoding:\x0bchunked") + b"0\r\n\r\n", 1, False),
    "TE before a vertical tab": (get("Transfer-Encoding: chunked\x0b") + b"0\r\n\r\n", 1, False),
    "TE on a folded line": (get("X: y\r\n Transfer-Encoding: chunked") + b"0\r\n\r\n", 1, False),
    "TE folded": (get("Transfer-Encoding:\r\n chunked") + b"0\r\n\r\n", 1, False),
    "TE behind a bare CR": (get("X: y\rTransfer-Encoding: chunked") + b"0\r\n\r\n", 1, False),
    "TE behind a bare LF": (get("X: y\nTransfer-Encoding: chunked") + b"0\r\n\r\n", 1, False),
    "TE behind a NUL": (get("X: y\0Transfer-Encoding: chunked") + b"0\r\n\r\n", 1, False),
    "TE in quotes": (get('Transfer-Encoding: "chunked"') + b"0\r\n\r\n", 1, False),
    "TE with a comma": (get("Transfer-Encoding: ,chunked") + b"0\r\n\r\n", 1, False),
    "TE in capitals": (get("TRANSFER-ENCODING: CHUNKED") + b"0\r\n\r\n", 1, False),
    "TE with an underscore": (get("Transfer_Encoding: chunked") + b"0\r\n\r\n", 1, False),
    "TE chunked": (get("Transfer-Encoding: chunked") + b"5\r\nhello\r\n0\r\n\r\n", 1, False),
    "chunk extension": (get("Transfer-Encoding: chunked") + b'5;a="\n"\r\nhello\r\n0\r\n\r\n', 1, False),
    "chunk of a bare LF": (get("Transfer-Encoding: chunked") + b"5\nhello\n0\n\n", 1, False),
    "chunk of a huge size": (get("Transfer-Encoding: chunked") + b"FFFFFFFFFFFFFFFF1\r\n", 1, False),
    "chunk of a negative size": (get("Transfer-Encoding: chunked") + b"-1\r\n", 1, False),
    "chunked trailer": (
        get("Transfer-Encoding: chunked", "Trailer: X") + b"0\r\nContent-Length: 5\r\n\r\nhello",
        1,
        False,
    ),
    "chunk that ends as a head": (get("Transfer-Encoding: chunked") + b"4\r\n\r\n\r\n\r\n" + PING, 1, False),
    "CL twice, same": (get("Content-Length: 0", "Content-Length: 0"), 1, False),
    "CL twice": (get("Content-Length: 0", "Content-Length: 5") + b"hello", 1, False),
    "CL list": (get("Content-Length: 0, 5") + b"hello", 1, False),
    "CL signed": (get("Content-Length: +5") + b"hello", 1, False),
    "CL negative": (get("Content-Length: -1"), 1, False),
    "CL hexadecimal": (get("Content-Length: 0x5") + b"hello", 1, False),
    "CL with a space inside": (get("Content-Length: 1 0") + b"hello", 1, False),
    "CL empty": (get("Content-Length:"), 1, False),
    "CL huge": (get("Content-Length: 99999999999999999999999"), 1, False),
    "CL with a space before the colon": (get("Content-Length : 5") + b"hello", 1, False),
    "CL behind a space": (get(" Content-Length: 5") + b"hello", 1, False),
    "body that ends as a head": (get("Content-Length: 8") + b"abcd\r\n\r\n", 1, False),
    "POST that ends as a head": (get("Content-Length: 8", first="POST /v2/ HTTP/1.1") + b"abcd\r\n\r\n", 1, False),
    "POST with a request inside": (get(f"Content-Length: {len(PING)}", first="POST /v2/ HTTP/1.1") + PING, 1, False),
    "Expect": (get("Expect: 100-continue", "Content-Length: 5") + b"hello", 1, False),
    "Expect without a body": (get("Expect: 100-continue"), 1, True),
    "request in the version": (b"GET /v2/ HTTP/1.1\r\n\r\nGET /v2/ HTTP/1.1\r\nHost: m\r\n\r\n", 1, False),
    "request in the target": (get(target="/v2/ HTTP/1.1\r\nHost: n\r\n\r\nGET /v2/"), 2, True),
    "no host": (b"GET /v2/ HTTP/1.1\r\n\r\n", 1, False),
    "no host but a field": (b"GET /v2/ HTTP/1.1\r\nX: y\r\n\r\n", 1, False),
    "two hosts": (get("Host: n"), 1, False),
    "two hosts, same": (get("Host: m"), 1, False),
    "host behind a fold": (b"GET /v2/ HTTP/1.1\r\nX: y\r\n Host: m\r\n\r\n", 1, False),
    "empty host": (b"GET /v2/ HTTP/1.1\r\nHost:\r\n\r\n", 1, True),
    "another host in the target": (get(target="http://bound.test/v2/alpine/manifests/3"), 1, True),
    "target of no host": (get(target="http:///v2/"), 1, False),
    "target of half a host": (get(target="http://[::1/v2/"), 1, False),
    "target of a wrong port": (get(target="http://a:99999/v2/"), 1, False),
    "target of a userinfo": (get(target="http://a@b/v2/"), 1, True),
    "target of two slashes": (get(target="//a/v2/"), 1, True),
    "target of a fragment": (get(target="/v2/#a"), 1, True),
    "target with a space": (get(target="/v2/ /x"), 1, False),
    "target with a tab": (get(target="/v2/\tx"), 1, False),
    "target with a NUL": (get(target="/v2/\0"), 1, False),
    "target with a high byte": (get(target="/v2/\xe9"), 1, False),
    "target with DEL": (get(target="/v2/\x7f"), 1, False),
    "target of an asterisk": (get(target="*"), 1, False),
    "no target": (get(first="GET  HTTP/1.1"), 1, False),
    "two spaces before the target": (get(first="GET  /v2/ HTTP/1.1"), 1, True),
    "two spaces before the version": (get(first="GET /v2/  HTTP/1.1"), 1, True),
    "space behind the version": (get(first="GET /v2/ HTTP/1.1 "), 1, False),
    "tab before the target": (get(first="GET\t/v2/ HTTP/1.1"), 1, False),
    "space before the method": (get(first=" GET /v2/ HTTP/1.1"), 1, False),
    "small method": (get(first="get /v2/ HTTP/1.1"), 1, False),
    "unknown method": (get(first="GETS /v2/ HTTP/1.1"), 1, False),
    "HTTP/0.9": (b"GET /v2/\r\n\r\n", 1, False),
    "HTTP/1.0": (get(first="GET /v2/ HTTP/1.0"), 1, False),
    "HTTP/1.0 kept": (get("Connection: keep-alive", first="GET /v2/ HTTP/1.0"), 1, True),
    "HTTP/1.2": (get(first="GET /v2/ HTTP/1.2"), 1, False),
    "HTTP/1.10": (get(first="GET /v2/ HTTP/1.10"), 1, False),
    "HTTP/01.1": (get(first="GET /v2/ HTTP/01.1"), 1, False),
    "HTTP/2.0": (get(first="GET /v2/ HTTP/2.0"), 1, False),
    "small http": (get(first="GET /v2/ http/1.1"), 1, False),
    "preface of HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 1, False),
    "CONNECT": (get(first="CONNECT m:80 HTTP/1.1") + PING, 2, True),
    "upgrade to websocket, and a request": (get("Connection: Upgrade", "Upgrade: websocket") + PING, 2, True),
    "upgrade to websocket, and half of one": (get("Connection: Upgrade", "Upgrade: websocket") + PING[:9], 2, False),
    "upgrade to websocket, and noise": (get("Connection: Upgrade", "Upgrade: websocket") + b"\x81\x05hello", 2, False),
    "upgrade without its connection": (get("Upgrade: h2c"), 1, True),
    "old websocket": (get("Sec-WebSocket-Key1: x"), 1, False),
    "close, and a request": (get("Connection: close") + PING, 1, False),
    "close in a list": (get("Connection: keep-alive, close"), 1, False),
    "close twice": (get("Connection: keep-alive", "Connection: close"), 1, False),
    "proxy's close": (get("Proxy-Connection: close"), 1, False),
    "host as a hop": (get("Connection: Host"), 1, True),
    "leading CRLF": (b"\r\n" + PING, 1, True),
    "leading CRLFs": (b"\r\n\r\n" + PING, 1, True),
    "leading LF": (b"\n" + PING, 1, True),
    "leading CR": (b"\r" + PING, 1, True),
    "only CRLFs": (b"\r\n\r\n", 0, True),
    "trailing CRLF": (PING + b"\r\n", 1, True),
    "trailing garbage": (PING + b"\0garbage\r\n\r\n", 1, False),
    "trailing half": (PING + b"GET /v2/ HTTP/1.1\r\nX: ", 1, True),
    "bare LFs": (PING.replace(b"\r\n", b"\n"), 1, False),
    "bare CRs": (PING.replace(b"\r\n", b"\r"), 1, False),
    "LF at the end": (PING[:-2] + b"\n", 1, False),
    "CR CR LF": (PING.replace(b"\r\n", b"\r\r\n"), 1, False),
    "bare CR in a value": (get("X: a\rb"), 1, False),
    "bare LF in a value": (get("X: a\nb"), 1, False),
    "NUL in a value": (get("X: a\0b"), 1, False),
    "NUL in a name": (get("X\0: a"), 1, False),
    "high byte in a value": (get("X: \xe9"), 1, True),
    "high byte in a name": (get("X\xe9: a"), 1, False),
    "DEL in a value": (get("X: \x7f"), 1, False),
    "no colon": (get("X"), 1, False),
    "no name": (get(": a"), 1, False),
    "space in a name": (get("X Y: a"), 1, False),
    "space before a name": (get(" X: a"), 1, False),
    "tab before a name": (get("\tX: a"), 1, False),
    "brackets in a name": (get("X[]: a"), 1, False),
    "odd name": (get("!#$%&'*+-.^_`|~9: a"), 1, True),
    "colons in a value": (get("X:::: a"), 1, True),
    "fold": (get("X: a", " b"), 1, False),
    "fold by a tab": (get("X: a", "\tb"), 1, False),
    "fold of nothing": (get("X: a", " "), 1, False),
    "thirty-two fields": (get(*["X: a"] * 31), 1, True),
    "sixty-four fields": (get(*(f"X-{at}: a" for at in range(63))), 1, True),
    "sixty-five fields": (get(*(f"X-{at}: a" for at in range(64))), 1, False),
    "many fields": (get(*["X: a"] * 5000), 1, False),
    "long head": (get("X: " + "a" * 20_000), 1, True),
    "giant head": (get("X: " + "a" * 40_000), 1, False),
    "giant target": (get(target="/v2/?" + "a" * 40_000), 1, False),
    "long target": (get(target="/v2/?" + "a" * 4090), 1, True),
    "hello of TLS": (b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03", 1, False),
    "SSH": (b"SSH-2.0-OpenSSH_9.2\r\n", 1, False),
    "noise": (bytes(range(128, 256)), 1, False),
    "upgrade to h2c": (get("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AA"), 1, True),
}


async def _tried(both: Pair, name: str, pieces: Sequence[bytes], turnstile: asyncio.Semaphore) -> str | None:
    """What is wrong; None: nothing."""
    _, answers, stays = TRICKS[name]
    packets = [(PING, 9), *((piece, 9) for piece in pieces), (PING, 9)]
    try:
        async with turnstile:
            await both.agree(Talk(tuple(packets), fresh=False), 1 + answers + 2 * stays)
    except AssertionError as error:
        return f"{name}: {pieces}: {error}"
    return None


@both_loops
async def test_tricks(tmp_path: Path) -> None:
    """Both servers read each trick alike, and as often as is written here."""
    turnstile = asyncio.Semaphore(AT_ONCE)
    async with pair(tmp_path) as both:
        tries = [(name, [trick]) for name, (trick, _, _) in TRICKS.items()]
        for name, (trick, _, _) in TRICKS.items():
            tries += [(name, [trick[:at], trick[at:]]) for at in range(1, len(trick), 1 + len(trick) // CUTS)]
        wrong = await asyncio.gather(*(_tried(both, name, pieces, turnstile) for name, pieces in tries))
        assert [] == [each for each in wrong if each is not None]
        assert both.slow.accounted() == both.fast.accounted()
