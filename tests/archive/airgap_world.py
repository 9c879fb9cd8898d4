"""The world of the air gap's tests: an origin whose sets are synced, a site that dials nobody, folders carried between.

Rule 1: a set is kept as `iarproxy sync` leaves it, straight in store and ledger, with no network; what really syncs has
        a registry of the test's own as upstream (`an_origin(folder, url=...)`).
Rule 2: commands run in this process, in a tenth of the time; `alone` runs one as a process of its own.
Rule 3: what a refusal must leave alone is in `Place.holdings`: every file that holds or names content, and the journal.

    origin, site = an_origin(tmp_path / "origin"), a_site(tmp_path / "site")
    origin.sync("site-a", {"registry.example.com/team/app:1": small_image(1)})
    origin.done("keys", "create", "team")
    origin.done("bundle", "create", "site-a", "--key", origin.folder / "team.key", "--full", "-o", tmp_path / "one")
    site.done("bundle", "apply", tmp_path / "one", "--trust", origin.folder / "team.pub")
"""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import json
import logging
import os
import random
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, chdir, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import TypeVar

import structlog

from airgap_sets import SOURCE, Rooms, Wanted, kept
from ended import Ended
from iarproxy.cli import app
from iarproxy.ledger import Ledger
from iarproxy.oci import Digest, TagReference, parse_manifest, parse_reference
from iarproxy.oci.set_record import SetRecord
from iarproxy.store import Store
from images import Published

T = TypeVar("T")
UPSTREAM = "registry.example.com"
_PATIENCE = 60.0  # seconds that a process may take to start or end
_PORTS = (12_000, 32_000)  # below those that the kernel gives to whoever asks for any
_CONTENT = ("blobs", "ingest", "quarantine", "pieces", "index.json", "oci-layout", "store.json")


