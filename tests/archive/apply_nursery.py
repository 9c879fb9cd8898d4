"""Commands in processes of their own that can be killed, forked by one that has imported everything already.

    python apply_nursery.py          orders on standard input, answers on standard output, as lines of JSON

    {"words": [...], "environment": {...}, "folder": "...", "kill_at": n}

Rule 1: the command is killed right before its n-th call that changes files or locks; None: it runs to its end.
Rule 2: the answer is {"code": c, "calls": n, "read": bytes}: the exit code (None: killed), how many such calls it made,
        and how many bytes it read by system calls, whatever they are of.
"""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from iarproxy.cli import app, bundle_apply, logs

IMPORTED = (bundle_apply, logs)  # here, and not by each child: what it reads is counted
CALLS = ("open", "write", "pwrite", "pwritev", "fsync", "fchmod", "chmod", "link", "unlink", "rename", "ftruncate")


@dataclass(frozen=True)
class Run:
    """How a command ended; `code` None: it was killed."""

    code: int | None
    calls: int
    read: int
    said: str


class Nursery:
    """Runs commands of a place, one at a time. To be ended."""

    def __init__(self, folder: Path) -> None:
        self._said = folder / "said"
        self._process = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def run(self, environment: dict[str, str], folder: Path, *words: str | Path, kill_at: int | None = None) -> Run:
        """Run the command there, and kill it if it gets that far."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        order = {"words": list(map(str, words)), "environment": environment, "folder": str(folder), "kill_at": kill_at}
        self._process.stdin.write(json.dumps({**order, "said": str(self._said)}).encode() + b"\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        return Run(answer["code"], answer["calls"], answer["read"], self._said.read_text(errors="replace"))

    def end(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()


@pytest.fixture(scope="module")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    made = Nursery(tmp_path_factory.mktemp("nursery"))
    yield made
    made.end()


# --- the process -----------------------------------------------------------------------------------------------------


def _counting(kill_at: int | None) -> Iterator[int]:
    """Count the calls that change files or locks, and die right before one of them."""
    calls = itertools.count(1)

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            if next(calls) == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **kwargs)

        return wrapper

    for name in CALLS:
        setattr(os, name, counted(getattr(os, name)))
    fcntl.flock = counted(fcntl.flock)
    return calls


def _bytes_read() -> int:
    said = Path("/proc/self/io").read_text()
    return int(said.split("rchar: ")[1].split()[0])


def _obey(order: dict[str, Any], answer: int) -> int:
    """What the forked process does."""
    said = os.open(order["said"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(said, 1)
    os.dup2(said, 2)
    os.environ.clear()
    os.environ.update(order["environment"])
    os.chdir(order["folder"])
    before, calls = _bytes_read(), _counting(order["kill_at"])
    try:
        code = app.run(order["words"])
    except SystemExit as stopped:
        code = int(str(stopped.code))
    sys.stdout.flush()
    sys.stderr.flush()
    done = {"code": code, "calls": next(calls) - 1, "read": _bytes_read() - before}
    _WRITE(answer, json.dumps(done).encode() + b"\n")
    return code


_WRITE = os.write


def main() -> None:
    """Fork a process for each order. Nothing is running yet that a fork could break."""
    answers = os.dup(1)
    for line in sys.stdin.buffer:
        child = os.fork()
        if child == 0:
            os._exit(_obey(json.loads(line), answers))
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            _WRITE(answers, json.dumps({"code": None, "calls": 0, "read": 0}).encode() + b"\n")


if __name__ == "__main__":
    main()
