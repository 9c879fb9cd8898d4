"""containerd: by `ctr`, and by CRI as a kubelet does."""

from __future__ import annotations

from typing import ClassVar

import cri
from client import Client, Outcome, Place
from processes import Process, until

_TIMID = "restrict_oom_score_adj = true\ndisable_hugetlb_controller = true\n"  # root may lack the rights for more
_HUB = "https://registry-1.docker.io"


class _Containerd(Client):
    """A containerd with root, state and sockets of its own; nothing in it asks for rights that root may lack."""

    transfer: ClassVar[str] = ""  # more settings of the plugin that pulls from 2.0 on

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._socket = self.folder / "ctd.sock"

    def start(self) -> None:
        config = self.folder / "config.toml"
        newer = self._is_newer()
        cri_settings = self._settings_of_cri_3() if newer else self._settings_of_cri_2()
        config.write_text(f"version = {3 if newer else 2}\n{self._settings()}{cri_settings}")
        command = self.place.words(["containerd", "--config", config])
        self._process = Process(command, self.folder / "log", **self.environment)
        until(lambda: self._answers() or self._process is None or self._process.ended, "containerd's answer")
        assert not self._process.ended, self._process.output[-3000:]

    def _is_newer(self) -> bool:
        """Whether it is 2.0 or newer."""
        return " 1." not in self.run("containerd", "--version").answer

    def _settings(self) -> str:
        return (
            f'root = "{self.folder}/root"\nstate = "{self.folder}/state"\noom_score = 0\n'
            f'[grpc]\naddress = "{self._socket}"\n[debug]\naddress = "{self.folder}/debug.sock"\n'
            f'[plugins."io.containerd.internal.v1.opt"]\npath = "{self.folder}/opt"\n'
        )

    def _settings_of_cri_2(self) -> str:
        plugin = '[plugins."io.containerd.grpc.v1.cri"'
        return (
            f"{plugin}]\n{_TIMID}"
            f'{plugin}.registry]\nconfig_path = "{self.folder}/hosts"\n'
            f'{plugin}.containerd]\nsnapshotter = "native"\n'
            f'{plugin}.cni]\nbin_dir = "{self.folder}/cni"\nconf_dir = "{self.folder}/cni"\n'
        )

    def _settings_of_cri_3(self) -> str:
        images, runtime = '[plugins."io.containerd.cri.v1.images"', '[plugins."io.containerd.cri.v1.runtime"'
        transfer = '[plugins."io.containerd.transfer.v1.local"'
        return (
            f'{images}]\nsnapshotter = "native"\n{images}.registry]\nconfig_path = "{self.folder}/hosts"\n'
            f'{runtime}]\n{_TIMID}{runtime}.cni]\nbin_dirs = ["{self.folder}/cni"]\nconf_dir = "{self.folder}/cni"\n'
            f"{transfer}]\n{self.transfer}"
            f'[{transfer}.unpack_config]]\nplatform = "linux/amd64"\nsnapshotter = "native"\n'
        )

    def _answers(self) -> bool:
        try:
            cri.Images(self._socket).version()
        except (OSError, cri.Failed):
            return False
        return True

    def _hosts(self, *, strict: bool) -> None:
        """Configure docker.io's mirror, which is read with each pull."""
        mirror = f"http://127.0.0.1:{self.place.mirror}"
        folder = self.folder / "hosts/docker.io"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "hosts.toml").write_text(
            f'server = "{mirror if strict else _HUB}"\n[host."{mirror}"]\ncapabilities = ["pull", "resolve"]\n'
        )


class Ctr(_Containerd):
    """`ctr images`; it does the asking itself up to 1.7, and from 2.0 on has the daemon ask."""

    def start(self) -> None:
        super().start()
        self.is_content = self._is_newer()

    def _ctr(self, *words: str) -> Outcome:
        return self.run("ctr", "--address", self._socket, "--namespace", "t", *words)

    def pull(self, image: str, *, strict: bool = False) -> Outcome:
        self._hosts(strict=strict)
        hosts = str(self.folder / "hosts")
        return self._ctr("images", "pull", "--hosts-dir", hosts, "--snapshotter", "native", image)

    def digest(self, image: str) -> str:
        # REF TYPE DIGEST STATUS ..., with or without "unpacked" at the end
        found = self._ctr("images", "check", "--snapshotter", "native", f"name=={image}").said.split()
        complete = image in found and "complete" in found and "incomplete" not in found
        return next(word for word in found if word.startswith("sha256:")) if complete else ""

    def remove(self, image: str) -> None:
        self._ctr("images", "remove", "--sync", image)

    def fetch(self, image: str) -> Outcome:
        """Fetch content that is not to be unpacked."""
        self._hosts(strict=False)
        return self._ctr("content", "fetch", "--hosts-dir", str(self.folder / "hosts"), image)

    def content(self) -> str:
        """All that is in the content store."""
        return self._ctr("content", "list", "--quiet").said


class CtrInParts(Ctr):
    """Layers in parts of 1 MiB, four at a time: each an open-ended range that is hung up on (2.1 and newer)."""

    transfer = "concurrent_layer_fetch_buffer = 1048576\nmax_concurrent_downloads = 4\n"


class Kubelet(_Containerd):
    """CRI's image service."""

    def pull(self, image: str, *, strict: bool = False) -> Outcome:
        self._hosts(strict=strict)
        try:
            return Outcome(done=True, said=cri.Images(self._socket).pull(image))
        except cri.Failed as failed:
            return Outcome(done=False, said=str(failed))

    def digest(self, image: str) -> str:
        return next(iter(cri.Images(self._socket).digests(image)), "")

    def remove(self, image: str) -> None:
        cri.Images(self._socket).remove(image)
