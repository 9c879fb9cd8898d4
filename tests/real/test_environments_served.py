"""Environments in real processes: listeners, TLS, all workers, reloads, and sockets from systemd."""

from __future__ import annotations

import signal
import socket
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from certificates import CertificateAuthority
from images import Published, small_image
from machine import ask
from processes import Process, free_port, is_open, until
from promoting import HOST, Staged, ask_over_tls
from registry_control import RegistryThread

ONE, TWO = small_image(1), small_image(2)
NAME = "docker.io/team/app:1"
TARGET = "/v2/team/app/manifests/1"


@pytest.fixture
def upstream() -> Iterator[RegistryThread]:
    with RegistryThread() as made:
        made.registry.content.publish("team/app", "1", ONE)
        yield made


@pytest.fixture
def staged(upstream: RegistryThread, tmp_path: Path) -> Iterator[Staged]:
    made = Staged(tmp_path / "mirror", upstream.registry.port)
    yield made
    if made.started:
        made.stop()


def promote(staged: Staged, image: Published = ONE, *, old: str = "") -> None:
    staged.promote(NAME, str(image.digest), len(image.raw), old=old)


def every(staged: Staged, status: int, body: bytes | None = None) -> bool:
    """Whether each worker answers so by each way to prod."""
    answers = staged.ways("team/app", "1")
    return all(each.status == status and body in (None, each.body) for each in answers)


def test_all_workers_obey_in_all_ways(upstream: RegistryThread, staged: Staged) -> None:
    """What is not promoted is refused; a promotion, and one over it, by another process reach every worker."""
    staged.start()
    assert ONE.raw == staged.get(TARGET).body
    assert every(staged, 403)
    promote(staged)
    until(lambda: every(staged, 200, ONE.raw), "the promotion in all workers")
    upstream.registry.content.publish("team/app", "1", TWO)
    assert every(staged, 200, ONE.raw)
    promote(staged, TWO, old=str(ONE.digest))
    until(lambda: every(staged, 200, TWO.raw), "the second promotion in all workers")
    assert {ONE.raw} == {each.body for each in staged.get_from_all(TARGET)}
    assert [None, "prod"] == [
        staged.get(target).headers.get("iar-environment") for target in (TARGET, TARGET.replace("v2", "v2/prod"))
    ]


def test_hosts_work_over_tls(staged: Staged, tmp_path: Path) -> None:
    """The listeners of [server.tls] show the environment that the client names by its host."""
    authority, port = CertificateAuthority(tmp_path), free_port()
    authority.issue(hosts=(HOST, "127.0.0.1")).write(tmp_path / "tls.crt", tmp_path / "tls.key")
    files = f'cert_file = "{tmp_path}/tls.crt"\nkey_file = "{tmp_path}/tls.key"\n'
    with staged.config.open("a") as config:
        config.write(f'[server.tls]\nlisten = ["127.0.0.1:{port}"]\n{files}')
    staged.start()
    assert 403 == ask_over_tls(port, TARGET, authority.path)
    assert 200 == staged.get(TARGET).status
    promote(staged)
    until(lambda: 200 == ask_over_tls(port, TARGET, authority.path), "the promotion")


def test_a_reload_brings_hosts_and_prefixes(staged: Staged) -> None:
    """They apply at once; a new address waits for a restart, and says so."""
    staged.start()
    port = free_port()
    staged.config.write_text(
        f"{staged.first}{staged.section}"
        f'[environments.site]\nlisten = ["127.0.0.1:{port}"]\nhosts = ["site.example"]\n'
        'path_prefix = "site"\npins_from = "lock"\n'
    )
    staged.process.signal(signal.SIGHUP)
    by_prefix = TARGET.replace("/v2/", "/v2/site/")
    until(lambda: _is_site(staged, by_prefix), "the prefix in all workers")
    until(lambda: _is_site(staged, TARGET, Host="site.example:80"), "the host in all workers")
    assert "changed addresses need a restart" in staged.process.output
    assert not is_open(port)
    staged.stop()
    staged.start()
    assert 403 == ask(port, TARGET).status


def _is_site(staged: Staged, target: str, **headers: str) -> bool:
    """Whether each worker tells of the environment site."""
    told = "is not in the lock file of the environment site"
    return all(told in each.body.decode() for each in staged.get_from_all(target, **headers))


def test_a_listener_never_changes_into_the_default_one(staged: Staged) -> None:
    """A reload that forgets prod, or moves its address, is refused: prod's clients must not get the default pins."""
    staged.start()
    moved = staged.section.replace(f":{staged.prod}", f":{free_port()}")
    for count, changed in enumerate(("", moved)):
        staged.config.write_text(staged.first + changed)
        staged.process.signal(signal.SIGHUP)
        until(partial(_refused_more_than, staged, count), "the refusal")
        assert every(staged, 403)
    assert f"127.0.0.1:{staged.prod} shows an environment until a restart" in staged.process.output


def _refused_more_than(staged: Staged, count: int) -> bool:
    return staged.process.output.count("not reloaded") > count


def test_an_address_that_is_taken(staged: Staged) -> None:
    """It is one line that names the section, and nothing starts."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", staged.prod))
        taken.listen()
        answer = staged.command("serve")
    assert 1 == answer.status
    assert f"cannot listen on 127.0.0.1:{staged.prod}" in answer.headers["stderr"]
    assert "[environments.*] listen" in answer.headers["stderr"]


ACTIVATE = """
import os, socket, sys
for number, port in enumerate(sys.argv[1:3], 3):
    sock = socket.create_server(("127.0.0.1", int(port)))
    os.dup2(sock.fileno(), number + 7)
for number in (3, 4):
    os.dup2(number + 7, number)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="2", LISTEN_FDNAMES="iarproxy.socket:iarproxy.socket")
os.execv(sys.argv[3], sys.argv[3:])
"""


def test_sockets_from_systemd(staged: Staged, tmp_path: Path) -> None:
    """A socket at prod's address shows prod; the other one replaces what [server] listen says."""
    port = free_port()
    serve = [sys.executable, "-m", "iarproxy", "serve", "--config", str(staged.config)]
    command = [sys.executable, "-c", ACTIVATE, str(port), str(staged.prod), *serve]
    process = Process(command, tmp_path / "log", HOME=str(tmp_path))
    try:
        process.wait_open(staged.admin)
        until(lambda: 200 == ask(staged.admin, "/readyz").status, "readiness")
        assert 200 == ask(port, TARGET).status
        assert 403 == ask(staged.prod, TARGET).status
        assert not is_open(staged.port)
    finally:
        assert 0 == process.stop()
