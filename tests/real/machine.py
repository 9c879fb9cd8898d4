"""One machine's worth of real programs: Debian's docker-registry as the upstream, and iarproxy before it."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from layers import MANIFEST, Image, push
from processes import Command, Process, children, free_port, holders, run, until, writers

ACCEPT = {"Accept": f"{MANIFEST}, application/vnd.oci.image.index.v1+json, */*"}
_ACCESS = re.compile(r'"(?P<method>GET|HEAD) (?P<target>/v2/\S*) HTTP/1\.[01]" (?P<status>\d+)')


@dataclass(frozen=True)
class Answer:
    """A complete answer; `headers` by lower-case name."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def ask(port: int, target: str, method: str = "GET", **headers: str) -> Answer:
    """One request on a connection of its own."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        return answer_on(connection, target, method, **headers)


def answer_on(connection: http.client.HTTPConnection, target: str, method: str = "GET", **headers: str) -> Answer:
    """One request on a connection that stays open."""
    connection.request(method, target, headers=ACCEPT | headers)
    answer = connection.getresponse()
    return Answer(answer.status, {key.lower(): value for key, value in answer.getheaders()}, answer.read())


class Registry:
    """Debian's docker-registry with an empty store of its own.

    Attributes:
        auth: the `auth` section of its settings, in YAML, from the next start on; empty: anybody may do anything.
        tls: files of a certificate and its key, from the next start on; None: plain http.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.port = free_port()
        self.auth = ""
        self.tls: tuple[Path, Path] | None = None
        self._process: Process | None = None

    def start(self) -> Self:
        self._folder.mkdir(exist_ok=True)
        settings = self._folder / "registry.yml"
        auth = f"auth: {self.auth}\n" if self.auth else ""
        tls = f", tls: {{certificate: {self.tls[0]}, key: {self.tls[1]}}}" if self.tls else ""
        settings.write_text(
            "version: 0.1\nlog: {level: error, accesslog: {disabled: false}}\n"
            f"storage: {{filesystem: {{rootdirectory: {self._folder}/data}}, delete: {{enabled: true}}}}\n"
            f'http: {{addr: "127.0.0.1:{self.port}"{tls}}}\n{auth}'
        )
        command: Command = ["docker-registry", "serve", settings]
        log = self._folder / "registry.log"
        self._process = Process(command, log, OTEL_TRACES_EXPORTER="none").wait_open(self.port)
        return self

    def stop(self) -> None:
        if self._process:
            self._process.stop()
        self._process = None

    def push(self, repository: str, tag: str, pushed: Image) -> Image:
        return push(self.port, repository, tag, pushed)

    def delete(self, repository: str, digest: str) -> int:
        return ask(self.port, f"/v2/{repository}/manifests/{digest}", "DELETE").status

    def blob(self, digest: str) -> bytes:
        """The bytes of a blob, read from the registry's disk, so that no request is counted."""
        found = digest.removeprefix("sha256:")
        return (self._folder / "data/docker/registry/v2/blobs/sha256" / found[:2] / found / "data").read_bytes()

    def requests(self, containing: str = "") -> list[str]:
        """`METHOD target` of every GET and HEAD that was answered so far, pings left out."""
        found = _ACCESS.finditer((self._folder / "registry.log").read_text(errors="replace"))
        every = [f"{each['method']} {each['target']}" for each in found if each["target"] != "/v2/"]
        return [each for each in every if containing in each]


