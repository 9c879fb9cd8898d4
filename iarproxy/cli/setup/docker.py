"""dockerd with either image store, and Docker Desktop.

Rule 1: the classic store knows mirrors of Docker Hub only, and asks Docker Hub whenever a mirror answers with an error:
        no setting changes that (clients.md section 4.3), so it has no strict form.
Rule 2: with the containerd store dockerd 28 and newer read hosts.toml below certs.d; `registry-mirrors` beside it would
        be merged only where that file yields one host, so it is either the one or the other.
Rule 3: daemon.json is merged by value: what others wrote there stays.
"""

from __future__ import annotations

import json
from pathlib import Path

from iarproxy.cli.setup import hosts_toml
from iarproxy.cli.setup.merging import read_json, with_first
from iarproxy.cli.setup.plan import (
    EVERY,
    Change,
    Fall,
    Finding,
    ImageStore,
    Merged,
    Mirror,
    NoStrictForm,
    Plan,
    Weight,
    Whole,
    Wish,
)
from iarproxy.cli.setup.reading import read, read_ca
from iarproxy.errors import Refused
from iarproxy.oci import DOCKER_HUB

_HOSTS_TOML = (28, 0)  # from here on dockerd reads it, with the containerd store
_RELOAD = "systemctl reload docker (or: kill -HUP its process); see the result with: docker info"


def instead(mirror: Mirror) -> tuple[str, ...]:
    """What to do where no strict form exists."""
    return (
        f"write the mirror's name into references: docker pull {mirror.authority}/docker.io/library/alpine",
        (
            'let refusals stop it: [server] refusal = "stop" and on_drift = "stop" in the mirror\'s configuration'
            " (while the mirror is down, Docker Hub is asked all the same)"
        ),
        "block the way: no egress to registry-1.docker.io and auth.docker.io",
        "switch to the containerd image store (dockerd 28 or newer): iarproxy setup docker --store containerd --strict",
    )


def plan(wish: Wish) -> Plan:
    """hosts.toml for a new dockerd with the containerd store, else `registry-mirrors` in daemon.json."""
    if reads_hosts_toml(wish):
        return _hosts(wish)
    if wish.strict:
        raise NoStrictForm("dockerd with this image store", instead(wish.mirror))
    mirror = wish.mirror
    _serve_docker_hub(mirror)
    others = [each for each in mirror.registries if each not in (DOCKER_HUB, EVERY)]
    names = ", ".join(others)
    notes = [
        "there is no strict form: what the mirror refuses, and all while it is down, dockerd asks of Docker Hub",
        *([f"dockerd mirrors docker.io alone; write {mirror.authority}/REGISTRY/NAME for {names}"] if others else []),
    ]
    if wish.store is None:
        notes.append("no daemon answers: taken for the classic image store; --store containerd for the other one")
    return Plan((*_daemon_json(wish.folder / "daemon.json", mirror), *_certificates(wish)), (_RELOAD,), tuple(notes))


def desktop(wish: Wish) -> Plan:
    """Docker Desktop: its daemon.json, with an address that its virtual machine can reach."""
    if wish.strict:
        raise NoStrictForm("Docker Desktop", instead(wish.mirror)[:3])
    _serve_docker_hub(wish.mirror)
    notes = (
        f"its localhost is its virtual machine's: the mirror is named {wish.mirror.authority}",
        "there is no strict form: what the mirror refuses, and all while it is down, it asks of Docker Hub",
        (
            "on macOS AirPlay Receiver holds port 5000 (System Settings > General > AirDrop & Handoff), kind's example"
            " registry 5001: have the mirror listen on another port then"
        ),
        "not tested with the real program",
    )
    then = (
        "restart Docker Desktop, or paste it into Settings > Docker Engine > Apply; then --check, which pulls inside",
    )
    return Plan(_daemon_json(wish.folder / "daemon.json", wish.mirror), then, notes)


def reads_hosts_toml(wish: Wish) -> bool:
    """Whether this dockerd takes its mirrors from hosts.toml."""
    new = wish.version is None or wish.version >= _HOSTS_TOML
    return wish.store is ImageStore.CONTAINERD and new


