"""A gate that is a program of the operator's: the facts on its standard input, its exit status is the verdict.

Rule 1: no shell; the program and its arguments are those that the configuration spells. It gets the environment that
        programs need to find their own things, and nothing of ours.
Rule 2: exit status 0 allows. Any other refuses, and the first lines that it printed are the reasons. One that cannot
        be run, is ended by a signal, or does not end in time gives no verdict.
Rule 3: however it ends, it and all that it started is ended, unless that made itself a session of its own; and what it
        says beyond a bound is read and dropped, so that it neither fills memory nor blocks.
"""

from __future__ import annotations

import asyncio
import os
import signal
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping, Sequence
from contextlib import suppress
from tempfile import TemporaryFile

import orjson

from iarproxy.trust.gates import Allowed, Facts, Undecided, Verdict, facts_as_json, refused
from iarproxy.upstream.credentials_helper import helper_environment

_MAX_SAID = 16_384  # bytes of each of its outputs that count
_PIECE = 65_536
_TICK = 0.01  # seconds
_LAST_WAIT = 1.0  # seconds, for what it said to come to its end


class CommandGate:
    """Runs `command`, and gives it `patience` seconds."""

    name = "command"

    def __init__(self, command: Sequence[str], patience: float, environment: Mapping[str, str] = os.environ) -> None:
        self._command = tuple(command)
        self._patience = patience
        self._environment = helper_environment(environment)

    async def judge(self, facts: Facts) -> Verdict:
        """See `Gate.judge`."""
        program = self._command[0]
        try:
            async with asyncio.timeout(self._patience):
                status, said = await self._run(orjson.dumps(facts_as_json(facts), option=orjson.OPT_APPEND_NEWLINE))
        except TimeoutError:
            return Undecided(f"{program} did not end within {self._patience:g} s, and was ended")
        except OSError as error:
            return Undecided(f"{program} cannot be run: {error.strerror}")
        if status < 0:
            return Undecided(f"{program} was ended by signal {-status}")
        lines = said.decode("utf-8", "replace").splitlines()
        return Allowed() if status == 0 else refused(lines, f"{program} ended with status {status}")

    async def _run(self, told: bytes) -> tuple[int, bytes]:
        """Exit status, and the beginning of what it said: standard output, then standard error."""
        with TemporaryFile() as file:  # it may judge without having read it
            file.write(told)
            file.seek(0)
            process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=file,
                stdout=PIPE,
                stderr=PIPE,
                env=self._environment,
                cwd="/",
                start_new_session=True,
            )
        said = bytearray(), bytearray()
        pipes = zip((process.stdout, process.stderr), said, strict=True)
        reading = [asyncio.create_task(_read(pipe, into), name="gate says") for pipe, into in pipes]
        try:
            while process.returncode is None:  # noqa: ASYNC110  # `wait` would wait for all who hold a pipe
                await asyncio.sleep(_TICK)
            _kill(process)
            await asyncio.wait(reading, timeout=_LAST_WAIT)
            return process.returncode, b"\n".join(said)
        finally:
            await _end(process, reading)


async def _read(stream: asyncio.StreamReader | None, said: bytearray) -> None:
    """Read all that comes, and keep the beginning of it."""
    if stream is None:
        raise AssertionError("it is a pipe")
    while piece := await stream.read(_PIECE):
        said += piece[: _MAX_SAID - len(said)]


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
