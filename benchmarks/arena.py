"""The place of one run: scratch folder, content, source registry and the servers under test.

Rule 1: whatever is started here is ended here, also when the run is interrupted.
Rule 2: what passed the source's wire is counted at the source, not believed.
"""

from __future__ import annotations

import hashlib
import http.client
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import nginx
from benchmarks.content import Content, Stored
from benchmarks.load import ACCEPT, Load, build, outcome_of
from benchmarks.measure import refuse
from benchmarks.peers import Peer, Server, start
from benchmarks.processes import Failed, Process, free_port

DIRECT = Peer("direct", "the source itself", lambda _: [], lambda: None)


@dataclass(frozen=True)
class Passed:
    """What the source sent in a stretch of time."""

    requests: int
    bytes: int


class Source:
    """The registry that the pull-through servers pull from."""

    def __init__(self, folder: Path, content: Content) -> None:
        folder.mkdir()
        self.port = free_port()
        self.process = Process(nginx.source(folder, self.port, content), folder, name="source").wait_open(self.port)
        self._log = folder / "access"

    def mark(self) -> int:
        """A point in time, for `since`."""
        return self._log.stat().st_size if self._log.exists() else 0

    def since(self, mark: int, quiet: float = 0.3, patience: float = 20.0) -> Passed:
        """What was sent since `mark`, once nothing was for `quiet` seconds."""
        deadline = time.monotonic() + patience
        size = -1
        while size != self.mark() and time.monotonic() < deadline:
            size = self.mark()
            time.sleep(quiet)
        with self._log.open() as log:
            log.seek(mark)
            counts = [int(line.rpartition(" ")[2]) for line in log]
        return Passed(len(counts), sum(counts))


@dataclass
class Stage:
    """Content, the source that offers it, and servers with empty caches."""

    scratch: Path
    binary: Path
    content: Content
    source: Source
    servers: list[Server]

    @property
    def direct(self) -> Server:
        """The source itself, as if it were one of the servers."""
        return Server(DIRECT, self.source.port, self.source.process, self.scratch)

    def warm(self, server: Server, wanted: Sequence[Stored]) -> None:
        """Ask for everything twice, so that a cache has it; the second time the bytes are checked.

        Raises:
            Failed: an answer was wrong.
        """
        for each in wanted:
            once = Load(paths=(each.path,), options=("--requests", "1", "--length", str(each.size)))
            refuse(outcome_of(once.command(self.binary, server.port)))
        time.sleep(0.5 if server.peer.pulls else 0)  # some caches keep a blob a little after they sent it
        for each in wanted:
            verify(server, each)


class Arena:
    """The scratch folder of a run, with the load generator in it. Use it as `with Arena.open() as arena`."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        self.binary = build(scratch)

    @classmethod
    @contextmanager
    def open(cls) -> Iterator[Arena]:
        """An arena in a new scratch folder, which goes with it."""
        scratch = Path(tempfile.mkdtemp(prefix="iarproxy-bench-"))
        try:
            yield cls(scratch)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    @contextmanager
    def stage(
        self, peers: Sequence[Peer], prepare: Callable[[Content], None], skipped: dict[str, str]
    ) -> Iterator[Stage]:
        """What `prepare` makes, and the servers; one that does not start goes to `skipped`, with the reason."""
        folder = Path(tempfile.mkdtemp(prefix="stage-", dir=self.scratch))
        content = Content(folder / "content")
        with ExitStack() as stack:
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            prepare(content)
            source = Source(folder / "source", content)
            stack.callback(source.process.stop)
            stage = Stage(folder, self.binary, content, source, [])
            for peer in peers:
                try:
                    server = start(peer, folder, source.port, content)
                except Failed as error:
                    skipped[peer.name] = str(error)
                    continue
                stack.callback(server.process.stop)
                stage.servers.append(server)
            yield stage


def verify(server: Server, wanted: Stored) -> None:
    """Nothing, if the server answers with the very bytes.

    Raises:
        Failed: it does not.
    """
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    try:
        connection.request("GET", wanted.path, headers={"Accept": ACCEPT})
        answer = connection.getresponse()
        seen = hashlib.sha256()
        while chunk := answer.read(1 << 20):
            seen.update(chunk)
    except (OSError, http.client.HTTPException) as error:
        raise Failed(f"{wanted.path}: {error}") from error
    finally:
        connection.close()
    if answer.status != 200 or f"sha256:{seen.hexdigest()}" != wanted.digest:
        raise Failed(f"{wanted.path}: status {answer.status} with bytes of sha256:{seen.hexdigest()}")
