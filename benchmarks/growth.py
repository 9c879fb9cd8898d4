"""Growth: what a start, a hit, a pin and memory cost with few and with very many blobs and pins.

Rule 1: `measure` is one size in one folder; who compares sizes runs it for each. Processor time is that of the server's
        process tree; seconds are of the wall clock, of the best of three where they can be had again.
Rule 2: the page cache is warm: the store was just written, and not everybody may drop it. One worker serves.
Rule 3: names are drawn at random from all of them and asked for in turn: always the same one, 1,000, or 10,000, which
        is more than the fast lane keeps answers for.
"""

from __future__ import annotations

import argparse
import contextlib
import http.server
import json
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from benchmarks import growth_store
from benchmarks.growth_store import REGISTRY, manifest_of, repository_of, tag_of
from benchmarks.processes import Failed, Process, cpu_seconds, environment, free_port, pss, until
from iarproxy.oci import Digest

Fact: TypeAlias = float | int | str

_MANY = 10_000  # names
_HITS = 40_000  # requests of one measure
_CONNECTIONS = 8
_COLD = 30  # pins made
_STARTS = 3
_CONFIG = """
[server]
listen = ["127.0.0.1:{port}"]
workers = 1
access_log = false
[admin]
listen = "127.0.0.1:{admin}"
[store]
path = "{store}"
max_size = "1TiB"
[drift]
interval = "0s"
[upstreams."{registry}"]
url = "http://127.0.0.1:{upstream}"
"""


def measure(count: int, iarproxy: Path | None = None, folder: Path | None = None) -> dict[str, Fact]:
    """Everything about a store of `count` blobs and `count` pins.

    Args:
        count: an even number.
        iarproxy: the program; None: the one beside this Python.
        folder: keeps the store for the next run; None: a scratch folder that is removed.

    Raises:
        Failed: the program did not do what it was started for.
    """
    program = iarproxy or Path(sys.executable).with_name("iarproxy")
    with ExitStack() as stack:
        place = folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="iar-growth-")))
        place.mkdir(parents=True, exist_ok=True)
        upstream = stack.enter_context(_upstream())
        found: dict[str, Fact] = {"page_cache": "warm", "build_seconds": _built(place / "store", count)}
        site = Site(program, place, count, upstream)
        found |= site.commands()
        found |= site.starts()
        with site.serving() as server:
            found |= site.hits(server)
            found |= site.pins(server)
        return found | dict.fromkeys(("eviction", "scrub"), "not there yet")


def _built(store: Path, count: int) -> float:
    started = time.monotonic()
    if not store.exists():
        growth_store.build(store, count)
    return time.monotonic() - started


@dataclass(frozen=True)
class Server:
    """A `serve` that answers. `started` and `cpu` are seconds until it did."""

    process: Process
    port: int
    started: float
    cpu: float


