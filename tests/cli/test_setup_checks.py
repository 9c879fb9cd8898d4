"""`iarproxy setup --check` without the real programs: what files say, what the mirror says, what follows from both."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iarproxy.cli.setup import buildkit, checking, containerd, docker, hosts_toml, k3s, podman, probing, writing
from iarproxy.cli.setup.checking import Arrival, Held, Report, Verdict
from iarproxy.cli.setup.clients import CLIENTS, Person
from iarproxy.cli.setup.plan import Fall, Finding, ImageStore, Mirror, NoStrictForm, Weight, Wish, parse_version
from iarproxy.cli.setup.probing import Style
from iarproxy.cli.setup.pulling import pullers
from iarproxy.errors import Unavailable
from iarproxy.server.listeners import usual_holder

MIRROR = Mirror("http", "127.0.0.1:5000", None, ("docker.io",))
HOST = '[host."http://127.0.0.1:5000"]\n'
WORDS = 'capabilities = ["pull", "resolve"]\n'
STRICT = 'server = "http://127.0.0.1:5000"\n'
OLD, NEW = (1, 6, 20), (2, 2)


def weights(found: list[Finding]) -> list[Weight]:
    return [each.weight for each in found]


# --- what files say: clients.md sections 3.1, 3.2, 4.1, 5, 6.1 -------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "version", "weight", "words"),
    [
        (STRICT + HOST + WORDS, OLD, [], ""),
        (STRICT + HOST, OLD, [], ""),
        ('server = "http://localhost:5000"\n[host."http://localhost:5000/v2"]\n', OLD, [], ""),
        (HOST + WORDS, OLD, [Weight.OPEN], "no `server` is written"),
        (
            'server = "https://registry-1.docker.io"\n' + HOST,
            OLD,
            [Weight.OPEN],
            "asked of https://registry-1.docker.io next",
        ),
        ('server = "https://r"\ncapabilities = ["push"]\n' + HOST, OLD, [Weight.NOTE], "tags are resolved here alone"),
        (STRICT, OLD, [Weight.WRONG], "ignores that and asks the real registry"),
        (STRICT, (1, 7, 24), [Weight.WRONG], "before 1.7.34"),
        (STRICT, (2, 0), [], ""),
        (STRICT, None, [Weight.NOTE], "before 1.7.34"),
        ("[host", OLD, [Weight.WRONG], "ignores it silently"),
        ("", OLD, [Weight.WRONG], "names no [host]"),
        (STRICT + HOST + 'capabilities = ["pull", "resolv"]\n', NEW, [Weight.WRONG], "'resolv' is unknown"),
        (
            STRICT + HOST + 'capabilities = ["pull", "resolve", "referrers"]\n',
            OLD,
            [Weight.WRONG],
            "'referrers' is new",
        ),
        (STRICT + HOST + 'capabilities = ["pull", "resolve", "referrers"]\n', NEW, [], ""),
        (STRICT + HOST + 'capabilities = ["resolve"]\n', OLD, [Weight.WRONG], "lacks the capability 'pull'"),
        (STRICT + HOST + 'capabilities = ["pull"]\n', OLD, [], ""),
        (HOST + 'capabilities = ["pull"]\n', OLD, [Weight.OPEN, Weight.OPEN], "tags are resolved elsewhere"),
        (STRICT + '[host."http://127.0.0.1:5001"]\n', OLD, [Weight.NOTE, Weight.OPEN], "after the others"),
        (
            'server = "https://r"\n[host."https://127.0.0.1:5000"]\n',
            OLD,
            [Weight.WRONG, Weight.OPEN],
            "names no [host]",
        ),
        (STRICT + '[host."http://other"]\n' + HOST, OLD, [Weight.NOTE, Weight.OPEN], "http://other is asked before"),
        ("host = 1\n", OLD, [Weight.WRONG], "names no [host]"),
        ('host = {"http://127.0.0.1:5000" = 1}\n', OLD, [Weight.WRONG], "not the form"),
    ],
)
def test_hosts_toml(text: str, version: Any, weight: list[Weight], words: str, tmp_path: Path) -> None:
    """Each trap of the file is found, by version; what is right is not complained of."""
    (tmp_path / "docker.io").mkdir()
    (tmp_path / "docker.io/hosts.toml").write_text(text)
    found = hosts_toml.judge(tmp_path, "docker.io", MIRROR, version, hosts_toml.CONTAINERD)
    assert weight == weights(found), found
    assert any(words in each.text for each in found) or not words


@pytest.mark.parametrize(
    ("version", "weight"), [(OLD, [Weight.WRONG]), ((1, 7, 24), [Weight.WRONG]), (None, [Weight.NOTE]), ((2, 1), [])]
)
def test_an_ipv6_address_in_hosts_toml(version: Any, weight: list[Weight], tmp_path: Path) -> None:
    """Before 2.0 containerd ignores such a file without an error, and asks the real registry."""
    mirror = replace(MIRROR, authority="[::1]:5000")
    (tmp_path / "docker.io").mkdir()
    (tmp_path / "docker.io/hosts.toml").write_text((STRICT + HOST + WORDS).replace("127.0.0.1", "[::1]"))
    assert weight == weights(hosts_toml.judge(tmp_path, "docker.io", mirror, version, hosts_toml.CONTAINERD))


def test_folders_beside_the_default(tmp_path: Path) -> None:
    """What `_default` says does not count for a registry with a folder of its own, even an empty one: that is told."""
    for name in ("_default", "ghcr.io", "docker.io"):
        (tmp_path / name).mkdir()
    (tmp_path / "_default/hosts.toml").write_text(STRICT + HOST + WORDS)
    found = hosts_toml.judge(tmp_path, "*", MIRROR, OLD, hosts_toml.CONTAINERD)
    told = [each.text.split(",")[0] for each in found if each.weight is Weight.NOTE]
    assert ["does not count for docker.io", "does not count for ghcr.io"] == told


def test_which_hosts_toml_is_read(tmp_path: Path) -> None:
    """The first folder that exists is read and no other: one without the file hides `_default`."""
    names = ["m.example.com_5_", "m.example.com:5", "_default"]
    for name in reversed(names):
        (tmp_path / name).mkdir()
        assert tmp_path / name == hosts_toml.find(tmp_path, "m.example.com:5")
    (tmp_path / "_default/hosts.toml").write_text(STRICT + HOST)
    found = hosts_toml.judge(tmp_path, "m.example.com:5", MIRROR, NEW, hosts_toml.CONTAINERD)
    assert [(Weight.WRONG, str(tmp_path / names[0]))] == [(each.weight, each.where) for each in found]


@pytest.mark.parametrize(
    ("text", "version", "words"),
    [
        (None, OLD, "no config_path"),
        (None, NEW, "is a list"),
        ("version = 2\n", OLD, "no config_path"),
        ('version = 3\n[plugins."io.containerd.cri.v1.images".registry]\nconfig_path = "ROOT"\n', NEW, ""),
        ('version = 2\n[plugins."io.containerd.grpc.v1.cri".registry]\nconfig_path = "ROOT"\n', OLD, ""),
        ('version = 3\n[plugins."io.containerd.cri.v1.images".registry]\nconfig_path = "ROOT:/x"\n', NEW, "is a list"),
        ('version = 2\n[plugins."io.containerd.grpc.v1.cri".registry]\nconfig_path = "/x"\n', OLD, "not "),
        ('version = 2\n[plugins."io.containerd.grpc.v1.cri".registry.mirrors.x]\n', OLD, "the old form"),
        ('disabled_plugins = ["io.containerd.grpc.v1.cri"]\n', OLD, "CRI is switched off"),
        ("= 1", OLD, "cannot be read"),
    ],
)
def test_config_path(text: str | None, version: Any, words: str, tmp_path: Path) -> None:
    """Where CRI would not read the files, that is found: nothing set, a list, another folder, the old form."""
    config = tmp_path / "config.toml"
    if text is not None:
        config.write_text(text.replace("ROOT", str(tmp_path)))
    (tmp_path / "docker.io").mkdir()
    (tmp_path / "docker.io/hosts.toml").write_text(STRICT + HOST)
    found = containerd.inspect(Wish(MIRROR, tmp_path, config_file=config, version=version))
    assert ([words] if words else []) == [word for word in [words] for each in found if word in each.text]
    assert bool(words) == bool(found)


def test_daemon_json(tmp_path: Path) -> None:
    """A mirror that is not there, comes second, or stands beside hosts.toml is found; openness is always said."""
    wish, file = Wish(replace(MIRROR, registries=("docker.io", "ghcr.io")), tmp_path), tmp_path / "daemon.json"
    assert [Weight.WRONG, Weight.OPEN] == weights(docker.inspect(wish))
    file.write_text('{"registry-mirrors": ["https://other", "http://127.0.0.1:5000/"]}')
    texts = [each.text for each in docker.inspect(wish)]
    assert any("https://other is asked before" in each for each in texts)
    assert any("ghcr.io are asked directly" in each for each in texts)
    told = docker.inspect(replace(wish, mirrors=()))
    assert any("the daemon has not read it yet" in each.text for each in told)
    beside = docker.inspect(replace(wish, store=ImageStore.CONTAINERD, version=(28, 5)))
    assert any("has registry-mirrors beside hosts.toml" in each.text for each in beside)
    file.write_text("{}")  # a flag of the daemon tells it
    by_flag = docker.inspect(Wish(MIRROR, tmp_path, mirrors=("http://127.0.0.1:5000",)))
    assert [Weight.OPEN] == weights(by_flag)
    file.write_text("{")
    assert [Weight.WRONG] == weights(docker.inspect(wish))


REMAP = '[[registry]]\nprefix = "docker.io"\nlocation = "127.0.0.1:5000/docker.io"\ninsecure = true\n'
BESIDE = '[[registry.mirror]]\nlocation = "127.0.0.1:5000/docker.io"\ninsecure = true\n'


@pytest.mark.parametrize(
    ("text", "weight"),
    [
        (REMAP, []),
        ('[[registry]]\nlocation = "docker.io"\nblocked = true\n' + BESIDE, []),
        ('[[registry]]\nlocation = "docker.io"\n' + BESIDE, [Weight.OPEN]),
        (REMAP.replace("insecure = true\n", ""), [Weight.WRONG]),
        ('[[registry]]\nlocation = "docker.io"\n', [Weight.WRONG]),
        ('[[registry]]\nprefix = "*.io"\nlocation = "x"\n' + REMAP, []),
        (REMAP + '[[registry]]\nprefix = "docker.io/library"\nlocation = "docker.io/library"\n', [Weight.WRONG]),
        (REMAP + '[[registry]]\nprefix = "docker.io/corp"\nlocation = "corp"\n', [Weight.NOTE]),
        ('unqualified-search-registries = ["docker.io"]\n', [Weight.WRONG]),
        ("[", [Weight.WRONG]),
    ],
)
def test_registries_conf(text: str, weight: list[Weight], tmp_path: Path) -> None:
    """The longest prefix counts; a remap or a blocked primary is strict, a mirror beside the primary is not."""
    (tmp_path / "registries.conf").write_text(text)
    assert weight == weights(podman.inspect(Wish(MIRROR, tmp_path), {}))


def test_which_registries_conf_is_read(tmp_path: Path) -> None:
    """The environment's file stands for the main one; drop-ins come after it, by name, the user's last."""
    main, system, own = tmp_path / "named.conf", tmp_path / "etc", tmp_path / "own"
    main.write_text(REMAP)
    for folder in (system, own):
        (folder / "registries.conf.d").mkdir(parents=True)
    environment = {"CONTAINERS_REGISTRIES_CONF": str(main)}
    assert [] == podman.inspect(Wish(MIRROR, system), environment, (own,))
    (system / "registries.conf.d/90.conf").write_text('[[registry]]\nlocation = "docker.io"\n')
    assert [Weight.WRONG] == weights(podman.inspect(Wish(MIRROR, system), environment, (own,)))
    (own / "registries.conf.d/10.conf").write_text(REMAP)
    assert [] == podman.inspect(Wish(MIRROR, system), environment, (own,))


@pytest.mark.parametrize(
    ("text", "weight"),
    [
        ('[registry."docker.io"]\nmirrors = ["m:5000/docker.io"]\n[registry."m:5000"]\nhttp = true\n', [Weight.OPEN]),
        (
            '[registry."docker.io"]\nmirrors = ["m:5000/docker.io"]\nhttp = true\n',
            [Weight.OPEN, Weight.WRONG, Weight.WRONG],
        ),
        (
            '[registry."docker.io"]\nmirrors = ["n", "m:5000"]\n[registry."m:5000"]\nhttp = true\n',
            [Weight.OPEN, Weight.NOTE],
        ),
        ('[registry."m:5000"]\nhttp = true\n', [Weight.WRONG]),
        ("[", [Weight.WRONG]),
    ],
)
def test_buildkitd_toml(text: str, weight: list[Weight], tmp_path: Path) -> None:
    """Transport options in the registry's block change the way to the real registry, not to us."""
    (tmp_path / "buildkitd.toml").write_text(text)
    assert weight == weights(buildkit.inspect(Wish(replace(MIRROR, authority="m:5000"), tmp_path)))


