"""Credential helpers: programs named docker-credential-NAME that know a login (docker-credential-helpers' protocol).

Rule 1: a helper is a program of the PATH, asked `get` and nothing else; the server's name goes to its standard input.
Rule 2: it gets the environment that helpers need to find their own credentials, and nothing of ours.
Rule 3: its time and what it may say are bounded; beyond them it is ended with all that it started. What it says is
        never repeated.
Rule 4: its answer is remembered for a minute, also that it has none; a refused one for five seconds, so that an
        upstream that refuses everything does not make it start without end.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

import orjson
import structlog

from iarproxy.errors import UpstreamUnavailable
from iarproxy.inflight import InFlight
from iarproxy.upstream.credentials import Credential, login_of

log = structlog.get_logger("iarproxy.upstream")

_NOT_FOUND = b"credentials not found"  # the first words of the protocol's message, on standard output
_PATIENCE = 10.0  # seconds
_MAX_ANSWER = 65_536  # bytes
_REMEMBERED_FOR = 60.0  # seconds
_REFUSED_FOR = 5.0
_PASSED = frozenset(
    [
        "PATH",
        "HOME",
        "USER",
        "LOGNAME",
        "LANG",
        "LC_ALL",
        "TMPDIR",
        "TZ",
        "DBUS_SESSION_BUS_ADDRESS",
        "DOCKER_CONFIG",
        "GNUPGHOME",
        "PASSWORD_STORE_DIR",
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "NO_PROXY",
        "http_proxy",
        "https_proxy",
        "no_proxy",
    ]
)
_PASSED_PREFIXES = ("XDG_", "AWS_", "AZURE_", "GOOGLE_", "CLOUDSDK_", "GCE_METADATA_")


@dataclass(frozen=True, slots=True)
class _Said:
    """What the helper said, and when. `failure`: it said nothing of use, in words of ours."""

    at: float
    credential: Credential | None = None
    failure: str = ""


class Helper:
    """One program, asked for one server.

    Args:
        upstream: its name, for messages.
        name: of the helper.
        server: as `Server.address` gives it.
        clock: seconds, for how long an answer is remembered.
        patience: seconds for one run.
    """

    def __init__(
        self, upstream: str, name: str, server: str, clock: Callable[[], float], patience: float = _PATIENCE
    ) -> None:
        self._upstream = upstream
        self._program = f"docker-credential-{name}"
        self._server = server
        self._clock = clock
        self._patience = patience
        self._asking: InFlight[str, _Said] = InFlight()
        self._said: _Said | None = None

    async def find(self, repository: str, *, refused: bool = False) -> Credential | None:  # noqa: ARG002  # the protocol's
        """See `Source.find`."""
        said = self._said
        if said is None or not 0 <= self._clock() - said.at < self._lasts(said, refused=refused):
            said = await self._asking.once(self._server, self._ask)
        if said.failure:
            raise UpstreamUnavailable(
                f"{self._program} gave no login for {self._upstream}: {said.failure}", upstream=self._upstream
            )
        return said.credential

    async def close(self) -> None:
        """See `Source.close`."""
        await self._asking.close()

    @staticmethod
    def _lasts(said: _Said, *, refused: bool) -> float:
        return _REFUSED_FOR if refused or said.failure else _REMEMBERED_FOR

    async def _ask(self) -> _Said:
        known = self._said is not None and not self._said.failure and self._said.credential is None
        self._said = said = await self._run()
        if said.credential is None and not said.failure and not known:
            log.warning("the credential helper has no login: asking anonymously", upstream=self._upstream)
        return said

    async def _run(self) -> _Said:
        program = shutil.which(self._program)
        if program is None:
            return _Said(self._clock(), failure="there is no such program in the PATH")
        try:
            async with asyncio.timeout(self._patience):
                code, output = await _output(program, self._server, helper_environment(os.environ))
        except TimeoutError:
            return _Said(self._clock(), failure=f"it did not end within {self._patience:g} s")
        except OSError as error:
            return _Said(self._clock(), failure=f"it cannot be run: {error.strerror}")
        return self._read(code, output)

    def _read(self, code: int, output: bytes) -> _Said:
        at = self._clock()
        if code != 0:
            found = output.strip().lower().startswith(_NOT_FOUND)
            return _Said(at) if found else _Said(at, failure=f"it ended with status {code}")
        try:
            match orjson.loads(output):
                case {"Username": str(username), "Secret": str(secret)} if secret and ":" not in username:
                    return _Said(at, login_of(username, secret))
        except orjson.JSONDecodeError:
            pass
        return _Said(at, failure="its answer is not the JSON of the protocol")


def helper_environment(ours: Mapping[str, str]) -> dict[str, str]:
    """What a helper may know of our environment."""
    return {key: value for key, value in ours.items() if key in _PASSED or key.startswith(_PASSED_PREFIXES)}


async def _output(program: str, server: str, environment: Mapping[str, str]) -> tuple[int, bytes]:
    """Exit status and standard output; a program that does not end by itself is ended."""
    process = await asyncio.create_subprocess_exec(
        program,
        "get",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env=environment,
        cwd="/",
        start_new_session=True,
    )
    if process.stdin is None or process.stdout is None:
        raise AssertionError("both are pipes")
    ended = False
    try:
        with suppress(OSError):  # it may answer without having read the question
            process.stdin.write(f"{server}\n".encode())
            await process.stdin.drain()
            process.stdin.close()
        output = b""
        while len(output) <= _MAX_ANSWER and (piece := await process.stdout.read(_MAX_ANSWER)):
            output += piece
        if len(output) > _MAX_ANSWER:
            return -1, b""
        code = await process.wait()
        ended = True
        return code, output
    finally:
        if not ended:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
