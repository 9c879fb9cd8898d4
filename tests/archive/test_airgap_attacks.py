"""What carriers, liars among trusted origins, and other bundles may try on a site, as another pair of eyes did."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from airgap_bundles import Made, fresh_site, made
from iarproxy.oci.bundle_manifest import BundleManifest
from test_airgap_lies import told


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return made(tmp_path_factory.mktemp("made"))


@pytest.mark.parametrize("name", ["rotation.0123456789abcdef.sigstore.json", "bundle.0123456789abcdef.sigstore.json"])
@pytest.mark.parametrize("raw", [b"", b"junk", b"{}", b"[" * 10_000])
def test_a_junk_signature_is_named(good: Made, tmp_path: Path, name: str, raw: bytes) -> None:
    """A file that should be a signature or a rotation and is none is refused by its name, for it can be taken away."""
    site, bundle = fresh_site(tmp_path / "site"), good.copy(tmp_path / "bundle")
    (bundle.folder / name).write_bytes(raw)
    verify: list[str | Path] = ["bundle", "verify", bundle.folder, "--trust", bundle.public]
    sign: list[str | Path] = ["bundle", "sign", bundle.folder, "--key", bundle.origin.folder / "team.key"]
    for words in (bundle.applying("--json"), [*verify, "--json"], sign):
        ended = site.run(*words)
        assert (1, True) == (ended.code, name in f"{ended.out}{ended.err}"), ended
    (bundle.folder / name).unlink()
    site.done(*verify)


def _fewer(manifest: BundleManifest) -> BundleManifest:
    first = manifest.attachments[0]
    return replace(manifest, attachments=(replace(first, manifests=first.manifests[1:]), *manifest.attachments[1:]))


def _others(manifest: BundleManifest) -> BundleManifest:
    first = manifest.attachments[0]
    other = replace(first, manifests=(manifest.names[0].descriptor.digest,))
    return replace(manifest, attachments=(other, *manifest.attachments[1:]))


@pytest.mark.parametrize("lie", [_fewer, _others])
def test_edges_that_are_none(good: Made, tmp_path: Path, lie: Callable[[BundleManifest], BundleManifest]) -> None:
    """What the manifest says of who refers to an image is what the list of its referrers says, or the bundle lies."""
    site, lying = fresh_site(tmp_path / "site"), told(good, tmp_path / "bundle", lie(good.manifest))
    site.refused("incomplete", "bundle", "verify", lying.folder, "--trust", lying.public)
    assert str(good.manifest.attachments[0].reference) in site.refused("incomplete", *lying.applying()).json["error"]
    assert {} == site.pins()
