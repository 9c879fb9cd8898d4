"""The clients that `iarproxy setup` knows: one row each."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import assert_never

from iarproxy.cli.setup import buildkit, containerd, docker, k3s, kubernetes, machines, podman
from iarproxy.cli.setup.plan import Finding, Plan, Wish


class Reach(Enum):
    """From where a client asks, which decides what `127.0.0.1` means to it."""

    HERE = auto()
    DESKTOP = auto()
    MINIKUBE = auto()
    ELSEWHERE = auto()


@dataclass(frozen=True, slots=True)
class Person:
    """Who runs the command: decides whose configuration is meant."""

    is_root: bool
    home: Path
    environment: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Client:
    """A client program.

    Attributes:
        folder: where its configuration is.
        places: patterns, below the folder, of the files that we may have written.
        config_file: its main configuration file, from the folder.
        version: the command that prints its version.
        programs: what the live check may pull with; see `pulling`.
    """

    name: str
    summary: str
    folder: Callable[[Person], Path]
    plan: Callable[[Wish], Plan]
    inspect: Callable[[Wish, Person], list[Finding]]
    places: tuple[str, ...]
    reach: Reach = Reach.HERE
    config_file: str | None = None
    version: tuple[str, ...] = ()
    programs: tuple[str, ...] = ()


def _etc(system: str, own: str) -> Callable[[Person], Path]:
    """The system's folder for root; a user's own for the others."""

    def chosen(person: Person) -> Path:
        settings = Path(person.environment.get("XDG_CONFIG_HOME") or person.home / ".config")
        return Path(system) if person.is_root else settings / own

    return chosen


def _alone(inspect: Callable[[Wish], list[Finding]]) -> Callable[[Wish, Person], list[Finding]]:
    return lambda wish, _: inspect(wish)


def _podman_inspect(wish: Wish, person: Person) -> list[Finding]:
    """Below another root neither the environment nor the user's own folder counts."""
    own = person.home / ".config/containers"
    if wish.folder == Path("/etc/containers"):
        return podman.inspect(wish, person.environment, (own,) if own.is_dir() else ())
    return podman.inspect(wish, person.environment if wish.folder == own else {})


def _here(name: str) -> Callable[[Person], Path]:
    return lambda _: Path(f"iarproxy-{name}")


def _containers(name: str, summary: str) -> Client:
    """One of the programs that share registries.conf."""
    return Client(
        name,
        summary,
        _etc("/etc/containers", "containers"),
        podman.plan,
        _podman_inspect,
        (podman.DROP_IN, "certs.d/*/ca.crt"),
        version=(name, "--version"),
        programs=(name,),
    )


def _rancher(name: str, summary: str) -> Client:
    return Client(
        name,
        summary,
        lambda _: Path(f"/etc/rancher/{name}"),
        k3s.plan_for(name),
        _alone(k3s.inspect_for(name)),
        (k3s.FILE, k3s.STRICT_FILE),
        programs=(f"{name} crictl",),
    )


_ALL = (
    Client(
        "containerd",
        "containerd 1.6, 1.7, 2.x with the kubelet (CRI) and ctr: certs.d/*/hosts.toml",
        lambda _: Path("/etc/containerd/certs.d"),
        containerd.plan,
        _alone(containerd.inspect),
        ("*/hosts.toml",),
        config_file="../config.toml",
        version=("containerd", "--version"),
        programs=("ctr", "crictl"),
    ),
    Client(
        "docker",
        "dockerd: daemon.json; with the containerd image store of 28 and newer certs.d/*/hosts.toml",
        _etc("/etc/docker", "docker"),
        docker.plan,
        _alone(docker.inspect),
        ("daemon.json", "certs.d/*/hosts.toml", "certs.d/*/ca.crt"),
        version=("dockerd", "--version"),
        programs=("docker",),
    ),
    _containers("podman", "podman: a drop-in of registries.conf, shared with skopeo, buildah and CRI-O"),
    _containers("skopeo", "skopeo: the same file as podman"),
    _containers("buildah", "buildah: the same file as podman"),
    Client(
        "cri-o",
        "CRI-O: the same file as podman, and a reload",
        lambda _: Path("/etc/containers"),
        podman.crio,
        _podman_inspect,
        (podman.DROP_IN, "certs.d/*/ca.crt"),
        version=("crio", "--version"),
        programs=("crictl",),
    ),
    Client(
        "buildkit",
        "buildkitd and the builders of buildx: buildkitd.toml",
        _etc("/etc/buildkit", "buildkit"),
        buildkit.plan,
        _alone(buildkit.inspect),
        (buildkit.FILE,),
        version=("buildkitd", "--version"),
    ),
    _rancher("k3s", "k3s: registries.yaml"),
    _rancher("rke2", "RKE2: registries.yaml"),
    Client(
        "nerdctl",
        "nerdctl: certs.d/*/hosts.toml, as containerd",
        _etc("/etc/containerd/certs.d", "containerd/certs.d"),
        containerd.nerdctl,
        _alone(containerd.inspect_nerdctl),
        ("*/hosts.toml",),
        version=("nerdctl", "--version"),
        programs=("nerdctl",),
    ),
    Client(
        "kind",
        "kind: a cluster configuration that mounts hosts.toml into the nodes",
        _here("kind"),
        machines.kind,
        _alone(machines.inspect_kind),
        ("kind.yaml", "certs.d/*/hosts.toml"),
        reach=Reach.DESKTOP if sys.platform == "darwin" else Reach.ELSEWHERE,
        version=("kind", "version"),
    ),
    Client(
        "minikube",
        "minikube: files that it copies into its node, for containerd and CRI-O",
        lambda person: Path(person.environment.get("MINIKUBE_HOME") or person.home / ".minikube") / "files",
        machines.minikube,
        _alone(machines.inspect_minikube),
        ("etc/containerd/certs.d/*/hosts.toml", f"etc/containers/{podman.DROP_IN}", "etc/containers/certs.d/*/ca.crt"),
        reach=Reach.MINIKUBE,
    ),
    Client(
        "docker-desktop",
        "Docker Desktop: its daemon.json, with an address that its virtual machine reaches",
        lambda person: person.home / ".docker",
        docker.desktop,
        _alone(docker.inspect),
        ("daemon.json",),
        reach=Reach.DESKTOP,
        programs=("docker",),
    ),
    Client(
        "kubernetes",
        "Kubernetes: a DaemonSet that writes hosts.toml on each node",
        _here("kubernetes"),
        kubernetes.plan,
        _alone(kubernetes.inspect),
        (kubernetes.FILE, kubernetes.UNDO_FILE),
        reach=Reach.ELSEWHERE,
    ),
    Client(
        "talos",
        "Talos: RegistryMirrorConfig documents",
        _here("talos"),
        kubernetes.talos,
        _alone(kubernetes.inspect),
        (kubernetes.TALOS_FILE,),
        reach=Reach.ELSEWHERE,
    ),
)
CLIENTS: Mapping[str, Client] = {each.name: each for each in _ALL}


def this_person() -> Person:
    """Whoever runs this process."""
    return Person(os.geteuid() == 0, Path(os.path.expanduser("~")), os.environ)  # noqa: PTH111  # Path raises without HOME


def host_of(reach: Reach) -> str | None:
    """The name of this machine, where the client is given one; None: it has to be told."""
    match reach:
        case Reach.HERE:
            return "127.0.0.1"
        case Reach.DESKTOP:
            return "host.docker.internal"
        case Reach.MINIKUBE:
            return "host.minikube.internal"
        case Reach.ELSEWHERE:
            return None
        case _:
            assert_never(reach)
