"""Processes that tests start: each logs to a file, is waited for with a deadline, and is ended by its own id."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Self, TypeAlias

from go_tools import search_path

PATIENCE = 30.0  # seconds until something that was started must have happened
DEAD = "http://127.0.0.1:9"  # nothing listens there: a client that goes past the mirror fails at once
TRUSTED = {"PATH": search_path(), "LANG": "C.UTF-8"}
_OUR_PORTS = (12_000, 32_000)  # below those that the kernel chooses from, on Linux and macOS
NOWHERE = {"HTTPS_PROXY": DEAD, "HTTP_PROXY": DEAD, "NO_PROXY": "127.0.0.0/8,localhost"}


Command: TypeAlias = Sequence[str | Path]


def free_port() -> int:
    """A loopback port that was free a moment ago, and that the kernel gives to nobody who asks for any port."""
    while True:
        port = random.randrange(*_OUR_PORTS)
        with socket.socket() as door:
            try:
                door.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def until(happened: Callable[[], bool], what: str, patience: float = PATIENCE) -> None:
    """Wait until `happened()`; fail naming `what` after `patience` seconds."""
    deadline = time.monotonic() + patience
    while not happened():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not happen within {patience:.0f} s")
        time.sleep(0.02)


def is_open(port: int) -> bool:
    """Whether somebody accepts connections on the loopback port."""
    with socket.socket() as door:
        door.settimeout(1)
        return door.connect_ex(("127.0.0.1", port)) == 0


class Process:
    """A program in a session of its own, so that it can be ended with all its children."""

    def __init__(self, command: Command, log: Path, **environment: str) -> None:
        self.log = log
        program = shutil.which(str(command[0]), path=TRUSTED["PATH"]) or str(command[0])
        with log.open("ab") as output:
            self._popen = subprocess.Popen(
                [program, *map(str, command[1:])],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=TRUSTED | NOWHERE | environment,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def output(self) -> str:
        """What it wrote so far."""
        return self.log.read_text(errors="replace")

    @property
    def ended(self) -> bool:
        return self._popen.poll() is not None

    def wait_open(self, port: int) -> Self:
        """Wait until the process accepts connections on `port`."""
        try:
            until(lambda: is_open(port) or self.ended, f"port {port} of {self.log.name}")
            assert not self.ended, self.output[-3000:]
        except BaseException:
            self.kill()
            raise
        return self

    def signal(self, number: signal.Signals) -> None:
        self._popen.send_signal(number)

    def kill(self) -> None:
        """End it and all its children at once, as a crash would."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._popen.wait(PATIENCE)

    def stop(self) -> int:
        """Ask it to end, insist after a while; the exit code."""
        if not self.ended:
            self._popen.terminate()
        try:
            self._popen.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.kill()
        return self._popen.wait(PATIENCE)


def children(pid: int) -> list[int]:
    """The processes that `pid` started."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += map(int, task.read_text().split())
    return found


def writers(folder: Path, pids: Sequence[int]) -> Iterator[int]:
    """Those of `pids` that hold a file below `folder` open for writing."""
    for pid in pids:
        for link in Path(f"/proc/{pid}/fd").glob("*"):
            with contextlib.suppress(OSError):
                target = str(link.readlink())
                flags = Path(f"/proc/{pid}/fdinfo/{link.name}").read_text().split("flags:")[1].split()[0]
                if target.startswith(str(folder)) and target.endswith(".part") and int(flags, 8) & os.O_ACCMODE:
                    yield pid


def holders(connection: socket.socket, pids: Sequence[int]) -> Iterator[int]:
    """Those of `pids` that accepted the loopback connection."""
    ours, theirs = (f"0100007F:{each[1]:04X}" for each in (connection.getsockname(), connection.getpeername()))
    rows = map(str.split, Path("/proc/net/tcp").read_text().splitlines()[1:])
    accepted = {f"socket:[{row[9]}]" for row in rows if (row[1], row[2]) == (theirs, ours)}
    for pid in pids:
        for link in Path(f"/proc/{pid}/fd").glob("*"):
            with contextlib.suppress(OSError):
                if str(link.readlink()) in accepted:
                    yield pid


def run(command: Command, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program to its end; it may fail."""
    program = shutil.which(str(command[0]), path=TRUSTED["PATH"]) or str(command[0])
    return subprocess.run(
        [program, *map(str, command[1:])],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE,
        check=False,
        env=TRUSTED | NOWHERE | environment,
    )
