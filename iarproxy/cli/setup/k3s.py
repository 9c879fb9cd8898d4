"""k3s and RKE2: registries.yaml, from which they make the hosts.toml of their own containerd at start.

Rule 1: YAML is written here, never read: a registries.yaml of others is left alone and the text printed.
Rule 2: strict is their switch `disable-default-registry-endpoint`, in a file of its own; it holds for the registries
        that registries.yaml names (clients.md section 7).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from iarproxy.cli.setup import hosts_toml
from iarproxy.cli.setup.plan import MARK, Change, Fall, Finding, Mirror, Plan, Weight, Whole, Wish
from iarproxy.errors import Refused

FILE = "registries.yaml"
STRICT_FILE = "config.yaml.d/50-iarproxy.yaml"


def plan_for(program: str) -> Callable[[Wish], Plan]:
    """How to plan for k3s, or rke2."""

    def plan(wish: Wish) -> Plan:
        if wish.fall is Fall.DIGESTS:
            raise Refused(f"{program}'s strict form has no exception for pushes, and needs none; leave --push out")
        changes: list[Change] = [Whole(wish.folder / FILE, render(wish.mirror).encode())]
        notes = [
            f"on every node; read at start only, and made into hosts.toml below {generated(program)}",
            "the mirror must not run only inside this cluster: system images come through it at start",
            "not tested with the real program",
        ]
        if wish.strict:
            text = f"{MARK}\ndisable-default-registry-endpoint: true\n"
            changes.append(Whole(wish.folder / STRICT_FILE, text.encode()))
            notes.append("the switch is known from the releases of January 2024 on (1.26.13, 1.27.10, 1.28.6, 1.29.1)")
        service = "k3s, or k3s-agent" if program == "k3s" else "rke2-server, or rke2-agent"
        return Plan(tuple(changes), (f"systemctl restart {service}",), tuple(notes))

    return plan


def generated(program: str) -> Path:
    """Where it puts what it makes of registries.yaml."""
    return Path(f"/var/lib/rancher/{program}/agent/etc/containerd/certs.d")


def render(mirror: Mirror) -> str:
    """registries.yaml."""
    lines = [MARK, "mirrors:"]
    for each in mirror.registries:
        lines += [f"  {json.dumps(each)}:", "    endpoint:", f"      - {json.dumps(mirror.url)}"]
    if mirror.ca and not mirror.plain:
        tls = ["    tls:", f"      ca_file: {json.dumps(str(mirror.ca))}"]
        lines += ["configs:", f"  {json.dumps(mirror.authority)}:", *tls]
    return "\n".join(lines) + "\n"


def inspect_for(program: str) -> Callable[[Wish], list[Finding]]:
    """How to look at what k3s, or rke2, would do."""

    def inspect(wish: Wish) -> list[Finding]:
        path = wish.folder / FILE
        found = []
        if not path.is_file():
            found.append(Finding(Weight.WRONG, str(path), "is not there: pulls go to the real registries"))
        made = generated(program)
        if made.is_dir():
            for registry in wish.mirror.registries:
                found += hosts_toml.judge(made, registry, wish.mirror, wish.version, hosts_toml.CONTAINERD)
        else:
            text = f"is not read by us (YAML), and {program} has not made its hosts.toml of it yet"
            found.append(Finding(Weight.NOTE, str(path), text))
        if not (wish.folder / STRICT_FILE).is_file() and not made.is_dir():
            text = f"{program} asks the real registry next, unless disable-default-registry-endpoint is set elsewhere"
            found.append(Finding(Weight.OPEN, str(wish.folder), text))
        return found

    return inspect
