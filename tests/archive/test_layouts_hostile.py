"""Archives and folders that mean harm, or are broken: each is refused soon, with one error, and leaves nothing behind.

One table: what is imported, and what the error says.
"""

from __future__ import annotations

import asyncio
import gzip
import os
import shutil
import time
import tracemalloc
import zlib
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from iarproxy.archive.layouts.planning import Planning
from iarproxy.archive.layouts.reading import open_layout
from iarproxy.errors import Refused
from iarproxy.oci import Digest
from iarproxy.oci.media_types import OCI_MANIFEST
from iarproxy.oci.tar_entries import MAX_ENTRIES
from iarproxy.trust.environments import FIRST_FETCHES
from images import Published, artifact, index, random_blob, small_image
from importing import UPSTREAMS, a_site
from tarballs import BLOCK, END, LAYOUT, config_of, file, header, layout, listing, named, pax, saved, tar

NAME = "docker.io/library/app:1"
APP = small_image(1)
SOUND = layout((APP, NAME))
PREFIX = b"".join(file(name, data) for name, data in SOUND.items())
BLOB = next(name for name in SOUND if name.startswith("blobs/"))
IMAGE = config_of(b"one")


def after(*entries: bytes) -> bytes:
    """A sound archive with these entries behind its own."""
    return PREFIX + b"".join(entries) + END


def without(*names: str, **other: bytes) -> bytes:
    """A sound archive without some files, and with others in the place of some."""
    return tar(
        {
            name: other.get(name.replace(".", "_").replace("-", "_"), data)
            for name, data in SOUND.items()
            if name not in names
        }
    )


def changed(name: str, change: Callable[[bytes], bytes]) -> bytes:
    return tar(SOUND | {name: change(SOUND[name])})


def flipped(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def bomb() -> bytes:
    """Half a gibibyte of zeros."""
    made = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS | 16)
    head = made.compress(header("big", 2**29))
    return head + b"".join(made.compress(bytes(2**20)) for _ in range(512)) + made.flush()


def both_kinds() -> bytes:
    raw = orjson.dumps({"schemaVersion": 2, "manifests": [], "layers": []})
    return tar(layout((Published(raw, OCI_MANIFEST), NAME)))


def deep() -> bytes:
    found = index([small_image(9)])
    for _ in range(9):
        found = index([found])
    return tar(layout((found, NAME)))


def docker(**files: bytes) -> bytes:
    return tar(saved(IMAGE, [b"one"], "app:1") | {name.replace("_", "."): data for name, data in files.items()})


def docker_naming(name: str) -> bytes:
    return docker(manifest_json=orjson.dumps([{"Config": "config.json", "RepoTags": ["app:1"], "Layers": [name]}]))


def many_configs() -> bytes:
    """Four megabytes that a thousand images have for their config."""
    config = b'{"x":"' + b"a" * (4 * 2**20 - 100) + b'"}'
    images = [{"Config": f"c{number}", "RepoTags": [f"app:{number}"], "Layers": []} for number in range(1000)]
    links = b"".join(header(f"c{number}", 0, b"2", "config.json") for number in range(1000))
    return file("config.json", config) + links + file("manifest.json", orjson.dumps(images)) + END