@dataclass
class Place:
    """One machine: a folder with a configuration, a store and a ledger.

    Attributes:
        port, admin: where `serving` listens on loopback.
        sets: what its `sets.toml` says, by name.
    """

    folder: Path
    port: int
    admin: int
    sets: dict[str, list[str]] = field(default_factory=dict)

    @property
    def store(self) -> Path:
        return self.folder / "store"

    @property
    def config(self) -> Path:
        return self.folder / "iarproxy.toml"

    @property
    def sets_file(self) -> Path:
        return self.folder / "sets.toml"

    @property
    def environment(self) -> dict[str, str]:
        """Of commands: no home but the folder."""
        own = {"HOME": str(self.folder), "XDG_CACHE_HOME": str(self.folder / "cache")}
        return own | {"IARPROXY_CONFIG": str(self.config), "PATH": os.environ["PATH"]}

    # --- commands ---

    def run(self, *words: str | Path) -> Ended:
        """A command, in this process; not to be used while an asyncio loop runs in this thread."""
        last_resort = logging.lastResort
        with _environment(self.environment), chdir(self.folder), _captured() as (out, err):
            try:
                code = app.run(list(map(str, words)))
            except SystemExit as stopped:
                code = int(str(stopped.code))
            finally:  # where its logs went is closed
                structlog.reset_defaults()
                logging.lastResort = last_resort
        return Ended(code, *(each.buffer.getvalue().decode() for each in (out, err)))  # type: ignore[attr-defined]  # BytesIO

    def done(self, *words: str | Path) -> Ended:
        """A command that has to succeed."""
        ended = self.run(*words)
        assert ended.code == 0, f"{' '.join(map(str, words))}: exit code {ended.code}: {ended.out}{ended.err}"
        return ended

    def refused(self, code: str, *words: str | Path) -> Ended:
        """A command that has to be refused with that code."""
        ended = self.run(*words, "--json")
        assert (1, code) == (ended.code, ended.json.get("code")), f"{ended.out}{ended.err}"
        return ended

    def alone(self, *words: str | Path, **environment: str) -> Ended:
        """A command as a process of its own."""
        ran = subprocess.run(
            [sys.executable, "-m", "iarproxy", *map(str, words)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=110,
            check=False,
            env=self.environment | environment,
            cwd=self.folder,
        )
        return Ended(ran.returncode, ran.stdout, ran.stderr)

    @contextmanager
    def serving(self) -> Iterator[None]:
        """`iarproxy serve`, until the block ends."""
        command = [sys.executable, "-m", "iarproxy", "serve"]
        with (self.folder / "serve.log").open("ab") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.environment, cwd=self.folder
            )
        try:
            self._wait_ready(process)
            yield
        finally:
            process.terminate()
            try:
                process.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(_PATIENCE)

    def _wait_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                if ask(self.admin, "/readyz")[0] == 200:
                    return
            except OSError:
                pass
            log = self.folder / "serve.log"
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]  # noqa: PT018
            time.sleep(0.05)

    def pull(self, text: str) -> set[str]:
        """Pull an image from `serving` as a client does, all platforms; the digests of what it consists of.

        Raises:
            AssertionError: some of it is not there, or not what its digest says.
        """
        reference = parse_reference(text)
        wanted = str(reference.tag if isinstance(reference, TagReference) else reference.digest)
        base = f"/v2/{reference.repository}"
        raw = self._got(f"{base}/manifests/{wanted}")
        assert isinstance(reference, TagReference) or Digest.of(raw) == reference.digest
        found, ahead = {str(Digest.of(raw))}, [parse_manifest(raw)]
        while ahead:
            manifest = ahead.pop()
            for blob in manifest.blobs:
                self._checked(f"{base}/blobs/{blob.digest}", blob.digest)
            for child in manifest.children:
                below = self._checked(f"{base}/manifests/{child.descriptor.digest}", child.descriptor.digest)
                ahead.append(parse_manifest(below))
            found |= {str(each) for each in manifest.links}
        return found

    def wait_served(self, text: str, digest: Digest) -> None:
        """Wait until `serving` gives that content for a tag: what another process changed it knows within a second."""
        reference = parse_reference(text)
        assert isinstance(reference, TagReference)
        deadline = time.monotonic() + _PATIENCE
        target = f"/v2/{reference.repository}/manifests/{reference.tag}"
        while Digest.of(self._got(target)) != digest:
            assert time.monotonic() < deadline, f"{text} is not {digest}"
            time.sleep(0.05)

    def _checked(self, target: str, digest: Digest) -> bytes:
        data = self._got(target)
        assert Digest.of(data, digest.algorithm) == digest, target
        return data

    def _got(self, target: str) -> bytes:
        status, data = ask(self.port, target)
        assert status == 200, f"{target}: {status} {data[:500]!r}"
        return data

    # --- what is there ---

    def holdings(self) -> tuple[str, int]:
        """A sha256 over the names, kinds, modes and bytes of the store's whole content, and the journal's serial."""
        whole = hashlib.sha256()
        for path in sorted(each for name in _CONTENT for each in _below(self.store / name)):
            kind = path.lstat()
            data = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
            said = [path.relative_to(self.store), oct(kind.st_mode), hashlib.sha256(data).hexdigest()]
            whole.update(f"{said}\n".encode())
        return whole.hexdigest(), self.within(lambda rooms: rooms.ledger.serial())

    def wait_listed(self) -> None:
        """Wait until `serving` has written `index.json` anew, which it does a while after names changed."""
        deadline = time.monotonic() + _PATIENCE
        wanted = len(self.pins())
        while len(json.loads((self.store / "index.json").read_bytes())["manifests"]) != wanted:
            assert time.monotonic() < deadline, "index.json was not written"
            time.sleep(0.05)

    def blobs(self) -> set[str]:
        """The digests of what is held."""
        return {f"sha256:{path.name}" for path in (self.store / "blobs/sha256").iterdir()}

    def pins(self) -> dict[str, str]:
        """The digest of each pin of the default environment."""

        async def look(rooms: Rooms) -> dict[str, str]:
            return {str(pin.reference): str(pin.descriptor.digest) for pin in await rooms.ledger.pins(limit=10_000)}

        return self.within(look)

    def within(self, work: Callable[[Rooms], Awaitable[T]]) -> T:
        """The outcome of `work` on the open store and ledger, in a loop of its own."""

        async def inside() -> T:
            async with self.opened() as rooms:
                return await work(rooms)

        return asyncio.run(inside())

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Rooms]:
        """Store and ledger, for tests in a loop of their own."""
        store = Store.open(self.store, max_size=10**12, reserve=0)
        try:
            ledger = await Ledger.open(
                self.store / "ledger.db", store_identity=store.identity, store_is_empty=store.is_empty()
            )
            try:
                yield Rooms(store, ledger)
            finally:
                await ledger.close()
        finally:
            await store.close()

    # --- sets, as `sync` leaves them ---

    def sync(self, name: str, wanted: Wanted | Mapping[str, Published]) -> SetRecord:
        """Hold and pin these images as the whole set `name`, which gets a section in `sets.toml`."""
        whole = wanted if isinstance(wanted, Wanted) else Wanted(wanted)
        self.sets[name] = sorted(whole.names)
        self.write_sets(whole.platforms)
        return self.within(lambda rooms: kept(rooms, self.sets_file, name, whole))

    def write_sets(self, platforms: Sequence[str] = ()) -> None:
        """`sets.toml`, with the sets that were synced so far."""
        limit = f"platforms = {json.dumps(list(platforms))}\n" if platforms else ""
        sections = [
            f"[[set]]\nname = {json.dumps(name)}\nreferences = {json.dumps(names)}\n{limit}"
            for name, names in self.sets.items()
        ]
        self.sets_file.write_text("\n".join(sections))