class Proxy:
    """`iarproxy serve` as a process of its own, on ports of its own."""

    def __init__(self, folder: Path, upstream: int, *, workers: int = 2, ports: tuple[int, int] | None = None) -> None:
        self.folder = folder
        self.port, self.admin = ports or (free_port(), free_port())
        self.config = folder / "iarproxy.toml"
        self.store = folder / "store"
        self.environment: dict[str, str] = {}
        self._process: Process | None = None
        folder.mkdir(exist_ok=True)
        self.config.write_text(
            f'[server]\nlisten = ["127.0.0.1:{self.port}"]\nworkers = {workers}\ngraceful_timeout = "5s"\n'
            f'[admin]\nlisten = "127.0.0.1:{self.admin}"\n'
            f'[store]\npath = "{self.store}"\nmax_size = "2GiB"\n'
            f'[upstreams."docker.io"]\nurl = "http://127.0.0.1:{upstream}"\n'
            f'[upstreams."registry.example.com"]\nurl = "http://127.0.0.1:{upstream}"\n'
        )

    @property
    def started(self) -> bool:
        return self._process is not None

    @property
    def process(self) -> Process:
        assert self._process is not None, "not started"
        return self._process

    @property
    def workers(self) -> list[int]:
        return children(self.process.pid)

    @property
    def _environment(self) -> dict[str, str]:
        own = {name: str(self.folder) for name in ("HOME", "TMPDIR")}
        return own | {"RUNTIME_DIRECTORY": str(self.folder / "run")} | self.environment

    def start(self) -> Self:
        command: Command = [sys.executable, "-m", "iarproxy", "serve", "--config", self.config]
        self._process = Process(command, self.folder / "serve.log", **self._environment)
        self._process.wait_open(self.port)
        until(self._ready, "readiness of iarproxy")
        return self

    def _ready(self) -> bool:
        try:
            return ask(self.admin, "/readyz").status == 200
        except OSError:
            return False

    def stop(self) -> int:
        return self.process.stop()

    def kill(self) -> None:
        """`kill -9` of the arbiter and all workers."""
        self.process.kill()

    def kill_worker(self, pid: int) -> None:
        """`kill -9` of one worker."""
        assert pid in self.workers
        os.kill(pid, signal.SIGKILL)

    def wait_for_other_workers(self, former: set[int], count: int = 1) -> None:
        """Wait until none of `former` is left and at least `count` workers are there."""
        until(lambda: not former & set(self.workers) and len(self.workers) >= count, "a change of workers")

    def leader(self) -> int:
        """The worker that writes an ingest just now."""
        found: list[int] = []

        def seen() -> bool:
            found[:] = writers(self.store / "ingest", self.workers)
            return bool(found)

        until(seen, "an ingest")
        return found[0]

    def command(self, *arguments: str) -> Answer:
        """Run another command of iarproxy beside `serve`; `status` is its exit code and `body` what it printed."""
        ran = run([sys.executable, "-m", "iarproxy", *arguments, "--config", self.config], **self._environment)
        return Answer(ran.returncode, {"stderr": ran.stderr}, ran.stdout.encode())

    def get(self, target: str, method: str = "GET", **headers: str) -> Answer:
        return ask(self.port, target, method, **headers)

    def get_from_all(self, target: str, **headers: str) -> list[Answer]:
        """An answer of each worker."""
        return self.get_from_all_at(self.port, target, **headers)

    def get_from_all_at(self, port: int, target: str, **headers: str) -> list[Answer]:
        """An answer of each worker that listens at `port`."""
        with self.lines(port) as lines:
            return [answer_on(line, target, **headers) for line in lines]

    @contextmanager
    def lines(self, port: int) -> Iterator[list[http.client.HTTPConnection]]:
        """A connection to each worker; which of them takes a new one is the kernel's choice, so it is looked at."""
        found: dict[int, http.client.HTTPConnection] = {}
        with ExitStack() as stack:

            def complete() -> bool:
                tried = [http.client.HTTPConnection("127.0.0.1", port, timeout=60) for _ in range(8)]
                for each in tried:
                    each.connect()
                    stack.callback(each.close)
                found.update((pid, each) for each in tried for pid in holders(each.sock, self.workers))
                return set(found) >= set(self.workers)

            until(complete, "a connection to each worker")
            yield list(found.values())

    def wait_for_clean_ingest(self) -> None:
        """Wait until no ingest data lies around: a commit waits for the disk, the last bytes to clients do not."""
        until(lambda: not list((self.store / "ingest").glob("*.part")), "a clean ingest folder")


class World:
    """An upstream and a mirror. Use as `with`; everything is ended by its own process id."""

    def __init__(self, folder: Path, *, workers: int = 2) -> None:
        self.folder = folder
        self.registry = Registry(folder / "upstream")
        self.proxy = Proxy(folder / "mirror", self.registry.port, workers=workers)

    def __enter__(self) -> Self:
        self.registry.start()
        try:
            self.proxy.start()
        except BaseException:
            self.registry.stop()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        try:
            self.proxy.stop()
        finally:
            self.registry.stop()
