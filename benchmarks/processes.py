"""Processes that the benchmark starts: what they cost, and that none outlives the run.

Rule 1: each has a session of its own and is ended by its process id; it also ends when the runner is killed.
Rule 2: processor time is that of the whole tree, children that ended included.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Self, TypeAlias

PATIENCE = 60.0  # seconds until something that was started must have happened
_TICK = os.sysconf("SC_CLK_TCK")
_DEAD = "http://127.0.0.1:9"  # nothing listens there: a program that would go elsewhere fails at once

Command: TypeAlias = Sequence[str | Path]


class Failed(Exception):
    """A program did not do what it was started for; the message says what it said."""


def free_port() -> int:
    """A loopback port that was free a moment ago."""
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        return int(door.getsockname()[1])


def until(happened: Callable[[], bool], what: str, patience: float = PATIENCE) -> None:
    """Wait until `happened()`.

    Raises:
        Failed: naming `what`, after `patience` seconds.
    """
    deadline = time.monotonic() + patience
    while not happened():
        if time.monotonic() > deadline:
            raise Failed(f"{what} did not happen within {patience:.0f} s")
        time.sleep(0.02)


def is_open(port: int) -> bool:
    """Whether somebody accepts connections on the loopback port."""
    with socket.socket() as door:
        door.settimeout(1)
        return door.connect_ex(("127.0.0.1", port)) == 0


def find(program: str) -> str | None:
    """Where the program is; also in the folders of system programs and of Go."""
    return shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin:/usr/local/go/bin")


def environment(home: Path) -> dict[str, str]:
    """What a started program gets to know: little, and no way out of this machine but where it is told."""
    return {
        "PATH": os.environ.get("PATH", "") + ":/usr/sbin:/sbin",
        "LANG": "C.UTF-8",
        "HOME": str(home),
        "TMPDIR": str(home),
        "XDG_RUNTIME_DIR": str(home),
        "OTEL_TRACES_EXPORTER": "none",
        "HTTPS_PROXY": _DEAD,
        "NO_PROXY": "127.0.0.0/8,localhost",
    }


class Process:
    """A running program. `log` is the file that it writes to."""

    def __init__(self, command: Command, folder: Path, *, name: str) -> None:
        self.log = folder / f"{name}.log"
        tied = ["setpriv", "--pdeathsig", "TERM", "--"] if find("setpriv") else []
        with self.log.open("ab") as output:
            self._popen = subprocess.Popen(
                [*tied, *map(str, command)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment(folder),
                cwd=folder,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def ended(self) -> bool:
        return self._popen.poll() is not None

    def said(self) -> str:
        """The end of what it wrote."""
        return self.log.read_text(errors="replace")[-1500:].strip()

    def wait_open(self, port: int) -> Self:
        """Wait until it accepts connections on `port`.

        Raises:
            Failed: it ended instead, or did not in time.
        """
        until(lambda: is_open(port) or self.ended, f"port {port} of {self.log.name}")
        if self.ended:
            raise Failed(f"{self.log.stem} ended: {self.said()}")
        return self

    def signal(self, number: signal.Signals) -> None:
        self._popen.send_signal(number)

    def stop(self) -> None:
        """Ask it to end; insist after five seconds."""
        if not self.ended:
            self._popen.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._popen.wait(5)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self._popen.wait(PATIENCE)


def run(command: Command, folder: Path, patience: float = 300.0) -> str:
    """Run a program to its end; what it wrote.

    Raises:
        Failed: it failed; with what it said.
    """
    try:
        ran = subprocess.run(
            [*map(str, command)], capture_output=True, text=True, env=environment(folder), timeout=patience, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise Failed(f"{command[0]} took more than {patience:.0f} s") from error
    if ran.returncode != 0:
        raise Failed(f"{command[0]}: {(ran.stderr or ran.stdout).strip()[-600:]}")
    return ran.stdout


def line_from(pipe: IO[str] | None) -> str:
    """One line of a program's output; empty at its end."""
    return pipe.readline() if pipe is not None else ""


def tree(pid: int) -> Iterator[int]:
    """The process and all its living descendants."""
    yield pid
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in task.read_text().split():
                yield from tree(int(child))


def cpu_seconds(pid: int) -> float:
    """Processor time of the tree, user and system: the living ones to the nanosecond, the ended ones to the tick."""
    return sum(own_cpu(each) + _ended_cpu(each) for each in tree(pid))


def own_cpu(pid: int) -> float:
    """Processor time of the process alone, in seconds."""
    clock = (~pid << 3) | 2  # what clock_getcpuclockid(3) answers: all threads of the process
    with contextlib.suppress(OSError):
        return time.clock_gettime(clock)
    return 0.0


def _ended_cpu(pid: int) -> float:
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[13]) + int(fields[14])) / _TICK
    return 0.0


def pss(pid: int) -> list[int]:
    """Proportional set size in bytes of every process of the tree, the first one first."""
    sizes = []
    for each in tree(pid):
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{each}/smaps_rollup").read_text().splitlines()
            sizes.append(sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")))
    return sizes


def machine_busy() -> float:
    """Processor seconds that the machine spent on anything since it started, stolen time included."""
    fields = [int(each) for each in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / _TICK