def an_origin(folder: Path, *, url: str = SOURCE, upstreams: Collection[str] = (UPSTREAM,)) -> Place:
    """A machine whose upstreams are all at `url`; with none given it reaches nobody, and needs nobody."""
    return _place(folder, url, upstreams)


def a_site(folder: Path, *, upstreams: Collection[str] = (UPSTREAM,)) -> Place:
    """A machine that is offline: it knows the names of upstreams, and never dials one."""
    return _place(folder, SOURCE, upstreams, "offline = true\n")


def copied(place: Place, folder: Path) -> Place:
    """The same machine once more, as a copy of its disk, with nothing running."""
    folder.mkdir(parents=True)
    copy = Place(folder, free_port(), free_port(), dict(place.sets))
    shutil.copytree(place.store, copy.store)
    text = place.config.read_text().replace(str(place.store), str(copy.store))
    for port, new in ((place.port, copy.port), (place.admin, copy.admin)):
        text = text.replace(f':{port}"', f':{new}"')
    copy.config.write_text(text)
    copy.write_sets()
    return copy


def _place(folder: Path, url: str, upstreams: Collection[str], server: str = "") -> Place:
    folder.mkdir(parents=True)
    place = Place(folder, free_port(), free_port())
    named = "".join(f'[upstreams."{name}"]\nurl = "{url}"\n' for name in upstreams)
    place.config.write_text(
        f'[server]\nlisten = ["127.0.0.1:{place.port}"]\nworkers = 1\n{server}'
        f'[admin]\nlisten = "127.0.0.1:{place.admin}"\n'
        f'[store]\npath = "{place.store}"\n[drift]\ninterval = "0s"\n{named}'
    )
    return place


# --- small things ----------------------------------------------------------------------------------------------------


def ask(port: int, target: str, method: str = "GET") -> tuple[int, bytes]:
    """Status and body of one request, on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_PATIENCE)
    try:
        connection.request(method, target)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def free_port() -> int:
    """A loopback port that was free a moment ago."""
    while True:
        port = random.SystemRandom().randrange(*_PORTS)
        with socket.socket() as door:
            try:
                door.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def _below(path: Path) -> Iterator[Path]:
    if path.exists() or path.is_symlink():
        yield path
        yield from path.rglob("*")


@contextmanager
def _environment(wanted: Mapping[str, str]) -> Iterator[None]:
    known = dict(os.environ)
    os.environ.update(wanted)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(known)


@contextmanager
def _captured() -> Iterator[tuple[TextIOWrapper, TextIOWrapper]]:
    out, err = (TextIOWrapper(BytesIO(), "utf-8", write_through=True) for _ in range(2))
    with redirect_stdout(out), redirect_stderr(err):
        yield out, err
