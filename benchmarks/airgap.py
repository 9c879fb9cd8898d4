"""The air gap at work: `bundle create` and `bundle apply` beside `cp`, `sha256sum` and `skopeo sync` of the same data.

    python -m benchmarks.airgap [--size MIB] [--rounds N] [--volume-size SIZE] [--folder DIR]

Rule 1: all of a round run one after the other on the same files, which the page cache holds; rounds are interleaved,
        and medians are compared. Before each the disk has written what earlier ones left.
Rule 2: `cp` ends with an fsync of each file, as create and apply do; nobody's answer waits in memory.
Rule 3: memory is the peak that /proc tells of the process itself.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from benchmarks.processes import Failed, find, free_port, is_open, until
from iarproxy.config.sets import load_sets
from iarproxy.ledger import Ledger
from iarproxy.oci import Descriptor, Digest, TagReference, parse_reference
from iarproxy.oci.media_types import OCI_MANIFEST
from iarproxy.oci.set_record import MEDIA_TYPE, Member, SetRecord
from iarproxy.store import Store

REGISTRY, SET = "bench.test", "bench"
SMALL = 200  # images of a few KiB beside the large ones
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar"
_MIB = 2**20


@dataclass(frozen=True)
class Ran:
    """What a command took: seconds by the clock, seconds of processors, peak bytes of memory."""

    seconds: float
    cpu: float
    peak: int


@dataclass
class Row:
    """What was measured of one command in all rounds."""

    name: str
    runs: list[Ran] = field(default_factory=list)

    def line(self, size: int) -> str:
        """One row of the table."""
        seconds = statistics.median(each.seconds for each in self.runs)
        cpu = statistics.median(each.cpu for each in self.runs)
        peak = max(each.peak for each in self.runs) / _MIB
        return f"| {self.name} | {seconds:.2f} | {size / seconds / 1e6:.0f} | {cpu:.2f} | {peak:.0f} |"


@dataclass(frozen=True)
class Place:
    """A machine: a folder with a configuration and a store."""

    folder: Path
    port: int

    @property
    def store(self) -> Path:
        return self.folder / "store"

    @property
    def environment(self) -> dict[str, str]:
        own = {"HOME": str(self.folder), "IARPROXY_CONFIG": str(self.folder / "iarproxy.toml")}
        return {"PATH": os.environ["PATH"], "PYTHONPATH": str(Path.cwd()), **own}

    def command(self, *words: str | Path) -> list[str]:
        return [sys.executable, "-m", "iarproxy", *map(str, words)]


# --- what is carried -------------------------------------------------------------------------------------------------


def place(folder: Path, *, offline: bool = False) -> Place:
    """A machine with nothing on it yet."""
    folder.mkdir()
    port, admin = free_port(), free_port()
    (folder / "iarproxy.toml").write_text(
        f'[server]\nlisten = ["127.0.0.1:{port}"]\nworkers = 1\noffline = {str(offline).lower()}\n'
        f'[admin]\nlisten = "127.0.0.1:{admin}"\n[store]\npath = "{folder / "store"}"\nmax_size = "1TiB"\n'
        f'[upstreams."{REGISTRY}"]\nurl = "http://127.0.0.1:9"\n'
    )
    return Place(folder, port)


def layers(size: int) -> Iterator[list[int]]:
    """The sizes of the layers of each image; `size` bytes together, more or less."""
    yield [size // 2]
    for _ in range(4):
        yield [size // 16, size // 16]
    for _ in range(SMALL):
        yield [20_000, 500]


async def synced(origin: Place, size: int) -> None:
    """The set, as a sync would have left it."""
    names = [f"{REGISTRY}/bench/app{number}:1" for number, _ in enumerate(layers(size))]
    sets = origin.folder / "sets.toml"
    sets.write_text(f'[[set]]\nname = "{SET}"\nreferences = {orjson.dumps(names).decode()}\n')
    store = Store.open(origin.store, max_size=2**50)
    ledger = await Ledger.open(origin.store / "ledger.db", store_identity=store.identity, store_is_empty=True)
    members = []
    for name, sizes in zip(names, layers(size), strict=True):
        reference = parse_reference(name)
        assert isinstance(reference, TagReference)
        manifest, blobs = await _image(store, sizes)
        await ledger.add(reference, manifest, "http://127.0.0.1:9")
        await ledger.link(reference.repository, [manifest.digest, *blobs])
        members.append(Member(reference, manifest, ("a benchmark",)))
    record = SetRecord(SET, load_sets(sets)[SET].definition, tuple(members))
    kept = await _put(store, MEDIA_TYPE, record.dump())
    await ledger.sets.keep(SET, kept, record.definition, complete=True, actor="bench")
    await ledger.close()
    await store.close()


async def _image(store: Store, sizes: Sequence[int]) -> tuple[Descriptor, list[Digest]]:
    source = random.Random(sum(sizes))
    config = await _put(store, _CONFIG, orjson.dumps({"os": "linux", "architecture": "amd64", "id": source.random()}))
    listed = [await _put(store, _LAYER, os.urandom(each)) for each in sizes]
    document = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": _described(config)}
    raw = orjson.dumps(document | {"layers": list(map(_described, listed))})
    return await _put(store, OCI_MANIFEST, raw), [each.digest for each in (config, *listed)]


async def _put(store: Store, media_type: str, data: bytes) -> Descriptor:
    described = Descriptor(media_type, Digest.of(data), len(data))
    await store.put(described.digest, data)
    return described


def _described(each: Descriptor) -> dict[str, str | int]:
    return {"mediaType": each.media_type, "digest": str(each.digest), "size": each.size}


# --- what is measured ------------------------------------------------------------------------------------------------


def measured(command: Sequence[str], folder: Path, environment: dict[str, str] | None = None) -> Ran:
    """Run a command in a folder, to its end.

    Raises:
        Failed: it did not succeed; with what it said.
    """
    os.sync()
    with tempfile.TemporaryFile() as said:
        began = time.perf_counter()
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=said, stderr=said)
        peak = 0
        while True:
            pid, status, used = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            peak = max(peak, _peak(process.pid))
            time.sleep(0.005)
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            raise Failed(f"{' '.join(command[:6])} ...: {said.read()[-600:].decode(errors='replace')}")
    return Ran(seconds, used.ru_utime + used.ru_stime, peak)


def _peak(pid: int) -> int:
    """The most memory that a process had, in bytes."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)


