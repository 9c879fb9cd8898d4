"""Real clients speak TLS with `iarproxy serve`: own authority, client certificates, a certificate that changes."""

from __future__ import annotations

import hashlib
import json
import socket
import ssl
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from certificates import CertificateAuthority, Pair
from clients import Containerd
from layers import Image, image
from machine import Proxy, Registry
from processes import Command, Process, free_port, run, until

pytestmark = [pytest.mark.xdist_group("real"), pytest.mark.real("docker-registry")]


@dataclass
class Secure:
    """An iarproxy with a plain listener, and one with TLS at `port`."""

    folder: Path
    registry: Registry
    proxy: Proxy
    authority: CertificateAuthority
    port: int

    @property
    def trusted(self) -> Path:
        """A folder as containers/image wants it: the authority, and no client certificate."""
        return self.credentials("trusted", None)

    def credentials(self, name: str, pair: Pair | None) -> Path:
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        (folder / "ca.crt").write_bytes(self.authority.path.read_bytes())
        if pair is not None:
            pair.write(folder / "client.cert", folder / "client.key")
        return folder

    def renew(self) -> Pair:
        pair = self.authority.issue()
        pair.write(self.folder / "tls.crt", self.folder / "tls.key")
        return pair

    def shown(self) -> int:
        """The serial number that a new handshake shows."""
        context = self.authority.client()
        with (
            socket.create_connection(("127.0.0.1", self.port), timeout=10) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as client,
        ):
            certificate = client.getpeercert()
            assert certificate is not None
            return int(str(certificate["serialNumber"]), 16)

    def curl(self, target: str, *options: str | Path) -> str:
        """What curl says: the status, or its exit code."""
        command: Command = [
            "curl",
            "-sS",
            "-m",
            "30",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code} %{http_version}",
            *options,
        ]
        ran = run([*command, f"https://localhost:{self.port}{target}"])
        return ran.stdout if ran.returncode == 0 else f"exit {ran.returncode}"

    def skopeo(self, certificates: Path, name: str) -> str:
        """The digest that skopeo copied, or what it said."""
        (self.folder / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
        layout = Path(tempfile.mkdtemp(dir=self.folder))
        command: Command = ["skopeo", "--policy", self.folder / "policy.json", "--tmpdir", self.folder, "copy"]
        source = f"docker://localhost:{self.port}/{name}"
        ran = run([*command, "--src-cert-dir", certificates, source, f"oci:{layout}:t"], HOME=str(self.folder))
        if ran.returncode != 0:
            return ran.stderr
        return str(json.loads((layout / "index.json").read_text())["manifests"][0]["digest"])

    def subjects(self) -> set[str | None]:
        """Whose answers are in the access log."""
        lines = (self.proxy.folder / "serve.log").read_text().splitlines()
        records = [json.loads(line) for line in lines if line.startswith("{")]
        return {each.get("subject") for each in records if each.get("event") == "request"}


def _secure(folder: Path, *, clients: Path | None = None) -> Iterator[Secure]:
    registry = Registry(folder / "upstream").start()
    try:
        proxy = Proxy(folder / "mirror", registry.port)
        made = Secure(folder, registry, proxy, CertificateAuthority(folder), free_port())
        made.renew()
        with proxy.config.open("a") as config:
            config.write(f'[server.tls]\nlisten = ["127.0.0.1:{made.port}"]\n')
            config.write(f'cert_file = "{folder}/tls.crt"\nkey_file = "{folder}/tls.key"\n')
            if clients is not None:
                config.write(f'client_ca_file = "{clients}"\n')
        proxy.start()
        yield made
    finally:
        if made.proxy._process is not None:
            made.proxy.stop()
        registry.stop()


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secure]:
    yield from _secure(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> CertificateAuthority:
    """Who issues certificates to the nodes."""
    return CertificateAuthority(tmp_path_factory.mktemp("nodes"), "nodes")


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory, nodes: CertificateAuthority) -> Iterator[Secure]:
    """One that wants client certificates."""
    yield from _secure(tmp_path_factory.mktemp("closed"), clients=nodes.path)


