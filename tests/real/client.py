"""What tests ask of every client of container images, whatever program it is.

Rule 1: a client has its store, sockets and configuration in a folder of its own, and is gone without a trace.
Rule 2: `pull` says whether the program was content; only `digest` says whether the image is there and can be used.
Rule 3: the real registry is reached by way of the sentinel alone.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

from processes import Command, Process, run
from suites import inside


@dataclass(frozen=True)
class Place:
    """Where a client's programs are, "" for this machine or a suite; the port of its mirror, and of the sentinel."""

    suite: str
    mirror: int
    sentinel: int

    def words(self, command: Command) -> list[str]:
        """The command, run in the suite; mounts that it leaves behind are gone with it, where root can see to that."""
        own = ["unshare", "--mount"] if os.geteuid() == 0 else []
        return [*(inside(self.suite) if self.suite else own), *map(str, command)]


@dataclass(frozen=True)
class Outcome:
    """How a program ended, all its words, and what it printed as its answer."""

    done: bool
    said: str
    answer: str = ""


def good(outcome: Outcome) -> None:
    """The program must have been content; else the test fails with its words."""
    assert outcome.done, outcome.said[-3000:]


class Client(ABC):
    """Use as `with`.

    Attributes:
        strict: whether it has a configuration in which the real registry is out of reach.
        resumes: whether it goes on where a broken transfer ended; else the pull fails.
        is_content: whether a pull of what is no image ends as if all were well.
    """

    strict: ClassVar[bool] = True
    resumes: bool = True
    is_content: bool = False

    def __init__(self, place: Place) -> None:
        self.place = place
        # not pytest's folder: the path of a unix socket must be short
        self.folder = Path(tempfile.mkdtemp(prefix="iar-")).resolve()
        self._process: Process | None = None
        self._proxy = f"http://127.0.0.1:{place.sentinel}"

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()
        shutil.rmtree(self.folder)

    def start(self) -> None:  # noqa: B027  # a program without a daemon has nothing to start
        """Start the daemon, where there is one."""

    def stop(self) -> None:
        """End the daemon, where there is one."""
        if self._process:
            self._process.stop()

    @property
    def environment(self) -> dict[str, str]:
        folder = dict.fromkeys(("HOME", "TMPDIR", "XDG_RUNTIME_DIR"), str(self.folder))
        return folder | dict.fromkeys(("HTTPS_PROXY", "HTTP_PROXY"), self._proxy)

    def run(self, *command: str | Path) -> Outcome:
        """Run one of the client's programs."""
        ran = run(self.place.words(command), **self.environment)
        return Outcome(ran.returncode == 0, ran.stdout + ran.stderr, ran.stdout)

    def mirrored(self, repository: str, reference: str = ":1") -> str:
        """The name of an image on docker.io, which the mirror is asked for."""
        return f"docker.io/library/{repository}{reference}"

    def explicit(self, repository: str, reference: str = ":1") -> str:
        """The same image, by the mirror's own address."""
        return f"127.0.0.1:{self.place.mirror}/docker.io/library/{repository}{reference}"

    @abstractmethod
    def pull(self, image: str, *, strict: bool = False) -> Outcome:
        """Pull the image; the real registry is to be asked where the mirror fails, unless `strict`."""

    @abstractmethod
    def digest(self, image: str) -> str:
        """The digest of the image as the client has it; "" where it is not there, complete."""

    @abstractmethod
    def remove(self, image: str) -> None:
        """Forget the image with all that belongs to it."""
