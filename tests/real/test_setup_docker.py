"""`iarproxy setup docker` with real daemons: the classic store, and the containerd store of 28."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from client_docker import Docker, DockerOnContainerd
from ended import Ended
from processes import Process, until
from setup_clients import SetupStage, asks_hub
from suites import is_made

pytestmark = [
    pytest.mark.xdist_group("setup-docker"),
    pytest.mark.real("dockerd", "docker"),
    pytest.mark.root,
    pytest.mark.timeout(300),
]
FORKY = pytest.mark.skipif(not is_made("forky"), reason="suite forky is not made")
MOUNTED = 'mkdir -p /etc/docker/certs.d && mount --bind "$1" /etc/docker/certs.d && shift && exec "$@"'


class _SetUp:
    """What tells these daemons from those of the other tests: their configuration is what the command wrote."""

    def __init__(self, stage: SetupStage, client: Docker) -> None:
        self.stage, self.client = stage, client
        self.root = client.folder / "etc"
        self.root.mkdir()

    def setup(self, *words: str | Path) -> Ended:
        host = {"DOCKER_HOST": f"unix://{self.client.folder}/d.sock", "DOCKER_CONFIG": str(self.client.folder / "cli")}
        only = ("--root", self.root, "--registry", "docker.io")
        return self.stage.setup("docker", *only, *words, client=self.client, **host)


class Classic(Docker):
    """A daemon that reads the `daemon.json` below `etc`."""

    def start(self) -> None:
        """Only `launch` starts it, once its file is written."""

    def launch(self) -> None:
        folder = self.folder / "etc"
        options = {"--data-root": self.folder / "data", "--exec-root": self.folder / "exec"}
        options |= {"--pidfile": self.folder / "d.pid", "--config-file": folder / "daemon.json"}
        command: list[str | Path] = [
            "dockerd",
            "--host",
            f"unix://{self.folder}/d.sock",
            "--storage-driver",
            self.driver,
        ]
        command += [word for option, value in options.items() for word in (option, value)]
        command += ["--iptables=false", "--ip6tables=false", "--bridge=none", "--ip-forward=false"]
        if not self.place.suite:
            command.append("--oom-score-adjust=0")  # 20.10 wants less than it may have
        self._process = Process(self._launch(command), self.folder / "log", **self.environment)
        until(lambda: self._docker("version").done or self._process is None or self._process.ended, "dockerd's answer")
        assert not self._process.ended, self._process.output[-3000:]


class OnContainerd(Classic, DockerOnContainerd):
    """The containerd store, with `certs.d` below `etc` at the one place where dockerd looks for it."""

    def _launch(self, command: list[str | Path]) -> list[str]:
        return self.place.words(["sh", "-ec", MOUNTED, "sh", self.folder / "etc/certs.d", *command])


class OldOnContainerd(Classic, DockerOnContainerd):
    """The containerd store of a daemon that does not look for hosts.toml."""


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SetupStage]:
    with SetupStage(tmp_path_factory.mktemp("setup")) as made:
        yield made


def test_classic_store(stage: SetupStage) -> None:
    """The merged file is what it reads: pulls arrive; a refusal is bypassed, as the check and the sentinel agree."""
    with Classic(stage.place()) as client:
        asked = _SetUp(stage, client)
        settings = asked.root / "daemon.json"
        settings.write_bytes(before := b'{"max-concurrent-downloads": 2,\n\n  "labels": ["a=b"]}')
        assert 0 == asked.setup("--write").code
        assert {"max-concurrent-downloads", "labels", "registry-mirrors"} == set(json.loads(settings.read_text()))
        client.launch()
        stage.reached()
        checked = asked.setup("--check")
        assert 3 == checked.code, checked
        assert "a pull arrives here; a refusal is bypassed" in checked.out
        assert "iarproxy-check" not in client._docker("images").said
        assert asks_hub(stage.reached())
        strict = asked.setup("--strict", "--write")
        assert (1, True) == (strict.code, "There is no strict form" in strict.out)
        assert 0 == asked.setup("--undo").code
        assert before == settings.read_bytes()


def test_classic_store_not_set_up(stage: SetupStage) -> None:
    """Without a mirror, or before the daemon read of it, the pull goes to Docker Hub, and the check says so."""
    with Classic(stage.place()) as client:
        asked = _SetUp(stage, client)
        (asked.root / "daemon.json").write_text("{}")
        client.launch()
        asked.setup("--write")
        unread = asked.setup("--check")
        assert (1, True) == (unread.code, "the daemon has not read it yet" in unread.out), unread
        asked.setup("--undo")
        checked = asked.setup("--check")
        assert 1 == checked.code, checked
        assert "registry-mirrors does not name" in checked.out
        assert "a pull went elsewhere" in checked.out


def test_classic_store_stops(tmp_path: Path) -> None:
    """With `refusal = "stop"` nothing reaches Docker Hub: it is what the classic store has instead of a strict form."""
    with SetupStage(tmp_path / "stage", refusal="stop") as stage, Classic(stage.place()) as client:
        asked = _SetUp(stage, client)
        asked.setup("--write")
        client.launch()
        stage.reached()
        checked = asked.setup("--check")
        assert (0, []) == (checked.code, stage.reached()), checked
        stage.proxy.stop()
        assert not client._docker("pull", "docker.io/library/iarproxy-check:pass-aaaaaaaa").done
        assert asks_hub(stage.reached())  # documented: while the mirror is down, it asks Docker Hub


@FORKY
def test_containerd_store(stage: SetupStage) -> None:
    """Dockerd 28 reads hosts.toml; the strict form is proven there."""
    with OnContainerd(stage.place("forky")) as client:
        asked = _SetUp(stage, client)
        (asked.root / "certs.d").mkdir()
        (asked.root / "daemon.json").write_text('{"features": {"containerd-snapshotter": true}}')
        client.launch()
        stage.reached()
        bare = asked.setup("--check")
        assert 1 == bare.code, bare
        assert 0 == asked.setup("--write").code
        ordinary = asked.setup("--check")
        assert 3 == ordinary.code, ordinary
        assert asks_hub(stage.reached())
        assert 0 == asked.setup("--write", "--strict").code
        strict = asked.setup("--check")
        assert (0, []) == (strict.code, stage.reached()), strict
        assert 0 == asked.setup("--undo").code
        assert [] == list((asked.root / "certs.d").iterdir())


@pytest.mark.skipif(not is_made("trixie"), reason="suite trixie is not made")
def test_containerd_store_before_28(stage: SetupStage) -> None:
    """With the containerd store dockerd 26 reads no hosts.toml: it gets registry-mirrors, and has no strict form."""
    with OldOnContainerd(stage.place("trixie")) as client:
        asked = _SetUp(stage, client)
        settings = asked.root / "daemon.json"
        settings.write_text('{"features": {"containerd-snapshotter": true}}')
        assert 0 == asked.setup("--write").code
        client.launch()
        stage.reached()
        checked = asked.setup("--check")
        assert (3, True) == (checked.code, asks_hub(stage.reached())), checked
        strict = asked.setup("--strict", "--write")
        assert (1, False) == (strict.code, (asked.root / "certs.d").exists()), strict


def test_without_a_daemon(stage: SetupStage, tmp_path: Path) -> None:
    """No daemon answers: that is said, and nothing counts as proven."""
    only = ("docker", "--root", tmp_path, "--registry", "docker.io")
    assert 0 == stage.setup(*only, "--write").code
    checked = stage.setup(*only, "--check", DOCKER_HOST=f"unix://{tmp_path}/nobody.sock")
    assert 4 == checked.code, checked
    assert "not tried: docker does not answer" in checked.out
