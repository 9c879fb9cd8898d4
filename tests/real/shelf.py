"""A registry that takes pushes and has the referrers API, for tools that sign, attach and copy; in the test's process.

Rule 1: the distribution-spec v1.1 as a plain registry would have it: bytes as they were pushed, digests checked, tags
        and referrers in pages with `Link`. It forgets everything when it stops.
Rule 2: every request is in `log`, in order, as `METHOD target`.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import uuid
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

INDEX = "application/vnd.oci.image.index.v1+json"
_TARGET = re.compile(r"/v2/(?P<name>.+)/(?P<kind>manifests|referrers|blobs/uploads|blobs|tags)/(?P<wanted>[^/]*)")
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


def digest_of(data: bytes, algorithm: str = "sha256") -> str:
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


@dataclass
class Stock:
    """One repository."""

    tags: dict[str, str] = field(default_factory=dict)
    manifests: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)

    def referrers(self, subject: str, kinds: list[str]) -> list[dict[str, Any]]:
        """The descriptors of what names `subject`, with what the specification has a registry add to them."""
        found = []
        for digest, (media_type, raw) in self.manifests.items():
            document = json.loads(raw)
            if (document.get("subject") or {}).get("digest") != subject:
                continue
            kind = document.get("artifactType") or document.get("config", {}).get("mediaType")
            listed = {"mediaType": media_type, "digest": digest, "size": len(raw)}
            listed |= {"artifactType": kind} if kind else {}
            listed |= {"annotations": document["annotations"]} if "annotations" in document else {}
            if not kinds or kind in kinds:
                found.append(listed)
        return found


class Shelf:
    """Use as `with`. `page`: how many tags or referrers are answered at once."""

    def __init__(self, *, page: int = 1000) -> None:
        self.page = page
        self.log: list[str] = []
        self.repositories: dict[str, Stock] = defaultdict(Stock)
        self.uploads: dict[str, bytes] = {}
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.shelf = self
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Refuse connections from now on; again is the same as once."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def requests(self, containing: str = "") -> list[str]:
        """Every GET and HEAD that holds this text, pings left out."""
        asked = [each for each in self.log if each.startswith(("GET", "HEAD")) and not each.endswith("/v2/")]
        return [each for each in asked if containing in each]

    def put(self, repository: str, tag: str | None, media_type: str, raw: bytes, algorithm: str = "sha256") -> str:
        """Hold a manifest, whatever it is; its digest."""
        stock, digest = self.repositories[repository], digest_of(raw, algorithm)
        stock.manifests[digest] = (media_type, raw)
        if tag:
            stock.tags[tag] = digest
        return digest

    def put_blob(self, repository: str, data: bytes, algorithm: str = "sha256") -> str:
        """Hold a blob; its digest."""
        digest = digest_of(data, algorithm)
        self.repositories[repository].blobs[digest] = data
        return digest


class _Server(ThreadingHTTPServer):
    shelf: Shelf
    daemon_threads = False
    block_on_close = True


class _Handler(BaseHTTPRequestHandler):
    """One connection. It ends after each answer, so that no thread waits for a client that keeps it open."""

    server: _Server
    timeout = 30

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class names it so
        pass

    def __getattr__(self, name: str) -> Callable[[], None]:
        if name.startswith("do_"):  # the base class looks for one method a verb
            return self._route
        raise AttributeError(name)

    def _route(self) -> None:
        shelf, url = self.server.shelf, urlsplit(self.path)
        shelf.log.append(f"{self.command} {self.path}")
        body = self._body()
        target, query = _TARGET.fullmatch(url.path), parse_qs(url.query)
        if target is None:
            return self._answer(200 if url.path == "/v2/" else 404, b"{}")
        name, kind, wanted = target["name"], target["kind"], target["wanted"]
        if self.command == "POST" or kind == "blobs/uploads":
            return self._upload(shelf, name, wanted, query, body)
        if self.command == "PUT":
            return self._put_manifest(shelf, name, wanted, body)
        stock = shelf.repositories.get(name)
        if stock is None:
            return self._error(404, "NAME_UNKNOWN")
        return self._give(stock, name, kind, wanted, query)

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        pieces = []
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(pieces)

    def _upload(self, shelf: Shelf, name: str, upload: str, query: dict[str, list[str]], body: bytes) -> None:
        if self.command == "POST":
            upload = uuid.uuid4().hex  # several begin at once
        shelf.uploads[upload] = shelf.uploads.get(upload, b"") + body
        place = {"Location": f"/v2/{name}/blobs/uploads/{upload}", "Docker-Upload-UUID": upload}
        if "digest" not in query:
            place["Range"] = f"0-{max(0, len(shelf.uploads[upload]) - 1)}"
            return self._answer(202, b"", **place)
        digest, data = query["digest"][0], shelf.uploads.pop(upload)
        if digest != digest_of(data, digest.partition(":")[0]):
            return self._error(400, "DIGEST_INVALID")
        shelf.repositories[name].blobs[digest] = data
        return self._answer(201, b"", **{"Location": f"/v2/{name}/blobs/{digest}", "Docker-Content-Digest": digest})

    def _put_manifest(self, shelf: Shelf, name: str, wanted: str, body: bytes) -> None:
        tag = None if ":" in wanted else wanted
        algorithm = "sha256" if tag else wanted.partition(":")[0]
        digest = shelf.put(name, tag, self.headers["Content-Type"], body, algorithm)
        headers = {"Location": f"/v2/{name}/manifests/{digest}", "Docker-Content-Digest": digest}
        subject = json.loads(body).get("subject")
        self._answer(201, b"", **headers, **({"OCI-Subject": subject["digest"]} if subject else {}))

    def _give(self, stock: Stock, name: str, kind: str, wanted: str, query: dict[str, list[str]]) -> None:
        match kind:
            case "manifests" if self.command == "DELETE":
                stock.tags.pop(wanted, None)
                stock.manifests.pop(wanted, None)
                self._answer(202, b"")
            case "manifests":
                self._manifest(stock, wanted)
            case "blobs":
                self._blob(stock, wanted)
            case "tags":
                page, link = self._page(sorted(stock.tags), f"/v2/{name}/tags/list", query)
                self._answer(200, json.dumps({"name": name, "tags": page}).encode(), **link)
            case _:
                self._referrers(stock, name, wanted, query)

    def _manifest(self, stock: Stock, wanted: str) -> None:
        digest = wanted if ":" in wanted else stock.tags.get(wanted, "")
        found = stock.manifests.get(digest)
        if found is None:
            return self._error(404, "MANIFEST_UNKNOWN")
        return self._answer(200, found[1], **{"Content-Type": found[0], "Docker-Content-Digest": digest})

    def _blob(self, stock: Stock, digest: str) -> None:
        data = stock.blobs.get(digest)
        if data is None:
            return self._error(404, "BLOB_UNKNOWN")
        headers = {"Content-Type": "application/octet-stream", "Docker-Content-Digest": digest}
        asked = _RANGE.fullmatch(self.headers.get("Range", ""))
        if asked is None or int(asked[1]) >= len(data):
            return self._answer(200, data, **headers)
        start, end = int(asked[1]), min(int(asked[2] or len(data)), len(data) - 1)
        headers["Content-Range"] = f"bytes {start}-{end}/{len(data)}"
        return self._answer(206, data[start : end + 1], **headers)

    def _referrers(self, stock: Stock, name: str, subject: str, query: dict[str, list[str]]) -> None:
        kinds = query.get("artifactType", [])
        listed = {each["digest"]: each for each in stock.referrers(subject, kinds)}
        page, headers = self._page(list(listed), f"/v2/{name}/referrers/{subject}", query)
        body = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [listed[each] for each in page]}
        headers |= {"Content-Type": INDEX} | ({"OCI-Filters-Applied": "artifactType"} if kinds else {})
        self._answer(200, json.dumps(body).encode(), **headers)

    def _page(self, every: list[str], path: str, query: dict[str, list[str]]) -> tuple[list[str], dict[str, str]]:
        """What comes after `last`, and the `Link` to what comes after that."""
        last = query.get("last", [""])[0]
        after = every[every.index(last) + 1 :] if last in every else every
        size = min(int(query.get("n", [str(self.server.shelf.page)])[0]), self.server.shelf.page)
        page = after[:size]
        if len(page) == len(after) or not page:
            return page, {}
        return page, {"Link": f'<{path}?n={size}&last={page[-1]}>; rel="next"'}

    def _error(self, status: int, code: str) -> None:
        self._answer(status, json.dumps({"errors": [{"code": code, "message": code.lower()}]}).encode())

    def _answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in ({"Content-Type": "application/json"} | headers).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            with suppress(ConnectionError):  # clients leave without reading what they do not need
                self.wfile.write(body)
