"""`iarproxy setup containerd` with a real containerd: what is written is what it reads; `--check` is right."""

from __future__ import annotations

import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import cri
from client_containerd import Ctr, Kubelet
from ended import Ended
from processes import Process, until
from setup_clients import SetupStage, asks_hub, snapshot
from suites import is_made

pytestmark = [
    pytest.mark.xdist_group("setup-containerd"),
    pytest.mark.real("containerd", "ctr"),
    pytest.mark.root,
    pytest.mark.timeout(300),
]
SUITES = [
    "",
    *(
        pytest.param(each, marks=pytest.mark.skipif(not is_made(each), reason=f"suite {each} is not made"))
        for each in ("trixie", "forky")
    ),
]
PROBE = "docker.io/library/iarproxy-check"


class Asked:
    """A containerd of its own, set up by the command and nobody else."""

    def __init__(self, stage: SetupStage, client: Ctr) -> None:
        self.stage, self.client = stage, client
        self.hosts = client.folder / "hosts"

    def setup(self, *words: str | Path) -> Ended:
        socket = {"CONTAINERD_ADDRESS": str(self.client.folder / "ctd.sock"), "CONTAINERD_SNAPSHOTTER": "native"}
        # the real registry's name can be written, not dialled: the sentinel is in between
        return self.stage.setup("containerd", "--root", self.hosts, *words, client=self.client, **socket)

    def check(self) -> Ended:
        return self.setup("--check", "--registry", "docker.io")

    def pull(self, image: str) -> bool:
        """Pull past the command, as anybody would."""
        options = ("--hosts-dir", str(self.hosts), "--snapshotter", "native")
        return self.client._ctr("images", "pull", *options, image).done

    @property
    def file(self) -> Path:
        return self.hosts / "docker.io/hosts.toml"


class Again(Kubelet):
    """One that can be started again, with the configuration as it is then."""

    def restart(self) -> None:
        self.stop()
        command = self.place.words(["containerd", "--config", self.folder / "config.toml"])
        self._process = Process(command, self.folder / "log", **self.environment)
        until(lambda: self._answers() or self._process is None or self._process.ended, "containerd's answer")
        assert not self._process.ended, self._process.output[-3000:]


def _config_path(text: str) -> str:
    plugins = tomllib.loads(text)["plugins"]
    section = plugins.get("io.containerd.cri.v1.images") or plugins["io.containerd.grpc.v1.cri"]
    return str(section["registry"]["config_path"])


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SetupStage]:
    with SetupStage(tmp_path_factory.mktemp("setup")) as made:
        yield made


@pytest.fixture(scope="module")
def running(stage: SetupStage) -> Iterator[Asked]:
    with Ctr(stage.place()) as client:
        yield Asked(stage, client)


@pytest.fixture
def asked(running: Asked) -> Asked:
    """As nobody had set it up."""
    shutil.rmtree(running.hosts, ignore_errors=True)
    running.stage.reached()
    return running


@pytest.mark.parametrize("suite", SUITES)
def test_what_is_written_is_what_it_reads(stage: SetupStage, suite: str) -> None:
    """Not set up: pulls go upstream. Ordinary: they arrive, refusals are bypassed. Strict: the real registry hears
    of neither. And `server` without [host] is known to fail where it does (clients.md sections 2.3, 3.2).
    """
    with Ctr(stage.place(suite)) as client:
        asked = Asked(stage, client)
        stage.reached()
        bare = asked.check()
        assert 1 == bare.code, bare
        assert "pulls go to the real registry" in bare.out
        assert "went elsewhere" in bare.out
        assert asks_hub(stage.reached())

        assert 0 == asked.setup("--write").code
        ordinary = asked.check()
        assert 3 == ordinary.code, ordinary
        assert "bypassed: pulls arrive here" in ordinary.out
        assert asks_hub(stage.reached())

        written = asked.setup("--write", "--strict")
        assert (0, "") == (written.code, written.err)
        strict = asked.check()
        assert (0, []) == (strict.code, stage.reached()), strict
        assert "proven: pulls arrive here" in strict.out
        left = client.run("ctr", "--address", client.folder / "ctd.sock", "namespaces", "list", "--quiet").said
        assert "iarproxy-check" not in left

        asked.file.write_text(f'server = "http://127.0.0.1:{stage.proxy.port}"\n')
        alone = asked.check()
        is_old = suite in ("", "trixie")
        assert (1 if is_old else 0) == alone.code, alone
        assert is_old == ("ignores that and asks the real registry" in alone.out)


def test_a_broken_file(asked: Asked) -> None:
    """A hosts.toml that containerd cannot read makes it go upstream without a word; the check has the words."""
    asked.setup("--write", "--strict")
    asked.file.write_text(asked.file.read_text() + "\n[host\n")
    checked = asked.check()
    assert 1 == checked.code, checked
    assert "ignores it silently" in checked.out
    assert asks_hub(asked.stage.reached())