def pushed(secure: Secure, name: str, *sizes: int) -> Image:
    return secure.registry.push(f"library/{name}", "1", image(name, *sizes))


@pytest.mark.real("curl")
def test_curl(secure: Secure) -> None:
    """With our authority 200 over HTTP/1.1, also if it offers HTTP/2; without it, it refuses."""
    known: Command = ["--cacert", secure.authority.path]
    assert "200 1.1" == secure.curl("/v2/", *known)
    assert "200 1.1" == secure.curl("/v2/", *known, "--http2")
    assert "200 1.1" == secure.curl("/v2/", *known, "--tls-max", "1.2")
    assert "exit 60" == secure.curl("/v2/")
    plain = run(
        ["curl", "-sS", "-m", "10", "-o", "/dev/null", "-w", "%{http_code}", f"http://localhost:{secure.port}/v2/"]
    )
    assert "400" == plain.stdout


@pytest.mark.real("skopeo")
def test_skopeo(secure: Secure, tmp_path: Path) -> None:
    """With `ca.crt` in its folder it pulls, manifest and blobs; without it says what is wrong."""
    wanted = pushed(secure, "skopeo", 400_000)
    for _ in range(2):
        assert wanted.digest == secure.skopeo(secure.trusted, "library/skopeo:1")
    assert "certificate" in secure.skopeo(tmp_path, "library/skopeo:1")


