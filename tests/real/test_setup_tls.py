"""Set-ups of a mirror that speaks TLS with a certificate of an authority of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from client_containerd import Ctr
from client_podman import Podman
from setup_clients import SetupStage

pytestmark = [pytest.mark.xdist_group("setup-tls"), pytest.mark.root, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SetupStage]:
    made = SetupStage(tmp_path_factory.mktemp("setup"))
    made.speak_tls()
    with made:
        yield made


def words(stage: SetupStage) -> list[str]:
    assert stage.authority is not None
    return ["--registry", "docker.io", "--url", f"localhost:{stage.tls}", "--ca-file", str(stage.authority.path)]


@pytest.mark.real("containerd", "ctr")
def test_containerd(stage: SetupStage) -> None:
    """hosts.toml names the authority, for the host and for `server`: the strict form is proven over TLS."""
    with Ctr(stage.place()) as client:
        socket = {"CONTAINERD_ADDRESS": str(client.folder / "ctd.sock"), "CONTAINERD_SNAPSHOTTER": "native"}
        own = ["containerd", "--root", str(client.folder / "hosts"), *words(stage)]
        assert 0 == stage.setup(*own, "--write", "--strict", client=client).code
        checked = stage.setup(*own, "--check", client=client, **socket)
        assert (0, []) == (checked.code, stage.reached()), checked
        written = client.folder / "hosts/docker.io/hosts.toml"
        written.write_text(written.read_text().replace("ca = ", "# ca = "))
        without = stage.setup(*own, "--check", client=client, **socket)
        assert (1, True) == (without.code, "a pull failed" in without.out), without


@pytest.mark.real("podman")
def test_podman(stage: SetupStage) -> None:
    """The authority is put where podman looks for that of the mirror's host."""
    root = stage.folder / ".config/containers"
    with Podman(stage.place()) as client:
        own = ["podman", "--root", str(root), *words(stage)]
        assert 0 == stage.setup(*own, "--write", "--strict", client=client).code
        assert (root / f"certs.d/localhost:{stage.tls}/ca.crt").exists()
        checked = stage.setup(*own, "--check", client=client)
        assert (0, []) == (checked.code, stage.reached()), checked
        assert 0 == stage.setup(*own, "--undo", client=client).code
        assert not root.exists()


@pytest.mark.real("containerd")
def test_without_the_authority(stage: SetupStage) -> None:
    """A certificate that nobody knows: the check says what to give."""
    refused = stage.setup("podman", "--url", f"https://localhost:{stage.tls}", "--check")
    assert (4, True) == (refused.code, "--ca-file" in refused.err), refused
