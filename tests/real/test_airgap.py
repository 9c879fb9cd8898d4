"""The air gap with real programs: two network namespaces with no way between them, and a folder that is carried over.

On one side docker-registry, cosign, oras and iarproxy; on the other iarproxy, containerd, podman, cosign and oras. Each
namespace has loopback and nothing else: no route, no other interface.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import pytest

from artifacts import Upstream, two_platforms
from client import Client, Place, good
from client_containerd import Ctr
from client_podman import Podman
from go_tools import search_path
from layers import Image, image
from machine import Proxy, Registry
from processes import run
from test_artifact_cosign import Cosign
from test_artifact_oras import SBOM, Oras

pytestmark = [
    pytest.mark.root,
    pytest.mark.timeout(300),
    pytest.mark.real("docker-registry", "containerd", "ctr", "podman", "cosign", "oras", "ip"),
]
_NEWNET = 0x40000000
HUB = "docker.io"
SET = """
[[set]]
name = "site-a"
references = ["docker.io/library/plain:1", "docker.io/library/both:1"]

[[set.repositories]]
name = "docker.io/library/tool"
tags = ["1.*"]
"""


class Island:
    """A network namespace with loopback and nothing else. Use as `with`."""

    def __init__(self) -> None:
        self.name = f"iar-{uuid.uuid4().hex[:8]}"

    def __enter__(self) -> Self:
        made = _ip("netns", "add", self.name)
        if made.returncode:
            pytest.skip(f"no network namespaces here: {made.stderr.strip()}")
        up = _ip("-n", self.name, "link", "set", "lo", "up")
        assert up.returncode == 0, up.stderr
        return self

    def __exit__(self, *error: object) -> None:
        _ip("netns", "delete", self.name)

    @contextlib.contextmanager
    def ashore(self) -> Iterator[None]:
        """This thread, and every process that it starts, is in the namespace."""
        with Path("/proc/thread-self/ns/net").open("rb") as home, Path("/run/netns", self.name).open("rb") as there:
            _set_namespace(there.fileno())
            try:
                yield
            finally:
                _set_namespace(home.fileno())

    def ways_out(self) -> list[str]:
        """Interfaces but loopback, and routes."""
        links = _ip("-n", self.name, "-o", "link").stdout.splitlines()
        routes = [_ip("-n", self.name, family, "route").stdout for family in ("-4", "-6")]
        return [each for each in links if ": lo:" not in each and "NOARP" not in each] + "".join(routes).splitlines()


def _ip(*words: str) -> subprocess.CompletedProcess[str]:
    ip = shutil.which("ip", path=search_path()) or "ip"
    return subprocess.run([ip, *words], capture_output=True, text=True, timeout=30, check=False)


def _set_namespace(fd: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(fd, _NEWNET):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


@dataclass(frozen=True)
class Sides:
    """Both, and what is carried between them."""

    folder: Path
    origin: Island
    site: Island


@pytest.fixture
def sides(tmp_path: Path) -> Iterator[Sides]:
    with Island() as origin, Island() as site:
        yield Sides(tmp_path, origin, site)


class Origin:
    """The side with the registry: what is published there is signed, and has an SBOM."""

    def __init__(self, folder: Path) -> None:
        self.registry = Registry(folder / "upstream").start()
        self.proxy = Proxy(folder / "origin", self.registry.port)
        self.upstream = Upstream(HUB, self.registry.port, "")
        self.cosign, self.oras = Cosign(folder / "signer"), Oras(folder)
        self.sets = folder / "sets.toml"
        self.sets.write_text(SET)
        self.key = self.proxy.folder / "team.key"
        self.names: dict[str, str] = {}  # the digest of each tag
        self.sboms: dict[str, str] = {}  # what is attached to the image of a tag

    def publish(self) -> None:
        """An image, one of two platforms, and a tool; signed as cosign 2 and 3 do, with an SBOM and an attestation."""
        plain = self._push("plain", "1", image("plain", 300_000))
        self.names["both:1"], _ = two_platforms(self.upstream, "library/both", "1")
        self._push("tool", "1.0", image("tool", 5_000))
        for name in ("plain:1", "both:1"):
            subject = self.upstream.direct(f"library/{name.split(':')[0]}@{self.names[name]}")
            for scheme in ("tags", "bundles"):
                self.cosign.sign(scheme, subject)
            self.cosign.attest("bundles", subject, "built by us")
            self.sboms[name] = self.oras.attach(self.upstream, f"library/{name}", SBOM, b'{"packages": []}')
        assert self.names["plain:1"] == plain.digest

    def publish_more(self) -> None:
        """Another version of the tool, signed."""
        self._push("tool", "1.1", image("tool, newer", 5_000))
        self.cosign.sign("bundles", self.upstream.direct(f"library/tool@{self.names['tool:1.1']}"))

    def _push(self, repository: str, tag: str, pushed: Image) -> Image:
        self.names[f"{repository}:{tag}"] = pushed.digest
        return self.registry.push(f"library/{repository}", tag, pushed)

    def make_key(self) -> None:
        """`keys create`, which writes to the folder where one is."""
        with contextlib.chdir(self.key.parent):
            made = run([sys.executable, "-m", "iarproxy", "keys", "create", self.key.stem])
        assert made.returncode == 0, made.stderr

    def bundle(self, folder: Path, *base: str | Path) -> None:
        """Sync the set, and make a bundle of it."""
        _done(self.proxy, "sync", "site-a", "--sets", str(self.sets))
        words = ["--sets", self.sets, "--key", self.key, *base, "-o", folder]
        _done(self.proxy, "bundle", "create", "site-a", *map(str, words))


def _done(proxy: Proxy, *words: str) -> bytes:
    ended = proxy.command(*words)
    assert ended.status == 0, f"{' '.join(words)}: {ended.status}: {ended.body.decode()}{ended.headers['stderr']}"
    return ended.body


@contextlib.contextmanager
def an_origin(folder: Path) -> Iterator[Origin]:
    made = Origin(folder)
    try:
        yield made
    finally:
        made.registry.stop()


def a_site(folder: Path) -> Proxy:
    """The side without: its upstream is a port where nobody listens, and it may not even ask."""
    proxy = Proxy(folder / "site", 9)
    text = proxy.config.read_text()
    proxy.config.write_text(text.replace("[server]\n", "[server]\noffline = true\n"))
    return proxy


def pulls(client: Client, names: dict[str, str], children: set[str]) -> None:
    """The client gets every image by tag and by digest, and it is the one that was published."""
    for name, digest in names.items():
        repository, _, tag = name.partition(":")
        for wanted in (f":{tag}", f"@{digest}"):
            reference = client.mirrored(repository, wanted)
            good(client.pull(reference, strict=True))
            assert client.digest(reference) in {digest} | children, reference
            client.remove(reference)


def verified(cosign: Cosign, proxy: Proxy, name: str, digest: str, *schemes: str) -> None:
    """Cosign finds and verifies what was signed, with nobody but the site to ask."""
    mirrored = f"127.0.0.1:{proxy.port}/{HUB}/library/{name}"
    for scheme in schemes:
        assert digest in cosign.verify(scheme, mirrored)


def test_a_bundle_is_carried_over(sides: Sides) -> None:
    """Every image is pulled by tag and by digest, signatures hold and SBOMs are found; and so it is with what a second,
    smaller bundle brings.
    """
    first, second = sides.folder / "medium", sides.folder / "second"
    receipt, public = sides.folder / "receipt", sides.folder / "site.pub"
    assert [] == sides.origin.ways_out() + sides.site.ways_out()
    site = a_site(sides.folder)
    with sides.origin.ashore(), an_origin(sides.folder) as origin:
        origin.publish()
        origin.make_key()
        origin.bundle(first, "--full")
        trust = str(origin.key.with_suffix(".pub"))
        with sides.site.ashore():
            _done(site, "bundle", "apply", str(first), "--trust", trust, "--receipt", str(receipt))
            _done(site, "bundle", "receipt", "site-a", "--pub", str(public))
            site.start()
            try:
                serves(sides, origin, site)
                with sides.origin.ashore():
                    origin.publish_more()
                    origin.bundle(second, "--receipt", receipt, "--trust", public)
                assert _size(second) < _size(first) / 3
                _done(site, "bundle", "apply", str(second), "--trust", trust, "--receipt", f"{receipt}-2")
                serves(sides, origin, site)
                mirrored = f"127.0.0.1:{site.port}/{HUB}/library/tool"
                assert origin.names["tool:1.1"] in origin.cosign.verify("bundles", f"{mirrored}:1.1")
                origin.cosign.verify_in_vain("bundles", f"{mirrored}:1.0")
            finally:
                site.stop()


def serves(sides: Sides, origin: Origin, site: Proxy) -> None:
    """All that the origin published is there for containerd, podman, cosign and oras."""
    listed = origin.registry.blob(origin.names["both:1"]).decode()
    children = {part.split('"')[0] for part in listed.split('"digest": "')[1:]}
    for driver in (Ctr, Podman):
        with driver(Place("", site.port, 9)) as client:
            pulls(client, origin.names, children)
    for name in ("plain:1", "both:1"):
        verified(origin.cosign, site, name, origin.names[name], "tags", "bundles")
        mirrored = f"127.0.0.1:{site.port}/{HUB}/library/{name}"
        assert "application/vnd.in-toto+json" in origin.cosign.verify(
            "bundles", mirrored, "verify-attestation", "--type", "custom"
        )
        assert origin.sboms[name] in origin.oras.discover(mirrored, "--artifact-type", SBOM)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def test_the_way_over_is_cut(sides: Sides) -> None:
    """What listens on one side cannot be reached from the other: the proof above is one."""
    with sides.origin.ashore():
        registry = Registry(sides.folder / "upstream").start()
    try:
        with sides.site.ashore(), pytest.raises(OSError, match="refused"):
            registry.push("library/x", "1", image("x"))
    finally:
        registry.stop()
