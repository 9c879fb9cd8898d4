"""`iarproxy setup` for podman, skopeo and buildah with the real programs: one file, and `--check` through each."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from client_podman import Podman
from ended import Ended
from processes import run
from setup_clients import SetupStage, asks_hub, snapshot
from suites import is_made

pytestmark = [pytest.mark.xdist_group("setup-podman"), pytest.mark.root, pytest.mark.timeout(300)]
SUITES = [
    "",
    *(
        pytest.param(each, marks=pytest.mark.skipif(not is_made(each), reason=f"suite {each} is not made"))
        for each in ("forky",)
    ),
]
PROGRAMS = [pytest.param(each, marks=pytest.mark.real(each)) for each in ("podman", "skopeo", "buildah")]


class Asked:
    """A program with a store of its own; its configuration is in the folder that `--root` names."""

    def __init__(self, stage: SetupStage, client: Podman) -> None:
        self.stage, self.client = stage, client
        self.root = client.folder / "etc"

    def setup(self, program: str, *words: str | Path, **environment: str) -> Ended:
        policy = {"skopeo": "--policy", "podman": "", "buildah": ""}[program]
        arguments = ["--client-arg", policy, "--client-arg", str(self.client.folder / "policy.json")] if policy else []
        only = ("--root", self.root, "--registry", "docker.io")
        return self.stage.setup(program, *only, *words, *arguments, client=self.client, **environment)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SetupStage]:
    with SetupStage(tmp_path_factory.mktemp("setup")) as made:
        yield made


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("program", PROGRAMS)
def test_what_is_written_is_what_it_reads(stage: SetupStage, program: str, suite: str) -> None:
    """Ordinary: pulls arrive, refusals are bypassed. Strict: neither reaches the real registry. Undo leaves nothing."""
    with Podman(stage.place(suite)) as client:
        asked = Asked(stage, client)
        stage.reached()
        assert 0 == asked.setup(program, "--write").code
        ordinary = asked.setup(program, "--check")
        assert 3 == ordinary.code, ordinary
        assert "bypassed: pulls arrive here" in ordinary.out
        assert asks_hub(stage.reached())

        assert 0 == asked.setup(program, "--write", "--strict").code
        strict = asked.setup(program, "--check", "--json")
        assert (0, []) == (strict.code, stage.reached()), strict
        assert {"verdict": "proven"}.items() <= strict.json.items()
        pull = {"program": program, "registry": "docker.io", "arrival": "arrives here", "refusal": "held"}
        assert pull.items() <= strict.json["pulls"][0].items()

        assert 0 == asked.setup(program, "--undo").code
        assert not asked.root.exists()
        if program != "skopeo":
            assert "iarproxy-check" not in client.run(program, "images").said


@pytest.mark.real("podman")
def test_not_set_up(stage: SetupStage) -> None:
    """Without our file the pull goes to the real registry, and the check says so."""
    with Podman(stage.place()) as client:
        asked = Asked(stage, client)
        (asked.root / "registries.conf.d").mkdir(parents=True)
        (asked.root / "registries.conf.d/50-iarproxy.conf").write_text("")
        stage.reached()
        bare = asked.setup("podman", "--check")
        assert 1 == bare.code, bare
        assert "no entry for it: pulls go to the real registry" in bare.out
        assert "a pull went elsewhere" in bare.out
        assert asks_hub(stage.reached())


@pytest.mark.real("podman")
def test_another_file_comes_after(stage: SetupStage) -> None:
    """A later drop-in replaces our entry: the check finds it by reading all of them, as podman does."""
    with Podman(stage.place()) as client:
        asked = Asked(stage, client)
        asked.setup("podman", "--write", "--strict")
        later = asked.root / "registries.conf.d/99-corp.conf"
        later.write_text('[[registry]]\nlocation = "docker.io"\n')
        found = asked.setup("podman", "--check")
        assert f"wrong  docker.io: {later}: neither its location nor a mirror is" in found.out, found


@pytest.mark.real("podman")
def test_a_stopped_mirror(tmp_path: Path) -> None:
    """With the mirror stopped: strict pulls ask nobody else, ordinary ones ask the real registry."""
    with SetupStage(tmp_path / "stage") as stage, Podman(stage.place()) as client:
        asked = Asked(stage, client)
        image = "docker.io/library/iarproxy-check:pass-aaaaaaaa"
        client._registries = asked.root / "registries.conf.d/50-iarproxy.conf"
        asked.setup("podman", "--write", "--strict")
        before = snapshot(asked.root)
        stage.proxy.stop()
        pull = ("podman", "pull", "--quiet", "--signature-policy", client.folder / "policy.json", image)
        assert not client.run(*pull).done
        assert [] == stage.reached()
        checked = asked.setup("podman", "--check")
        assert (4, True) == (checked.code, "nothing answers" in checked.err), checked
        assert before == snapshot(asked.root)
        asked.setup("podman", "--write")
        assert not client.run(*pull).done
        assert asks_hub(stage.reached())


@pytest.mark.real("skopeo")
def test_refusal_by_manifest(tmp_path: Path) -> None:
    """With `refusal = "stop"` the ordinary form holds too."""
    with SetupStage(tmp_path / "stage", refusal="stop") as stage, Podman(stage.place()) as client:
        asked = Asked(stage, client)
        asked.setup("skopeo", "--write")
        checked = asked.setup("skopeo", "--check")
        assert (0, []) == (checked.code, stage.reached()), checked


@pytest.mark.real("podman")
def test_the_users_own_folder(stage: SetupStage) -> None:
    """Where a person is not root the file goes below their home; podman reads it there too."""
    with Podman(stage.place()) as client:
        home = client.folder / "home"
        own = home / ".config/containers"
        assert 0 == stage.setup("podman", "--root", own, "--registry", "docker.io", "--write", "--strict").code
        stage.reached()
        environment = {**client.environment, "HOME": str(home)}
        del environment["CONTAINERS_REGISTRIES_CONF"]
        info = json.loads(stage_run(environment, "podman", "info", "--format", "json"))
        assert info["registries"]["docker.io"]["Location"] == f"127.0.0.1:{stage.proxy.port}/docker.io"


def stage_run(environment: dict[str, str], *command: str) -> str:
    ran = run(command, **environment)
    assert 0 == ran.returncode, ran.stderr
    return ran.stdout
