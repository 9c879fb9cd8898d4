"""The records of promotions, as oras and cosign find and verify them: with upstream there and gone."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from artifacts import ArtifactWorld, Tools, Upstream, every_upstream
from iarproxy.errors import Denied
from iarproxy.oci import Digest
from iarproxy.trust.bundle import verified_statement
from iarproxy.trust.promotion_record import PREDICATE, predicate_about
from iarproxy.trust.signing import PrivateKey, public_keys
from layers import image
from machine import ask
from processes import run

pytestmark = [
    pytest.mark.xdist_group("artifacts"),
    pytest.mark.real("docker-registry", "cosign", "oras"),
    pytest.mark.timeout(600),
]
PLAIN = ("--allow-http-registry", "--allow-insecure-registry", "--insecure-ignore-tlog")


@pytest.fixture
def promoting(tmp_path: Path) -> Iterator[ArtifactWorld]:
    """A mirror with an environment that takes names by promotion, below a path prefix."""
    made = ArtifactWorld(tmp_path / "world")
    with made.proxy.config.open("a") as file:
        file.write('[environments.prod]\npath_prefix = "prod"\npins_from = "promotion"\n')
    with made:
        yield made


def iarproxy(world: ArtifactWorld, *arguments: str) -> str:
    ran = run([sys.executable, "-m", "iarproxy", *arguments, "--config", world.proxy.config])
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return str(ran.stdout)


def in_prod(upstream: Upstream, reference: str) -> str:
    """The reference as prod serves it."""
    return f"{upstream.through}/prod/{upstream.name}/{reference}"


def verified(tools: Tools, reference: str, key: Path) -> dict[str, Any]:
    """What cosign says of the record of a promotion: the whole statement."""
    options: list[str | Path] = ["--key", key, "--type", PREDICATE, *PLAIN]
    said = tools("cosign", "verify-attestation", *options, reference)
    (envelope,) = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    statement: dict[str, Any] = json.loads(base64.b64decode(envelope["payload"]))
    return statement


@every_upstream
def test_a_promotion_is_found_and_verified(promoting: ArtifactWorld, tools: Tools, name: str) -> None:
    """The record is listed by oras, and verified with our public key by cosign and by us; also with upstream gone."""
    upstream = promoting.upstreams[name]
    pushed = upstream.push("team/app", "1", image("promoted"))
    reference = f"{name}/team/app:1"
    iarproxy(promoting, "pull", reference)
    iarproxy(promoting, "promote", reference, "--to", "prod", "--reason", "release 7")
    key = tools.folder / "promotion.pub"
    key.write_text(iarproxy(promoting, "promote", "--public-key"))
    for there in (True, False):
        if not there:
            promoting.registry.stop()
            promoting.shelf.__exit__()
        listed = json.loads(
            tools("oras", "discover", "--plain-http", "--format", "json", in_prod(upstream, "team/app:1"))
        )
        (entry,) = listed["referrers"]
        assert entry["annotations"]["dev.iarproxy.promoted.to"] == "prod"
        said = verified(tools, in_prod(upstream, "team/app:1"), key)
        assert said["predicate"]["reason"] == "release 7"
        assert said["predicate"]["reference"] == reference
        assert said["subject"][0]["digest"] == {"sha256": pushed.digest.removeprefix("sha256:")}
        bundle = tools(
            "oras", "blob", "fetch", "--plain-http", "--output", "-", layer(promoting, upstream, entry["digest"])
        )
        statement = verified_statement(bundle.encode(), public_keys(key.read_bytes()))
        assert predicate_about(statement, Digest.parse(pushed.digest))["to"] == "prod"


def layer(world: ArtifactWorld, upstream: Upstream, manifest: str) -> str:
    """The reference of the bundle in a record."""
    answer = ask(world.proxy.port, f"/v2/prod/{upstream.name}/team/app/manifests/{manifest}")
    return in_prod(upstream, f"team/app@{answer.json['layers'][0]['digest']}")


@pytest.mark.parametrize("name", ["plain.example.com"])
def test_another_key_does_not_verify(promoting: ArtifactWorld, tools: Tools, name: str) -> None:
    """With another key cosign refuses, and so do we; with no record there is nothing to verify."""
    upstream = promoting.upstreams[name]
    upstream.push("team/app", "1", image("promoted"))
    iarproxy(promoting, "pull", f"{name}/team/app:1")
    other = PrivateKey.made().public
    key = tools.folder / "other.pub"
    key.write_bytes(other.pem)
    options: list[str | Path] = ["--key", key, "--type", PREDICATE, *PLAIN]
    tools.failing("cosign", "verify-attestation", *options, upstream.mirrored("team/app:1"))
    iarproxy(promoting, "promote", f"{name}/team/app:1", "--to", "prod", "--reason", "release 7")
    said = tools.failing("cosign", "verify-attestation", *options, in_prod(upstream, "team/app:1"))
    assert "signature" in said, said
    (entry,) = json.loads(
        tools("oras", "discover", "--plain-http", "--format", "json", in_prod(upstream, "team/app:1"))
    )["referrers"]
    bundle = tools(
        "oras", "blob", "fetch", "--plain-http", "--output", "-", layer(promoting, upstream, entry["digest"])
    )
    with pytest.raises(Denied):
        verified_statement(bundle.encode(), [other])