def test_registries_yaml(tmp_path: Path) -> None:
    """YAML is not read: that is said, and so is a switch that is missing."""
    inspect = k3s.inspect_for("k3s")
    assert Weight.WRONG in weights(inspect(Wish(MIRROR, tmp_path)))
    (tmp_path / "registries.yaml").touch()
    assert [Weight.NOTE, Weight.OPEN] == weights(inspect(Wish(MIRROR, tmp_path)))


def test_nothing_is_said_of_what_we_write(tmp_path: Path) -> None:
    """For each client the strict form, or where there is none the ordinary one, has nothing wrong by its own reader."""
    for client in CLIENTS.values():
        person, folder = Person(is_root=True, home=tmp_path, environment={}), tmp_path / client.name
        wish = Wish(replace(MIRROR, authority="10.0.0.1:5000"), folder, Fall.NONE, version=NEW)
        try:
            plan = client.plan(wish)
        except NoStrictForm:
            plan = client.plan(wish := replace(wish, fall=Fall.OPEN))
        writing.write(plan.changes)
        assert Weight.WRONG not in weights(client.inspect(wish, person)), client.name


KEYS = ["server", "host", "capabilities", "registry", "mirror", "mirrors", "prefix", "location", "insecure", "blocked"]
KEYS += ["plugins", "io.containerd.grpc.v1.cri", "config_path", "version", "disabled_plugins", "registry-mirrors"]
KEYS += ["docker.io", "http://127.0.0.1:5000", "127.0.0.1:5000", "http"]
names = st.sampled_from(KEYS)
shapes = st.recursive(
    st.booleans() | st.integers(0, 4) | names | st.sampled_from(["http://[", "http://m:99999", ""]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(names, inner, max_size=3),
    max_leaves=10,
)


def spelled(value: Any) -> str:
    """A value in TOML."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {spelled(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(spelled, value)) + "]"
    return json.dumps(value)


@given(document=st.dictionaries(names, shapes, max_size=5))
def test_files_of_any_shape(tmp_path_factory: pytest.TempPathFactory, document: dict[str, Any]) -> None:
    """A file that parses and means nothing is told of; no shape of it ends the check."""
    folder = tmp_path_factory.mktemp("shapes")
    text = "".join(f"{json.dumps(key)} = {spelled(value)}\n" for key, value in document.items())
    (folder / "docker.io").mkdir()
    for name in ("docker.io/hosts.toml", "registries.conf", "buildkitd.toml", "config.toml"):
        (folder / name).write_text(text)
    (folder / "daemon.json").write_text(json.dumps(document))
    wish = Wish(MIRROR, folder, config_file=folder / "config.toml", version=NEW)
    for inspect in (containerd.inspect, docker.inspect, buildkit.inspect, lambda each: podman.inspect(each, {})):
        assert isinstance(inspect(wish), list)


# --- who answers at the address --------------------------------------------------------------------------------------


@contextmanager
def answering(status: int, headers: dict[str, str], body: bytes = b"") -> Iterator[str]:
    """Some other program on a port; its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response_only(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("status", "headers", "body", "words"),
    [
        (403, {"Server": "AirTunes/690.7.1"}, b"", "AirPlay Receiver"),
        (404, {"Server": "nginx"}, b"", "calls itself nginx"),
        (
            404,
            {},
            b'{"errors":[{"message":"ns=x is not one of the configured upstreams"}]}',
            "does not serve docker.io",
        ),
        (200, {"Docker-Content-Digest": "sha256:0"}, b"{}", "no iarproxy that knows the check"),
    ],
)
def test_another_program(status: int, headers: dict[str, str], body: bytes, words: str) -> None:
    """Whoever else answers is named as far as it can be."""
    with answering(status, headers, body) as url, pytest.raises(Unavailable, match=words):
        probing.ask(url, MIRROR, "docker.io", "aaaaaaaa", Style.NS)


def test_nobody() -> None:
    """A port where nothing listens, and one where TLS is not spoken."""
    with pytest.raises(Unavailable, match="nothing answers"):
        probing.ask("http://127.0.0.1:9", MIRROR, "docker.io", "aaaaaaaa", Style.PREFIX)
    with answering(200, {}) as url, pytest.raises(Unavailable, match="--ca-file"):
        probing.ask(url.replace("http", "https"), MIRROR, "docker.io", "aaaaaaaa", Style.PLAIN)


@pytest.mark.parametrize(
    ("address", "system", "word"),
    [("127.0.0.1:5000", "darwin", "AirPlay"), ("127.0.0.1:5000", "linux", ""), ("127.0.0.1:5001", "linux", "kind's")],
)
def test_who_usually_takes_a_port(address: str, system: str, word: str) -> None:
    """`serve` names who is known to take its port: AirPlay on macOS, kind's example registry."""
    assert word in usual_holder(address, system)
    assert bool(word) == bool(usual_holder(address, system))


# --- what a client did -----------------------------------------------------------------------------------------------

DIGEST = "sha256:" + "a" * 64
PROMISED = probing.Promised(frozenset({DIGEST}), stops=False)


@pytest.fixture
def scripted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Put a `ctr` on the path that does what a script says; `$1` is `pass` or `deny`."""

    def put(script: str) -> None:
        text = '#!/bin/sh\ncase "$*" in *" list "*) echo "ref type $DIGEST ok"; exit;;'
        text += " *:pass-*) set pass;; *:deny-*) set deny;; *) exit 0;; esac"
        (tmp_path / "ctr").write_text(f"{text}\n{script}\n")
        (tmp_path / "ctr").chmod(0o755)

    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("DIGEST", DIGEST)
    return put


@pytest.mark.parametrize(
    ("script", "findings", "stops", "expected"),
    [
        ('[ $1 = pass ] || { echo "ctr: 403 Forbidden" >&2; exit 1; }', [], False, (Arrival.PROVEN, Held.HELD)),
        ("exit 0", [], False, (Arrival.PROVEN, Held.BYPASSED)),
        (
            '[ $1 = pass ] || { echo "403 Forbidden" >&2; exit 1; }',
            [Weight.OPEN],
            False,
            (Arrival.PROVEN, Held.BYPASSED),
        ),
        ('[ $1 = pass ] || { echo "403 Forbidden" >&2; exit 1; }', [Weight.OPEN], True, (Arrival.PROVEN, Held.HELD)),
        (
            '[ $1 = pass ] || { echo "Head https://registry-1.docker.io/v2/: EOF" >&2; exit 1; }',
            [],
            False,
            (Arrival.PROVEN, Held.BYPASSED),
        ),
        (
            '[ $1 = pass ] || { echo "media type application/vnd.iarproxy.refused.v1.check" >&2; exit 1; }',
            [Weight.OPEN],
            True,
            (Arrival.PROVEN, Held.HELD),
        ),
        (
            '[ $1 = pass ] || { echo "media type application/vnd.iarproxy.refused.v1.check" >&2; exit 1; }',
            [Weight.OPEN],
            False,
            (Arrival.PROVEN, Held.BYPASSED),
        ),
        ('echo "Get https://auth.docker.io/token: EOF" >&2; exit 1', [], False, (Arrival.ELSEWHERE, None)),
        ("exit 1", [], False, (Arrival.FAILED, None)),
    ],
)
def test_what_a_client_did(
    script: str, findings: list[Weight], *, stops: bool, expected: Any, scripted: Any, tmp_path: Path
) -> None:
    """Success and failure, what an error names, and what the files allow make one judgement."""
    scripted(script)
    (puller,) = pullers(["ctr"], Wish(MIRROR, tmp_path), [], tmp_path, rooted=False)
    told = [Finding(each, "hosts.toml", "open", "docker.io") for each in findings]
    proof = checking.prove(puller, "docker.io", "aaaaaaaa", replace(PROMISED, stops=stops), told)
    assert expected == (proof.arrival, proof.held), proof


def test_another_mirrors_image(scripted: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pull that works, but of an image that this mirror did not make, went elsewhere."""
    monkeypatch.setenv("DIGEST", f"sha256:{'b' * 64}")
    scripted("exit 0")
    (puller,) = pullers(["ctr"], Wish(MIRROR, tmp_path), [], tmp_path, rooted=False)
    proof = checking.prove(puller, "docker.io", "aaaaaaaa", PROMISED, [])
    assert (Arrival.ELSEWHERE, None) == (proof.arrival, proof.held)


def test_the_reference_is_no_sign_of_the_registry(scripted: Any, tmp_path: Path) -> None:
    """The name of what was pulled names the registry too, in all the spellings that clients use."""
    name = "//ghcr.io/library/iarproxy-check:deny-aaaaaaaa"
    said = f"copying docker:{name}, {name}: 403"
    scripted(f'[ $1 = pass ] || {{ echo "{said}" >&2; exit 1; }}')
    (puller,) = pullers(["ctr"], Wish(MIRROR, tmp_path), [], tmp_path, rooted=False)
    assert Held.HELD is checking.prove(puller, "ghcr.io", "aaaaaaaa", PROMISED, []).held
    scripted('[ $1 = pass ] || { echo "pinging container registry ghcr.io: EOF" >&2; exit 1; }')
    assert Held.BYPASSED is checking.prove(puller, "ghcr.io", "aaaaaaaa", PROMISED, []).held


PROOF = checking.Proof("ctr", "docker.io", Arrival.PROVEN, Held.HELD, "")


@pytest.mark.parametrize(
    ("report", "verdict"),
    [
        (Report((), (PROOF,)), Verdict.PROVEN),
        (Report((Finding(Weight.NOTE, "x", "y"),), (PROOF,)), Verdict.PROVEN),
        (Report((Finding(Weight.WRONG, "x", "y"),), (PROOF,)), Verdict.WRONG),
        (Report((), (PROOF, replace(PROOF, held=Held.BYPASSED))), Verdict.BYPASSED),
        (Report((), (PROOF, replace(PROOF, arrival=Arrival.FAILED, held=None))), Verdict.WRONG),
        (Report((), (), ("no ctr",)), Verdict.UNPROVEN),
        (Report((), (PROOF,), ("no crictl",)), Verdict.PROVEN),
        (Report(()), Verdict.UNPROVEN),
    ],
)
def test_verdict(report: Report, verdict: Verdict) -> None:
    """The worst counts; what was not tried is not proven."""
    assert verdict is report.verdict


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1", (1, 6, 20)),
        ("Docker version 28.5.2+dfsg3, build ecc6942", (28, 5, 2)),
        ("kind v0.27.0 go1.23", (0, 27, 0)),
        ("29.1", (29, 1)),
        ("none", None),
    ],
)
def test_versions(text: str, version: Any) -> None:
    """Versions are read as programs print them."""
    assert version == parse_version(text)