ARCHIVES: dict[str, tuple[Callable[[], bytes], str]] = {
    "four gibibytes of configs": (many_configs, "the configs of its images have over"),
    # no tar archive, or half of one
    "empty": (lambda: b"", "cut short"),
    "noise": (lambda: random_blob(4096), "checksum"),
    "nothing in it": (lambda: END, "neither oci-layout nor manifest.json"),
    "cut in a header": (lambda: PREFIX[: -BLOCK - 100], "cut short"),
    "cut in data": (lambda: after(file("x", bytes(2000)))[: -2 * BLOCK - 100], "cut short"),
    "no end": (lambda: PREFIX, "cut short"),
    "a wrong checksum": (lambda: PREFIX + header("x").replace(b"x", b"y", 1) + END, "checksum"),
    "a number that is none": (lambda: after(header("x", b"12z")), "no number"),
    "a negative size": (lambda: after(header("x", b"\xff" * 12)), "no number"),
    "a size of exabytes": (lambda: after(header("x", b"\x80" + (2**62).to_bytes(11))), "no size"),
    "a size beyond the file": (lambda: after(header("x", 2**33 - 1)), "cut short"),
    # names
    "absolute": (lambda: after(file("/etc/cron.d/x", b"*")), "absolute"),
    "absolute by pax": (lambda: after(pax(("path", b"/etc/x")), file("x")), "absolute"),
    "absolute by GNU": (lambda: after(file("long", b"/etc/x\0", b"L"), file("x")), "absolute"),
    "upwards": (lambda: after(file("../x")), "leads upwards"),
    "upwards within": (lambda: after(file("blobs/../../x")), "leads upwards"),
    "upwards behind a dot": (lambda: after(file("./../x")), "leads upwards"),
    "an empty part": (lambda: after(file("a//b")), "no plain name"),
    "a dot within": (lambda: after(file("a/./b")), "no plain name"),
    "a name with a zero": (lambda: after(pax(("path", b"a\0b")), file("x")), "zero byte"),
    "a name of no letters": (lambda: after(file(b"\xff\xfe")), "not UTF-8"),
    "a name of kilobytes": (lambda: after(pax(("path", b"a" * 5000)), file("x")), "no plain name"),
    "no name": (lambda: after(pax(("path", b"")), file("x")), "empty name"),
    "twice": (lambda: after(file("index.json", b"{}")), "two entries"),
    "twice, once with a dot": (lambda: after(file("./index.json", b"{}")), "two entries"),
    "twice, once by pax": (lambda: after(pax(("path", b"index.json")), file("x")), "two entries"),
    "a file and a folder": (lambda: after(header("index.json/", kind=b"5")), "two entries"),
    "a folder and a file": (lambda: after(header("a/", kind=b"5"), file("a")), "two entries"),
    "a file like a folder": (lambda: after(file("a/", b"x")), "refused"),
    # kinds
    "a hard link": (lambda: after(file("x", kind=b"1", link="index.json")), "a hard link"),
    "a link to a place": (lambda: after(file("x", kind=b"2", link="/etc/passwd")), "leads to '/etc/passwd'"),
    "a link upwards": (lambda: after(file("x", kind=b"2", link="../../etc/passwd")), "leads to"),
    "a link upwards within": (lambda: after(file("a/x", kind=b"2", link="../../etc/passwd")), "leads to"),
    "a long link": (lambda: after(file("l", b"/etc/passwd\0", b"K"), file("x", kind=b"2")), "leads to"),
    "a link with bytes": (lambda: after(file("x", b"data", kind=b"2", link="a")), "refused"),
    "a link in a layout": (lambda: after(file("x", kind=b"2", link="index.json")), "symbolic link"),
    "a character device": (lambda: after(file("x", kind=b"3")), "a device"),
    "a block device": (lambda: after(file("x", kind=b"4")), "a device"),
    "a pipe": (lambda: after(file("x", kind=b"6")), "a pipe"),
    "a sparse file": (lambda: after(file("x", kind=b"S")), "a sparse file"),
    "a sparse file by pax": (lambda: after(pax(("GNU.sparse.major", b"1")), file("x")), "a sparse file"),
    "an unknown kind": (lambda: after(file("x", kind=b"V")), "an entry of kind"),
    "a folder with bytes": (lambda: after(header("a/", 512, b"5"), bytes(512)), "refused"),
    "too many": (lambda: b"".join(header(f"f{number}") for number in range(MAX_ENTRIES + 1)) + END, "entries"),
    # extended headers
    "a huge header": (lambda: after(header("pax", 2**30, b"x")), "a header of"),
    "a huge name": (lambda: after(header("long", 2**30, b"L")), "a header of"),
    "a header with no entry": (lambda: after(pax(("path", b"x"))), "belongs to no entry"),
    "a header cut": (lambda: PREFIX + header("pax", 600, b"x") + bytes(100), "cut short"),
    "records that lie": (lambda: after(file("pax", b"99 path=x\n", b"x"), file("x")), "damaged"),
    "records that repeat": (lambda: after(pax(("path", b"x"), ("path", b"y")), file("x")), "repeats itself"),
    "two long names": (lambda: after(file("l", b"x\0", b"L"), pax(("path", b"y")), file("z")), "two long names"),
    "a size in words": (lambda: after(pax(("size", b"many")), file("x")), "no size"),
    "a negative size by pax": (lambda: after(pax(("size", b"-1")), file("x")), "no size"),
    "a header for all": (lambda: pax(("path", b"index.json"), kind=b"g") + PREFIX + END, "global header"),
    "an alphabet": (lambda: after(pax(("hdrcharset", b"BINARY")), file("x")), "character set"),
    # compressed
    "a bomb": (bomb, "expands to over"),
    "a bomb in a bomb": (lambda: gzip.compress(bomb()), "checksum"),
    "cut gzip": (lambda: gzip.compress(tar(SOUND))[:-100], "cut short"),
    "damaged gzip": (lambda: flipped(gzip.compress(tar(SOUND), 0)[:3000]) + bytes(500), "damaged"),
    "zstd": (lambda: b"\x28\xb5\x2f\xfd" + bytes(100), "compressed by zstd"),
    "xz": (lambda: b"\xfd7zXZ\x00" + bytes(100), "compressed by xz"),
    # layouts
    "a layout of tomorrow": (lambda: without(oci_layout=b'{"imageLayoutVersion":"2.0.0"}'), "says version"),
    "no index": (lambda: without("index.json"), "no index.json"),
    "an index of megabytes": (lambda: without(index_json=b" " * 5 * 2**20), "at most"),
    "an index that is none": (lambda: without(index_json=b"[]"), "not an object"),
    "an index that repeats": (lambda: without(index_json=b'{"manifests":[],"manifests":[]}'), "repeats"),
    "an index without end": (lambda: without(index_json=b'{"a":' + b"[" * 5000 + b"]" * 5000 + b"}"), "ot JSON"),
    "a name for two things": (
        lambda: tar({"oci-layout": LAYOUT, "index.json": listing((APP, named(NAME)), (small_image(2), named(NAME)))}),
        "two things",
    ),
    "no content": (lambda: without(*(name for name in SOUND if name.startswith("blobs/"))), "not in it"),
    "a layer is missing": (lambda: without(_layer(APP)), "lacks sha256:"),
    "a layer is another": (lambda: changed(_layer(APP), flipped), "damaged"),
    "a layer is longer": (lambda: changed(_layer(APP), lambda data: data + b"!"), "its manifest says"),
    "a manifest is another": (lambda: changed(f"blobs/sha256/{APP.digest.hex}", flipped), "hash to"),
    "a manifest and an index": (both_kinds, "CVE-2021-41190"),
    "an index in an index in": (deep, "deep"),
    "a registry of nobody": (lambda: tar(layout((APP, "evil.example.com/app:1"))), "not one of the configured"),
    # docker-archives
    "it names a file outside": (lambda: docker_naming("../../etc/passwd"), "leads upwards"),
    "it names a file of the system": (lambda: docker_naming("/etc/passwd"), "absolute"),
    "it names a file that is not there": (lambda: docker_naming("layer.tar"), "is not there"),
    "it names a link to itself": (
        lambda: docker_naming("a/layer.tar")[: -len(END)] + file("a/layer.tar", kind=b"2", link="layer.tar") + END,
        "is not there",
    ),
    "more layers than it has": (lambda: docker(config_json=config_of(b"one", b"two")), "names 2 layers"),
    "a layer that is not the config's": (lambda: docker(config_json=config_of(b"two")), "damaged"),
    "a config that is none": (lambda: docker(config_json=b"[]"), "names no layers"),
    "a manifest that is none": (lambda: docker(manifest_json=b"{}"), "no list"),
    "a tag that is none": (
        lambda: docker(manifest_json=orjson.dumps([{"Config": "config.json", "RepoTags": ["APP"], "Layers": []}])),
        "not a repository name",
    ),
}