def test_an_unknown_capability(asked: Asked) -> None:
    """One unknown word, and the whole file counts for nothing (clients.md section 3.1)."""
    asked.setup("--write", "--strict")
    asked.file.write_text(asked.file.read_text().replace('"resolve"', '"resolve", "referrers"'))
    checked = asked.check()
    assert 1 == checked.code, checked
    assert "the capability 'referrers' is new" in checked.out
    assert asks_hub(asked.stage.reached())


def test_undo(asked: Asked) -> None:
    """Two writes and an undo leave every byte and folder as before; the second write has nothing to do."""
    asked.file.parent.mkdir(parents=True)
    asked.file.write_text('server = "https://registry-1.docker.io" # mine\n')
    before = snapshot(asked.hosts)
    refused = asked.setup("--write", "--strict")
    assert (1, True) == (refused.code, "others wrote it" in refused.err)
    assert before == snapshot(asked.hosts)
    assert 0 == asked.setup("--write", "--strict", "--overwrite").code
    again = asked.setup("--write", "--strict", "--overwrite")
    assert (0, "nothing to do") == (again.code, again.out.splitlines()[-1])
    assert 0 == asked.check().code
    assert 0 == asked.setup("--undo").code
    assert before == snapshot(asked.hosts)


def test_every_registry(asked: Asked) -> None:
    """One file for whatever is asked for: a registry that the mirror does not know is refused, and nobody is asked."""
    assert 0 == asked.setup("--write", "--strict", "--registry", "*").code
    checked = asked.setup("--check", "--registry", "*")
    assert 0 == checked.code, checked
    assert not asked.pull("quay.io/some/thing:1")
    assert [] == asked.stage.reached()


def test_pushes_past_the_mirror(asked: Asked) -> None:
    """`--strict --push`: tags are resolved here alone, while the real registry stays where pushes go."""
    asked.setup("--write", "--strict", "--push")
    checked = asked.check()
    assert (0, []) == (checked.code, asked.stage.reached()), checked


def test_a_stopped_mirror(tmp_path: Path) -> None:
    """With the mirror stopped: strict pulls ask nobody else, ordinary ones do; the check says that nothing answers."""
    with SetupStage(tmp_path / "stage") as stage, Ctr(stage.place()) as client:
        asked = Asked(stage, client)
        asked.setup("--write", "--strict")
        stage.proxy.stop()
        assert not asked.pull(f"{PROBE}:pass-aaaaaaaa")
        assert [] == stage.reached()
        checked = asked.check()
        assert (4, []) == (checked.code, stage.reached()), checked
        assert "nothing answers" in checked.err
        asked.setup("--write")
        assert not asked.pull(f"{PROBE}:pass-aaaaaaaa")
        assert asks_hub(stage.reached())


def test_refusal_by_manifest(tmp_path: Path) -> None:
    """With `refusal = "stop"` the ordinary form holds too: the client stops at what it cannot use."""
    with SetupStage(tmp_path / "stage", refusal="stop") as stage, Ctr(stage.place()) as client:
        asked = Asked(stage, client)
        asked.setup("--write")
        checked = asked.check()
        assert (0, []) == (checked.code, stage.reached()), checked


def test_without_the_program(stage: SetupStage, tmp_path: Path) -> None:
    """No daemon answers: that is said, what the files say is reported all the same, and nothing counts as proven."""
    words = ("containerd", "--root", tmp_path, "--registry", "docker.io")
    assert 0 == stage.setup(*words, "--write").code
    checked = stage.setup(*words, "--check", CONTAINERD_ADDRESS=str(tmp_path / "nobody.sock"))
    assert 4 == checked.code, checked
    assert "what we refuse is asked of https://registry-1.docker.io next" in checked.out
    assert "not tried: ctr does not answer" in checked.out


@pytest.mark.parametrize("suite", SUITES)
def test_the_kubelets_way(stage: SetupStage, suite: str) -> None:
    """CRI reads nothing until config.toml says so: `--write` makes it so, and the pull arrives strictly."""
    with Again(stage.place(suite)) as client:
        config, hosts = client.folder / "config.toml", client.folder / "hosts"
        told = f'config_path = "{hosts}"\n'
        assert told in config.read_text()
        config.write_text(config.read_text().replace(told, ""))
        before = config.read_bytes()
        socket = {"CONTAINERD_ADDRESS": str(client.folder / "ctd.sock")}
        words = ("containerd", "--root", hosts, "--client-config", config, "--registry", "docker.io")
        silent = stage.setup(*words, "--check", client=client, **socket)
        assert "no config_path" in silent.out or "is a list" in silent.out, silent
        written = stage.setup(*words, "--write", "--strict", client=client)
        assert 0 == written.code, written
        assert _config_path(config.read_text()) == str(hosts)
        client.restart()
        stage.reached()
        nonce = f"{suite or 'bookworm'}xyz"
        cri.Images(client.folder / "ctd.sock").pull(f"{PROBE}:pass-{nonce}")
        with pytest.raises(cri.Failed):
            cri.Images(client.folder / "ctd.sock").pull(f"{PROBE}:deny-{nonce}")
        assert [] == stage.reached()
        assert 0 == stage.setup(*words, "--undo", client=client).code
        assert before == config.read_bytes()