class Site:
    """A store, a configuration and the program."""

    def __init__(self, program: Path, folder: Path, count: int, upstream: int) -> None:
        self._program, self._folder, self._count = program, folder, count
        self._store, self._config = folder / "store", folder / "iarproxy.toml"
        self._upstream = upstream
        chance = random.Random(count)
        self._many = [chance.randrange(count) for _ in range(min(_MANY, count))]

    def commands(self) -> dict[str, Fact]:
        """What somebody at the command line waits for."""
        self._configure(free_port())
        (self._store / "usage").unlink(missing_ok=True)
        recount = self._timed("store", "stats", "--json", times=1)
        stats = json.loads(self._said("store", "stats", "--json"))
        return {
            "blobs": stats["blobs"],
            "stored_bytes": stats["bytes"],
            "ledger_bytes": (self._store / "ledger.db").stat().st_size,
            "recount_seconds": recount,
            "store_stats_seconds": self._timed("store", "stats", "--json"),
            "pins_list_head_seconds": self._timed("pins", "list", head=True),
            "version_seconds": self._timed("--version"),
        }

    def starts(self) -> dict[str, Fact]:
        """From the start of the process to the first answer."""
        found = []
        for _ in range(_STARTS):
            with self.serving() as server:
                found.append(server)
        return {
            "start_seconds": min(each.started for each in found),
            "start_cpu_seconds": min(each.cpu for each in found),
        }

    def hits(self, server: Server) -> dict[str, Fact]:
        """Requests for what is held, and what remembering it takes."""
        many, blobs = list(map(_manifest, self._many)), list(map(_blob, self._many))
        found: dict[str, Fact] = {"pss_idle_bytes": pss(server.process.pid)[-1]}
        found["first_touch_ms"] = statistics.median(_latencies(server.port, many[: len(many) // 2])) * 1000
        for kind, paths in (("tag", many), ("blob", blobs)):
            for names in sorted({1, min(1000, len(paths)), len(paths)}):
                _asked(server, paths[:names], names)
                found[f"{kind}_of_{names}_per_cpu_second"] = _asked(server, paths[:names], _HITS)
        found["pss_after_bytes"] = pss(server.process.pid)[-1]
        return found

    def pins(self, server: Server) -> dict[str, Fact]:
        """Tags that nobody asked for before: upstream, store and ledger."""
        paths = [f"/v2/{REGISTRY}/new/app{time.time_ns()}-{number}/manifests/v1" for number in range(_COLD)]
        return {"cold_pin_ms": statistics.median(_latencies(server.port, paths)) * 1000}

    @contextmanager
    def serving(self) -> Iterator[Server]:
        """A `serve` that has answered once."""
        port = free_port()
        self._configure(port)
        started = time.monotonic()
        process = Process([self._program, "serve", "--config", self._config], self._folder, name="serve")
        try:
            until(lambda: process.ended or _answers(port, _manifest(self._many[0])), "the first answer")
            took = time.monotonic() - started
            if process.ended:
                raise Failed(process.said())
            yield Server(process, port, took, cpu_seconds(process.pid))
        finally:
            process.stop()

    def _configure(self, port: int) -> None:
        text = _CONFIG.format(
            port=port, admin=free_port(), store=self._store, registry=REGISTRY, upstream=self._upstream
        )
        self._config.write_text(text)

    def _said(self, *command: str, head: bool = False) -> str:
        asked = [str(self._program), *command, *(() if command[0] == "--version" else ("--config", self._config))]
        with subprocess.Popen(asked, stdout=subprocess.PIPE, env=environment(self._folder), text=True) as running:
            assert running.stdout is not None
            said = "".join(running.stdout.readline() for _ in range(10)) if head else running.stdout.read()
            running.stdout.close()
        return said

    def _timed(self, *command: str, head: bool = False, times: int = 3) -> float:
        found = []
        for _ in range(times):
            started = time.monotonic()
            self._said(*command, head=head)
            found.append(time.monotonic() - started)
        return min(found)


def _manifest(pin: int) -> str:
    reference = tag_of(pin)
    return f"/v2/{reference.repository}/manifests/{reference.tag}"


def _blob(pin: int) -> str:
    layer = Digest.of(growth_store.layer_of(pin // 2))
    return f"/v2/{repository_of(pin // 2)}/blobs/{layer}"


def _head(port: int, path: str) -> bytes:
    accept = f"Host: 127.0.0.1:{port}\r\nUser-Agent: containerd/1.7.24\r\nAccept: {growth_store.MANIFEST}, */*"
    return f"GET {path} HTTP/1.1\r\n{accept}\r\n\r\n".encode()


def _answer(connection: socket.socket) -> None:
    """Read one answer.

    Raises:
        Failed: it is no 200.
    """
    got = connection.recv(65536)
    head, found, body = got.partition(b"\r\n\r\n")
    if not found or b" 200 " not in head[:16]:
        raise Failed(f"answered {got[:200]!r}")
    told = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    left = int(told.partition(b":")[2]) - len(body)
    while left > 0:
        left -= len(connection.recv(left))


def _answers(port: int, path: str) -> bool:
    with contextlib.suppress(OSError):
        _latencies(port, [path])
        return True
    return False


def _connected(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=60)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def _latencies(port: int, paths: Sequence[str]) -> list[float]:
    """Seconds of each request, one after the other."""
    found = []
    with _connected(port) as connection:
        for path in paths:
            started = time.perf_counter()
            connection.sendall(_head(port, path))
            _answer(connection)
            found.append(time.perf_counter() - started)
    return found


def _asked(server: Server, paths: Sequence[str], count: int) -> float:
    """Requests per processor second of the server: `count` of them in turn, on a few connections."""
    heads = [_head(server.port, path) for path in paths]
    with ExitStack() as stack:
        connections = [stack.enter_context(_connected(server.port)) for _ in range(_CONNECTIONS)]
        before = cpu_seconds(server.process.pid)
        for turn in range(-(-count // _CONNECTIONS)):
            for number, connection in enumerate(connections):
                connection.sendall(heads[(turn * _CONNECTIONS + number) % len(heads)])
            for connection in connections:
                _answer(connection)
        return count / max(cpu_seconds(server.process.pid) - before, 1e-3)


class _Registry(http.server.BaseHTTPRequestHandler):
    """An upstream that has an image under whatever tag it is asked for."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        known = {str(Digest.of(b"{}")): b"{}"}
        body = known.get(self.path.rpartition("/")[2], manifest_of(hash(self.path) % 2**31 + 2**31))
        self.send_response(200)
        self.send_header("Content-Type", growth_store.MANIFEST if b"schema" in body else "application/octet-stream")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def _upstream() -> Iterator[int]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Registry) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def main() -> None:
    """Measure one size; print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", type=int)
    parser.add_argument("--folder", type=Path, help="keep the store here, or use the one that is here")
    print(json.dumps(measure(**vars(parser.parse_args())), indent=1))


if __name__ == "__main__":
    main()
