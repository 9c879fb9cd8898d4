"""What `iarproxy setup` would write for each client, against what clients.md says that the client reads."""

from __future__ import annotations

import json
import os
import subprocess
import time
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from certificates import CertificateAuthority
from iarproxy.cli.setup import addressing, buildkit, containerd, docker, hosts_toml, k3s, kubernetes, machines, podman
from iarproxy.cli.setup.clients import CLIENTS
from iarproxy.cli.setup.plan import MARK, Fall, ImageStore, Merged, Mirror, NoStrictForm, Plan, Whole, Wish
from iarproxy.config.loading import parse
from iarproxy.errors import Refused

NODE = Mirror("http", "127.0.0.1:5000", None, ("docker.io", "ghcr.io"))
LAN = Mirror("https", "mirror.example.com", Path("/etc/ssl/ca.pem"), ("docker.io",))
ETC = Path("/etc/client")


def wish(mirror: Mirror = NODE, fall: Fall = Fall.OPEN, **more: Any) -> Wish:
    return Wish(mirror, ETC, fall, **more)


def texts(plan: Plan) -> dict[str, str]:
    """The files of a plan by their path below the client's folder."""
    found = {}
    for each in plan.changes:
        content = each.content if isinstance(each, Whole) else each.merge(None)
        found[str(each.path.relative_to(ETC))] = content.decode().removeprefix(MARK + "\n")
    return found


# --- hosts.toml: clients.md section 3.3 ------------------------------------------------------------------------------


def test_hosts_toml_ordinary() -> None:
    """The ordinary form names the real registry as `server`, Docker Hub by the host that has its API."""
    assert {
        "docker.io/hosts.toml": (
            'server = "https://registry-1.docker.io"\n\n'
            '[host."http://127.0.0.1:5000"]\n  capabilities = ["pull", "resolve"]\n'
        ),
        "ghcr.io/hosts.toml": (
            'server = "https://ghcr.io"\n\n[host."http://127.0.0.1:5000"]\n  capabilities = ["pull", "resolve"]\n'
        ),
    } == texts(containerd.plan(wish()))


def test_hosts_toml_strict() -> None:
    """The strict form names the mirror twice: the one spelling that holds from 1.6 on."""
    plan = containerd.plan(wish(LAN, Fall.NONE))
    assert {
        "docker.io/hosts.toml": (
            'server = "https://mirror.example.com"\nca = "/etc/ssl/ca.pem"\n\n'
            '[host."https://mirror.example.com"]\n  capabilities = ["pull", "resolve"]\n  ca = "/etc/ssl/ca.pem"\n'
        )
    } == texts(plan)


def test_hosts_toml_with_pushes() -> None:
    """Tags resolve at the mirror alone; the real registry is left for pushes."""
    text = hosts_toml.render("docker.io", NODE, Fall.DIGESTS, ca=None)
    assert (
        f'{MARK}\nserver = "https://registry-1.docker.io"\ncapabilities = ["push"]\n\n'
        '[host."http://127.0.0.1:5000"]\n  capabilities = ["pull", "resolve"]\n'
    ) == text


@pytest.mark.parametrize(
    ("registry", "folder"),
    [("docker.io", "docker.io"), ("registry.example.com:8443", "registry.example.com_8443_"), ("*", "_default")],
)
def test_hosts_toml_folder(registry: str, folder: str) -> None:
    """The folder is the one that containerd looks for first."""
    assert folder == hosts_toml.folder_name(registry)


@pytest.mark.parametrize(("version", "known"), [(None, False), ((1, 7, 24), False), ((2, 1, 9), False), ((2, 2), True)])
def test_referrers_only_where_known(version: tuple[int, ...] | None, *, known: bool) -> None:
    """An unknown capability makes an old containerd ignore the file: the word is written from 2.2 on only."""
    text = texts(containerd.plan(wish(version=version)))["docker.io/hosts.toml"]
    assert known == ('"referrers"' in text)


@pytest.mark.parametrize(
    ("version", "section"),
    [
        ((1, 6, 20), "io.containerd.grpc.v1.cri"),
        (None, "io.containerd.grpc.v1.cri"),
        ((2, 1), "io.containerd.cri.v1.images"),
    ],
)
def test_config_path(version: tuple[int, ...] | None, section: str) -> None:
    """Where containerd has no configuration yet, it gets one with its own version's section, and one single folder."""
    plan = containerd.plan(wish(version=version, config_file=ETC / "config.toml"))
    config = tomllib.loads(texts(plan)["config.toml"])
    assert str(ETC) == config["plugins"][section]["registry"]["config_path"]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ('version = 2\n[plugins."io.containerd.grpc.v1.cri".registry]\nconfig_path = "/else"\n', "--root /else"),
        (
            'version = 2\n[plugins."io.containerd.grpc.v1.cri".registry.mirrors."docker.io"]\nendpoint = ["http://m"]\n',
            "exclude config_path",
        ),
        ("[plugins.cri]\n", "config migrate"),
    ],
)
def test_config_path_that_cannot_be_set(text: str, word: str) -> None:
    """What containerd would not start with, or ignore, is refused with the way out."""
    plan = containerd.plan(wish(config_file=ETC / "config.toml"))
    change = plan.changes[-1]
    assert isinstance(change, Merged)
    with pytest.raises(Refused, match=word):
        change.merge(text.encode())