# --- the command -----------------------------------------------------------------------------------------------------


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {"HOME": str(folder), "PATH": os.environ["PATH"]}
    command = [sys.executable, "-m", "iarproxy", "setup", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)


def test_the_list_of_clients(tmp_path: Path) -> None:
    """Without a client it lists them, a line each."""
    listed = run(tmp_path)
    assert (0, len(CLIENTS) + 1) == (listed.returncode, len(listed.stdout.splitlines()))
    assert list(CLIENTS) == list(json.loads(run(tmp_path, "--json").stdout)["clients"])


def test_print_write_undo(tmp_path: Path) -> None:
    """Printing changes nothing; writing says what it wrote and what to do; undo says what it took back."""
    words = ("k3s", "--root", str(tmp_path / "k3s"), "--url", "10.0.0.1:5000", "--strict")
    printed = run(tmp_path, *words)
    assert (0, False) == (printed.returncode, (tmp_path / "k3s").exists())
    assert '- "http://10.0.0.1:5000"' in printed.stdout
    assert "nothing was written; --write does it" in printed.stdout
    written = run(tmp_path, *words, "--write")
    assert f"{tmp_path}/k3s/registries.yaml: written" in written.stdout
    assert "then: systemctl restart k3s" in written.stdout
    assert "nothing to do" == run(tmp_path, *words, "--write").stdout.splitlines()[-1]
    assert 2 == run(tmp_path, "k3s", "--root", str(tmp_path / "k3s"), "--undo").stdout.count(": removed")
    assert not (tmp_path / "k3s").exists()
    assert "nothing to do" in run(tmp_path, "k3s", "--root", str(tmp_path / "k3s"), "--undo").stdout


