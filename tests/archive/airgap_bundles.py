"""Bundles for tests that break them: a set of several volumes made once, copied for each test, and a site for each.

Rule 1: what a test breaks is a copy: bundles that a fixture of a wider scope made stay as they were.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from airgap_sets import Wanted
from airgap_world import UPSTREAM, Place, a_site, an_origin
from iarproxy.oci import Digest
from iarproxy.oci.bundle_layout import volumes_of
from iarproxy.oci.bundle_manifest import BundleManifest
from iarproxy.oci.volumes import Volume
from iarproxy.trust.bundle import envelope_of
from iarproxy.trust.bundles import BundleStatement, file_of, signed, statement_in
from iarproxy.trust.signing import PrivateKey
from images import Published, artifact, image, index, random_blob

SET = "site-a"
VOLUME = 2**20  # bytes
APP, TOOL, BIG = (f"{UPSTREAM}/team/{name}" for name in ("app:1", "tool:2", "big:3"))


@dataclass(frozen=True)
class Made:
    """A bundle, and where it was made; `key` has signed it."""

    origin: Place
    folder: Path

    @property
    def public(self) -> Path:
        return self.origin.folder / "team.pub"

    @property
    def manifest(self) -> BundleManifest:
        return BundleManifest.parse((self.folder / "bundle.json").read_bytes())

    @property
    def volumes(self) -> list[Volume]:
        """How it is cut."""
        return volumes_of(self.manifest)

    def volume(self, number: int) -> Path:
        return self.folder / f"volume-{number:03}.tar"

    @property
    def statement(self) -> BundleStatement:
        """What is signed of it."""
        (file,) = self.folder.glob("bundle.*.sigstore.json")
        return statement_in(envelope_of(file.read_bytes()).payload)

    def sign(self, said: BundleStatement) -> None:
        """Say something else of it, in the same name."""
        key = PrivateKey.parse((self.origin.folder / "team.key").read_bytes())
        (self.folder / file_of(key.public)).write_bytes(signed(said, key))

    def altered(self, raw: bytes, *, vouched: bool = False) -> Made:
        """Its manifest is something else now; `vouched`: and signed, as by an origin that lies."""
        (self.folder / "bundle.json").write_bytes(raw)
        if vouched:
            self.sign(replace(self.statement, manifest=Digest.of(raw)))
        return self

    def copy(self, folder: Path) -> Made:
        """The same on another medium."""
        return Made(self.origin, Path(shutil.copytree(self.folder, folder)))

    def applying(self, *more: str | Path) -> list[str | Path]:
        """The words that apply it."""
        return ["bundle", "apply", self.folder, "--trust", self.public, *more]


def wanted(seed: int = 0) -> Wanted:
    """Three images with blobs of many sizes, one larger than two volumes; an SBOM and a signature of one of them."""
    both = index([layered(seed + 1), layered(seed + 2, platform="linux/arm64")])
    big = image(random_blob(2 * VOLUME + 300_000, seed + 3), random_blob(700, seed + 4))
    tool = image(random_blob(0), random_blob(200_000, seed + 5), docker=True)
    sbom = artifact(both, data=b'{"sbom": %d}' % seed)
    signature = artifact(both, artifact_type="application/vnd.example.signature", data=b"signed %d" % seed)
    return Wanted({APP: both, TOOL: tool, BIG: big}, {APP: [sbom, signature]})


def layered(seed: int, platform: str = "linux/amd64") -> Published:
    layers = (random_blob(400_000, 1000), random_blob(300_000, seed), random_blob(512, seed), random_blob(513, seed))
    return image(*layers, platform=platform)


def made(folder: Path, *more: str | Path, seed: int = 0, keys: Iterable[str] = ("team",)) -> Made:
    """A full bundle of `wanted(seed)` in volumes of one MiB; its origin has these keys, and the first has signed."""
    origin = an_origin(folder / "origin")
    for each in keys:
        origin.done("keys", "create", each)
    origin.sync(SET, wanted(seed))
    return create(origin, folder / "bundle", "--full", *more)


def create(origin: Place, folder: Path, *more: str | Path, key: str = "team") -> Made:
    """A bundle of what the origin's set is now."""
    words: list[str | Path] = ["bundle", "create", SET, "--sets", origin.sets_file]
    words += ["--key", origin.folder / f"{key}.key", "--volume-size", "1MiB", *more]
    origin.done(*words, "-o", folder)
    return Made(origin, folder)


def assert_whole(site: Place, origin: Place, content: dict[str, int]) -> None:
    """The site has the names of the origin, and every byte of what they stand for."""
    assert origin.pins() == site.pins()
    for digest, size in content.items():
        assert (site.store / "blobs/sha256" / digest.removeprefix("sha256:")).stat().st_size == size


def fresh_site(folder: Path) -> Place:
    return a_site(folder)
