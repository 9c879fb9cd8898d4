"""BuildKit: buildkitd.toml of a standalone buildkitd, or of a builder that buildx makes.

Rule 1: how the mirror is spoken to stands in the mirror's own block; in the registry's block it would change the way to
        the real registry (clients.md section 5).
Rule 2: the real registry is always appended: there is no strict form.
"""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

from iarproxy.cli.setup.merging import with_tables
from iarproxy.cli.setup.plan import EVERY, MARK, Finding, Merged, Mirror, NoStrictForm, Plan, Weight, Wish
from iarproxy.cli.setup.reading import read
from iarproxy.errors import Refused

FILE = "buildkitd.toml"
_TRANSPORT = ("http", "insecure", "ca", "keypair")


def instead(mirror: Mirror) -> tuple[str, ...]:
    """What to do where no strict form exists."""
    deny = {"selector": {"identifier": "docker-image://docker.io/*"}, "action": "DENY"}
    return (
        f"write the mirror's name into Dockerfiles: FROM {mirror.authority}/docker.io/library/alpine",
        (
            "forbid the rest by a source policy (buildctl build --source-policy-file policy.json; buildx: environment"
            f" variable EXPERIMENTAL_BUILDKIT_SOURCE_POLICY): {json.dumps({'rules': [deny]})}"
        ),
        "block the way: no egress from the builder to the registries",
    )


def plan(wish: Wish) -> Plan:
    """The blocks of each registry and of the mirror."""
    if wish.strict:
        raise NoStrictForm("BuildKit", instead(wish.mirror))
    path, block = wish.folder / FILE, render(wish.mirror)
    then = (
        (
            "restart buildkitd; a builder of buildx is made anew:"
            f" docker buildx create --use --driver docker-container --driver-opt network=host --config {path}"
        ),
    )
    notes = (
        "there is no strict form: what the mirror refuses, and all while it is down, is asked of the real registry",
        "the builder inside dockerd does not read this: it uses what `iarproxy setup docker` writes",
        *(
            ("a builder in a container has a loopback of its own: network=host, or a reachable --url",)
            * wish.mirror.is_loopback
        ),
        "not tested with the real program",
    )
    return Plan((Merged(path, block, lambda data: with_tables(data, path, block)),), then, notes)


def render(mirror: Mirror) -> str:
    """The blocks as text.

    Raises:
        Refused: for every registry: there is no such block.
    """
    if EVERY in mirror.registries:
        raise Refused("buildkitd.toml has no block for every registry; name them with --registry")
    blocks = [
        f"[registry.{json.dumps(each)}]\n  mirrors = [{json.dumps(f'{mirror.authority}/{each}')}]\n"
        for each in mirror.registries
    ]
    trust = ["http = true"] if mirror.plain else [f"ca = [{json.dumps(str(mirror.ca))}]"] if mirror.ca else []
    if trust:
        blocks.append(f"[registry.{json.dumps(mirror.authority)}]\n  {trust[0]}\n")
    return MARK + "\n" + "\n".join(blocks)


def inspect(wish: Wish) -> list[Finding]:
    """What BuildKit would do."""
    path = wish.folder / FILE
    try:
        named = tomllib.loads(read(path).decode()).get("registry")
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        return [Finding(Weight.WRONG, str(path), f"cannot be read ({error})")]
    blocks = {key: each for key, each in named.items() if isinstance(each, dict)} if isinstance(named, dict) else {}
    found = [each for registry in wish.mirror.registries for each in _judge(registry, blocks, wish.mirror, path)]
    own = blocks.get(wish.mirror.authority, {})
    if wish.mirror.plain and not own.get("http") and not wish.mirror.is_loopback:
        text = f'plain HTTP is not switched on: [registry."{wish.mirror.authority}"] http = true'
        found.append(Finding(Weight.WRONG, str(path), text))
    return found


def _judge(registry: str, blocks: dict[str, Any], mirror: Mirror, path: Path) -> list[Finding]:
    def say(weight: Weight, text: str) -> Finding:
        return Finding(weight, str(path), text, registry)

    block = blocks.get(registry, {})
    listed = block.get("mirrors")
    mirrors = [str(each) for each in listed] if isinstance(listed, list) else []
    ours = [each for each in mirrors if each.partition("/")[0] == mirror.authority]
    if not ours:
        return [say(Weight.WRONG, f"has no mirror at {mirror.authority}: pulls go to the real registry")]
    found = [say(Weight.OPEN, "what we refuse is asked of the real registry next; BuildKit has no strict form")]
    found += [
        say(Weight.WRONG, f'{each} stands in the block of {registry}: it belongs into [registry."{mirror.authority}"]')
        for each in _TRANSPORT
        if each in block
    ]
    if mirrors[0] != ours[0]:
        found.append(say(Weight.NOTE, f"{mirrors[0]} is asked before {ours[0]}"))
    return found