def test_as_json(tmp_path: Path) -> None:
    """What is printed is there for scripts; of a merged file our part alone."""
    folder = tmp_path / "docker"
    folder.mkdir()
    (folder / "daemon.json").write_text('{"proxies": {"http-proxy": "http://u:hunter2@p"}}')
    told = run(tmp_path, "docker", "--store", "classic", "--root", str(folder), "--json", "--write")
    assert "hunter2" not in told.stdout
    document = json.loads(told.stdout)
    assert (False, "changed", True) == (
        document["strict"],
        document["files"][0]["written"],
        document["files"][0]["merge"],
    )


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["nothing"], 2, "no client 'nothing'; there are containerd"),
        (["podman", "--write", "--undo"], 2, "give one"),
        (["podman", "--push"], 2, "--push goes with --strict"),
        (["podman", "--registry", "gcr.io"], 1, "gcr.io is not mirrored here"),
        (["buildkit", "--strict"], 1, "BuildKit has no strict form"),
        (["kubernetes"], 1, "--url"),
        (["podman", "--ca-file", "x"], 1, "--ca-file goes with https"),
        (["containerd", "--client-version", "new"], 2, "'new' is no version"),
        (["podman", "--url", "http://[::1]:5000"], 1, "give --url a name"),
        (["cri-o", "--strict", "--url", "http://[::1]:5000"], 1, "give --url a name"),
        (["containerd", "--client-version", "1.7.24", "--url", "http://[::1]:5000"], 1, "before 2.0 ignores a file"),
        *(
            (["containerd", "--check", "--url", each], 1, "no such host or port")
            for each in ("h:0", "h:65536", "https://..", "http://.", "http://[:::::]:1", f"{'a' * 64}:1")
        ),
    ],
)
def test_refusals(words: list[str], code: int, said: str, tmp_path: Path) -> None:
    """Each is one line that says what to do."""
    ended = run(tmp_path, *words)
    assert (code, 1) == (ended.returncode, len(ended.stderr.strip().splitlines())), ended
    assert said in ended.stderr


