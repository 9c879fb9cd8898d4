"""The load generator: building it, and one run of it against a server."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.processes import Command, Failed, find, line_from, run

SOURCES = Path(__file__).parent / "load"
# What containerd sends with every request: answers depend on it, and so does the work of reading it.
ACCEPT = ", ".join(
    [
        "application/vnd.docker.distribution.manifest.v2+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.oci.image.index.v1+json",
        "*/*",
    ]
)
_CLIENT = (
    "--header",
    f"Accept: {ACCEPT}",
    "--header",
    "User-Agent: containerd/1.7.24",
    "--header",
    "Accept-Encoding: gzip",
)


def build(folder: Path) -> Path:
    """Compile the generator into `folder`.

    Raises:
        Failed: there is no C compiler, or it refuses.
    """
    compiler = find("cc") or find("gcc")
    if compiler is None:
        raise Failed("no C compiler; on Debian: apt-get install -y gcc libc6-dev")
    binary = folder / "load"
    strict = ["-O2", "-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror"]
    run([compiler, *strict, "-o", binary, *sorted(SOURCES.glob("*.c")), "-lm"], folder)
    return binary


@dataclass(frozen=True)
class Load:
    """What to ask of a server; see `load --help`. `port` is added when it is run."""

    mode: str = "closed"
    paths: tuple[str, ...] = ()
    connections: int = 1
    options: tuple[str, ...] = ()

    def command(self, binary: Path, port: int, *extra: str) -> list[str]:
        asked = ["--port", str(port), "--connections", str(self.connections)]
        return [str(binary), self.mode, *asked, *_CLIENT, *self.options, *extra, *self.paths]


class Running:
    """A generator whose connections are open and that waits for `go`."""

    def __init__(self, command: Command) -> None:
        self._popen = subprocess.Popen(
            [*map(str, command), "--wait"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        if line_from(self._popen.stdout).strip() != "ready":
            raise Failed(self.close())

    def go(self) -> None:
        """Let it begin; an idle one: let it end."""
        if self._popen.stdin is not None:
            self._popen.stdin.write("go\n")
            self._popen.stdin.flush()

    def outcome(self) -> dict[str, Any]:
        """What it measured.

        Raises:
            Failed: it failed; with what it said.
        """
        line = line_from(self._popen.stdout)
        if not line:
            raise Failed(self.close())
        found: dict[str, Any] = json.loads(line)
        return found

    def close(self) -> str:
        """End it; what it complained of."""
        if self._popen.poll() is None:
            try:
                self._popen.wait(2)
            except subprocess.TimeoutExpired:
                self._popen.kill()
        return self._popen.communicate()[1].strip() or "the load generator ended early"


def outcome_of(command: Command, between: Callable[[], None] | None = None) -> dict[str, Any]:
    """Run a generator; `between` is called when its connections are open."""
    running = Running(command)
    try:
        if between is not None:
            between()
        running.go()
        return running.outcome()
    finally:
        running.close()
