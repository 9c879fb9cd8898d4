"""Programs of the operator's that are run to their end: for a while, and listened to within bounds.

Rule 1: no shell. However a program ends, it and all that it started is ended, unless that made itself a session of its
        own.
Rule 2: what it says beyond a bound is read and dropped, so that it neither fills memory nor blocks.
"""

from __future__ import annotations

import asyncio
import os
import resource
import signal
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from tempfile import TemporaryFile

_PIECE = 65_536
_TICK = 0.01  # seconds
_LAST_WAIT = 1.0  # seconds, for what it said to come to its end


@dataclass(frozen=True, slots=True)
class Ended:
    """How a program ended: its exit status (below 0: by that signal), and the beginnings of what it said."""

    status: int
    output: bytes
    errors: bytes


async def run(
    command: Sequence[str],
    *,
    told: bytes = b"",
    environment: Mapping[str, str],
    folder: str = "/",
    most: tuple[int, int],
    memory: int | None = None,
) -> Ended:
    """Run a program to its end. Whoever calls gives it a time: cancelling ends it.

    Args:
        command: program and arguments.
        told: on its standard input.
        environment: all of its environment variables.
        folder: where it starts.
        most: bytes of its standard output and of its standard error that are kept.
        memory: bytes that it may have of its own, where the kernel can be told; None: any.

    Raises:
        OSError: it cannot be run.
    """
    with TemporaryFile() as file:  # it may end without having read it
        file.write(told)
        file.seek(0)
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=file,
            stdout=PIPE,
            stderr=PIPE,
            env=dict(environment),
            cwd=folder,
            start_new_session=True,
        )
    said = bytearray(), bytearray()
    pipes = zip((process.stdout, process.stderr), said, most, strict=True)
    reading = [asyncio.create_task(_read(pipe, into, bound), name="program says") for pipe, into, bound in pipes]
    try:
        _bound(process, memory)
        while process.returncode is None:  # noqa: ASYNC110  # `wait` would wait for all who hold a pipe
            await asyncio.sleep(_TICK)
        _kill(process)
        await asyncio.wait(reading, timeout=_LAST_WAIT)
        return Ended(process.returncode, bytes(said[0]), bytes(said[1]))
    finally:
        await _end(process, reading)


async def _read(stream: asyncio.StreamReader | None, said: bytearray, most: int) -> None:
    """Read all that comes, and keep the beginning of it."""
    if stream is None:
        raise AssertionError("it is a pipe")
    while piece := await stream.read(_PIECE):
        said += piece[: most - len(said)]


def _bound(process: Process, memory: int | None) -> None:
    """Bound the memory of a process that has just begun: Linux counts private, writable pages, not reserved ones."""
    prlimit = getattr(resource, "prlimit", None)
    if memory is not None and prlimit is not None:
        with suppress(OSError):  # it has ended already
            prlimit(process.pid, resource.RLIMIT_DATA, (memory, memory))


def _kill(process: Process) -> None:
    """End what is left of the process and of those that it started."""
    with suppress(ProcessLookupError, PermissionError):  # nobody is left
        os.killpg(process.pid, signal.SIGKILL)


async def _end(process: Process, reading: Sequence[asyncio.Task[None]]) -> None:
    _kill(process)
    for task in reading:
        task.cancel()
    await asyncio.gather(*reading, return_exceptions=True)
    # There is no public way to let go of a pipe that somebody else may hold; without it `wait` would wait for them.
    process._transport.close()  # type: ignore[attr-defined]  # noqa: SLF001
    await process.wait()
    await asyncio.sleep(0)  # closed pipes are let go of at the loop's next turn
