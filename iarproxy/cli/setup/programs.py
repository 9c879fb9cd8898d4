"""Running a client program: its output bounded, its life too.

Rule: a program that does not end in time is ended with all that it started.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import IO

from iarproxy.cli.setup.plan import ImageStore, Version, parse_version

_PATIENCE = 120.0  # seconds for a pull of a few hundred bytes, with all of a client's tries
_LOOK = 15.0
_MAX = 64 * 1024
_SEARCHED = "/usr/local/sbin:/usr/sbin:/sbin"  # where daemons are, which a user's PATH may lack


@dataclass(frozen=True, slots=True)
class Ran:
    """How a program ended. `code` None: it did not, in time. `said`: both outputs, cut."""

    code: int | None
    out: str
    said: str

    @property
    def well(self) -> bool:
        """Whether it did what it was told."""
        return self.code == 0

    @property
    def last_line(self) -> str:
        """What it said last, which is where programs say why."""
        lines = [line.strip() for line in self.said.splitlines() if line.strip()]
        return lines[-1][:600] if lines else "no word"


@dataclass(frozen=True, slots=True)
class NotInstalled:
    """There is no such program."""

    program: str


def run(
    command: Sequence[str], environment: Mapping[str, str] | None = None, patience: float = _PATIENCE
) -> Ran | NotInstalled:
    """Run a program to its end, or to the end of our patience."""
    settings = {**os.environ, **(environment or {})}
    found = shutil.which(command[0], path=f"{settings.get('PATH', os.defpath)}:{_SEARCHED}")
    if found is None:
        return NotInstalled(command[0])
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        with (
            subprocess.Popen(  # noqa: S603  # our own list of arguments, and no shell
                [found, *command[1:]],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=settings,
                start_new_session=True,
            ) as process
        ):
            code = _wait(process, patience)
        read = _text(out)
        return Ran(code, read, f"{read}\n{_text(err)}")


def _wait(process: subprocess.Popen[bytes], patience: float) -> int | None:
    try:
        return process.wait(patience)
    except subprocess.TimeoutExpired:
        return None
    finally:
        if process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def _text(file: IO[bytes]) -> str:
    file.seek(max(0, file.seek(0, os.SEEK_END) - _MAX))
    return file.read(_MAX).decode(errors="replace")


@dataclass(frozen=True, slots=True)
class Daemon:
    """What a dockerd says of itself. `mirrors`: as it has them now, from its file or its flags."""

    version: Version | None
    store: ImageStore
    mirrors: tuple[str, ...]


def ask_dockerd() -> Daemon | None:
    """What the dockerd of this environment says; None: none answers."""
    wanted = "{{.ServerVersion}}\n{{json .DriverStatus}}\n{{json .RegistryConfig.Mirrors}}"
    asked = run(["docker", "info", "--format", wanted], patience=_LOOK)
    if isinstance(asked, NotInstalled) or not asked.well:
        return None
    version, status, mirrors = (asked.out + "\n\n").split("\n", 2)
    store = ImageStore.CONTAINERD if "io.containerd.snapshotter" in status else ImageStore.CLASSIC
    try:
        named = json.loads(mirrors) or []
    except ValueError:
        named = []
    return Daemon(parse_version(version), store, tuple(str(each).rstrip("/") for each in named))


def version_of(command: Sequence[str]) -> Version | None:
    """The version that a program prints; None: it is not there, or says none."""
    if not command:
        return None
    match run(command, patience=_LOOK):
        case Ran(code=0, said=said):
            return parse_version(said)
        case _:
            return None