@pytest.mark.timeout(30)
@pytest.mark.parametrize("client", ["containerd", "nerdctl", "podman", "docker", "k3s", "buildkit"])
@pytest.mark.parametrize("shape", ["missing", "pipe", "folder", "empty", "words", "device"])
def test_an_authority_that_is_none(client: str, shape: str, tmp_path: Path) -> None:
    """A client is not told of a file that it cannot use, whatever is at the path; nothing is written."""
    authority = Path("/dev/zero") if shape == "device" else tmp_path / "ca.crt"
    match shape:
        case "pipe":
            os.mkfifo(authority)
        case "folder":
            authority.mkdir()
        case "empty" | "words":
            authority.write_text("" if shape == "empty" else "a certificate")
    words = ("--url", "https://m:5443", "--ca-file", str(authority), "--root", str(tmp_path / "etc"), "--write")
    ended = run(tmp_path, client, *words)
    assert (1, 1) == (ended.returncode, len(ended.stderr.strip().splitlines())), ended
    assert "give --ca-file the certificate" in ended.stderr
    assert not (tmp_path / "etc").exists()


@pytest.mark.timeout(30)
def test_pipes_in_place_of_files(tmp_path: Path) -> None:
    """Neither writing nor checking waits for somebody to write into a pipe."""
    for path in ("docker.io/hosts.toml", "registries.conf.d/10-x.conf"):
        (tmp_path / path).parent.mkdir()
        os.mkfifo(tmp_path / path)
    written = run(tmp_path, "containerd", "--root", str(tmp_path), "--write")
    assert (1, True) == (written.returncode, "hosts.toml: is no file" in written.stderr)
    for client in ("containerd", "podman"):
        checked = run(tmp_path, client, "--root", str(tmp_path), "--url", "127.0.0.1:9", "--check")
        assert (4, True) == (checked.returncode, "   wrong  " in checked.stdout)


def test_a_client_without_a_live_check(tmp_path: Path) -> None:
    """With nothing at the address a check ends with 4; what the files say is told all the same."""
    words = ("buildkit", "--root", str(tmp_path), "--url", "127.0.0.1:9", "--check")
    ended = run(tmp_path, *words)
    assert 4 == ended.returncode
    assert "cannot be read" in ended.stdout
    assert "nothing answers" in ended.stderr
