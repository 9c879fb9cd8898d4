"""kind and minikube: clusters on a laptop, whose nodes have a loopback of their own.

Rule: neither can be reached at 127.0.0.1; what is written names an address that its nodes can reach.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from iarproxy.cli.setup import hosts_toml, podman
from iarproxy.cli.setup.docker import instead
from iarproxy.cli.setup.plan import EVERY, MARK, Change, Fall, Finding, Plan, Weight, Whole, Wish
from iarproxy.cli.setup.reading import read_ca

_CONFIGURED_BY_ITSELF = (0, 27)  # from here on kind's nodes read certs.d without a patch
_CERTS = "/etc/containerd/certs.d"
_CA = "/etc/iarproxy-ca.pem"


def kind(wish: Wish) -> Plan:
    """A cluster configuration that mounts a folder of hosts.toml into every node."""
    certs = wish.folder / "certs.d"
    changes: list[Change] = [*hosts_toml.files(certs, wish.mirror, wish.fall, wish.version, hosts_toml.CONTAINERD)]
    changes.append(Whole(wish.folder / "kind.yaml", _cluster(wish).encode()))
    then = (
        f"kind create cluster --config {wish.folder / 'kind.yaml'} (a cluster that runs takes no new mounts)",
        "hosts.toml itself is read at each pull: it may change under a cluster that runs",
    )
    notes = (
        (
            f"the nodes must reach {wish.mirror.url}: the mirror has to listen there; on Linux that is the address of"
            " the docker network: docker network inspect kind"
        ),
        "kind's example of a local registry takes port 5001, where iarproxy's admin listens by default",
        "not tested with the real program",
    )
    return Plan(tuple(changes), then, notes)


def _cluster(wish: Wish) -> str:
    lines = [MARK, "kind: Cluster", "apiVersion: kind.x-k8s.io/v1alpha4"]
    if wish.version is None or wish.version < _CONFIGURED_BY_ITSELF:
        lines += [
            "containerdConfigPatches: # for kind before 0.27; newer nodes have it",
            "  - |-",
            '    [plugins."io.containerd.grpc.v1.cri".registry]',
            f'      config_path = "{_CERTS}"',
        ]
    mounts = [(str((wish.folder / "certs.d").absolute()), _CERTS)]
    if wish.mirror.ca and not wish.mirror.plain:
        mounts.append((str(wish.mirror.ca.absolute()), str(wish.mirror.ca)))
    lines += ["nodes:", "  - role: control-plane", "    extraMounts:"]
    for host, inside in mounts:
        lines += [f"      - hostPath: {json.dumps(host)}", f"        containerPath: {json.dumps(inside)}"]
        lines += ["        readOnly: true"]
    return "\n".join(lines) + "\n"


def inspect_kind(wish: Wish) -> list[Finding]:
    """What its nodes would do."""
    certs = wish.folder / "certs.d"
    found = [
        each
        for registry in wish.mirror.registries
        for each in hosts_toml.judge(certs, registry, wish.mirror, wish.version, hosts_toml.CONTAINERD)
    ]
    return [*found, *_loopback(wish)]


def minikube(wish: Wish) -> Plan:
    """Files that minikube copies into its node at each start: for containerd and for CRI-O."""
    etc = wish.folder / "etc"
    ca = wish.mirror.ca if not wish.mirror.plain else None
    inside = replace(wish.mirror, ca=Path(_CA) if ca else None)
    changes: list[Change] = [
        *hosts_toml.files(etc / "containerd/certs.d", inside, wish.fall, None, hosts_toml.CONTAINERD)
    ]
    if EVERY not in inside.registries and wish.fall is not Fall.DIGESTS:  # CRI-O has neither of the two
        changes.append(Whole(etc / "containers" / podman.DROP_IN, podman.render(inside, wish.fall).encode()))
    if ca:
        places = (_CA.removeprefix("/etc/"), f"containers/certs.d/{inside.authority}/ca.crt")
        changes += [Whole(etc / each, read_ca(ca)) for each in places]
    then = ["minikube start --container-runtime=containerd (or cri-o); a running one: minikube stop first"]
    notes = [
        (
            "with the docker runtime these files do nothing:"
            f" minikube start --registry-mirror={inside.url} --insecure-registry={inside.authority} (docker.io alone)"
        ),
        "the mirror has to listen on an address that the machine of minikube reaches, such as 0.0.0.0",
        "not tested with the real program",
    ]
    if wish.strict:
        notes.append("strict with the docker runtime: there is no such form. " + "; or ".join(instead(inside)[:3]))
    return Plan(tuple(changes), tuple(then), tuple(notes))


def inspect_minikube(wish: Wish) -> list[Finding]:
    """What containerd in its node would do after the next start."""
    certs = wish.folder / "etc/containerd/certs.d"
    found = [
        each
        for registry in wish.mirror.registries
        for each in hosts_toml.judge(certs, registry, wish.mirror, None, hosts_toml.CONTAINERD)
    ]
    return [*found, *_loopback(wish)]


def _loopback(wish: Wish) -> list[Finding]:
    if not wish.mirror.is_loopback:
        return []
    text = f"{wish.mirror.url} is the node's own loopback; give an address that nodes reach with --url"
    return [Finding(Weight.WRONG, str(wish.folder), text)]
