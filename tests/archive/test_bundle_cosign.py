"""cosign verifies our bundles with the key alone, where there is no network: both kinds of keys, every cosign here."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from airgap_world import UPSTREAM, Place, an_origin
from go_tools import TOOLS
from iarproxy.trust.signing import KeyType
from images import small_image

COSIGNS = {tool.version: tool.folder / "cosign" for tool in TOOLS if tool.name == "cosign"}
pytestmark = [pytest.mark.root, pytest.mark.real("unshare"), pytest.mark.xdist_group("real")]


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Place:
    place = an_origin(tmp_path_factory.mktemp("cosign") / "origin")
    place.sync("site-a", {f"{UPSTREAM}/team/app:1": small_image(1)})
    return place


def verified(cosign: Path, key: Path, bundle: Path, file: Path) -> tuple[int, str]:
    """How cosign's verification ends, and what it says, in a network namespace of its own without even loopback."""
    if not cosign.exists():
        pytest.skip(f"{cosign} is not there: `python3 tests/go_tools.py` builds it")
    options: list[str | Path] = ["--key", key, "--bundle", bundle, "--insecure-ignore-tlog"]
    if "@v2" in cosign.parent.name:  # it wants roots for this form of bundle, though a key needs none of them
        roots = file.with_name("roots.json")
        roots.write_text('{"mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1"}')
        options += ["--new-bundle-format", "--trusted-root", roots]
    command: list[str | Path] = ["unshare", "--net", cosign, "verify-blob", *options, file]
    home = {"HOME": str(file.parent), "PATH": "/usr/bin:/bin"}
    ran = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, env=home)
    return ran.returncode, ran.stderr


@pytest.mark.parametrize("version", COSIGNS)
@pytest.mark.parametrize("kind", KeyType)
def test_cosign_verifies_a_bundle(origin: Place, tmp_path: Path, kind: KeyType, version: str) -> None:
    """It accepts bundle.json as it was signed, also by a further signer, and refuses a changed one and another key."""
    folder, cosign = tmp_path / "one", COSIGNS[version]
    for name in ("team", "bob"):
        origin.done("keys", "create", tmp_path / name, "--type", kind)
    key = tmp_path / "team.key"
    origin.done("bundle", "create", "site-a", "--sets", origin.sets_file, "--key", key, "--full", "-o", folder)
    (first,) = folder.glob("bundle.*.sigstore.json")
    origin.done("bundle", "sign", folder, "--key", tmp_path / "bob.key")
    (second,) = set(folder.glob("bundle.*.sigstore.json")) - {first}
    document = folder / "bundle.json"
    for name, signature in (("team", first), ("bob", second)):
        code, said = verified(cosign, tmp_path / f"{name}.pub", signature, document)
        assert (0, True) == (code, "Verified OK" in said), said
    assert 0 != verified(cosign, tmp_path / "bob.pub", first, document)[0]
    changed = tmp_path / "changed.json"
    changed.write_bytes(document.read_bytes().replace(b'"site-a"', b'"site-b"'))
    assert 0 != verified(cosign, tmp_path / "team.pub", first, changed)[0]


@pytest.mark.parametrize("version", COSIGNS)
@pytest.mark.parametrize("kind", KeyType)
def test_cosign_verifies_a_rotation(origin: Place, tmp_path: Path, kind: KeyType, version: str) -> None:
    """The old key's word for its successor is verified over the successor's public key."""
    origin.done("keys", "create", tmp_path / "old", "--type", kind)
    told = origin.done("keys", "rotate", tmp_path / "old.key", tmp_path / "new", "--json").json
    cosign, rotation = COSIGNS[version], Path(told["rotation"])
    code, said = verified(cosign, tmp_path / "old.pub", rotation, tmp_path / "new.pub")
    assert (0, True) == (code, "Verified OK" in said), said
    assert 0 != verified(cosign, tmp_path / "old.pub", rotation, tmp_path / "old.pub")[0]
