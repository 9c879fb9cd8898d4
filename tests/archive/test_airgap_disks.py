"""Full disks, and media that cannot be written: one line says so, nothing is half-applied, and again finishes it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from airgap_bundles import SET, Made, assert_whole, create, fresh_site, made, wanted
from airgap_sets import contents
from airgap_world import Place


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return made(tmp_path_factory.mktemp("made"))


@contextmanager
def mounted(folder: Path, *options: str) -> Iterator[Path]:
    """A file system of its own on that folder."""
    folder.mkdir(exist_ok=True)
    done = subprocess.run(["mount", *options, str(folder)], capture_output=True, text=True, check=False, timeout=30)
    if done.returncode:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True, timeout=30)


def a_disk(folder: Path, size: str) -> list[str]:
    return ["-t", "tmpfs", "-o", f"size={size},mode=0700", "iarproxy-test"]


@pytest.mark.root
@pytest.mark.real("mount")
def test_the_store_is_full(bundle: Made, tmp_path: Path) -> None:
    """Without room for all of it nothing is named, what fitted stays, and with more room the same command finishes."""
    site = fresh_site(tmp_path / "site")
    with mounted(site.store, *a_disk(site.store, "3M")):
        ended = site.run(*bundle.applying())
        assert (4, 1) == (ended.code, len(ended.err.splitlines())), ended.out + ended.err
        assert {} == site.pins()
        room = ["mount", "-o", "remount,size=64M", str(site.store)]
        subprocess.run(room, check=True, timeout=30)
        site.done(*bundle.applying())
        whole = wanted()
        everything = [*whole.names.values(), *(each for every in whole.attached.values() for each in every)]
        assert_whole(site, bundle.origin, contents(*everything))


@pytest.mark.root
@pytest.mark.real("mount")
def test_peak_room_is_one_blob(bundle: Made, tmp_path: Path) -> None:
    """A disk with room for the content, one blob more and a little for the ledger is enough."""
    site = fresh_site(tmp_path / "site")
    provided = [each.size for each in bundle.manifest.provides]
    size = sum(map(_pages, provided)) + max(provided) + 2**20
    with mounted(site.store, *a_disk(site.store, str(size))):
        site.config.write_text(site.config.read_text().replace("[store]\n", '[store]\nmax_size = "1GiB"\n'))
        site.done(*bundle.applying())
        assert bundle.origin.pins() == site.pins()


def creating(origin: Place, folder: Path) -> list[str | Path]:
    """The words that make a full bundle there."""
    key = origin.folder / "team.key"
    return ["bundle", "create", SET, "--sets", origin.sets_file, "--full", "--key", key, "-o", folder]


def _pages(size: int) -> int:
    return -(-size // 4096) * 4096


@pytest.mark.root
@pytest.mark.real("mount")
def test_a_read_only_medium(bundle: Made, tmp_path: Path) -> None:
    """A medium that nobody can write is read, and nothing is wanted of it; a receipt has to go elsewhere."""
    medium, site = tmp_path / "medium", fresh_site(tmp_path / "site")
    with mounted(medium, "--bind", str(bundle.folder)):
        subprocess.run(["mount", "-o", "remount,bind,ro", str(medium)], check=True, timeout=30)
        carried = Made(bundle.origin, medium)
        ended = site.run(*carried.applying("--receipt", medium / "receipt"))
        assert (1, True) == (ended.code, "receipt" in ended.err), ended.out + ended.err
        site.done(*carried.applying("--receipt", tmp_path / "receipt"))
        assert bundle.origin.pins() == site.pins()
        refused = bundle.origin.run(*creating(bundle.origin, medium / "new"))
        assert (1, True) == (refused.code, "read-only" in refused.err), refused.err


@pytest.mark.root
@pytest.mark.real("mount")
def test_a_full_medium(bundle: Made, tmp_path: Path) -> None:
    """A create that finds no room on the medium says so, leaves nothing that looks like a bundle, and is repeated."""
    with mounted(tmp_path / "medium", *a_disk(tmp_path / "medium", "2M")) as medium:
        refused = bundle.origin.run(*creating(bundle.origin, medium / "new"))
        assert (1, 1) == (refused.code, len(refused.err.splitlines())), refused.out + refused.err
        assert [] == [path for path in medium.rglob("*") if path.is_file()]
        subprocess.run(["mount", "-o", "remount,size=64M", str(medium)], check=True, timeout=30)
        again = create(bundle.origin, medium / "new", "--full")
        fresh_site(tmp_path / "site").done(*again.applying())
