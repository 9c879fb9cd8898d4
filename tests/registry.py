"""An OCI registry in the test's own process, with a log of what it was asked and knobs for what goes wrong.

    async with FakeRegistry() as registry:
        published = registry.content.publish("library/tiny", "1", small_image())
        registry.faults.add("*/blobs/*", Fault(truncate_at=1000), times=1)
        ... registry.url ... registry.count("GET", "/blobs/") ... registry.sent[str(digest)]

Rule 1: loopback only, and always a port that the kernel chose, unless a test restarts a registry on its old port.
Rule 2: the content is what a real registry would answer (distribution-spec v1.1); only `faults` make it lie.
Rule 3: everything asked is in `log`, in order, with the raw path and all headers; nothing is dropped from it.

In a thread or a process of its own: see `registry_control`; `python tests/registry.py` is that process.
"""

from __future__ import annotations

import asyncio
import re
import ssl
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Self
from urllib.parse import parse_qs, parse_qsl

import orjson
from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy

from iarproxy.oci.media_types import OCI_INDEX
from registry_auth import Authority
from registry_content import Content, Held
from registry_faults import NOTHING_WRONG, Fault, Faults
from registry_wire import Answer

_TARGET = re.compile(r"/v2/(?P<name>.+)/(?:(?P<kind>manifests|blobs|referrers)/(?P<wanted>[^/]+)|(?P<tags>tags/list))")
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


@dataclass
class Seen:
    """One request as it arrived. `at` is in seconds of the monotonic clock; `status` is filled in by the answer."""

    method: str
    path: str
    headers: CIMultiDictProxy[str]
    at: float = field(default_factory=time.monotonic)
    body: bytes = b""
    status: int = 0


