"""Master and workers as real processes: start, drain, reload, replace, notify (item 74; threats R61 to R65, L6)."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from iarproxy.oci import Digest

HERE = Path(__file__).parent
WORD = "/v2/alpine/manifests/word"
PID = "/v2/alpine/manifests/pid"


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class Daemon:
    """`daemon.py` as a child process."""

    def __init__(self, folder: Path, **given: Any) -> None:
        self.folder, self.file = folder, folder / "settings.json"
        self.port = free_port()
        self.given = {"listen": [f"127.0.0.1:{self.port}"], **given}
        self.write()
        self.process: subprocess.Popen[bytes] | None = None

    def write(self, **changes: Any) -> None:
        self.given.update(changes)
        self.file.write_text(json.dumps(self.given))

    def start(self, *, wrapper: tuple[str, ...] = (), pass_fds: tuple[int, ...] = (), **environment: str) -> None:
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*wrapper, sys.executable, str(HERE / "daemon.py"), str(self.file)],
                env={**os.environ, "PYTHONPATH": f"{HERE}", **environment},
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=pass_fds,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait(self, seconds: float = 15) -> int:
        assert self.process is not None
        return self.process.wait(seconds)

    def get(self, target: str, seconds: float = 5) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=seconds)
        try:
            connection.request("GET", target)
            return connection.getresponse().read()
        finally:
            connection.close()

    def answers(self) -> bool:
        try:
            return self.get("/v2/", 1) == b"{}"
        except OSError:
            return False

    def worker_pids(self) -> set[int]:
        path = Path(f"/proc/{self.pid}/task/{self.pid}/children")
        return {int(each) for each in path.read_text().split()}

    def stop(self) -> None:
        if self.process is None:
            return
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
        self.process.wait(10)


def until(condition: Callable[[], object], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass in time"
        time.sleep(0.02)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    made = Daemon(tmp_path)
    yield made
    made.stop()


class Load:
    """Clients that ask all the time, on kept connections, each request once; a refused connect ends a client."""

    def __init__(self, daemon: Daemon, target: str, clients: int = 4) -> None:
        self.daemon, self.target = daemon, target
        self.bodies: list[bytes] = []
        self.lost: list[str] = []
        self.ending = threading.Event()
        self.threads = [threading.Thread(target=self._run) for _ in range(clients)]
        for thread in self.threads:
            thread.start()

    def _run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.daemon.port, timeout=10)
        while not self.ending.is_set():
            try:
                if connection.sock is None:
                    connection.connect()
            except ConnectionRefusedError:
                return
            try:
                connection.request("GET", self.target)
                self.bodies.append(connection.getresponse().read())
            except (OSError, http.client.HTTPException) as error:
                self.lost.append(repr(error))
                connection.close()
            time.sleep(0.002)
        connection.close()

    def end(self) -> None:
        self.ending.set()
        for thread in self.threads:
            thread.join()


def test_stops_gracefully_under_load(daemon: Daemon) -> None:
    """Item 74: SIGTERM loses no request: all that were accepted are answered; then workers close what they opened."""
    daemon.write(slow=0.05, word="hello")
    daemon.start()
    until(daemon.answers)
    until(lambda: len(daemon.worker_pids()) == 2)
    workers = daemon.worker_pids()
    load = Load(daemon, WORD)
    until(lambda: len(load.bodies) > 20)
    daemon.signal(signal.SIGTERM)
    assert daemon.wait() == 0
    load.end()
    assert load.lost == []
    assert set(load.bodies) == {b"hello"}
    assert {f"closed-{pid}" for pid in workers} == {path.name for path in daemon.folder.glob("closed-*")}


def test_a_transfer_finishes_and_the_second_interrupt_is_immediate(daemon: Daemon) -> None:
    """Item 74: a running download ends whole after SIGINT; with a stuck client it takes a second one."""
    daemon.write(blob=30_000_000, workers=1)
    daemon.start()
    until(daemon.answers)
    blob = Digest.of(bytes(30_000_000))
    with socket.create_connection(("127.0.0.1", daemon.port)) as client:
        client.sendall(f"GET /v2/alpine/blobs/{blob} HTTP/1.1\r\nHost: m\r\nConnection: close\r\n\r\n".encode())
        client.recv(1000)
        daemon.signal(signal.SIGINT)
        time.sleep(0.3)
        got = 0
        while chunk := client.recv(1 << 20):
            got += len(chunk)
    assert got > 29_990_000
    assert daemon.wait() == 0
    daemon.start()
    until(daemon.answers)
    with socket.create_connection(("127.0.0.1", daemon.port)) as client:
        client.sendall(f"GET /v2/alpine/blobs/{blob} HTTP/1.1\r\nHost: m\r\n\r\n".encode())
        client.recv(1000)
        daemon.signal(signal.SIGINT)
        time.sleep(0.3)
        started = time.monotonic()
        daemon.signal(signal.SIGINT)
        assert daemon.wait() == 0
        assert time.monotonic() - started < 2


def test_reload_loses_nothing(daemon: Daemon) -> None:
    """R61: SIGHUP brings the new configuration with no request lost, and other processes serve it."""
    daemon.write(word="old")
    daemon.start()
    until(daemon.answers)
    until(lambda: len(daemon.worker_pids()) == 2)
    before = daemon.worker_pids()
    load = Load(daemon, WORD)
    until(lambda: len(load.bodies) > 20)
    daemon.write(word="new")
    daemon.signal(signal.SIGHUP)
    until(lambda: load.bodies[-1] == b"new")
    until(lambda: not before & daemon.worker_pids())
    load.end()
    assert load.lost == []
    assert set(load.bodies) == {b"old", b"new"}
    assert daemon.get("/v2/alpine/manifests/slot") in (b"0 1", b"1 1")


@pytest.mark.parametrize("fault", ["unreadable", "broken"])
def test_broken_reload_keeps_the_old(daemon: Daemon, fault: str) -> None:
    """R61: a configuration that does not parse, or does not start, is refused in one line; the old workers go on."""
    daemon.write(word="old")
    daemon.start()
    until(daemon.answers)
    until(lambda: len(daemon.worker_pids()) == 2)
    before = daemon.worker_pids()
    daemon.write(word="new", **{fault: True})
    daemon.signal(signal.SIGHUP)
    until(lambda: "not reloaded" in daemon.log())
    until(lambda: daemon.worker_pids() == before)
    assert daemon.get(WORD) == b"old"
    assert daemon.log().count("not reloaded") == 1
    daemon.write(**{fault: False})
    daemon.signal(signal.SIGHUP)
    until(lambda: daemon.get(WORD) == b"new")


def test_killed_worker_is_replaced(daemon: Daemon) -> None:
    """A worker that is killed costs its own requests only, and another takes its slot."""
    daemon.start()
    until(daemon.answers)
    until(lambda: len(daemon.worker_pids()) == 2)
    victim, other = sorted(daemon.worker_pids())
    os.kill(victim, signal.SIGKILL)
    assert daemon.get("/v2/") == b"{}"
    until(lambda: len(daemon.worker_pids()) == 2 and victim not in daemon.worker_pids())
    assert other in daemon.worker_pids()


def test_hung_worker_is_replaced(daemon: Daemon) -> None:
    """R65, L6: a stopped worker is replaced after its timeout; clients of the shared socket go on meanwhile."""
    daemon.write(timeout=1)
    daemon.start()
    until(daemon.answers)
    until(lambda: len(daemon.worker_pids()) == 2)
    victim = min(daemon.worker_pids())
    os.kill(victim, signal.SIGSTOP)
    until(lambda: victim not in daemon.worker_pids() and len(daemon.worker_pids()) == 2)
    assert daemon.get("/v2/") == b"{}"


def test_workers_follow_their_master(daemon: Daemon) -> None:
    """A master that is killed leaves no worker behind that holds the port."""
    daemon.start()
    until(daemon.answers)
    until(lambda: len(daemon.worker_pids()) == 2)
    workers = daemon.worker_pids()
    daemon.signal(signal.SIGKILL)
    daemon.wait()
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))
    assert not daemon.answers()


def test_first_start_that_fails(daemon: Daemon) -> None:
    """A server that cannot start ends with status 1 and says why once."""
    daemon.write(broken=True)
    daemon.start()
    assert daemon.wait() == 1
    assert daemon.log().count("the store is broken") == 1


def test_port_in_use(daemon: Daemon) -> None:
    """R63: a taken address is one line that names it and the remedy; status 1."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", daemon.port))
        holder.listen()
        daemon.start()
        assert daemon.wait() == 1
    remedy = "another process has it; stop that one, or choose another address for `[server] listen`"
    assert daemon.log() == f"cannot listen on 127.0.0.1:{daemon.port} (Address already in use): {remedy}\n"


