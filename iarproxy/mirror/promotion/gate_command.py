"""A gate that is a program of the operator's: the facts on its standard input, its exit status is the verdict.

Rule 1: no shell; the program and its arguments are those that the configuration spells. It gets the environment that
        programs need to find their own things, and nothing of ours.
Rule 2: exit status 0 allows. Any other refuses, and the first lines that it printed are the reasons. One that cannot
        be run, is ended by a signal, or does not end in time gives no verdict.
Rule 3: it is run as `mirror.programs` runs all of them: within bounds, and ended with all that it started.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence

import orjson

from iarproxy.mirror.programs import run
from iarproxy.trust.gates import Allowed, Facts, Undecided, Verdict, facts_as_json, refused
from iarproxy.upstream.credentials_helper import helper_environment

_MAX_SAID = 16_384  # bytes of each of its outputs that count


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
                told = orjson.dumps(facts_as_json(facts), option=orjson.OPT_APPEND_NEWLINE)
                most = (_MAX_SAID, _MAX_SAID)
                ended = await run(self._command, told=told, environment=self._environment, most=most)
        except TimeoutError:
            return Undecided(f"{program} did not end within {self._patience:g} s, and was ended")
        except OSError as error:
            return Undecided(f"{program} cannot be run: {error.strerror}")
        if ended.status < 0:
            return Undecided(f"{program} was ended by signal {-ended.status}")
        lines = b"\n".join((ended.output, ended.errors)).decode("utf-8", "replace").splitlines()
        return Allowed() if ended.status == 0 else refused(lines, f"{program} ended with status {ended.status}")
