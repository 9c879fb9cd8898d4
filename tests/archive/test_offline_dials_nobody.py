"""Offline is offline: under strace, in a network namespace without a route, a name server, or even lo up."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from airgap_world import UPSTREAM, Place, a_site, an_origin
from images import Published, small_image

APP = f"{UPSTREAM}/team/app"
_PATIENCE = 60.0  # seconds
_NETWORK = re.compile(r"\bAF_INET6?\b")
pytestmark = [pytest.mark.root, pytest.mark.real("strace", "unshare"), pytest.mark.xdist_group("real")]


class _Unix(http.client.HTTPConnection):
    """HTTP over a socket file, which a network namespace does not hide."""

    def __init__(self, path: Path) -> None:
        super().__init__("iarproxy", timeout=_PATIENCE)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_PATIENCE)
        self.sock.connect(str(self._path))


def _ask(path: Path, target: str, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
    connection = _Unix(path)
    try:
        connection.request(method, target)
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


@pytest.fixture
def site(tmp_path: Path) -> Place:
    """A site whose configuration does not say that it is offline, with names that resolve nowhere."""
    place = a_site(tmp_path / "site")
    text = place.config.read_text()
    for port, name in ((place.port, "registry"), (place.admin, "admin")):
        text = text.replace(f'"127.0.0.1:{port}"', f'"unix:{place.folder}/{name}.sock"')
    text = text.replace("http://127.0.0.1:9", "https://registry.example.com").replace("offline = true\n", "")
    place.config.write_text(text.replace('interval = "0s"', 'interval = "1s"'))  # the drift watch would be quick
    return place


@contextmanager
def _serving(site: Place, log: Path) -> Iterator[None]:
    command = ["unshare", "--net", *_traced(log), sys.executable, "-m", "iarproxy", "serve", "--offline"]
    with (site.folder / "serve.log").open("wb") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said, env=site.environment, start_new_session=True)
        try:
            _wait_ready(site, process)
            yield
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(_PATIENCE)
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait(_PATIENCE)


def _traced(log: Path) -> list[str]:
    return ["strace", "-f", "-qq", "-e", "trace=socket,connect", "-e", "signal=none", "-o", str(log)]


def _wait_ready(site: Place, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            status, _, body = _ask(site.folder / "admin.sock", "/readyz")
            if status == 200:
                assert json.loads(body)["offline"]
                return
        except OSError:
            pass
        assert process.poll() is None and time.monotonic() < deadline, (site.folder / "serve.log").read_text()  # noqa: PT018
        time.sleep(0.05)


def _dialled(log: Path) -> list[str]:
    """The calls that have to do with a network."""
    lines = log.read_text().splitlines()
    assert any("AF_UNIX" in line for line in lines), "strace saw nothing"
    return [line for line in lines if _NETWORK.search(line)]


def test_serving_dials_nobody(site: Place, tmp_path: Path) -> None:
    """`serve --offline` starts without a network and serves; what is missing is answered, all without a socket to any
    network: no upstream, no resolver, no drift watch.
    """
    image = small_image()
    site.sync("site-a", {f"{APP}:1": image})
    log = tmp_path / "strace.log"
    with _serving(site, log):
        _serves(site, image)
        _misses(site)
        metrics = _ask(site.folder / "admin.sock", "/metrics")[2]
        assert b"iarproxy_offline 1\n" in metrics
        time.sleep(2.5)  # the drift watch's interval, twice
    assert [] == _dialled(log)


def _serves(site: Place, image: Published) -> None:
    registry = site.folder / "registry.sock"
    for wanted in ("1", str(image.digest)):
        status, headers, raw = _ask(registry, f"/v2/team/app/manifests/{wanted}?ns={UPSTREAM}")
        assert (200, image.raw, None) == (status, raw, headers.get("Warning"))
    for digest, data in image.blobs.items():
        assert (200, data) == _ask(registry, f"/v2/team/app/blobs/{digest}?ns={UPSTREAM}")[::2]
    status, headers, raw = _ask(registry, f"/v2/team/app/tags/list?ns={UPSTREAM}")
    assert (200, ["1"], None) == (status, json.loads(raw)["tags"], headers.get("Warning"))
    status, _, raw = _ask(registry, f"/v2/team/app/referrers/{image.digest}?ns={UPSTREAM}")
    assert (200, []) == (status, json.loads(raw)["manifests"])


def _misses(site: Place) -> None:
    absent = f"sha256:{'0' * 64}"
    signature = f"sha256-{'0' * 64}.sig"
    for target, code in {
        "team/app/manifests/2": "MANIFEST_UNKNOWN",
        "team/none/manifests/2": "MANIFEST_UNKNOWN",
        f"team/app/manifests/{absent}": "MANIFEST_UNKNOWN",
        f"team/app/manifests/{signature}": "MANIFEST_UNKNOWN",
        f"team/app/blobs/{absent}": "BLOB_UNKNOWN",
        "team/none/tags/list": "NAME_UNKNOWN",
    }.items():
        started = time.monotonic()
        status, headers, raw = _ask(site.folder / "registry.sock", f"/v2/{target}?ns={UPSTREAM}")
        took = time.monotonic() - started
        (told,) = json.loads(raw)["errors"]
        assert (404, code, "offline") == (status, told["code"], told["detail"]["cause"])
        assert "no bundle was applied here yet" in told["message"]
        assert "Retry-After" not in headers
        assert took < 5, f"{target} took {took} s"  # upstreams' patience begins behind that
        assert 404 == _ask(site.folder / "registry.sock", f"/v2/{target}?ns={UPSTREAM}", "HEAD")[0]


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["pull", f"{APP}:1"], 0),
        (["pull", f"{APP}:2"], 4),
        (["drift", "check", f"{APP}:1"], 4),
        (["explain", f"{APP}:2"], 0),
    ],
    ids=["pull held", "pull missing", "drift", "explain"],
)
def test_commands_dial_nobody(site: Place, tmp_path: Path, words: list[str], code: int) -> None:
    """Where the configuration says offline no command asks an upstream, and what is missing is unavailable at once."""
    site.config.write_text(site.config.read_text().replace("[server]\n", "[server]\noffline = true\n"))
    site.sync("site-a", {f"{APP}:1": small_image()})
    ran, dialled = _ran(site, tmp_path / "strace.log", words)
    assert (code, []) == (ran.returncode, dialled), ran.stdout + ran.stderr


def test_taking_bundles_dials_nobody(tmp_path: Path) -> None:
    """`bundle inbox` verifies, applies and acknowledges without a network; at a site that is not even offline."""
    origin, site = an_origin(tmp_path / "origin"), a_site(tmp_path / "site")
    origin.done("keys", "create", "team")
    origin.sync("site-a", {f"{APP}:1": small_image()})
    key, one = origin.folder / "team.key", tmp_path / "in" / "one"
    one.parent.mkdir()
    origin.done("bundle", "create", "site-a", "--sets", origin.sets_file, "--key", key, "--full", "-o", one)
    text = site.config.read_text().replace("offline = true\n", "")
    watched = f'[inbox]\npath = "{one.parent}"\ntrust = ["{origin.folder}/team.pub"]\nsettle = "0s"\n'
    site.config.write_text(f'{text}{watched}receipts = "{tmp_path}/receipts"\n')
    ran, dialled = _ran(site, tmp_path / "strace.log", ["bundle", "inbox"])
    assert (0, []) == (ran.returncode, dialled), ran.stdout + ran.stderr
    assert [f"{APP}:1"] == list(site.pins())
    assert 1 == len(list((tmp_path / "receipts").iterdir()))


def test_what_is_online_dials(site: Place, tmp_path: Path) -> None:
    """The same without the setting is seen to look for the network: strace would have told."""
    ran, dialled = _ran(site, tmp_path / "strace.log", ["pull", f"{APP}:2"])
    assert (4, True) == (ran.returncode, bool(dialled)), ran.stdout + ran.stderr


def _ran(site: Place, log: Path, words: list[str]) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """A command without a network, and what it asked of one."""
    ran = subprocess.run(
        ["unshare", "--net", *_traced(log), sys.executable, "-m", "iarproxy", *words],
        env=site.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=_PATIENCE,
    )
    return ran, [line for line in log.read_text().splitlines() if _NETWORK.search(line)]
