"""What the tests of artifact tools share: two upstreams behind one mirror, and programs with folders of their own.

Rule 1: `plain` is Debian's docker-registry, which keeps what refers to a digest under its fallback tag; `shelf` has
        the referrers API. Tests that say nothing else run against both.
        The mirror remembers no 404 of theirs, so that what is attached after a first look is seen at the next.
Rule 2: a tool finds neither the user's files nor a way past the mirror (see `processes.NOWHERE`).
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import pytest

from layers import MANIFEST, Image, digest_of, image, push, send
from machine import World
from processes import run
from shelf import INDEX, Shelf

UPSTREAMS = ("plain.example.com", "shelf.example.com")
every_upstream = pytest.mark.parametrize("name", UPSTREAMS)
REFUSED = "refused/app"  # a repository whose tags policy refuses


@dataclass(frozen=True)
class Upstream:
    """One upstream as the tools' tests see it: where to push, and how to name it through the mirror."""

    name: str
    port: int
    through: str

    def push(self, repository: str, tag: str, pushed: Image) -> Image:
        return push(self.port, repository, tag, pushed)

    def push_manifest(self, repository: str, reference: str, raw: bytes, media_type: str = MANIFEST) -> str:
        """Push a manifest whose blobs are there; its digest."""
        send(self.port, "PUT", f"/v2/{repository}/manifests/{reference}", raw, media_type)
        return digest_of(raw)

    def direct(self, reference: str) -> str:
        """The reference at the upstream itself."""
        return f"127.0.0.1:{self.port}/{reference}"

    def mirrored(self, reference: str) -> str:
        """The reference through the mirror, by path prefix."""
        return f"{self.through}/{self.name}/{reference}"


class ArtifactWorld(World):
    """A mirror of docker-registry and of a registry with the referrers API. Use as `with`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        super().__init__(folder)
        self.shelf = Shelf(page=100)
        ports = {"plain.example.com": self.registry.port, "shelf.example.com": self.shelf.port}
        self.address = f"127.0.0.1:{self.proxy.port}"
        self.upstreams = {name: Upstream(name, port, self.address) for name, port in ports.items()}
        with self.proxy.config.open("a") as settings:
            settings.write('[drift]\ninterval = "0s"\n')  # what upstreams hear is counted
            for name, port in ports.items():
                settings.write(f'[upstreams."{name}"]\nurl = "http://127.0.0.1:{port}"\nnegative_ttl = "0s"\n')
            settings.write(
                '[[tags]]\nmatch = "**:sha256-*"\nmode = "follow"\nttl = "1s"\n'
            )  # attachments are seen soon
            settings.write(f'[[tags]]\nmatch = "**/{REFUSED}"\nmode = "refuse"\n')

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.shelf)
            super().__enter__()
            self._rest = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        with self._rest:
            super().__exit__(*error)

    def asked(self, containing: str = "") -> list[str]:
        """What both upstreams were asked so far, from anybody."""
        return [*self.registry.requests(containing), *self.shelf.requests(containing)]


class Tools:
    """Runs programs whose home is `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        places = {"HOME": "", "DOCKER_CONFIG": ".docker", "XDG_CONFIG_HOME": ".config", "XDG_CACHE_HOME": ".cache"}
        self._environment = {name: str(folder / place) for name, place in places.items()} | {"TMPDIR": str(folder)}

    def __call__(self, *command: str | Path, **environment: str) -> str:
        """What the program wrote to its standard output.

        Raises:
            AssertionError: it failed; with what it said.
        """
        ran = run(command, **self._environment | environment)
        assert ran.returncode == 0, f"{' '.join(map(str, command))}: {ran.stdout}{ran.stderr}"
        return ran.stdout

    def saying(self, *command: str | Path, **environment: str) -> str:
        """All that a program said, whatever its exit code."""
        ran = run(command, **self._environment | environment)
        return ran.stdout + ran.stderr

    def failing(self, *command: str | Path, **environment: str) -> str:
        """All that a program said that had to fail."""
        ran = run(command, **self._environment | environment)
        assert ran.returncode != 0, f"{' '.join(map(str, command))} went well: {ran.stdout}{ran.stderr}"
        return ran.stdout + ran.stderr


def two_platforms(upstream: Upstream, repository: str, tag: str) -> tuple[str, list[Image]]:
    """Push an index over an image for amd64 and one for arm64; the index's digest, and the images."""
    names = ("amd64", "arm64")
    images = [image(f"{repository} {each}", 20_000, architecture=each) for each in names]
    listed = []
    for pushed, architecture in zip(images, names, strict=True):
        upstream.push(repository, f"{tag}-{architecture}", pushed)
        described = {"mediaType": MANIFEST, "digest": pushed.digest, "size": len(pushed.manifest)}
        listed.append(described | {"platform": {"os": "linux", "architecture": architecture}})
    raw = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": listed}).encode()
    return upstream.push_manifest(repository, tag, raw, INDEX), images


def top_of(layout: Path) -> str:
    """The digest of the first manifest that an OCI layout lists."""
    return str(json.loads((layout / "index.json").read_text())["manifests"][0]["digest"])
