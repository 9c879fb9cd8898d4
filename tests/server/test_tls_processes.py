"""TLS with real processes: mixed listeners, files that change, reloads, dying workers, socket activation (item 76)."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import ssl
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from certificates import CertificateAuthority, Pair
from test_supervisor import ACTIVATE, WORD, Daemon, free_port, until


class Secure(Daemon):
    """A daemon that listens with TLS too."""

    def __init__(self, folder: Path) -> None:
        self.authority = CertificateAuthority(folder)
        self.certificate, self.key = folder / "tls.crt", folder / "tls.key"
        self.secure_port = free_port()
        self.first = self.renew()
        files = [str(self.certificate), str(self.key)]
        super().__init__(folder, tls_listen=[f"127.0.0.1:{self.secure_port}"], tls=files, word="hello")

    def renew(self) -> Pair:
        pair = self.authority.issue()
        pair.write(self.certificate, self.key)
        return pair

    def connect(self) -> http.client.HTTPSConnection:
        context = self.authority.client()
        return http.client.HTTPSConnection("localhost", self.secure_port, timeout=10, context=context)

    def ask(self, target: str = WORD) -> bytes:
        connection = self.connect()
        try:
            connection.request("GET", target)
            return connection.getresponse().read()
        finally:
            connection.close()

    def shown(self) -> int:
        """The serial number that a new handshake shows."""
        connection = self.connect()
        connection.connect()
        try:
            return serial(connection)
        finally:
            connection.close()

    def all_show(self, pair: Pair) -> bool:
        """Whether many handshakes in a row, at whichever worker, show it."""
        return {pair.serial} == {self.shown() for _ in range(12)}


def serial(connection: http.client.HTTPSConnection) -> int:
    assert isinstance(connection.sock, ssl.SSLSocket)
    certificate = connection.sock.getpeercert()
    assert certificate is not None
    return int(str(certificate["serialNumber"]), 16)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Secure]:
    made = Secure(tmp_path)
    yield made
    made.stop()


class Load:
    """Clients that ask by TLS all the time: half on a kept connection, half on a new one for each request."""

    def __init__(self, daemon: Secure) -> None:
        self.daemon, self.answers, self.ending = daemon, 0, threading.Event()
        self.lost: list[str] = []
        self.serials: set[int] = set()
        self.threads = [threading.Thread(target=self._run, args=(kept,)) for kept in (True, False, True, False)]
        for thread in self.threads:
            thread.start()

    def _run(self, kept: bool) -> None:  # noqa: FBT001  # a thread passes what it was given
        connection = self.daemon.connect()
        while not self.ending.is_set():
            try:
                connection.request("GET", WORD, headers={} if kept else {"Connection": "close"})
                if connection.sock is not None:
                    self.serials.add(serial(connection))
                assert connection.getresponse().read() == b"hello"
                self.answers += 1
            except (OSError, http.client.HTTPException) as error:
                self.lost.append(repr(error))
                connection.close()
        connection.close()

    def end(self) -> None:
        self.ending.set()
        for thread in self.threads:
            thread.join()


def test_plain_and_secure_together(daemon: Secure) -> None:
    """Both ports answer; each answers the other's language with a clean 400."""
    daemon.start()
    until(daemon.answers)
    assert b"hello" == daemon.ask()
    assert b"hello" == daemon.get(WORD)
    with socket.create_connection(("127.0.0.1", daemon.secure_port), timeout=5) as client:
        client.sendall(b"GET /v2/ HTTP/1.1\r\nHost: m\r\n\r\n")
        assert client.recv(4096).startswith(b"HTTP/1.1 400")
    with pytest.raises(ssl.SSLError, match=r"WRONG_VERSION_NUMBER|HTTP_REQUEST|packet length"):
        daemon.authority.client().wrap_socket(
            socket.create_connection(("127.0.0.1", daemon.port), timeout=5), server_hostname="localhost"
        )


def test_new_files_reach_all_workers_without_a_loss(daemon: Secure) -> None:
    """The files change three times under load: every worker shows the last ones, and no request is lost."""
    daemon.start()
    until(daemon.answers)
    until(lambda: len(daemon.worker_pids()) == 2)
    load = Load(daemon)
    until(lambda: load.answers > 20)
    for _ in range(3):
        pair = daemon.renew()
        until(lambda pair=pair: daemon.all_show(pair))  # type: ignore[misc]  # a lambda of one default is a condition
    before = load.answers
    until(lambda: load.answers > before + 20)
    load.end()
    assert [] == load.lost
    assert {daemon.first.serial, pair.serial} <= load.serials


