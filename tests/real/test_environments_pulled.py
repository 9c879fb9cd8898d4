"""Real clients pull from prod, by its listener, its host name and its path prefix, while upstream and dev move on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import pytest

from client import Client, Place
from client_containerd import Ctr
from client_podman import Podman, Skopeo
from layers import Image, image
from machine import Registry
from processes import Command
from promoting import HOST, Staged
from wires import Sentinel, Wires

pytestmark = [pytest.mark.xdist_group("real"), pytest.mark.root, pytest.mark.real("docker-registry")]


@dataclass(frozen=True)
class Named(Place):
    """As `Place`, on a machine that knows prod's host name. `at`: where prod is, and what to put before names there."""

    hosts: Path
    at: str
    prefix: str

    def words(self, command: Command) -> list[str]:
        known = 'mount --bind "$0" /etc/hosts && exec "$@"'
        return ["unshare", "--mount", "sh", "-c", known, str(self.hosts), *map(str, command)]


class _Reaching(Client):
    """A client for which prod is the mirror of docker.io, wherever prod is."""

    place: Named

    @property
    def environment(self) -> dict[str, str]:
        return super().environment | {"NO_PROXY": f"127.0.0.0/8,localhost,{HOST}"}


class ProdCtr(_Reaching, Ctr):
    """By hosts.toml."""

    def _hosts(self, *, strict: bool) -> None:
        super()._hosts(strict=strict)
        path = f"/v2{self.place.prefix}" if self.place.prefix else ""
        override = "override_path = true\n" if path else ""
        file = self.folder / "hosts/docker.io/hosts.toml"
        file.write_text(file.read_text().replace(f"127.0.0.1:{self.place.mirror}", f"{self.place.at}{path}") + override)


class _ProdLibrary(_Reaching):
    """By registries.conf."""

    def start(self) -> None:
        super().start()
        file = self.folder / "ordinary.conf"
        there = f"{self.place.at}{self.place.prefix}"
        file.write_text(file.read_text().replace(f"127.0.0.1:{self.place.mirror}", there))


class ProdPodman(_ProdLibrary, Podman):
    """Podman."""


class ProdSkopeo(_ProdLibrary, Skopeo):
    """Skopeo."""


CLIENTS = [
    pytest.param(ProdCtr, marks=pytest.mark.real("ctr", "containerd")),
    pytest.param(ProdPodman, marks=pytest.mark.real("podman")),
    pytest.param(ProdSkopeo, marks=pytest.mark.real("skopeo")),
]
WAYS = ["listener", "host", "prefix"]


class Story:
    """A registry whose tag moved on after prod was given what it was. Use as `with`.

    Attributes:
        sentinel: the real docker.io, as far as clients are concerned.
        first, second: what the tag was, and is.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.sentinel: Sentinel = stack.enter_context(Wires()).sentinel()
            registry = Registry(self._folder / "upstream").start()
            stack.callback(registry.stop)
            self.mirror = Staged(self._folder / "mirror", registry.port, refusal="stop")
            self.mirror.start()
            stack.callback(self.mirror.stop)
            self.first: Image = registry.push("library/app", "1", image("first", 200_000))
            assert self.mirror.get("/v2/library/app/manifests/1").body == self.first.manifest
            self.mirror.promote("docker.io/library/app:1", self.first.digest, len(self.first.manifest))
            self.second = registry.push("library/app", "1", image("second", 200_000))
            registry.push("library/other", "1", self.second)
            self.registry = registry
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def place(self, way: str) -> Named:
        """Prod, as that way leads to it."""
        hosts = self._folder / "hosts"
        hosts.write_text(f"127.0.0.1 localhost {HOST}\n")
        default = f"127.0.0.1:{self.mirror.port}"
        at, prefix = {
            "listener": (f"127.0.0.1:{self.mirror.prod}", ""),
            "host": (f"{HOST}:{self.mirror.port}", ""),
            "prefix": (default, "/prod"),
        }[way]
        return Named("", self.mirror.port, self.sentinel.port, hosts, at, prefix)


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    with Story(tmp_path_factory.mktemp("environments")) as made:
        yield made


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", CLIENTS)
def test_pulled_from_prod(story: Story, kind: type[Client], way: str) -> None:
    """The promoted image arrives; what dev could pull and prod was not given is refused, and nobody goes elsewhere."""
    story.sentinel.seen.clear()
    with kind(story.place(way)) as client:
        app, other = client.mirrored("app"), client.mirrored("other")
        outcome = client.pull(app)
        assert outcome.done, outcome.said
        assert story.first.digest == client.digest(app)
        refused = client.pull(other)
        assert client.is_content or not refused.done, refused.said
        assert "" == client.digest(other)
    assert [] == story.sentinel.seen
    assert [] == story.registry.requests("library/other")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.real("skopeo")
def test_prod_by_its_own_name(story: Story, way: str) -> None:
    """A client that names prod itself, and not docker.io, gets the same."""
    place = story.place(way)
    with ProdSkopeo(place) as client:
        for name in ("library/app:1", "docker.io/library/app:1"):
            there = f"{place.at}{place.prefix}/{name}"
            outcome = client.pull(there)
            assert outcome.done, outcome.said
            assert story.first.digest == client.digest(there)
        refused = client.pull(f"{place.at}{place.prefix}/library/other:1")
        assert not refused.done
