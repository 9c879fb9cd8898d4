"""How each client program pulls an image, tells what it got, and forgets it again.

Rule 1: where a program has namespaces, the check has one of its own.
Rule 2: addresses and stores of daemons come from the program's own environment (CONTAINERD_ADDRESS, DOCKER_HOST,
        CONTAINERS_STORAGE_CONF and so on) or from `--client-arg`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from iarproxy.cli.setup.plan import Wish
from iarproxy.cli.setup.podman import DROP_IN
from iarproxy.cli.setup.programs import NotInstalled, Ran, run

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)
_SPACE = "iarproxy-check"
_LOOK = 15.0


@dataclass(frozen=True, slots=True)
class Pulled:
    """It has the image now, and calls it by these digests."""

    digests: frozenset[str]


@dataclass(frozen=True, slots=True)
class Failed:
    """It did not pull. `said`: all of its output; `why`: the line that tells."""

    said: str
    why: str


@dataclass(frozen=True, slots=True)
class Absent:
    """It cannot be asked: it is not installed, or its daemon does not answer."""

    why: str


@dataclass(frozen=True, slots=True)
class Puller:
    """A client program. The commands lack the reference, which comes last; `forget` runs after each look."""

    name: str
    ready: Sequence[str]
    pull: Callable[[str], Sequence[str]]
    look: Callable[[str], Sequence[str]] | Path
    forget: tuple[Callable[[str], Sequence[str]], ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)

    def absent(self) -> Absent | None:
        """Why it cannot be asked; None: it can."""
        match run(self.ready, self.environment, _LOOK):
            case NotInstalled(program=program):
                return Absent(f"{program} is not installed here")
            case Ran(code=0):
                return None
            case ran:
                return Absent(f"{self.name} does not answer: {ran.last_line}")

    def get(self, reference: str) -> Pulled | Failed:
        """Pull, look, forget."""
        try:
            ran = run(self.pull(reference), self.environment)
            if isinstance(ran, NotInstalled) or not ran.well:
                said = "" if isinstance(ran, NotInstalled) else ran.said
                return Failed(said, "did not end in time" if isinstance(ran, Ran) and ran.code is None else _why(said))
            return Pulled(self._digests(reference))
        finally:
            for command in self.forget:
                run(command(reference), self.environment, _LOOK)

    def _digests(self, reference: str) -> frozenset[str]:
        if isinstance(self.look, Path):
            return frozenset({f"sha256:{hashlib.sha256(self.look.read_bytes()).hexdigest()}"})
        seen = run(self.look(reference), self.environment, _LOOK)
        return frozenset(_DIGEST.findall(seen.out)) if isinstance(seen, Ran) else frozenset()


def _why(said: str) -> str:
    """The line that says what went wrong."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    telling = [line for line in lines if re.search(r"error|failed|denied|unexpected|unsupported", line, re.IGNORECASE)]
    return (telling or lines or ["no word"])[-1][:600]


def pullers(names: Sequence[str], wish: Wish, given: Sequence[str], scratch: Path, *, rooted: bool) -> list[Puller]:
    """The programs by name. `given`: arguments right after the program; `rooted`: the folder is not the usual one."""
    made: list[Puller] = []
    for name in names:
        first, *rest = name.split()
        own = [first, *rest, *given]
        if first in ("podman", "skopeo", "buildah"):
            made.append(_containers(first, own, wish, scratch, rooted=rooted))
        elif first == "ctr":
            made.append(_ctr(own, wish))
        elif first == "docker":
            made.append(_docker(own))
        elif first == "nerdctl":
            made.append(_nerdctl(own, wish))
        else:
            made.append(_crictl(name, own))
    return made


def _ctr(own: list[str], wish: Wish) -> Puller:
    spaced = [*own, "--namespace", _SPACE]
    return Puller(
        "ctr",
        [*own, "version"],
        lambda ref: [*spaced, "images", "pull", "--hosts-dir", str(wish.folder), ref],
        lambda ref: [*spaced, "images", "list", f"name=={ref}"],
        (
            lambda ref: [*spaced, "images", "remove", "--sync", ref],
            lambda _: [*own, "namespaces", "remove", _SPACE],
        ),
    )


def _crictl(name: str, own: list[str]) -> Puller:
    return Puller(
        name,
        [*own, "version"],
        lambda ref: [*own, "pull", ref],
        lambda ref: [*own, "inspecti", "--output", "json", ref],
        (lambda ref: [*own, "rmi", ref],),
    )


def _docker(own: list[str]) -> Puller:
    return Puller(
        "docker",
        [*own, "version", "--format", "{{.Server.Version}}"],
        lambda ref: [*own, "pull", ref],
        lambda ref: [*own, "image", "inspect", "--format", "{{json .RepoDigests}}", ref],
        (lambda ref: [*own, "image", "rm", ref],),
    )


def _nerdctl(own: list[str], wish: Wish) -> Puller:
    spaced = [*own, "--namespace", _SPACE, "--hosts-dir", str(wish.folder)]
    return Puller(
        "nerdctl",
        [*own, "version"],
        lambda ref: [*spaced, "pull", "--quiet", ref],
        lambda ref: [*spaced, "image", "inspect", "--format", "{{json .RepoDigests}}", ref],
        (lambda ref: [*spaced, "image", "rm", ref],),
    )


def _containers(name: str, own: list[str], wish: Wish, scratch: Path, *, rooted: bool) -> Puller:
    file = str(wish.folder / DROP_IN)
    settings = {"CONTAINERS_REGISTRIES_CONF": file} if rooted else {}
    if name == "skopeo":  # 1.9 does not know the environment variable
        spelled = [*own, *(["--registries-conf", file] if rooted else [])]
        target = scratch / "image"
        return Puller(
            name,
            [name, "--version"],
            lambda ref: [*spelled, "copy", "--all", f"docker://{ref}", f"dir:{target}"],
            target / "manifest.json",
        )
    look = ["image", "inspect", "--format", "{{.Digest}} {{.RepoDigests}}"]
    if name == "buildah":
        look = ["inspect", "--type", "image"]
    return Puller(
        name,
        [*own, "info"],
        lambda ref: [*own, "pull", "--quiet", ref],
        lambda ref: [*own, *look, ref],
        (lambda ref: [*own, "rmi", ref],),
        settings,
    )