def test_a_session_is_good_at_every_worker(daemon: Secure) -> None:
    """What one worker gave, each of the four resumes: a client that connects for each request shakes hands briefly."""
    daemon.write(workers=4)
    daemon.start()
    until(daemon.answers)
    until(lambda: len(daemon.worker_pids()) == 4)
    trust = daemon.authority.client()
    trust.maximum_version = ssl.TLSVersion.TLSv1_2  # whose tickets may be used more than once
    first: ssl.SSLSession | None = None
    resumed = []
    for _ in range(20):
        with (
            socket.create_connection(("127.0.0.1", daemon.secure_port), timeout=5) as plain,
            trust.wrap_socket(plain, server_hostname="localhost", session=first) as client,
        ):
            client.sendall(b"GET /v2/ HTTP/1.1\r\nHost: m\r\nConnection: close\r\n\r\n")
            assert client.recv(4096).startswith(b"HTTP/1.1 200")
            first = first or client.session
            resumed.append(client.session_reused)
    assert [False] + [True] * 19 == resumed


def test_a_reload_loses_nothing(daemon: Secure) -> None:
    """SIGHUP replaces the workers under TLS load; the new ones have the new certificate from their first handshake."""
    daemon.start()
    until(daemon.answers)
    until(lambda: len(daemon.worker_pids()) == 2)
    before = daemon.worker_pids()
    load = Load(daemon)
    until(lambda: load.answers > 20)
    pair = daemon.renew()
    daemon.signal(signal.SIGHUP)
    until(lambda: not before & daemon.worker_pids() and len(daemon.worker_pids()) == 2)
    assert daemon.all_show(pair)
    load.end()
    assert [] == load.lost


def test_broken_files_change_nothing(daemon: Secure) -> None:
    """Under a running server a pair that does not fit is one line; SIGHUP is refused; new workers show the old one."""
    daemon.start()
    until(daemon.answers)
    until(lambda: len(daemon.worker_pids()) == 2)
    daemon.certificate.write_bytes(daemon.authority.issue().certificate)
    until(lambda: "the new certificate cannot be used" in daemon.log())
    workers = daemon.worker_pids()
    daemon.signal(signal.SIGHUP)
    until(lambda: "not reloaded" in daemon.log())
    assert workers == daemon.worker_pids()
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
    until(lambda: len(daemon.worker_pids()) == 2 and not workers & daemon.worker_pids())
    until(daemon.answers)
    assert daemon.all_show(daemon.first)
    pair = daemon.renew()
    until(lambda: daemon.all_show(pair))


def test_a_start_without_a_usable_pair(daemon: Secure) -> None:
    """One line, status 1, and nothing listens."""
    daemon.key.write_bytes(daemon.authority.issue().key)
    daemon.start()
    assert 1 == daemon.wait()
    remedy = "give the two that belong together"
    assert f"server.tls.key_file: {daemon.key} is not the key of {daemon.certificate}; {remedy}\n" == daemon.log()


@pytest.mark.parametrize("name", ["tls", "registry-tls"])
def test_a_socket_for_tls_from_systemd(daemon: Secure, name: str) -> None:
    """FileDescriptorName tells that it speaks TLS; the plain listener stays the configured one."""
    with socket.socket() as given, socket.socket() as other:
        for sock in (given, other):
            sock.bind(("127.0.0.1", 0))
            sock.listen()
        first = max(given.fileno(), other.fileno()) + 10
        os.dup2(given.fileno(), first)
        os.dup2(other.fileno(), first + 1)
        wrapper = (sys.executable, "-c", ACTIVATE, str(first), str(first + 1))
        names = {"LISTEN_FDS": "2", "LISTEN_FDNAMES": f"{name}:probes"}
        daemon.start(wrapper=wrapper, pass_fds=(first, first + 1), **names)
        os.close(first)
        os.close(first + 1)
        daemon.secure_port = given.getsockname()[1]
        until(daemon.answers)
        assert b"hello" == daemon.ask()
        daemon.signal(signal.SIGTERM)
        assert 0 == daemon.wait()


def test_a_socket_for_tls_needs_a_certificate(daemon: Secure) -> None:
    """One that systemd hands over where the configuration has none is one line."""
    daemon.given.pop("tls")
    daemon.write(tls_listen=[])
    with socket.socket() as given:
        given.bind(("127.0.0.1", 0))
        given.listen()
        first = given.fileno() + 10
        os.dup2(given.fileno(), first)
        os.dup2(given.fileno(), first + 1)
        wrapper = (sys.executable, "-c", ACTIVATE, str(first), str(first + 1))
        daemon.start(wrapper=wrapper, pass_fds=(first, first + 1), LISTEN_FDS="1", LISTEN_FDNAMES="tls")
        os.close(first)
        os.close(first + 1)
        assert 1 == daemon.wait()
    assert "write cert_file and key_file in [server.tls]" in daemon.log()


def test_tls_without_a_plain_listener(daemon: Secure) -> None:
    """A server may speak nothing but TLS."""
    daemon.write(listen=[], workers=1)
    daemon.start()

    def answers() -> bool:
        try:
            return daemon.ask() == b"hello"
        except OSError:
            return False

    until(answers)
    assert not daemon.answers()
    daemon.signal(signal.SIGTERM)
    assert 0 == daemon.wait()
