"""Which clients are driven: all programs of the base system, and those of newer Debian releases that are there."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from _pytest.mark import ParameterSet

from client import Client
from client_containerd import Ctr, CtrInParts, Kubelet
from client_docker import Docker, DockerOnContainerd, DockerWithHosts
from client_podman import Buildah, Podman, Skopeo
from processes import TRUSTED
from suites import inside, is_made

BASE = ""  # the programs of this machine
_LATER = "containerd asks for referrers from 2.2 on, and not when it pulls"
_DOCKER_LATER = "dockerd asks for referrers from 29 on"
_NEVER = "it asks for none"
_NO_SETTING = "it has no setting that keeps it from the real registry: block the way there, or use explicit names"


_CTR_SAYS = "`ctr images pull` of 2.0 and newer says that it is done, but there is nothing that could be run"
_DOCKER_SAYS = "`docker pull` fails, but `docker image ls` shows the name, with nothing that could be run"


@dataclass(frozen=True)
class Row:
    """A kind of client: its name in the table, what drives it, its programs, where it is found, what it does not do."""

    name: str
    driver: type[Client]
    programs: tuple[str, ...]
    suites: tuple[str, ...] = (BASE, "trixie", "forky")
    lacks: dict[str, str] = field(default_factory=dict)


ROWS = (
    Row("containerd, ctr", Ctr, ("containerd", "ctr"), lacks={"referrers": _LATER}),
    Row("containerd, CRI", Kubelet, ("containerd",), lacks={"referrers": _LATER}),
    Row("containerd, layers in parts", CtrInParts, ("containerd", "ctr"), ("forky",), {"referrers": _LATER}),
    Row(
        "dockerd, classic store",
        Docker,
        ("dockerd", "docker"),
        lacks={"referrers": _NEVER, "strict mode": _NO_SETTING},
    ),
    Row(
        "dockerd, containerd store",
        DockerOnContainerd,
        ("dockerd", "docker"),
        ("trixie",),
        {"referrers": _DOCKER_LATER, "strict mode": f"before 28 {_NO_SETTING}"},
    ),
    Row("dockerd, containerd store", DockerWithHosts, ("dockerd", "docker"), ("forky",), {"referrers": _DOCKER_LATER}),
    Row("podman", Podman, ("podman",), lacks={"referrers": _NEVER}),
    Row("buildah", Buildah, ("buildah", "runc"), lacks={"referrers": _NEVER}),
    Row("skopeo", Skopeo, ("skopeo",), lacks={"referrers": _NEVER}),
)


def _version_of(row: Row, suite: str) -> list[str]:
    return [*(inside(suite) if suite else []), row.programs[0], "--version"]


def _of_version(row: Row, suite: str) -> dict[str, str]:
    """What this client lacks in the version that the suite has."""
    if suite == "forky" and issubclass(row.driver, Ctr):
        return {"refusal": _CTR_SAYS}
    if suite == "forky" and row.driver is DockerWithHosts:
        return {"refusal": _DOCKER_SAYS}
    if suite == BASE and row.driver in {Podman, Buildah, Skopeo}:
        return {"resume": "when its own connection breaks the pull fails, and the next one succeeds"}
    if suite == BASE and row.driver is Docker:
        return {"media types": "no layers that are packed by zstd"}
    return {}


def _parameter(row: Row, suite: str) -> ParameterSet:
    name = f"{row.driver.__name__}-{suite or 'base'}"
    marks = [pytest.mark.client(row.name, *_version_of(row, suite)), pytest.mark.xdist_group(f"clients-{name}")]
    marks += [pytest.mark.lacks(capability, why) for capability, why in (row.lacks | _of_version(row, suite)).items()]
    marks.append(pytest.mark.real("docker-registry", *(() if suite else row.programs)))
    if suite:
        why = f"there is no suite {suite}: make suites"
        marks.append(pytest.mark.skipif(not is_made(suite), reason=why))
    if suite or row.driver is not Skopeo:
        marks.append(pytest.mark.root)
    return pytest.param((row, suite), id=name, marks=marks)


def clients(wanted: Callable[[Row, str], bool] = lambda row, suite: True) -> pytest.MarkDecorator:
    """Runs a test for every client that is wanted, in the fixture `client`."""
    found = [_parameter(row, suite) for row in ROWS for suite in row.suites if wanted(row, suite)]
    return pytest.mark.parametrize("client", found, indirect=True)


def missing() -> list[str]:
    """The programs of the base system that are driven here and are not there."""
    programs = {
        program for row in ROWS if BASE in row.suites for program in (*row.programs, "umoci", "docker-registry")
    }
    return sorted(each for each in programs if shutil.which(each, path=TRUSTED["PATH"]) is None)