def test_no_config_path_without_cri() -> None:
    """Docker's containerd has CRI switched off: its configuration is left alone."""
    change = containerd.plan(wish(config_file=ETC / "config.toml")).changes[-1]
    assert isinstance(change, Merged)
    assert b'disabled_plugins = ["cri"]\n' == change.merge(b'disabled_plugins = ["cri"]\n')


# --- docker: clients.md section 4.1 ----------------------------------------------------------------------------------


def test_docker_classic() -> None:
    """The classic store gets a mirror of Docker Hub; a plain one beyond the loopback is also allowed by name."""
    assert {"registry-mirrors": ["http://127.0.0.1:5000"]} == json.loads(texts(docker.plan(wish()))["daemon.json"])
    lan = replace(NODE, authority="10.0.0.1:5000")
    assert {
        "registry-mirrors": ["http://10.0.0.1:5000"],
        "insecure-registries": ["10.0.0.1:5000"],
    } == json.loads(texts(docker.plan(wish(lan)))["daemon.json"])


def test_docker_certificate(tmp_path: Path) -> None:
    """A certificate authority is put where dockerd looks for that of the mirror's host."""
    authority = CertificateAuthority(tmp_path).path
    found = texts(docker.plan(wish(replace(LAN, ca=authority))))
    assert authority.read_text() == found["certs.d/mirror.example.com/ca.crt"]


@pytest.mark.parametrize(
    ("version", "capabilities"),
    [
        ("28.5.2", '["pull", "resolve"]'),
        ("29.0.1", '["pull", "resolve"]'),
        ("29.1", '["pull", "resolve", "referrers"]'),
    ],
)
def test_docker_containerd_store(version: str, capabilities: str) -> None:
    """From 28 on it reads hosts.toml; `referrers` is a word from 29.1 on, and before makes it ignore the file."""
    number = tuple(map(int, version.split(".")))
    found = texts(docker.plan(wish(fall=Fall.NONE, store=ImageStore.CONTAINERD, version=number)))
    assert ["certs.d/docker.io/hosts.toml", "certs.d/ghcr.io/hosts.toml"] == list(found)
    assert f"capabilities = {capabilities}" in found["certs.d/docker.io/hosts.toml"]


def test_docker_containerd_store_before_28() -> None:
    """An older one does not: it gets registry-mirrors, and has no strict form."""
    old = wish(store=ImageStore.CONTAINERD, version=(26, 1, 5))
    assert ["daemon.json"] == list(texts(docker.plan(old)))
    with pytest.raises(NoStrictForm):
        docker.plan(replace(old, fall=Fall.NONE))


@pytest.mark.parametrize(
    "mirror", [replace(NODE, registries=("ghcr.io",)), replace(NODE, default="ghcr.io"), replace(NODE, default=None)]
)
def test_docker_needs_docker_hub(mirror: Mirror) -> None:
    """It names no registry: a mirror that takes its names for another one's would serve the wrong images."""
    with pytest.raises(Refused, match=r"docker\.io"):
        docker.plan(wish(mirror))


@pytest.mark.parametrize("plan", [docker.plan, docker.desktop, buildkit.plan])
def test_no_strict_form(plan: Any) -> None:
    """A client without a strict form says so, and what to do instead."""
    with pytest.raises(NoStrictForm) as caught:
        plan(wish(fall=Fall.NONE))
    assert len(caught.value.instead) > 2


# --- podman, BuildKit, k3s -------------------------------------------------------------------------------------------


def test_podman() -> None:
    """clients.md section 6.1: a mirror beside the real place, or the mirror in its place."""
    one = replace(NODE, registries=("ghcr.io",))
    ordinary = tomllib.loads(texts(podman.plan(wish(one)))[podman.DROP_IN])
    strict = tomllib.loads(texts(podman.plan(wish(one, Fall.NONE)))[podman.DROP_IN])
    mirror = {"location": "127.0.0.1:5000/ghcr.io", "insecure": True}
    assert {"registry": [{"prefix": "ghcr.io", "location": "ghcr.io", "mirror": [mirror]}]} == ordinary
    assert {"registry": [{"prefix": "ghcr.io", **mirror}]} == strict


