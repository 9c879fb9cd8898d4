"""Real clients as `iarproxy setup` finds them: a mirror, a sentinel for the real registry, programs on the path.

The programs of a suite are put on the path as small scripts, so that the command finds them as it would find its own.
"""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from certificates import CertificateAuthority
from client import Client, Place
from ended import Ended
from machine import Proxy
from processes import TRUSTED, free_port, run
from suites import inside
from wires import Wires

DEAD_PORT = 9
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"  # where the scripts themselves are not
_HUB = "CONNECT registry-1.docker.io:443"


class SetupStage:
    """Use as `with`. The mirror's upstreams lie behind a dead port: the probe needs none of them."""

    def __init__(self, folder: Path, *, refusal: str = "error") -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.proxy = Proxy(folder / "mirror", DEAD_PORT, workers=1)
        text = self.proxy.config.read_text().replace("[server]\n", f'[server]\nrefusal = "{refusal}"\n', 1)
        self.proxy.config.write_text(text)
        self.tls = free_port()
        self.authority: CertificateAuthority | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            wires = stack.enter_context(Wires())
            self.sentinel = wires.sentinel()
            self.proxy.start()
            stack.callback(self.proxy.stop)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def speak_tls(self) -> None:
        """Before the start: listen with TLS too, at `tls`, with a certificate of an authority of our own."""
        self.authority = CertificateAuthority(self.folder)
        certificate, key = self.folder / "tls.crt", self.folder / "tls.key"
        self.authority.issue().write(certificate, key)
        with self.proxy.config.open("a") as config:
            config.write(f'[server.tls]\nlisten = ["127.0.0.1:{self.tls}"]\n')
            config.write(f'cert_file = "{certificate}"\nkey_file = "{key}"\n')

    def place(self, suite: str = "") -> Place:
        return Place(suite, self.proxy.port, self.sentinel.port)

    def setup(self, *arguments: str | Path, client: Client | None = None, **environment: str) -> Ended:
        """Run `iarproxy setup`, in the environment of a client's own programs."""
        own = {"HOME": str(self.folder), "PATH": os.pathsep.join([str(self._programs(client)), TRUSTED["PATH"]])}
        command = [sys.executable, "-m", "iarproxy", "setup", *arguments, "--config", self.proxy.config]
        ran = run(command, **{**(client.environment if client else {}), **own, **environment})
        return Ended(ran.returncode, ran.stdout, ran.stderr)

    def _programs(self, client: Client | None) -> Path:
        suite = client.place.suite if client else ""
        folder = self.folder / f"programs-{suite}"
        if suite and not folder.exists():
            folder.mkdir()
            for name in ("ctr", "containerd", "docker", "dockerd", "podman", "skopeo", "buildah"):
                words = " ".join(f"'{each}'" for each in [*inside(suite), name])
                (folder / name).write_text(f'#!/bin/sh\nPATH={_PATH}\nexec {words} "$@"\n')
                (folder / name).chmod(0o755)
        return folder

    def reached(self) -> list[str]:
        """What came to the real registry since this was asked last."""
        seen, self.sentinel.seen[:] = self.sentinel.seen[:], []
        return seen


def asks_hub(seen: list[str]) -> bool:
    """Whether Docker Hub is among those who were to be reached."""
    return any(each.startswith(_HUB) for each in seen)


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, and every folder as an empty one."""
    return {str(each.relative_to(folder)): each.read_bytes() if each.is_file() else b"" for each in folder.rglob("*")}