def _layer(published: Published) -> str:
    return f"blobs/sha256/{published.layers[0].hex}"


def everything(folder: Path) -> dict[str, int]:
    """All names below, outside the store."""
    return {
        str(each): each.lstat().st_mode for each in folder.rglob("*") if folder / "store" not in (each, *each.parents)
    }


async def refused(folder: Path, path: Path) -> str:
    """What an import says; nothing is to be left of it, anywhere."""
    async with a_site(folder) as site:
        before = everything(folder)
        started = time.monotonic()
        with pytest.raises(Refused) as refusal:
            await site.imported(path)
        took = time.monotonic() - started
        assert ({}, before, True) == (await site.pins(), everything(folder), took < 5), took
        while any((site.store.root / "ingest").glob("*.part")):  # other blobs of it arrive to their end
            assert time.monotonic() < started + 30
            await asyncio.sleep(0.01)
        return str(refusal.value)


@pytest.mark.parametrize("case", ARCHIVES)
async def test_an_archive(tmp_path: Path, case: str) -> None:
    """It is refused within five seconds, by name and reason; nothing is pinned, and nothing lies outside the store."""
    made, said = ARCHIVES[case]
    path = tmp_path / "hostile.tar"
    path.write_bytes(made())
    told = await refused(tmp_path, path)
    assert (True, True) == (said in told, "hostile.tar" in told or "evil" in told), told


