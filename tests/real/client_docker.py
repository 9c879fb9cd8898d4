"""dockerd with either image store, asked by `docker`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar

from client import Client, Outcome, Place
from processes import Process, until

# dockerd has one place for hosts.toml; in a suite's mount namespace it is ours
_WITH_HOSTS = 'mkdir -p /etc/docker/certs.d && mount --bind "$1" /etc/docker/certs.d && shift && exec "$@"'


class Docker(Client):
    """The classic store. It knows a mirror of docker.io only, and always goes on to the real registry."""

    strict: ClassVar[bool] = False
    settings: ClassVar[dict[str, object]] = {}
    driver: ClassVar[str] = "vfs"

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._socket = self.folder / "d.sock"

    def _mirrors(self) -> list[str]:
        return ["--registry-mirror", f"http://127.0.0.1:{self.place.mirror}"]

    def start(self) -> None:
        config = self.folder / "daemon.json"
        config.write_text(json.dumps(self.settings))
        folders = {"--data-root": "data", "--exec-root": "exec", "--pidfile": "d.pid", "--config-file": "daemon.json"}
        command: list[str | Path] = ["dockerd", "--host", f"unix://{self._socket}", "--storage-driver", self.driver]
        command += [word for option, name in folders.items() for word in (option, self.folder / name)]
        command += ["--iptables=false", "--ip6tables=false", "--bridge=none", "--ip-forward=false", *self._mirrors()]
        if "--oom-score-adjust" in self.run("dockerd", "--help").said:  # 20.10 wants less than it may have
            command.append("--oom-score-adjust=0")
        self._process = Process(self._launch(command), self.folder / "log", **self.environment)
        until(lambda: self._docker("version").done or self._process is None or self._process.ended, "dockerd's answer")
        assert not self._process.ended, self._process.output[-3000:]

    def _launch(self, command: list[str | Path]) -> list[str]:
        return self.place.words(command)

    def _docker(self, *words: str) -> Outcome:
        return self.run("docker", "--host", f"unix://{self._socket}", "--config", self.folder / "cli", *words)

    def pull(self, image: str, *, strict: bool = False) -> Outcome:
        return self._docker("pull", image)

    def digest(self, image: str) -> str:
        found = self._docker("image", "inspect", "--format", "{{.Os}} {{index .RepoDigests 0}}", image)
        system, _, name = found.answer.strip().partition(" ")
        # a name for what is no image has no operating system: `docker run` refuses it
        return name.rpartition("@")[2] if found.done and system == "linux" else ""

    def remove(self, image: str) -> None:
        self._docker("image", "rm", "--force", image)


class DockerOnContainerd(Docker):
    """The containerd store: containerd's way to ask, but mirrors of docker.io only."""

    settings: ClassVar[dict[str, object]] = {"features": {"containerd-snapshotter": True}}
    driver = "native"


class DockerWithHosts(DockerOnContainerd):
    """The containerd store of 28 and newer, which reads hosts.toml, and so can be strict."""

    strict = True

    def _mirrors(self) -> list[str]:
        return []  # beside hosts.toml it would be asked as well

    def _launch(self, command: list[str | Path]) -> list[str]:
        hosts = self.folder / "hosts"
        (hosts / "docker.io").mkdir(parents=True)
        return self.place.words(["sh", "-ec", _WITH_HOSTS, "sh", hosts, *command])

    def pull(self, image: str, *, strict: bool = False) -> Outcome:
        mirror = f"http://127.0.0.1:{self.place.mirror}"
        server = mirror if strict else "https://registry-1.docker.io"
        text = f'server = "{server}"\n[host."{mirror}"]\ncapabilities = ["pull", "resolve"]\n'
        (self.folder / "hosts/docker.io/hosts.toml").write_text(text)
        return super().pull(image)
