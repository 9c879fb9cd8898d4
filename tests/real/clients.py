"""Real clients, each with a configuration and a store of its own."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any, Self

from processes import DEAD, Command, Process, run, until


def skopeo_copy(folder: Path, port: int, name: str) -> str:
    """Copy an image from the registry on `port` into an OCI layout; the digest of the manifest that arrived.

    Raises:
        AssertionError: skopeo failed; with what it said.
    """
    policy = folder / "policy.json"
    policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    layout = Path(tempfile.mkdtemp(dir=folder))
    source, target = f"docker://127.0.0.1:{port}/{name}", f"oci:{layout}:t"
    command: Command = [
        "skopeo",
        "--policy",
        policy,
        "--tmpdir",
        folder,
        "copy",
        "--src-tls-verify=false",
        source,
        target,
    ]
    ran = run(command, HOME=str(folder), XDG_RUNTIME_DIR=str(folder))
    assert ran.returncode == 0, ran.stderr
    return _first_manifest(layout)


def _first_manifest(layout: Path) -> str:
    index: dict[str, Any] = json.loads((layout / "index.json").read_text())
    return str(index["manifests"][0]["digest"])


class Containerd:
    """A containerd that has the mirror for every registry and, behind it, only a dead port."""

    def __init__(self, port: int) -> None:
        # not pytest's folder: the path of a unix socket must be short
        self._folder = Path(tempfile.mkdtemp(prefix="iar-"))
        self._socket = self._folder / "ctd.sock"
        for registry in ("_default", "docker.io"):
            hosts = self._folder / "hosts" / registry / "hosts.toml"
            hosts.parent.mkdir(parents=True)
            behind = f'server = "{DEAD}"\n' if registry != "_default" else ""
            hosts.write_text(f'{behind}[host."http://127.0.0.1:{port}"]\ncapabilities = ["pull", "resolve"]\n')
        self._config = self._folder / "config.toml"
        self._config.write_text(
            f'version = 2\nroot = "{self._folder}/root"\nstate = "{self._folder}/state"\noom_score = 0\n'
            'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n'
            f'[grpc]\naddress = "{self._socket}"\n[debug]\naddress = "{self._folder}/debug.sock"\n'
            f'[plugins."io.containerd.internal.v1.opt"]\npath = "{self._folder}/opt"\n'
        )

    def __enter__(self) -> Self:
        self._process = Process(["containerd", "--config", self._config], self._folder / "log")
        try:
            until(lambda: self._ctr("version") is not None or self._process.ended, "containerd's answer")
            assert not self._process.ended, self._process.output[-3000:]
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._process.stop()
        shutil.rmtree(self._folder)

    def _ctr(self, *arguments: str | Path) -> str | None:
        ran = run(["ctr", "--address", self._socket, "--namespace", "t", *arguments])
        self._said = ran.stdout + ran.stderr
        return ran.stdout if ran.returncode == 0 else None

    def pull(self, reference: str) -> str:
        """Pull and unpack; the digest that the reference has now.

        Raises:
            AssertionError: ctr failed; with what it said.
        """
        hosts = self._folder / "hosts"
        pulled = self._ctr("images", "pull", "--hosts-dir", hosts, "--snapshotter", "native", reference)
        assert pulled is not None, self._said
        listed = self._ctr("images", "list", f"name=={reference}") or ""
        return next(word for word in listed.split() if word.startswith("sha256:"))


def podman_pull(folder: Path, port: int, name: str) -> str:
    """Pull from docker.io, for which the registry on `port` is the mirror, into a store of its own; the digest.

    Raises:
        AssertionError: podman failed; with what it said.
    """
    home = Path(tempfile.mkdtemp(dir=folder))
    (home / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    (home / "storage.conf").write_text(
        f'[storage]\ndriver = "vfs"\ngraphroot = "{home}/root"\nrunroot = "{home}/runroot"\n'
    )
    (home / "registries.conf").write_text(
        f'[[registry]]\nlocation = "docker.io"\n[[registry.mirror]]\nlocation = "127.0.0.1:{port}"\ninsecure = true\n'
    )
    (home / "containers.conf").write_text('[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\n')
    settings = {
        "CONTAINERS_STORAGE_CONF": f"{home}/storage.conf",
        "CONTAINERS_REGISTRIES_CONF": f"{home}/registries.conf",
        "CONTAINERS_CONF": f"{home}/containers.conf",
        "TMPDIR": str(home),
        "HOME": str(home),
    }
    pull: Command = ["podman", "pull", "--quiet", "--signature-policy", home / "policy.json", name]
    pulled = run(pull, **settings)
    assert pulled.returncode == 0, pulled.stderr
    looked = run(["podman", "image", "inspect", "--format", "{{.Digest}}", name], **settings)
    assert looked.returncode == 0, looked.stderr
    return looked.stdout.strip()