def test_buildkit() -> None:
    """clients.md section 5: how the mirror is spoken to stands in the mirror's own block."""
    one = replace(NODE, registries=("docker.io",))
    assert {
        "registry": {"docker.io": {"mirrors": ["127.0.0.1:5000/docker.io"]}, "127.0.0.1:5000": {"http": True}}
    } == tomllib.loads(texts(buildkit.plan(wish(one)))[buildkit.FILE])
    assert {"ca": ["/etc/ssl/ca.pem"]} == tomllib.loads(buildkit.render(LAN))["registry"]["mirror.example.com"]


@pytest.mark.parametrize("render", [buildkit.render, lambda mirror: podman.render(mirror, Fall.OPEN)])
def test_no_form_for_every_registry(render: Any) -> None:
    """Where a client knows no wildcard, '*' is refused."""
    with pytest.raises(Refused, match="--registry"):
        render(replace(NODE, registries=("*",)))


def test_k3s() -> None:
    """clients.md section 7: endpoints by registry, the switch against the real ones in a file of its own."""
    plan = k3s.plan_for("k3s")(wish(replace(LAN, registries=("*", "docker.io")), Fall.NONE))
    assert {
        "registries.yaml": (
            'mirrors:\n  "*":\n    endpoint:\n      - "https://mirror.example.com"\n'
            '  "docker.io":\n    endpoint:\n      - "https://mirror.example.com"\n'
            'configs:\n  "mirror.example.com":\n    tls:\n      ca_file: "/etc/ssl/ca.pem"\n'
        ),
        "config.yaml.d/50-iarproxy.yaml": "disable-default-registry-endpoint: true\n",
    } == texts(plan)


# --- clusters --------------------------------------------------------------------------------------------------------


def test_kind() -> None:
    """Nodes get the folder mounted; before kind 0.27 they are told to read it."""
    new = texts(machines.kind(wish(version=(0, 30))))
    assert f'      - hostPath: "{ETC}/certs.d"\n        containerPath: "/etc/containerd/certs.d"\n' in new["kind.yaml"]
    assert "containerdConfigPatches" not in new["kind.yaml"]
    assert "containerdConfigPatches" in texts(machines.kind(wish()))["kind.yaml"]
    assert 'server = "https://ghcr.io"' in new["certs.d/ghcr.io/hosts.toml"]


def test_minikube(tmp_path: Path) -> None:
    """What minikube copies into its node names the authority by its path there."""
    authority = CertificateAuthority(tmp_path).path
    found = texts(machines.minikube(wish(replace(LAN, ca=authority), Fall.NONE)))
    assert 'ca = "/etc/iarproxy-ca.pem"' in found["etc/containerd/certs.d/docker.io/hosts.toml"]
    assert authority.read_text() == found["etc/iarproxy-ca.pem"]
    assert 'location = "mirror.example.com/docker.io"' in found[f"etc/containers/{podman.DROP_IN}"]


def test_talos() -> None:
    """`skipFallback` is Talos' strict form."""
    found = texts(kubernetes.talos(wish(replace(NODE, registries=("*",)), Fall.NONE)))
    assert (
        'apiVersion: v1alpha1\nkind: RegistryMirrorConfig\nname: "*"\nendpoints:\n'
        '  - url: "http://127.0.0.1:5000"\nskipFallback: true\n'
    ) == found[kubernetes.TALOS_FILE]


def test_the_daemon_set_is_as_small_as_it_can_be() -> None:
    """One folder of the node, no capability, no token, no privilege."""
    text = kubernetes.manifest(wish())
    for line in (
        "automountServiceAccountToken: false",
        "allowPrivilegeEscalation: false",
        "readOnlyRootFilesystem: true",
        "capabilities: {drop: [ALL]}",
        "seccompProfile: {type: RuntimeDefault}",
        "hostPath: {path: /etc/containerd/certs.d, type: DirectoryOrCreate}",
    ):
        assert 1 == text.count(line)
    for word in ("privileged: true", "hostNetwork", "hostPID", "ServiceAccount\n", "ClusterRole"):
        assert word not in text


def test_what_the_daemon_set_does(tmp_path: Path) -> None:
    """Its script writes what is wanted, follows a change, leaves files of others; undo takes back ours alone."""
    wanted, certs = tmp_path / "wanted", tmp_path / "certs.d"
    theirs = certs / "ghcr.io/hosts.toml"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("# mine\n")
    wanted.mkdir()
    for name in ("docker.io", "ghcr.io"):
        (wanted / f"{name}.toml").write_text(hosts_toml.render(name, NODE, Fall.NONE, ca=None))
    ours = certs / "docker.io/hosts.toml"
    _run_until(_script(kubernetes.manifest(wish()), tmp_path), ours.exists)
    assert (wanted / "docker.io.toml").read_text() == ours.read_text()
    (wanted / "docker.io.toml").write_text(f"{MARK}\n# other\n")
    _run_until(_script(kubernetes.manifest(wish()), tmp_path), lambda: "# other" in ours.read_text())
    _run_until(_script(kubernetes.undo_manifest(wish()), tmp_path), lambda: not ours.parent.exists())
    assert "# mine\n" == theirs.read_text()