def _hosts(wish: Wish) -> Plan:
    changes = hosts_toml.files(wish.folder / "certs.d", wish.mirror, wish.fall, wish.version, hosts_toml.DOCKERD)
    notes = ["keep registry-mirrors out of daemon.json: the two do not go together"]
    if wish.fall is Fall.NONE:
        notes.append("pushes to these registries come here too and are refused; --push keeps them working")
    if wish.version is None:
        notes.append("for dockerd 28.0 and newer; an older one does not read this (give --client-version)")
    return Plan(changes, ("nothing to restart: it is read at each pull",), tuple(notes))


def _serve_docker_hub(mirror: Mirror) -> None:
    if DOCKER_HUB not in mirror.registries and EVERY not in mirror.registries:
        raise Refused(
            "dockerd mirrors docker.io alone, which is not among the registries; write names with the mirror's"
        )
    if mirror.default != DOCKER_HUB:
        raise Refused(
            f"dockerd names no registry, and a name without one means {mirror.default or 'nothing'} here; have a"
            ' listener for it: [server.bind] "ADDRESS" = "docker.io", and give that with --url'
        )


def _daemon_json(path: Path, mirror: Mirror) -> tuple[Change, ...]:
    wanted = {"registry-mirrors": mirror.url}
    if mirror.plain and not mirror.is_loopback:  # for names that begin with it; loopback needs no entry
        wanted["insecure-registries"] = mirror.authority
    shown = json.dumps({key: [value] for key, value in wanted.items()}, indent=2)
    return (Merged(path, shown + "\n", lambda data: with_first(data, path, wanted)),)


def _certificates(wish: Wish) -> tuple[Change, ...]:
    """The authority's file where dockerd looks for it."""
    ca = wish.mirror.ca
    if ca is None or wish.mirror.plain:
        return ()
    return (Whole(wish.folder / "certs.d" / wish.mirror.authority / "ca.crt", read_ca(ca)),)


def inspect(wish: Wish) -> list[Finding]:
    """What this dockerd would do."""
    daemon = wish.folder / "daemon.json"
    try:
        document = read_json(read(daemon), daemon)
    except FileNotFoundError:
        document = {}
    except (Refused, OSError) as error:
        return [Finding(Weight.WRONG, str(daemon), f"cannot be read: {error}")]
    written = document.get("registry-mirrors") or []
    mirrors = [str(each).rstrip("/") for each in written] if isinstance(written, list) else []
    if reads_hosts_toml(wish):
        return _inspect_hosts(wish, daemon, mirrors)
    return _inspect_mirrors(wish, daemon, mirrors)


def _inspect_hosts(wish: Wish, daemon: Path, mirrors: list[str]) -> list[Finding]:
    found = [
        each
        for registry in wish.mirror.registries
        for each in hosts_toml.judge(wish.folder / "certs.d", registry, wish.mirror, wish.version, hosts_toml.DOCKERD)
    ]
    if mirrors:
        text = "has registry-mirrors beside hosts.toml: they count only where that file yields one host; remove them"
        found.append(Finding(Weight.NOTE, str(daemon), text))
    return found


def _inspect_mirrors(wish: Wish, daemon: Path, written: list[str]) -> list[Finding]:
    """By daemon.json, or by what the daemon says, which its flags may have told."""
    mirror, mirrors = wish.mirror, written if wish.mirrors is None else list(wish.mirrors)
    open_ = "what we refuse is asked of Docker Hub next; dockerd with this image store has no strict form"
    found = [Finding(Weight.OPEN, str(daemon), open_, DOCKER_HUB)]
    if mirror.url not in mirrors:
        text = f"registry-mirrors does not name {mirror.url}: pulls go to Docker Hub"
        if mirror.url in written:
            text = f"names {mirror.url}, but the daemon has not read it yet: {_RELOAD}"
        return [Finding(Weight.WRONG, str(daemon), text, DOCKER_HUB), *found]
    if mirrors[0] != mirror.url:
        found.append(Finding(Weight.NOTE, str(daemon), f"{mirrors[0]} is asked before {mirror.url}", DOCKER_HUB))
    others = [each for each in mirror.registries if each != DOCKER_HUB]
    if others:
        text = f"dockerd mirrors docker.io alone: {', '.join(others)} are asked directly"
        found.append(Finding(Weight.NOTE, str(daemon), text))
    return found