class FakeRegistry:
    """A registry on a loopback port. Start it once; `stop` and `start` again keeps content and port."""

    def __init__(
        self,
        *,
        authority: Authority | None = None,
        referrers: bool = True,
        tls: ssl.SSLContext | None = None,
        host: str = "127.0.0.1",
        content: Content | None = None,
    ) -> None:
        self.authority = authority or Authority()
        self.content = content or Content()
        self.faults = Faults()
        self.log: list[Seen] = []
        self.sent: Counter[str] = Counter()
        self.answer_referrers = referrers
        self.max_page = 1000
        self.host = host
        self.port = 0
        self._tls = tls
        self._gates: dict[str, asyncio.Event] = {}
        self._server: web.Server | None = None
        self._listening: asyncio.Server | None = None

    async def start(self, port: int = 0) -> Self:
        """Listen; on the port of the last time, if there was one and none is given."""
        self._server = web.Server(self._handle, handler_cancellation=True, auto_decompress=False, access_log=None)
        loop = asyncio.get_running_loop()
        self._listening = await loop.create_server(self._server, self.host, port or self.port, ssl=self._tls)
        self.port = self._listening.sockets[0].getsockname()[1]
        return self

    async def stop(self) -> None:
        """Close the listening socket and every connection, whatever is being sent."""
        if self._listening is None or self._server is None:
            return
        self._listening.close()
        await self._server.shutdown(0.1)
        await asyncio.sleep(0)
        self._listening = self._server = None

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    @property
    def address(self) -> str:
        """`host:port`."""
        return f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """The base URL, without a slash at its end."""
        return f"{'https' if self._tls else 'http'}://{self.address}"

    def gate(self, name: str) -> asyncio.Event:
        """The event that holds back the answers whose fault says `wait_for=name`."""
        return self._gates.setdefault(name, asyncio.Event())

    def seen(self, method: str = "", part: str = "") -> list[Seen]:
        """The requests of this method (all, if empty) whose raw path holds `part`."""
        return [seen for seen in self.log if method in ("", seen.method) and part in seen.path]

    def count(self, method: str = "", part: str = "") -> int:
        """How many requests `seen` finds."""
        return len(self.seen(method, part))

    def forget(self) -> None:
        """Empty the log and the byte counters."""
        self.log.clear()
        self.sent.clear()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.raw_path
        seen = Seen(request.method, path, CIMultiDictProxy(CIMultiDict(request.headers)))
        self.log.append(seen)
        if request.method == "POST":
            seen.body = await request.read()
        fault = self.faults.choose(request.method, path)
        answer = self._faulty(path, fault) or self._right(request, seen, fault)
        seen.status = answer.status
        return answer

    def _faulty(self, path: str, fault: Fault) -> Answer | None:
        """The answer of a fault that replaces the content altogether."""
        if fault.location is not None:
            where = {"Location": fault.location.replace("{path}", path)}
            return Answer(fault.redirect_status, where, fault.body or b"", fault=fault, gates=self.gate)
        if fault.status is not None:
            body = fault.body if fault.body is not None else _error("UNKNOWN", f"fault {fault.status}")
            return Answer(fault.status, {"Content-Type": "application/json"}, body, fault=fault, gates=self.gate)
        return None

    def _right(self, request: web.BaseRequest, seen: Seen, fault: Fault) -> Answer:
        path, _, query = seen.path.partition("?")
        if path == "/token":
            return self._token(request, seen, query, fault)
        target = _TARGET.fullmatch(path)
        repository = target["name"] if target else ""
        authorization = request.headers.get("Authorization", "")
        if not self.authority.allows(authorization, repository):
            return self._challenge(repository, authorization, fault)
        if request.method not in ("GET", "HEAD"):
            return self._plain(405, _error("UNSUPPORTED", "read only"), fault)
        if path in ("/v2", "/v2/"):
            return self._plain(200, b"{}", fault)
        held = self.content.repositories.get(repository)
        if target is None or held is None:
            return self._plain(404, _error("NAME_UNKNOWN", "no such repository"), fault)
        return self._content(request, held, target, query, fault)

    def _content(self, request: web.BaseRequest, held: Held, target: re.Match[str], query: str, fault: Fault) -> Answer:
        match target["kind"]:
            case "manifests":
                return self._manifest(held, target["wanted"], fault)
            case "blobs":
                return self._blob(request, held, target["wanted"], fault)
            case "referrers" if self.answer_referrers:
                return self._sized(200, {"Content-Type": OCI_INDEX}, held.referrers(target["wanted"]), fault)
            case "referrers":
                return self._plain(404, b"404 page not found", fault)
            case _:
                return self._tags(held, target["name"], query, fault)

    def _manifest(self, held: Held, wanted: str, fault: Fault) -> Answer:
        found = held.manifest(wanted)
        if found is None:
            return self._plain(404, _error("MANIFEST_UNKNOWN", "manifest unknown"), fault)
        digest, media_type, raw = found
        headers = {"Content-Type": media_type, "Docker-Content-Digest": digest, "Etag": f'"{digest}"'}
        return self._sized(200, headers, raw, fault, name=digest)

    def _blob(self, request: web.BaseRequest, held: Held, digest: str, fault: Fault) -> Answer:
        data = held.blobs.get(digest)
        if data is None:
            return self._plain(404, _error("BLOB_UNKNOWN", "blob unknown"), fault)
        headers = {
            "Content-Type": "application/octet-stream",
            "Docker-Content-Digest": digest,
            "Accept-Ranges": "bytes",
        }
        if fault.corrupt_at is not None:
            data, fault = _flipped(data, fault.corrupt_at), replace(fault, corrupt_at=None)
        asked = None if fault.ignore_range else _RANGE.fullmatch(request.headers.get("Range", ""))
        if asked is None:
            status = 206 if fault.content_range else 200
            return self._sized(status, headers, data, fault, name=digest)
        start, end = int(asked[1]), min(int(asked[2] or len(data)), len(data) - 1)
        if start >= len(data):
            headers["Content-Range"] = f"bytes */{len(data)}"
            return self._sized(416, headers, b"", fault)
        headers["Content-Range"] = f"bytes {start}-{end}/{len(data)}"
        return self._sized(206, headers, data[start : end + 1], fault, name=digest)

    def _tags(self, held: Held, repository: str, query: str, fault: Fault) -> Answer:
        asked = dict(parse_qsl(query))
        size = min(int(asked.get("n", self.max_page)), self.max_page)
        tags = [tag for tag in sorted(held.tags) if tag > asked.get("last", "")]
        headers = {"Content-Type": "application/json"}
        if len(tags) > size:
            headers["Link"] = f'</v2/{repository}/tags/list?n={size}&last={tags[size - 1]}>; rel="next"'
        return self._sized(200, headers, orjson.dumps({"name": repository, "tags": tags[:size]}), fault)

    def _token(self, request: web.BaseRequest, seen: Seen, query: str, fault: Fault) -> Answer:
        form = dict(parse_qsl(seen.body.decode()))
        if request.method == "POST" and not self.authority.post:
            return self._plain(self.authority.post_refusal, b"no", fault)
        scopes = form.get("scope", "").split() or parse_qs(query).get("scope", [])
        status, answer = self.authority.grant(scopes, request.headers.get("Authorization", ""), form)
        return self._plain(status, orjson.dumps(answer), fault)

    def _challenge(self, repository: str, authorization: str, fault: Fault) -> Answer:
        if authorization and self.authority.refusal != 401:
            return self._plain(self.authority.refusal, _error("DENIED", "no longer"), fault)
        challenge = "\r\nWWW-Authenticate: ".join(self.authority.challenge(self.url, repository))
        headers = {"Content-Type": "application/json", "WWW-Authenticate": challenge}
        return self._sized(401, headers, _error("UNAUTHORIZED", "authentication required"), fault)

    def _plain(self, status: int, body: bytes, fault: Fault) -> Answer:
        # An error that nobody ordered is sent whole: knobs such as truncate_at are meant for the content.
        early = fault.headers or fault.wait_for or fault.no_answer or fault.stall_at == -1
        kept = fault if status < 400 or early else NOTHING_WRONG
        return self._sized(status, {"Content-Type": "application/json"}, body, kept)

    def _sized(self, status: int, headers: dict[str, str], body: bytes, fault: Fault, name: str = "") -> Answer:
        if fault.body is not None:
            body = fault.body
        if fault.corrupt_at is not None and body:
            body = _flipped(body, fault.corrupt_at)
        if fault.content_range is not None:
            headers = headers | {"Content-Range": fault.content_range}
        return Answer(status, headers, body, fault=fault, count=self._counter(name), gates=self.gate)

    def _counter(self, name: str) -> Callable[[int], None]:
        def add(size: int) -> None:
            if name:
                self.sent[name] += size

        return add


def _flipped(data: bytes, at: int) -> bytes:
    at %= len(data)
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def _error(code: str, message: str) -> bytes:
    return orjson.dumps({"errors": [{"code": code, "message": message}]})


if __name__ == "__main__":
    import registry_control

    sys.exit(registry_control.serve())
