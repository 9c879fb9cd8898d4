"""How real clients ask, as taps saw it (clients.md sections 3 to 8): header lines in their order."""

from __future__ import annotations

from dataclasses import dataclass

_DOCKER, _OCI = "application/vnd.docker.distribution.manifest.", "application/vnd.oci.image."
V2, LIST, PRETTY, V1 = f"{_DOCKER}v2+json", f"{_DOCKER}list.v2+json", f"{_DOCKER}v1+prettyjws", f"{_DOCKER}v1+json"
MANIFEST, INDEX = f"{_OCI}manifest.v1+json", f"{_OCI}index.v1+json"
LAYER = f"{_OCI}layer.v1.tar+gzip"
ARTIFACT = "application/vnd.oci.artifact.manifest.v1+json"
ZSTD = "zstd;q=1.0, gzip;q=0.8, deflate;q=0.5"


@dataclass(frozen=True)
class Dialect:
    """A client's way to ask.

    Attributes:
        hello: it first sends a TLS hello to the plain port.
        ping: it asks for `/v2/` before anything else.
        resolve: the method by which it asks for a tag; what follows is asked by digest, with GET.
        accepts: the `Accept` lines of a manifest; a line for each entry.
        blob: those of a blob.
        others: on every request.
        ns: it says the registry in the query.
        closes: a connection for each request.
    """

    name: str
    resolve: str
    accepts: tuple[str, ...]
    hello: bool = False
    ping: bool = False
    blob: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    ns: bool = False
    closes: bool = False

    def lines(self, *, manifest: bool, turn: int = 0) -> list[str]:
        """The header lines of a request; `turn` rotates the order of the `Accept` lines, as dockerd does."""
        accepts = self.accepts if manifest else self.blob
        at = turn % len(accepts) if accepts else 0
        closing = ["Connection: close"] if self.closes else []
        return [*(f"Accept: {each}" for each in accepts[at:] + accepts[:at]), *self.others, *closing]

    def target(self, path: str) -> str:
        """Where it asks for `library/...`."""
        return f"/v2/{path}?ns=docker.io" if self.ns else f"/v2/{path}"


_GGCR = ",".join([V1, PRETTY, V2, MANIFEST, LIST, INDEX])
_CONTAINERS = (MANIFEST, V2, PRETTY, V1, LIST, INDEX)
_API = "Docker-Distribution-Api-Version: registry/2.0"
MOBY = (INDEX, PRETTY, "application/json", MANIFEST, V2, LIST)
_TRACED = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

DIALECTS = (
    Dialect(
        "containerd-1.6",
        "HEAD",
        (f"{V2}, {LIST}, {MANIFEST}, {INDEX}, */*",),
        blob=(f"{LAYER}, */*",),
        others=("User-Agent: containerd/1.6.20~ds1", "Accept-Encoding: gzip"),
        ns=True,
    ),
    Dialect(
        "containerd-2.1",
        "HEAD",
        (f"{V2}, {LIST}, {MANIFEST}, {INDEX}, */*",),
        blob=(f"{LAYER}, */*",),
        others=("User-Agent: containerd/2.1.9+unknown", f"Accept-Encoding: {ZSTD}"),
        ns=True,
    ),
    Dialect(
        "dockerd-28",
        "HEAD",
        MOBY,
        ping=True,
        others=(
            "User-Agent: docker/28.5.2+dfsg4 go/go1.27.1 kernel/6.18 os/linux arch/amd64 UpstreamClient(Docker-Client)",
            "Accept-Encoding: gzip",
        ),
        closes=True,
    ),
    Dialect(
        "dockerd-26-containerd-store",
        "HEAD",
        (f"{V2}, {LIST}, {MANIFEST}, {INDEX}, */*",),
        blob=(f"{LAYER}, */*",),
        others=(f"Traceparent: {_TRACED}", "Baggage: trigger=api", f"Accept-Encoding: {ZSTD}"),
        ns=True,
    ),
    Dialect(
        "podman-4.3",
        "GET",
        _CONTAINERS,
        hello=True,
        ping=True,
        others=("User-Agent: containers/5.23.1 (github.com/containers/image)", _API, "Accept-Encoding: gzip"),
        closes=True,
    ),
    Dialect(
        "podman-5.8",
        "GET",
        _CONTAINERS,
        hello=True,
        ping=True,
        others=("User-Agent: libpod/5.8.6", _API, "Accept-Encoding: gzip"),
    ),
    Dialect(
        "crane",
        "GET",
        (_GGCR,),
        hello=True,
        ping=True,
        others=("User-Agent: go-containerregistry", "Accept-Encoding: gzip"),
    ),
    Dialect(
        "oras",
        "HEAD",
        (f"{V2}, {LIST}, {MANIFEST}, {INDEX}, {ARTIFACT}",),
        others=("User-Agent: oras/1.3.3", "Accept-Encoding: gzip"),
    ),
)
HELLO = bytes.fromhex("160301020001000001fc0303") + bytes(500)
