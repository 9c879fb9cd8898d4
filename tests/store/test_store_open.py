"""Opening a store: what it makes, what it refuses with a remedy, and what it clears away."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

import store_world
from iarproxy.errors import ConfigError
from iarproxy.oci import Descriptor, Digest
from iarproxy.store import Store
from store_world import OpenStore, leftovers

open_store = store_world.open_store
store = store_world.store


async def test_a_new_store_is_an_empty_oci_layout(store: Store) -> None:
    """The folder is made with the marker and index of an image layout, for its owner only."""
    assert json.loads((store.root / "oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}
    assert json.loads((store.root / "index.json").read_bytes())["manifests"] == []
    assert store.root.stat().st_mode & 0o777 == 0o700
    assert store.is_empty()
    assert [path.name for path in store.root.iterdir() if path.suffix == ".tmp"] == []


async def test_identity_stays(open_store: OpenStore) -> None:
    """Each opening sees the same identity."""
    assert (await open_store()).identity == (await open_store()).identity


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda root: root.chmod(0o755), "chmod 700"),
        (lambda root: (root / "store.json").write_text("{"), "restore it from a backup"),
        (lambda root: (root / "store.json").write_text('{"identity": "x", "layout": 1}'), "restore it from a backup"),
        (lambda root: (root / "ingest").rename(root / "x") and (root / "ingest").symlink_to("x"), "symbolic link"),
        (lambda root: root.rename(root.with_name("real")) and root.symlink_to("real"), "symbolic link"),
    ],
)  # fmt: skip
async def test_a_spoilt_store_is_refused_with_the_remedy(open_store: OpenStore, spoil: object, said: str) -> None:
    """One line names what is wrong and what to do."""
    store = await open_store()
    spoil(store.root)  # type: ignore[operator]  # one of the lambdas above
    with pytest.raises(ConfigError, match=said) as caught:
        await open_store()
    assert "\n" not in str(caught.value)


async def test_another_layout_version_is_refused(open_store: OpenStore) -> None:
    """A store of a later iarproxy is left alone."""
    store = await open_store()
    path = store.root / "store.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | {"layout": 99}))
    with pytest.raises(ConfigError, match="layout 99"):
        await open_store()


def test_a_file_in_the_place_of_the_store_is_refused(tmp_path: Path) -> None:
    """The path must be a folder."""
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError):
        Store.open(tmp_path / "file", max_size=1)


async def test_a_store_that_cannot_be_written_is_refused_with_a_remedy(open_store: OpenStore, tmp_path: Path) -> None:
    """What the disk says is told in words, with what to do, and without the terms of Python."""
    await open_store()
    (tmp_path / "store" / "usage").unlink()
    (tmp_path / "store" / "usage").mkdir()
    with pytest.raises(ConfigError, match=r"cannot be used: Is a directory; look at the disk, or choose another"):
        await open_store()


@pytest.mark.root
def test_another_users_store_is_refused(tmp_path: Path) -> None:
    """A folder of another user is refused, naming both."""
    (tmp_path / "store").mkdir(mode=0o700)
    os.chown(tmp_path / "store", 12345, 12345)
    with pytest.raises(ConfigError, match="belongs to user 12345"):
        Store.open(tmp_path / "store", max_size=1)


async def test_only_one_serves(open_store: OpenStore) -> None:
    """A second serve is refused with the first one's process number; after the first it may."""
    one, two = await open_store(), await open_store()
    lock = one.lock_for_serving()
    with pytest.raises(ConfigError, match=f"by process {os.getpid()}"):
        two.lock_for_serving()
    lock.close()
    two.lock_for_serving().close()


async def test_the_index_names_what_is_pinned(store: Store) -> None:
    """write_index replaces index.json at once, sorted by name."""
    one = Descriptor("application/vnd.oci.image.manifest.v1+json", Digest.of(b"1"), 1)
    two = Descriptor("application/vnd.oci.image.manifest.v1+json", Digest.of(b"2"), 2)
    store.write_index([("b:1", two), ("a:1", one)])
    manifests = json.loads((store.root / "index.json").read_bytes())["manifests"]
    assert [entry["annotations"]["org.opencontainers.image.ref.name"] for entry in manifests] == ["a:1", "b:1"]
    assert [entry["size"] for entry in manifests] == [1, 2]


async def test_opening_clears_what_cannot_be_resumed(open_store: OpenStore) -> None:
    """Files of dead puts, parts without a lock and foreign-looking names: the first two go, the last stay."""
    store = await open_store()
    name = f"sha256-{Digest.of(b'x').hex}"
    for left in (f"{name}.part", f"{name}.0123.put", "sha256-zz.part", "README"):
        (store.root / "ingest" / left).write_bytes(b"half")
    await open_store()
    assert leftovers(store) == ["README", "sha256-zz.part"]
