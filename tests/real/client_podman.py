"""podman, buildah and skopeo: one library, three programs, no daemon."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from client import Client, Outcome, Place
from layers import digest_of

_INSECURE = "insecure = true\n"


class _Library(Client):
    """Configuration of the library that all three are built on."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        mirror = f"127.0.0.1:{place.mirror}"
        behind = (
            f'[[registry]]\nprefix = "docker.io"\nlocation = "docker.io"\n[[registry.mirror]]\nlocation = "{mirror}"\n'
        )
        remap = f'[[registry]]\nprefix = "docker.io"\nlocation = "{mirror}/docker.io"\n'
        own = f'[[registry]]\nlocation = "{mirror}"\n'
        stored = f'graphroot = "{self.folder}/root"\nrunroot = "{self.folder}/run"\n'
        limit = os.sysconf("SC_OPEN_MAX")
        files = {
            "ordinary.conf": behind + _INSECURE + own + _INSECURE,
            "strict.conf": remap + _INSECURE,
            "policy.json": '{"default": [{"type": "insecureAcceptAnything"}]}',
            "auth.json": "{}",
            "storage.conf": f'[storage]\ndriver = "vfs"\n{stored}',
            "containers.conf": (
                '[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\nruntime = "runc"\n'
                # root may lack the right to raise limits: ask for no more than there is
                f'[containers]\ndefault_ulimits = ["nofile={limit}:{limit}", "nproc=32768:32768"]\n'
            ),
        }
        for name, text in files.items():
            (self.folder / name).write_text(text)
        self.resumes = bool(place.suite)  # from 5.24 of the library on
        self._registries = self.folder / "ordinary.conf"

    def _be(self, *, strict: bool) -> None:
        self._registries = self.folder / ("strict.conf" if strict else "ordinary.conf")

    @property
    def environment(self) -> dict[str, str]:
        names = {"CONTAINERS_STORAGE_CONF": "storage.conf", "CONTAINERS_CONF": "containers.conf"}
        names |= {"REGISTRY_AUTH_FILE": "auth.json"}
        own = {name: str(self.folder / file) for name, file in names.items()}
        return super().environment | own | {"CONTAINERS_REGISTRIES_CONF": str(self._registries)}


class Podman(_Library):
    """`podman pull`."""

    def pull(self, image: str, *, strict: bool = False) -> Outcome:
        self._be(strict=strict)
        return self.run("podman", "pull", "--quiet", "--signature-policy", self.folder / "policy.json", image)

    def digest(self, image: str) -> str:
        found = self.run("podman", "image", "inspect", "--format", "{{.Digest}}", image)
        return found.answer.strip() if found.done else ""

    def remove(self, image: str) -> None:
        self.run("podman", "image", "rm", "--force", image)


class Buildah(_Library):
    """`buildah pull`, and `bud` of what is built from a mirrored image."""

    def _buildah(self, verb: str, *words: str | Path) -> Outcome:
        return self.run("buildah", verb, *words)

    def pull(self, image: str, *, strict: bool = False) -> Outcome:
        self._be(strict=strict)
        return self._buildah("pull", "--quiet", "--signature-policy", self.folder / "policy.json", image)

    def digest(self, image: str) -> str:
        found = self._buildah("images", "--json", image)
        return str(json.loads(found.answer)[0]["digest"]) if found.done else ""

    def remove(self, image: str) -> None:
        self._buildah("rmi", "--force", image)

    def build(self, base: str) -> Outcome:
        """An image from the base and one file."""
        self._be(strict=False)
        (self.folder / "context").mkdir(exist_ok=True)
        (self.folder / "context/x").write_text("x\n")
        (self.folder / "context/Containerfile").write_text(f"FROM {base}\nCOPY x /x\n")
        policy: list[str | Path] = ["--signature-policy", self.folder / "policy.json"]
        return self._buildah("bud", *policy, "--isolation", "chroot", "-t", "built:1", self.folder / "context")


class Skopeo(_Library):
    """`skopeo copy` into a folder for each image, byte for byte; and its other verbs."""

    def skopeo(self, verb: str, *words: str | Path) -> Outcome:
        """Run it, with mirrors as they were last asked for."""
        # 1.9 reads no environment variable for mirrors
        options: list[str | Path] = ["--policy", self.folder / "policy.json", "--registries-conf", self._registries]
        return self.run("skopeo", *options, verb, *words)

    def _copied(self, image: str) -> Path:
        return self.folder / "copied" / image.replace("/", "_").replace(":", "_")

    def pull(self, image: str, *, strict: bool = False) -> Outcome:
        self._be(strict=strict)
        self._copied(image).parent.mkdir(exist_ok=True)
        return self.skopeo("copy", f"docker://{image}", f"dir:{self._copied(image)}")

    def digest(self, image: str) -> str:
        manifest = self._copied(image) / "manifest.json"  # what skopeo writes last
        return digest_of(manifest.read_bytes()) if manifest.exists() else ""

    def remove(self, image: str) -> None:
        shutil.rmtree(self._copied(image), ignore_errors=True)
