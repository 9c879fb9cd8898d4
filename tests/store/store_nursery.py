"""Worker processes for tests that kill them: forked by one process that has imported everything already."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

WORKER = Path(__file__).with_name("store_worker.py")


class Worker:
    """A worker process, forked by a nursery that has imported everything already."""

    def __init__(self, nursery: Nursery, root: Path, number: int) -> None:
        pipes = [nursery.folder / f"{number}.{way}" for way in ("orders", "answers")]
        for pipe in pipes:
            os.mkfifo(pipe)
        self.pid = nursery.bear(root=str(root), orders=str(pipes[0]), answers=str(pipes[1]))
        self._orders, self._answers = pipes[0].open("wb", buffering=0), pipes[1].open()
        assert self.answer() == "ready"

    def order(self, **order: Any) -> None:
        try:
            self._orders.write(json.dumps(order).encode() + b"\n")
        except BrokenPipeError:
            return  # it died meanwhile: the answers tell

    def answer(self) -> Any:
        return json.loads(self._answers.readline())

    def died(self, answers: int) -> bool:
        """Wait for these answers or its death."""
        while answers and self._answers.readline():
            answers -= 1
        self._orders.close()
        self._answers.read()
        self._answers.close()
        return answers > 0

    def end(self, *, kill: bool = False) -> None:
        if kill:
            os.kill(self.pid, signal.SIGKILL)
        self._orders.close()
        assert kill or self._answers.read() == ""
        self._answers.read()
        self._answers.close()


class Nursery:
    """Bears workers; ends those that still live."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._born: list[Worker] = []
        self._process = subprocess.Popen(
            [sys.executable, WORKER, "--nursery"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def worker(self, root: Path) -> Worker:
        self._born.append(Worker(self, root, len(self._born)))
        return self._born[-1]

    def bear(self, **order: str) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def end(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(20)
        self._process.stdout.close()


@pytest.fixture
def nursery(tmp_path: Path) -> Iterator[Nursery]:
    nursery = Nursery(tmp_path)
    yield nursery
    nursery.end()