ACTIVATE = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.dup2(int(sys.argv[2]), 4)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.argv[3], sys.argv[3:])
"""


def test_socket_activation(daemon: Daemon) -> None:
    """Sockets from systemd replace the configured addresses of their role; names tell the role."""
    taken = daemon.port
    with socket.socket() as registry, socket.socket() as admin, socket.socket() as blocker:
        for sock in (registry, admin):
            sock.bind(("127.0.0.1", 0))
            sock.listen()
        blocker.bind(("127.0.0.1", taken))
        blocker.listen()
        first = max(registry.fileno(), admin.fileno()) + 10
        os.dup2(registry.fileno(), first)
        os.dup2(admin.fileno(), first + 1)
        wrapper = (sys.executable, "-c", ACTIVATE, str(first), str(first + 1))
        names = {"LISTEN_FDS": "2", "LISTEN_FDNAMES": "iarproxy.socket:admin"}
        daemon.start(wrapper=wrapper, pass_fds=(first, first + 1), **names)
        os.close(first)
        os.close(first + 1)
        daemon.port = registry.getsockname()[1]
        until(daemon.answers)
        daemon.port = admin.getsockname()[1]
        assert daemon.get("/readyz").endswith(b"False")
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0


@pytest.mark.parametrize("abstract", [False, True])
def test_notify(daemon: Daemon, *, abstract: bool) -> None:
    """Systemd hears READY when all serve, WATCHDOG while they live, RELOADING with a time, READY again, STOPPING."""
    path = f"\0iarproxy-test-{os.getpid()}" if abstract else str(daemon.folder / "n")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(path)
        manager.settimeout(10)
        shown = f"@{path[1:]}" if abstract else path
        daemon.start(NOTIFY_SOCKET=shown, WATCHDOG_USEC="600000")
        heard: list[str] = []

        def hear(wanted: str) -> None:
            while True:
                heard.append(manager.recv(1000).decode())
                if heard[-1].startswith(wanted):
                    return

        hear("READY=1")
        assert daemon.answers()
        assert len(daemon.worker_pids()) == 2
        hear("WATCHDOG=1")
        hear("WATCHDOG=1")
        daemon.signal(signal.SIGHUP)
        hear("RELOADING=1\nMONOTONIC_USEC=")
        hear("READY=1")
        daemon.signal(signal.SIGTERM)
        hear("STOPPING=1")
        assert daemon.wait() == 0


def test_unix_socket_comes_and_goes(daemon: Daemon) -> None:
    """A unix listener replaces a stale path, has mode 0660 and is gone after the end."""
    path = daemon.folder / "sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    daemon.write(listen=[f"unix:{path}"], workers=1)
    daemon.start()

    def reply() -> bytes:
        with socket.socket(socket.AF_UNIX) as client:
            try:
                client.connect(str(path))
            except OSError:
                return b""
            client.sendall(b"GET /v2/ HTTP/1.1\r\nHost: m\r\nConnection: close\r\n\r\n")
            return client.recv(4096)

    until(lambda: reply().startswith(b"HTTP/1.1 200"))
    assert path.stat().st_mode & 0o777 == 0o660
    daemon.signal(signal.SIGTERM)
    assert daemon.wait() == 0
    assert not path.exists()
