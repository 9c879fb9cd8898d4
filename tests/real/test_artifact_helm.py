"""helm pulls charts through the mirror by explicit name: it has no mirror setting."""

from __future__ import annotations

from pathlib import Path

import pytest

from artifacts import REFUSED, ArtifactWorld, Tools, Upstream, every_upstream

pytestmark = [
    pytest.mark.xdist_group("artifacts"),
    pytest.mark.real("docker-registry", "helm"),
    pytest.mark.client("helm", "helm", "version"),
    pytest.mark.lacks("mirror mode", "it has no mirror setting"),
    pytest.mark.lacks("strict mode", "it asks nobody but the registry that is named"),
    pytest.mark.lacks("referrers", "it asks for none"),
    pytest.mark.lacks("resume", "charts are small; a failed pull is repeated whole"),
]


class Helm(Tools):
    """helm, and charts of one template."""

    def push(self, upstream: Upstream, folder: str, version: str, text: str = "") -> bytes:
        """Package the chart `app` and push it to the upstream itself; the package."""
        chart = self.folder / "app"
        (chart / "templates").mkdir(parents=True, exist_ok=True)
        (chart / "Chart.yaml").write_text(f"apiVersion: v2\nname: app\nversion: {version}\n")
        (chart / "templates/text.yaml").write_text(f"kind: ConfigMap\ndata: {{said: '{text}'}}\n")
        self("helm", "package", chart, "--destination", self.folder)
        package = self.folder / f"app-{version}.tgz"
        self("helm", "push", "--plain-http", package, f"oci://{upstream.direct(folder)}")
        return package.read_bytes()

    def pull(self, reference: str, *options: str) -> dict[str, bytes]:
        """The packages that a pull brings, by file name."""
        place = self.folder / "pulled"
        for former in place.glob("*.tgz"):
            former.unlink()
        self("helm", "pull", "--plain-http", f"oci://{reference}", *options, "--destination", place)
        return {each.name: each.read_bytes() for each in place.glob("*.tgz")}


@pytest.fixture
def helm(tmp_path: Path) -> Helm:
    (tmp_path / "pulled").mkdir()
    return Helm(tmp_path)


@every_upstream
@pytest.mark.proves("explicit name", "tag", "media types")
def test_by_version(world: ArtifactWorld, helm: Helm, name: str) -> None:
    """An exact version comes as it was pushed; one with `+` is found under its tag with `_`."""
    upstream = world.upstreams[name]
    for version in ("1.2.3", "1.2.3+build.7"):
        package = helm.push(upstream, "charts", version, name)
        assert helm.pull(upstream.mirrored("charts/app"), "--version", version) == {f"app-{version}.tgz": package}


@every_upstream
@pytest.mark.proves("explicit name", "tag")
def test_by_the_list_of_tags(world: ArtifactWorld, helm: Helm, name: str) -> None:
    """Without a version the newest of the list comes, and with a range the newest in it, also one pushed later."""
    upstream = world.upstreams[name]
    packages = {version: helm.push(upstream, "listed", version) for version in ("1.0.0", "1.9.0", "1.10.0", "2.0.0")}
    reference = upstream.mirrored("listed/app")
    assert helm.pull(reference) == {"app-2.0.0.tgz": packages["2.0.0"]}
    assert helm.pull(reference, "--version", "^1") == {"app-1.10.0.tgz": packages["1.10.0"]}
    newer = helm.push(upstream, "listed", "1.11.0")
    assert helm.pull(reference, "--version", "^1") == {"app-1.11.0.tgz": newer}


@every_upstream
@pytest.mark.proves("digest")
def test_by_digest(world: ArtifactWorld, helm: Helm, name: str) -> None:
    """A chart that is named by digest comes as it was pushed."""
    upstream = world.upstreams[name]
    package = helm.push(upstream, "digests", "3.0.0", name)
    digest = world.proxy.get(f"/v2/{name}/digests/app/manifests/3.0.0").headers["docker-content-digest"]
    assert list(helm.pull(upstream.mirrored(f"digests/app@{digest}")).values()) == [package]


@every_upstream
@pytest.mark.proves("50 warm pulls")
def test_fifty_pulls(world: ArtifactWorld, helm: Helm, name: str) -> None:
    """Fifty pulls of a warm chart ask upstream nothing."""
    upstream = world.upstreams[name]
    package = helm.push(upstream, "warm", "1.0.0")
    reference = upstream.mirrored("warm/app")
    helm.pull(reference, "--version", "1.0.0")
    asked = world.asked("warm/app")
    for _ in range(50):
        assert helm.pull(reference, "--version", "1.0.0") == {"app-1.0.0.tgz": package}
    assert world.asked("warm/app") == asked


@every_upstream
@pytest.mark.proves("moved tag")
def test_a_moved_tag(world: ArtifactWorld, helm: Helm, name: str) -> None:
    """When a version is pushed again with other content, the pinned chart is what helm gets."""
    upstream = world.upstreams[name]
    pinned = helm.push(upstream, "moved", "1.0.0", "before")
    reference = upstream.mirrored("moved/app")
    assert helm.pull(reference, "--version", "1.0.0") == {"app-1.0.0.tgz": pinned}
    moved = helm.push(upstream, "moved", "1.0.0", "after")
    assert helm.pull(upstream.direct("moved/app"), "--version", "1.0.0") == {"app-1.0.0.tgz": moved}
    assert helm.pull(reference, "--version", "1.0.0") == {"app-1.0.0.tgz": pinned}


@every_upstream
@pytest.mark.proves("refusal")
def test_a_refusal(world: ArtifactWorld, helm: Helm, name: str) -> None:
    """A refused tag fails with our words, and upstream is not asked."""
    reference = world.upstreams[name].mirrored(REFUSED)
    said = helm.failing("helm", "pull", "--plain-http", f"oci://{reference}", "--version", "1.0.0")
    assert "refused by the tag rule" in said, said
    assert world.asked(REFUSED) == []
