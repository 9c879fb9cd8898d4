"""Two real iarproxy behind each other, before real registries: pulls, drift, lists, referrers, and what holds when the
top, and then the parent, is gone (issue 4, point 7).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from clients import skopeo_copy
from layers import MANIFEST, digest_of, image, send
from machine import Proxy, Registry
from processes import until

pytestmark = [pytest.mark.xdist_group("real"), pytest.mark.real("docker-registry")]

INDEX = "application/vnd.oci.image.index.v1+json"
OTHER = "registry.example.com"


@dataclass
class Chain:
    """Docker Hub and another registry, a mirror of both, and a mirror of that mirror."""

    hub: Registry
    other: Registry
    parent: Proxy
    child: Proxy

    def checked(self, proxy: Proxy) -> list[dict[str, Any]]:
        """What `drift check` says there."""
        found = proxy.command("drift", "check", "--json")
        assert 0 == found.status, found.headers["stderr"]
        checked: list[dict[str, Any]] = found.json["checked"]
        return checked


def _behind(folder: Path, parent: int) -> Proxy:
    """A mirror whose upstreams all are the mirror on the port `parent`."""
    made = Proxy(folder, parent)
    line = f'url = "http://127.0.0.1:{parent}"\n'
    made.config.write_text(made.config.read_text().replace(line, f"{line}namespace = true\n"))
    return made


@pytest.fixture
def chain(tmp_path: Path) -> Iterator[Chain]:
    hub, other = Registry(tmp_path / "hub"), Registry(tmp_path / "other")
    parent = Proxy(tmp_path / "parent", hub.port)
    section = f'[upstreams."{OTHER}"]\nurl = "http://127.0.0.1:'
    parent.config.write_text(parent.config.read_text().replace(f"{section}{hub.port}", f"{section}{other.port}"))
    with ExitStack() as stack:
        for each in (hub, other):
            each.start()
            stack.callback(each.stop)
        parent.start()
        stack.callback(parent.stop)
        child = _behind(tmp_path / "child", parent.port).start()
        stack.callback(child.stop)
        yield Chain(hub, other, parent, child)


@pytest.mark.real("skopeo")
def test_pulls_and_drift(chain: Chain, tmp_path: Path) -> None:
    """A pull through both; the tag moves at the top; what the parent saw the child sees, and both keep the pin."""
    first = chain.hub.push("library/tiny", "1", image("first", 200_000))
    assert first.digest == skopeo_copy(tmp_path, chain.child.port, "tiny:1")
    second = chain.hub.push("library/tiny", "1", image("second", 200_000))
    assert first.digest == skopeo_copy(tmp_path, chain.child.port, "tiny:1")
    assert ["steady"] == [each["verdict"] for each in chain.checked(chain.child)]

    assert [("drifted", second.digest)] == [(each["verdict"], each["offered"]) for each in chain.checked(chain.parent)]
    until(
        lambda: all(
            each.headers.get("iar-upstream-digest") == second.digest
            for each in chain.parent.get_from_all("/v2/tiny/manifests/1")
        ),
        "drift in the answers of all workers of the parent",
    )
    [found] = chain.checked(chain.child)
    assert ("drifted", first.digest, second.digest) == (found["verdict"], found["pinned"], found["offered"])
    answer = chain.child.get("/v2/tiny/manifests/1")
    assert first.manifest == answer.body
    assert first.digest == skopeo_copy(tmp_path, chain.child.port, "tiny:1")


def test_lists_and_what_refers(chain: Chain) -> None:
    """Two registries over one parent stay apart; a list over several pages is whole; referrers come from the top."""
    pushed = image("one")
    for number in range(30):
        chain.hub.push("team/app", f"hub-{number:02}", pushed)
        chain.other.push("team/app", f"other-{number:02}", pushed)
    for name, prefix in (("docker.io", "hub"), (OTHER, "other")):
        listed: list[str] = []
        target = f"/v2/team/app/tags/list?n=7&ns={name}"
        while target:
            answer = chain.child.get(target)
            listed += answer.json["tags"]
            target = answer.headers.get("link", "").partition("<")[2].partition(">")[0]
            assert not target or f"ns={name}" in target
        assert [f"{prefix}-{number:02}" for number in range(30)] == listed

    signature = image("a signature of it")
    chain.other.push("team/app", "signature", signature)
    entry = {"mediaType": MANIFEST, "digest": signature.digest, "size": len(signature.manifest)}
    index = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]}).encode()
    fallback = pushed.digest.replace(":", "-")
    send(chain.other.port, "PUT", f"/v2/team/app/manifests/{fallback}", index, INDEX)
    answer = chain.child.get(f"/v2/team/app/referrers/{pushed.digest}?ns={OTHER}")
    assert (200, [signature.digest]) == (answer.status, [each["digest"] for each in answer.json["manifests"]])
    assert [] == chain.child.get(f"/v2/team/app/referrers/{pushed.digest}?ns=docker.io").json["manifests"]


@pytest.mark.real("skopeo")
def test_top_gone_and_parent_gone(chain: Chain, tmp_path: Path) -> None:
    """Each serves what it holds; the child gives what the parent holds while the top is away."""
    here = chain.hub.push("library/here", "1", image("here", 100_000))
    there = chain.hub.push("library/there", "1", image("there", 100_000))
    assert here.digest == skopeo_copy(tmp_path, chain.child.port, "here:1")
    assert there.digest == skopeo_copy(tmp_path, chain.parent.port, "there:1")
    chain.hub.stop()
    assert here.digest == skopeo_copy(tmp_path, chain.child.port, "here:1")
    assert there.digest == skopeo_copy(tmp_path, chain.child.port, "there:1")
    chain.parent.stop()
    for name, pulled in (("here:1", here), ("there:1", there)):
        assert pulled.digest == skopeo_copy(tmp_path, chain.child.port, name)
    cold = chain.child.get("/v2/cold/manifests/1")
    assert (502, "UNAVAILABLE") == (cold.status, cold.json["errors"][0]["code"])


def test_a_mirror_of_itself(tmp_path: Path) -> None:
    """A url that is the server's own is refused at start; one that leads back by a detour at the first request."""
    one = Proxy(tmp_path / "one", 1)
    text = one.config.read_text()
    one.config.write_text(text.replace("http://127.0.0.1:1", f"http://127.0.0.1:{one.port}"))
    refused = one.command("pins", "list")
    assert (1, True) == (refused.status, "this server itself" in refused.headers["stderr"])

    other = Proxy(tmp_path / "other", one.port)
    one.config.write_text(text.replace("http://127.0.0.1:1", f"http://127.0.0.1:{other.port}"))
    with ExitStack() as stack:
        for each in (one, other):
            each.start()
            stack.callback(each.stop)
        for each in (one, other):
            answer = each.get("/v2/tiny/manifests/1")
            assert (508, "UNAVAILABLE") == (answer.status, answer.json["errors"][0]["code"])
            assert 508 == each.get(f"/v2/tiny/blobs/{digest_of(b'nothing')}").status
