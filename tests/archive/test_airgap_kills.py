"""An apply that is killed: each name is fully old or fully new, what is listed can be pulled, and again finishes it.

Killed before one call in so many that change files or locks: 12 points here, 200 with `IARPROXY_SEEDS=200`.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import apply_nursery
from airgap_bundles import SET, Made, create, fresh_site
from airgap_sets import contents
from airgap_world import UPSTREAM, Place, an_origin, copied
from apply_nursery import Nursery
from iarproxy.oci import Digest, parse_manifest
from images import Published, image, index, random_blob

nursery = apply_nursery.nursery

POINTS = 200 if os.environ.get("IARPROXY_SEEDS") == "200" else 12
SLACK = 1_500_000  # bytes that a run reads which finds all content there: ledger, documents, the bundle's own
MOVED, STAYED, ADDED, GONE = (f"{UPSTREAM}/team/{name}" for name in ("moved:1", "stayed:1", "added:1", "both:1"))


def _large(seed: int) -> Published:
    return image(*(random_blob(300_000, 10 * seed + each) for each in range(4)), labels={"seed": str(seed)})


def old() -> dict[str, Published]:
    return {MOVED: _large(1), STAYED: image(random_blob(1_000, 5)), GONE: index([_large(2)])}


def new() -> dict[str, Published]:
    big = image(random_blob(1_500_000, 70))  # more than a volume holds
    return {MOVED: _large(3), STAYED: old()[STAYED], GONE: index([_large(2), _large(4)]), ADDED: big}


class Update:
    """A site that has the first bundle, and the second one, which moves names and adds one."""

    def __init__(self, folder: Path) -> None:
        origin = an_origin(folder / "origin")
        origin.done("keys", "create", "team")
        origin.sync(SET, old())
        first = create(origin, folder / "first", "--full")
        self.site = fresh_site(folder / "site")
        self.site.done(*first.applying())
        self.before = self.site.pins()
        origin.sync(SET, new())
        self.bundle: Made = create(origin, folder / "second", "--since", first.folder)
        self.after = origin.pins()

    def words(self) -> list[str | Path]:
        return self.bundle.applying("--prefer", "bundle", "--prefer", "bundle", "--reason", "the second one")


@pytest.fixture(scope="module")
def update(tmp_path_factory: pytest.TempPathFactory) -> Update:
    return Update(tmp_path_factory.mktemp("update"))


def wrong_in(site: Place, update: Update) -> list[str]:
    """What is wrong after the kill: names between old and new, content that a name promises and is not there."""
    pins = site.pins()
    wrong = [] if pins in (update.before, update.after) else [f"pins are {pins}"]
    blobs = (site.store / "blobs/sha256").iterdir()
    wrong += [path.name for path in blobs if hashlib.sha256(path.read_bytes()).hexdigest() != path.name]
    wrong += [f"{name}: {lost}" for name, digest in pins.items() for lost in lost_below(site, Digest.parse(digest))]
    return wrong


def lost_below(site: Place, digest: Digest) -> list[str]:
    """What of that content is not in the store."""
    file = site.store / "blobs/sha256" / digest.hex
    if not file.exists():
        return [str(digest)]
    manifest = parse_manifest(file.read_bytes())
    lost = [str(each.digest) for each in manifest.blobs if not (file.parent / each.digest.hex).exists()]
    return lost + [each for child in manifest.children for each in lost_below(site, child.descriptor.digest)]


def finished(site: Place, update: Update, nursery: Nursery) -> list[str]:
    """What is wrong once it is applied again, to its end: what it read that it had committed counts too."""
    held = site.blobs()
    wanted = sum(each.size for each in update.bundle.manifest.provides if str(each.digest) not in held)
    again = nursery.run(site.environment, site.folder, *update.words())
    wrong = [] if again.code == 0 else [f"again: {again.code} {again.said}"]
    if again.read > 3 * wanted + SLACK:
        wrong.append(f"again it read {again.read} bytes, and {wanted} were wanted")
    wrong += [] if site.pins() == update.after else ["the names are not the new ones"]
    left = [path for name in ("ingest", "pieces") for path in (site.store / name).rglob("*") if path.is_file()]
    return wrong + wrong_in(site, update) + [f"left: {path.name}" for path in left]


def test_the_yardstick(update: Update, tmp_path: Path, nursery: Nursery) -> None:
    """The content is far more than what a run reads that finds all of it there: reading it again would show."""
    provided = sum(each.size for each in update.bundle.manifest.provides)
    site = copied(update.site, tmp_path / "site")
    first = nursery.run(site.environment, site.folder, *update.words())
    assert (0, update.after) == (first.code, site.pins()), first.said
    assert first.read > provided > 2 * SLACK
    again = nursery.run(site.environment, site.folder, *update.words())
    assert again.read < SLACK


def test_killed_at_many_points(update: Update, tmp_path: Path, nursery: Nursery) -> None:
    """Killed there, each name is fully old or fully new, and again brings the new ones without what was there."""
    site = copied(update.site, tmp_path / "whole")
    calls = nursery.run(site.environment, site.folder, *update.words()).calls
    assert calls > 50
    wrong: list[str] = []
    killed = 0
    for point in sorted({1 + number * (calls - 1) // (POINTS - 1) for number in range(POINTS)}):
        site = copied(update.site, tmp_path / str(point))
        run = nursery.run(site.environment, site.folder, *update.words(), kill_at=point)
        killed += run.code is None
        found = wrong_in(site, update) + finished(site, update, nursery)
        wrong += [f"call {point} of {calls}: {each}" for each in found]
        shutil.rmtree(site.folder)
    assert wrong == []
    assert killed > min(POINTS, calls) * 3 // 4


@pytest.mark.real("strace")
@pytest.mark.parametrize("call", ["pwrite64", "fdatasync,fsync", "unlink", "rename,link,linkat", "write"])
def test_killed_by_the_kernel(update: Update, tmp_path: Path, nursery: Nursery, call: str) -> None:
    """The same at system calls of all kinds, those of the database included."""
    wrong: list[str] = []
    whole = copied(update.site, tmp_path / "whole")
    count = _traced(whole, update, tmp_path / "trace", ["-e", f"trace={call}"])
    calls = sum("(" in line for line in (tmp_path / "trace").read_text().splitlines())
    assert (0, True) == (count, calls > 2)
    share = max(1, POINTS // 12)
    for number in sorted({calls - each * calls // share for each in range(share)}):
        site = copied(update.site, tmp_path / f"{number}")
        killing = ["-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={number}"]
        assert _traced(site, update, tmp_path / "trace", killing) in {0, -9, 137}
        found = wrong_in(site, update) + finished(site, update, nursery)
        wrong += [f"{call} {number} of {calls}: {each}" for each in found]
        shutil.rmtree(site.folder)
    assert wrong == []


def _traced(site: Place, update: Update, output: Path, options: list[str]) -> int:
    command = ["strace", "-f", "-qq", "-o", str(output), *options, sys.executable, "-m", "iarproxy"]
    words = list(map(str, update.words()))
    done = subprocess.run(
        [*command, *words], env=site.environment, cwd=site.folder, capture_output=True, timeout=110, check=False
    )
    return done.returncode


def test_everything_is_served_after_kills(update: Update, tmp_path: Path, nursery: Nursery) -> None:
    """Killed in the middle of the content and of the names, the site serves all that it lists, and then the new."""
    site = copied(update.site, tmp_path / "site")
    calls = nursery.run(site.environment, site.folder, *update.words()).calls
    for number, point in enumerate((calls // 2, calls - 3)):
        site = copied(update.site, tmp_path / f"{number}")
        nursery.run(site.environment, site.folder, *update.words(), kill_at=point)
        with site.serving():
            images = new() if site.pins() == update.after else old()
            for name, published in images.items():
                assert set(contents(published)) == site.pull(name)
            assert 0 == nursery.run(site.environment, site.folder, *update.words()).code
            for name, published in new().items():
                site.wait_served(name, published.digest)
                assert set(contents(published)) == site.pull(name)
