"""Asking the mirror itself for the probe, as a client would: what it answers is what the client must end up with.

Rule: each wait has a deadline and each body a bound; whatever answers there may be another program.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import ssl
from dataclasses import dataclass
from enum import Enum
from typing import assert_never
from urllib.parse import quote, urlsplit

from iarproxy.cli.setup.plan import Mirror
from iarproxy.errors import Unavailable
from iarproxy.oci import DOCKER_HUB

REPOSITORY = "library/iarproxy-check"
REFUSED = "application/vnd.iarproxy.refused"

_PATIENCE = 10.0
_MAX = 1 << 20
_ACCEPT = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, */*"
_AGENT = "containers/5 (iarproxy setup --check)"  # a runtime's: only those are answered with a refusal manifest
_FOUND, _REFUSED = 200, (401, 403, 404)


class Style(Enum):
    """How a client names the registry."""

    NS = "ns"
    PREFIX = "prefix"
    PLAIN = "plain"


@dataclass(frozen=True, slots=True)
class Promised:
    """What the mirror answers. `stops`: it refuses with a manifest, not with an error."""

    digests: frozenset[str]
    stops: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """A response; header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


def ask(url: str, mirror: Mirror, registry: str, nonce: str, style: Style) -> Promised:
    """What the mirror at `url` has for the two tags of the probe in `registry`.

    Raises:
        Unavailable: nothing answers, or not what an iarproxy answers; says what is known about it.
    """
    good = _get(url, mirror, _target(registry, f"pass-{nonce}", style))
    digest = f"sha256:{hashlib.sha256(good.body).hexdigest()}"
    if good.status != _FOUND or good.headers.get("docker-content-digest") != digest:
        raise Unavailable(f"{url}: {_other(good, registry, url)}")
    bad = _get(url, mirror, _target(registry, f"deny-{nonce}", style))
    stops = bad.headers.get("content-type", "").startswith(REFUSED)
    if not stops and bad.status not in _REFUSED:
        raise Unavailable(f"{url}: answers {bad.status} where it should refuse; is it an older iarproxy?")
    return Promised(frozenset({digest, *_children(good.body)}), stops)


def _target(registry: str, tag: str, style: Style) -> str:
    match style:
        case Style.NS:
            return f"/v2/{REPOSITORY}/manifests/{tag}?ns={quote(registry, safe='')}"
        case Style.PREFIX:
            return f"/v2/{registry}/{REPOSITORY}/manifests/{tag}"
        case Style.PLAIN:
            name = REPOSITORY if registry == DOCKER_HUB else f"{registry}/{REPOSITORY}"
            return f"/v2/{name}/manifests/{tag}"
        case _:
            assert_never(style)


def _get(url: str, mirror: Mirror, target: str) -> Answer:
    parts = urlsplit(url)
    connection = (
        http.client.HTTPConnection(parts.netloc, timeout=_PATIENCE)
        if parts.scheme == "http"
        else http.client.HTTPSConnection(parts.netloc, timeout=_PATIENCE, context=_trust(mirror))
    )
    try:
        connection.request("GET", target, headers={"Accept": _ACCEPT, "User-Agent": _AGENT})
        response = connection.getresponse()
        headers = {key.lower(): value for key, value in response.getheaders()}
        return Answer(response.status, headers, response.read(_MAX))
    except ssl.SSLError as error:
        why = f"TLS fails ({error.reason or error}); give the certificate's authority with --ca-file"
        raise Unavailable(f"{url}: {why}") from error
    except http.client.HTTPException as error:
        raise Unavailable(f"{url}: another program is at that port: its answer is no HTTP") from error
    except OSError as error:
        raise Unavailable(
            f"{url}: nothing answers ({error.strerror or error}); is `iarproxy serve` running?"
        ) from error
    finally:
        connection.close()


def _trust(mirror: Mirror) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=mirror.ca)
    except OSError as error:
        raise Unavailable(f"{mirror.ca}: cannot be read as certificates: {error.strerror or error}") from error


def _children(index: bytes) -> list[str]:
    """The digests of an index's manifests: a client may know an image by that of its own platform."""
    try:
        listed = json.loads(index).get("manifests", [])
        return [str(each["digest"]) for each in listed]
    except (ValueError, AttributeError, TypeError, KeyError):
        return []


def _other(answer: Answer, registry: str, url: str) -> str:
    """What is known of who gave another answer than ours."""
    server = answer.headers.get("server", "")
    if server.startswith("AirTunes"):
        return (
            "AirPlay Receiver of macOS is at that port (System Settings > General > AirDrop & Handoff switches it off);"
            " have the mirror listen elsewhere"
        )
    if b"not one of the configured upstreams" in answer.body:
        return f"the mirror there does not serve {registry}"
    if urlsplit(url).port == 5001:  # noqa: PLR2004  # what kind's documentation uses
        return f"another program is at that port (kind's example registry uses 5001): it answers {answer.status}"
    named = f", and calls itself {server[:80]}" if server else ""
    return f"no iarproxy that knows the check is at that port: it answers {answer.status}{named}"
