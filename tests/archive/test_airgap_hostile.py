"""Sixty hostile bundles: each is refused within five seconds, with nothing outside the store touched, and no name."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from airgap_bundles import Made, fresh_site, made
from airgap_world import Place
from hostile_bundles import HOSTILE
from iarproxy.oci import Digest

SECONDS = 5.0  # of this process's time, which a loaded machine does not lengthen


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return made(tmp_path_factory.mktemp("made"))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """One for all of them: nothing of them is left there."""
    place = fresh_site(tmp_path_factory.mktemp("victim") / "site")
    place.done("pins", "list")
    return place


def seen(folder: Path) -> list[tuple[str, int, int, int]]:
    """Everything below, as it is."""
    found = []
    for path in sorted(folder.rglob("*")):
        stat = path.lstat()
        found.append((os.fsencode(path).hex(), stat.st_mode, stat.st_size, stat.st_mtime_ns))
    return found


def test_there_are_sixty() -> None:
    """The promise is about sixty of them, and the good one is taken."""
    assert len(HOSTILE) >= 60


def test_the_good_one_is_taken(good: Made, tmp_path: Path) -> None:
    """What the hostile ones are made of is a bundle that a site applies."""
    fresh_site(tmp_path / "site").done(*good.applying())


@pytest.mark.parametrize("harm", HOSTILE)
def test_it_is_refused(good: Made, site: Place, tmp_path: Path, harm: str) -> None:
    """It is refused in one line that says why, and all that the store took is content that was vouched for."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_bytes(b"as it was")
    victim = good.copy(tmp_path / "bundle")
    HOSTILE[harm](victim, outside)
    before, names = seen(tmp_path), site.pins()
    for verb in (["bundle", "verify", victim.folder, "--trust", good.public], victim.applying()):
        started = time.process_time()
        ended = site.run(*verb, "--json")
        assert time.process_time() - started < SECONDS
        assert 1 == ended.code, f"{ended.out}{ended.err}"
        assert ended.json["code"]
        told = ended.json["error"]
        assert (True, True) == (len(told) < 4_000, told.isprintable()), told[:4_000]
    assert before == seen(tmp_path)
    assert names == site.pins() == {}
    vouched = {str(each.digest) for each in good.manifest.provides}
    held = site.blobs() - {str(Digest.of((victim.folder / "bundle.json").read_bytes())) if _is_file(victim) else ""}
    assert held <= vouched | {str(Digest.of((good.folder / "bundle.json").read_bytes()))}


def _is_file(victim: Made) -> bool:
    file = victim.folder / "bundle.json"
    return file.is_file() and not file.is_symlink() and file.stat().st_size < 2**30


@pytest.mark.parametrize("harm", HOSTILE)
def test_it_is_looked_at(good: Made, site: Place, tmp_path: Path, harm: str) -> None:
    """Looking at it, which trusts nobody, ends in time as well, whatever it finds."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_bytes(b"as it was")
    victim = good.copy(tmp_path / "bundle")
    HOSTILE[harm](victim, outside)
    started = time.process_time()
    ended = site.run("bundle", "inspect", victim.folder)
    assert time.process_time() - started < SECONDS
    assert ended.code in {0, 1, 3}, f"{ended.out}{ended.err}"