def shell(script: str, *words: str | Path) -> list[str]:
    return ["sh", "-ec", script, "sh", *map(str, words)]


@contextmanager
def serving(origin: Place) -> Iterator[None]:
    """`iarproxy serve`, for who copies from it."""
    process = subprocess.Popen(
        origin.command("serve"), env=origin.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        until(lambda: is_open(origin.port), "iarproxy serves")
        yield
    finally:
        process.terminate()
        process.wait(30)


@dataclass
class Contest:
    """All that is compared, over one set."""

    folder: Path
    volume_size: str
    rows: dict[str, Row] = field(default_factory=dict)

    def measure(self, name: str, command: Sequence[str], environment: dict[str, str] | None = None) -> None:
        self.rows.setdefault(name, Row(name)).runs.append(measured(command, self.folder, environment))

    def round(self, origin: Place) -> None:
        """Everything once."""
        out, copy, site = self.folder / "bundle", self.folder / "copy", place(self.folder / "site", offline=True)
        blobs, key = origin.store / "blobs", origin.folder / "bench.key"
        words = ["bundle", "create", SET, "--sets", str(origin.folder / "sets.toml"), "--key", str(key), "--full"]
        words += ["--volume-size", self.volume_size] if self.volume_size else []
        self.measure("`bundle create`", origin.command(*words, "-o", out), origin.environment)
        self.measure("`cp -r`, fsync", shell('cp -r "$1" "$2"; find "$2" -type f -exec sync {} +', blobs, copy))
        self.measure("`sha256sum`", shell('find "$1" -type f -exec sha256sum {} + >/dev/null', blobs))
        trust = ["--trust", str(origin.folder / "bench.pub")]
        apply = site.command("bundle", "apply", out, *trust, "--reason", "bench")
        self.measure("`bundle verify`", site.command("bundle", "verify", out, *trust), site.environment)
        self.measure("`bundle apply`", apply, site.environment)
        self.measure("`bundle apply`, again", apply, site.environment)
        if find("skopeo"):
            self.skopeo(origin)
        for each in (out, copy, site.folder):
            shutil.rmtree(each)

    def skopeo(self, origin: Place) -> None:
        """Copy the set out of a registry, as `skopeo sync` carries sets: all of it, each time, unsigned."""
        images = {f"{REGISTRY}/bench/app{number}": ["1"] for number, _ in enumerate(layers(0))}
        source, out = self.folder / "skopeo.yaml", self.folder / "skopeo"
        source.write_bytes(orjson.dumps({f"127.0.0.1:{origin.port}": {"tls-verify": False, "images": images}}))
        script = 'skopeo --insecure-policy sync --src yaml --dest dir "$1" "$2"; find "$2" -type f -exec sync {} +'
        out.mkdir()
        with serving(origin):
            self.measure("`skopeo sync` to `dir:`, fsync", shell(script, source, out))
        shutil.rmtree(out)


def main() -> int:
    """Compare, and print a table for docs/benchmarks.md."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.airgap", description=__doc__.split("\n")[0])
    parser.add_argument("--size", type=int, default=1024, help="MiB of the set")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--volume-size", default="", help="of the bundle; default: one volume")
    parser.add_argument("--folder", type=Path, help="where to work; default: the folder for temporary files")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="airgap-") as name:
        return _compare(Path(name), options.size * _MIB, options.rounds, options.volume_size)


def _compare(folder: Path, size: int, rounds: int, volume_size: str) -> int:
    origin = place(folder / "origin")
    asyncio.run(synced(origin, size))
    subprocess.run(
        origin.command("keys", "create", "bench"), env=origin.environment, cwd=origin.folder, check=True, stdout=-3
    )
    contest, failed = Contest(folder, volume_size), 0
    for _ in range(rounds):
        try:
            contest.round(origin)
        except Failed as error:
            print(f"benchmarks: {error}", file=sys.stderr)
            failed = 1
            break
    files = [each.stat().st_size for each in (origin.store / "blobs").rglob("*") if each.is_file()]
    total = sum(files)
    print(f"{total / 1e6:.0f} MB in {len(files)} blobs; medians of {rounds} rounds; load {os.getloadavg()[0]:.1f}\n")
    print("| command | seconds | MB/s | CPU seconds | peak MiB |\n|---|---|---|---|---|")
    print("\n".join(row.line(total) for row in contest.rows.values()))
    return failed


if __name__ == "__main__":
    sys.exit(main())