@pytest.mark.root
@pytest.mark.real("podman")
def test_podman(secure: Secure) -> None:
    """As skopeo, with its own configuration."""
    wanted = pushed(secure, "podman", 300_000)
    home = Path(tempfile.mkdtemp(dir=secure.folder))
    (home / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    (home / "storage.conf").write_text(f'[storage]\ndriver = "vfs"\ngraphroot = "{home}/a"\nrunroot = "{home}/b"\n')
    (home / "registries.conf").write_text("")
    settings = {
        "CONTAINERS_STORAGE_CONF": f"{home}/storage.conf",
        "CONTAINERS_REGISTRIES_CONF": f"{home}/registries.conf",
        "TMPDIR": str(home),
        "HOME": str(home),
    }
    name = f"localhost:{secure.port}/library/podman:1"
    pull: Command = ["podman", "--cgroup-manager", "cgroupfs", "pull", "-q", "--signature-policy", home / "policy.json"]
    ran = run([*pull, "--cert-dir", secure.trusted, name], **settings)
    assert 0 == ran.returncode, ran.stderr
    looked = run(["podman", "image", "inspect", "--format", "{{.Digest}}", name], **settings)
    assert wanted.digest == looked.stdout.strip()


class SecureContainerd(Containerd):
    """A containerd whose mirror is at an https address, with these lines in its hosts.toml."""

    def __init__(self, port: int, *lines: str) -> None:
        super().__init__(port)
        for hosts in (self._folder / "hosts").glob("*/hosts.toml"):
            text = hosts.read_text().replace(f"http://127.0.0.1:{port}", f"https://localhost:{port}")
            hosts.write_text("\n".join([text, *lines, ""]))


@pytest.mark.root
@pytest.mark.real("ctr", "containerd")
def test_containerd(secure: Secure) -> None:
    """`ca` in hosts.toml; without it the mirror is skipped, and the pull ends at the dead port behind it."""
    wanted = pushed(secure, "ctr", 300_000)
    with SecureContainerd(secure.port, f'ca = "{secure.authority.path}"') as client:
        assert wanted.digest == client.pull("docker.io/library/ctr:1")
    with SecureContainerd(secure.port) as client, pytest.raises(AssertionError):
        client.pull("docker.io/library/ctr:1")


@pytest.mark.root
@pytest.mark.real("ctr", "containerd")
def test_containerd_with_a_client_certificate(closed: Secure, nodes: CertificateAuthority) -> None:
    """`client` in hosts.toml: it pulls, and the log says which node it is; without it nothing is had."""
    wanted = pushed(closed, "node", 300_000)
    files = closed.credentials("node-7", nodes.issue("node-7", hosts=()))
    ca = f'ca = "{closed.authority.path}"'
    with SecureContainerd(closed.port, ca, f'client = [["{files}/client.cert", "{files}/client.key"]]') as client:
        assert wanted.digest == client.pull("docker.io/library/node:1")
    assert "CN=node-7" in closed.subjects()
    with SecureContainerd(closed.port, ca) as client, pytest.raises(AssertionError):
        client.pull("docker.io/library/node:1")


@pytest.mark.real("skopeo", "curl")
def test_client_certificates(closed: Secure, nodes: CertificateAuthority) -> None:
    """With one of the nodes' authority: served, and named in the log and in who pulled; without: no connection."""
    wanted = pushed(closed, "mine", 100_000)
    mine = closed.credentials("mine", nodes.issue("node-8", hosts=()))
    assert wanted.digest == closed.skopeo(mine, "library/mine:1")
    stranger = closed.credentials("stranger", CertificateAuthority(closed.folder, "other").issue("node-8", hosts=()))
    for folder in (closed.trusted, stranger):
        assert "sha256:" not in closed.skopeo(folder, "library/mine:1")[:7]
    assert "exit" in closed.curl("/v2/", "--cacert", closed.authority.path)
    assert "CN=node-8" in closed.subjects()
    until(lambda: b"cert:CN=node-8" in closed.proxy.command("explain", "library/mine:1", "--json").body, "a use")


@pytest.mark.real("curl", "skopeo")
def test_a_new_certificate_while_clients_pull(secure: Secure) -> None:
    """A slow download goes on through three new certificates and ends whole; new pulls see the newest."""
    wanted = pushed(secure, "slow", 12_000_000)
    layer = wanted.layers[-1]
    assert wanted.digest == secure.skopeo(secure.trusted, "library/slow:1")
    target = secure.folder / "slow"
    command: Command = ["curl", "-sS", "--cacert", secure.authority.path, "--limit-rate", "2M", "-o", target]
    slow = Process([*command, f"https://localhost:{secure.port}/v2/library/slow/blobs/{layer}"], secure.folder / "curl")
    try:
        until(lambda: target.exists() and target.stat().st_size > 0, "the first bytes")
        for _ in range(3):
            pair = secure.renew()
            until(lambda pair=pair: secure.shown() == pair.serial, "the new certificate")  # type: ignore[misc]  # bound
            assert wanted.digest == secure.skopeo(secure.trusted, "library/slow:1")
        until(lambda: slow.ended, "the end of the download")
        assert layer == "sha256:" + hashlib.sha256(target.read_bytes()).hexdigest()
    finally:
        slow.stop()


@pytest.mark.real("curl")
def test_what_the_metrics_say(secure: Secure) -> None:
    """When the certificate expires, whether its files are good, and how handshakes ended."""
    with pytest.raises(ssl.SSLError), socket.create_connection(("127.0.0.1", secure.port), timeout=10) as plain:
        ssl.create_default_context().wrap_socket(plain, server_hostname="localhost").close()
    secure.shown()

    def text() -> str:
        return run(["curl", "-sS", f"http://127.0.0.1:{secure.proxy.admin}/metrics"]).stdout

    until(lambda: 'iarproxy_tls_handshakes_total{outcome="failed"}' in text(), "the failed handshake")
    assert 'iarproxy_tls_handshakes_total{outcome="done"}' in text()
    assert "iarproxy_tls_files_unusable 0.0" in text()
    assert "iarproxy_tls_not_after_seconds 1" in text()