def links_out(folder: Path) -> None:
    blob = folder / _layer(APP)
    (folder.parent / "outside").write_bytes(blob.read_bytes())
    blob.unlink()
    blob.symlink_to(folder.parent / "outside")


def links_folder(folder: Path) -> None:
    (folder / "blobs").rename(folder.parent / "elsewhere")
    (folder / "blobs").symlink_to(folder.parent / "elsewhere")


def pipe(folder: Path) -> None:
    (folder / "index.json").unlink()
    os.mkfifo(folder / "index.json")


def inner_folder(folder: Path) -> None:
    (folder / "oci-layout").unlink()
    (folder / "oci-layout").mkdir()


FOLDERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a blob that is a link": (links_out, "symbolic"),
    "blobs elsewhere": (links_folder, "cannot be read"),
    "a pipe": (pipe, "no regular file"),
    "a folder for a file": (inner_folder, "no regular file"),
    "nothing": (shutil.rmtree, "No such file"),
}


@pytest.mark.parametrize("case", FOLDERS)
async def test_a_folder(tmp_path: Path, case: str) -> None:
    """Links are not followed, pipes not waited for."""
    spoil, said = FOLDERS[case]
    folder = tmp_path / "hostile"
    for name, data in SOUND.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    spoil(folder)
    told = await refused(tmp_path, folder)
    assert said in told, told


async def test_what_is_no_file(tmp_path: Path) -> None:
    """A link, a device, a pipe and nothing at all are refused as what they are."""
    (tmp_path / "real.tar").write_bytes(tar(SOUND))
    (tmp_path / "link").symlink_to("real.tar")
    os.mkfifo(tmp_path / "pipe")
    for name, said in (("link", "symbolic link"), ("pipe", "no regular file"), ("none", "No such file")):
        assert said in await refused(tmp_path, tmp_path / name)
    assert "no regular file" in await refused(tmp_path, Path("/dev/zero"))


async def test_no_memory_is_taken_for_them(tmp_path: Path) -> None:
    """A bomb, a huge header and too many entries take some megabytes at most."""
    for case in ("a bomb", "a huge header", "an index of megabytes", "four gibibytes of configs"):
        path = tmp_path / "hostile.tar"
        path.write_bytes(ARCHIVES[case][0]())
        tracemalloc.start()
        try:
            await refused(tmp_path, path)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 32 * 2**20, (case, peak)


def repeating(times: int) -> bytes:
    """A sound archive that lists, so often, one referrer of half a megabyte, which it has once."""
    sbom = artifact(APP, data=b"x")
    long = replace(sbom, raw=orjson.dumps({**orjson.loads(sbom.raw), "annotations": {"x": "a" * 2**19}}))
    blobs = {f"blobs/sha256/{digest.hex}": data for digest, data in sbom.blobs.items()}
    index_json = listing((APP, named(NAME)), *[(long, {})] * times)
    return tar(SOUND | blobs | {f"blobs/sha256/{long.digest.hex}": long.raw, "index.json": index_json})


async def test_what_is_listed_again_and_again(tmp_path: Path) -> None:
    """What an archive lists many times is read, held and attached once."""
    path = tmp_path / "repeating.tar"
    path.write_bytes(repeating(200))
    async with a_site(tmp_path) as site:
        tracemalloc.start()
        try:
            plan = await site.imported(path)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert (1, 1, True) == (len(plan.new), len(plan.grown), peak < 32 * 2**20), peak
        assert 1 == len(orjson.loads(plan.grown[0].raw)["manifests"])


async def test_more_than_is_looked_at(tmp_path: Path) -> None:
    """How much is read of what an archive leads to has an end, however small it is."""
    path = tmp_path / "hostile.tar"
    path.write_bytes(tar(SOUND))
    async with a_site(tmp_path) as site:
        with closing(open_layout(path)) as layout:
            given: dict[str, Any] = {"store": site.store, "ledger": site.ledger, "rules": (), "upstreams": UPSTREAMS}
            planning = Planning(layout, FIRST_FETCHES, **given, most_read=5000)
            with pytest.raises(Refused, match=r"hostile\.tar: it has over 5000 bytes"):
                await planning.plan(None)


def test_there_are_enough() -> None:
    """Sixty were promised."""
    assert len(ARCHIVES) + len(FOLDERS) >= 60
    assert Digest.of(SOUND[BLOB]).hex in BLOB