def _script(manifest: str, folder: Path) -> str:
    """The shell text of the DaemonSet, with the node's folders elsewhere."""
    block = manifest.split("            - |\n")[1].split("          resources:", maxsplit=1)[0]
    text = "\n".join(line[14:] for line in block.splitlines())
    return text.replace("/wanted", f"{folder}/wanted").replace("/certs.d", f"{folder}/certs.d")


def _run_until(script: str, happened: Any) -> None:
    with subprocess.Popen(["sh", "-c", script], stdout=subprocess.DEVNULL, start_new_session=True) as shell:
        try:
            deadline = time.monotonic() + 30
            while not happened():
                assert time.monotonic() < deadline
                time.sleep(0.02)
        finally:
            os.killpg(shell.pid, 9)


# --- the address -----------------------------------------------------------------------------------------------------


def config(**server: Any) -> Any:
    return parse({"server": server, "store": {"path": "/s"}}, None)


@pytest.mark.parametrize(
    ("client", "listen", "url"),
    [
        ("containerd", ["127.0.0.1:5000"], "http://127.0.0.1:5000"),
        ("containerd", ["unix:/run/x", "0.0.0.0:5005"], "http://127.0.0.1:5005"),
        ("docker-desktop", ["127.0.0.1:5005"], "http://host.docker.internal:5005"),
        ("minikube", ["0.0.0.0:5005"], "http://host.minikube.internal:5005"),
        ("kubernetes", ["127.0.0.1:5000", "10.1.2.3:5005"], "http://10.1.2.3:5005"),
    ],
)
def test_address(client: str, listen: list[str], url: str) -> None:
    """The address is the listener's, named as the client can reach it."""
    found = addressing.mirror(config(listen=listen), CLIENTS[client], None, None, ())
    assert (url, True) == (found.url, "docker.io" in found.registries)


def test_where_this_machine_asks() -> None:
    """A name that only a virtual machine knows stands for our own listener; any other address is asked as it is."""
    settings = config(listen=["0.0.0.0:5005"])
    desktop = addressing.mirror(settings, CLIENTS["docker-desktop"], None, None, ())
    assert "http://127.0.0.1:5005" == addressing.local_url(settings, desktop)
    assert "http://10.0.0.1:5005" == addressing.local_url(settings, replace(desktop, authority="10.0.0.1:5005"))


def test_address_of_a_bound_listener() -> None:
    """A listener that serves one upstream alone is not given to clients of all."""
    settings = config(listen=["127.0.0.1:5003", "127.0.0.1:5000"], bind={"127.0.0.1:5003": "quay.io"})
    assert "127.0.0.1:5000" == addressing.mirror(settings, CLIENTS["containerd"], None, None, ()).authority


def test_address_that_nobody_reaches() -> None:
    """Nodes of a cluster do not reach this machine's loopback."""
    with pytest.raises(Refused, match="--url"):
        addressing.mirror(config(), CLIENTS["kubernetes"], None, None, ())


@pytest.mark.parametrize(
    ("written", "url"),
    [
        ("mirror:5000", "http://mirror:5000"),
        ("https://m.example.com/", "https://m.example.com"),
        ("[::1]:5", "http://[::1]:5"),
    ],
)
def test_address_as_written(written: str, url: str) -> None:
    """HOST:PORT and URLs are both taken."""
    assert url == addressing.mirror(config(), CLIENTS["podman"], written, None, ()).url


@pytest.mark.parametrize("written", ["http://m/path", "ftp://m", "user:pw@m:5000", "m:5000?x", ""])
def test_no_address(written: str) -> None:
    """Anything else is refused with what to write; a password in it is not taken."""
    with pytest.raises(Refused):
        addressing.mirror(config(), CLIENTS["podman"], written or " ", None, ())


def test_unknown_registry() -> None:
    """A registry without an upstream is refused, with those there are."""
    with pytest.raises(Refused, match=r"gcr\.io is not mirrored here"):
        addressing.mirror(config(), CLIENTS["podman"], None, None, ["gcr.io"])


def test_every_client_plans() -> None:
    """Each client makes a plan whose files lie below its folder or beside it, and says what to do then."""
    for client in CLIENTS.values():
        plan = client.plan(wish())
        assert plan.changes
        assert plan.then
        assert all(str(each.path).startswith(str(ETC)) for each in plan.changes), client.name
