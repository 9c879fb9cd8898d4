"""Sixty bundles that somebody made to do harm, each a change of a good one that a site would take.

Rule 1: each has a name and does its harm to a copy; `outside` is a folder that nothing may touch.
Rule 2: those that say `lies` are signed by a key that the site trusts: an origin that was taken over.
"""

from __future__ import annotations

import gzip
import io
import os
import shutil
import socket
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson

from airgap_bundles import Made

Harm = Callable[[Made, Path], None]
DEEP = 200_000


# --- a volume that is an archive of somebody's own -------------------------------------------------------------------


def _tar(*entries: tuple[tarfile.TarInfo, bytes], **options: Any) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", **options) as archive:
        for entry, data in entries:
            entry.size = len(data) or entry.size
            archive.addfile(entry, io.BytesIO(data) if data else None)
    return buffer.getvalue()


def _entry(
    name: str, kind: bytes = tarfile.REGTYPE, link: str = "", pax: dict[str, str] | None = None
) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname, entry.pax_headers = kind, link, pax or {}
    return entry


def _replaced(make: Callable[[Made, Path], bytes]) -> Harm:
    """The second volume is that archive, behind the mark of the real one."""

    def harm(made: Made, outside: Path) -> None:
        file = made.volume(2)
        mark = file.read_bytes()[:1024]
        file.write_bytes(mark + make(made, outside))

    return harm


def _whole(make: Callable[[Made, Path], bytes]) -> Harm:
    """The second volume is that archive and nothing else."""

    def harm(made: Made, outside: Path) -> None:
        made.volume(2).write_bytes(make(made, outside))

    return harm


def _linking(kind: bytes) -> Callable[[Made, Path], bytes]:
    def make(made: Made, outside: Path) -> bytes:
        blob = f"blobs/sha256/{made.manifest.provides[0].digest.hex}"
        link = _entry(blob, kind, str(outside / "kept"))
        return _tar((link, b""), (_entry(blob), b"through the link"))

    return make


def _named(name: str) -> Callable[[Made, Path], bytes]:
    return lambda _, outside: _tar((_entry(name.replace("OUTSIDE", str(outside))), b"x" * 600))


def _twice(made: Made, _: Path) -> bytes:
    """A blob that is there twice, the second time with other bytes."""
    blob = _entry(f"blobs/sha256/{made.manifest.provides[0].digest.hex}")
    return made.volume(2).read_bytes()[1024:-1024] + _tar((blob, b"other"))


def _special(kind: bytes) -> Callable[[Made, Path], bytes]:
    return lambda *_: _tar((_entry("blobs/sha256/x", kind), b""))


def _sparse(_: Made, __: Path) -> bytes:
    """The old GNU form, whose map says that a few bytes are a terabyte."""
    raw = bytearray(_tar((_entry("blobs/sha256/x"), b"x" * 512), format=tarfile.GNU_FORMAT))
    raw[156:157] = b"S"
    raw[386:410] = b"00000000000\0" + b"00000001000\0"
    raw[483:495] = b"\x80" + (2**40).to_bytes(11, "big")
    return _summed(raw)


def _sized(size: bytes) -> Callable[[Made, Path], bytes]:
    def make(*_: object) -> bytes:
        raw = bytearray(_tar((_entry("blobs/sha256/x"), b"x")))
        raw[124:136] = size
        return _summed(raw)

    return make


def _summed(raw: bytearray) -> bytes:
    raw[148:156] = b" " * 8
    raw[148:156] = b"%06o\0 " % sum(raw[:512])
    return bytes(raw)


def _bomb(*_: object) -> bytes:
    return gzip.compress(_tar((_entry("blobs/sha256/x"), bytes(30_000_000))))


def _holes(made: Made, _: Path) -> None:
    """A volume of a terabyte, none of which is on the disk."""
    with made.volume(2).open("r+b") as file:
        file.truncate(2**40)


def _inside(made: Made, _: Path) -> bytes:
    return _tar((_entry("blobs/sha256/x"), made.volume(1).read_bytes()))


_VOLUMES: dict[str, Harm] = {
    "a symbolic link in a volume": _replaced(_linking(tarfile.SYMTYPE)),
    "a hard link in a volume": _replaced(_linking(tarfile.LNKTYPE)),
    "a name that goes up": _replaced(_named("../../outside/new")),
    "a name that goes up far": _whole(_named("blobs/sha256/" + "../" * 30 + "OUTSIDE/new")),
    "an absolute name": _replaced(_named("OUTSIDE/new")),
    "a name of a store's file": _replaced(_named("ledger.db")),
    "a long name that goes up": _whole(
        lambda _, outside: _tar((_entry("x/" * 200 + "../" * 240 + f"{outside}/new"), b"x"))
    ),
    "a pax name that goes up": _replaced(
        lambda _, outside: _tar((_entry("blobs/x", pax={"path": f"{outside}/new"}), b"x"), format=tarfile.PAX_FORMAT)
    ),
    "a pax size": _replaced(
        lambda *_: _tar((_entry("blobs/x", pax={"size": "1099511627776"}), b"x"), format=tarfile.PAX_FORMAT)
    ),
    "a blob twice": _replaced(_twice),
    "a device in a volume": _whole(_special(tarfile.CHRTYPE)),
    "a named pipe in a volume": _whole(_special(tarfile.FIFOTYPE)),
    "a folder in the place of a blob": _replaced(_special(tarfile.DIRTYPE)),
    "a sparse file": _replaced(_sparse),
    "a pax sparse file": _replaced(
        lambda *_: _tar(
            (_entry("blobs/x", pax={"GNU.sparse.major": "1", "GNU.sparse.realsize": "1099511627776"}), b"x"),
            format=tarfile.PAX_FORMAT,
        )
    ),
    "a size of eight gigabytes": _replaced(_sized(b"77777777777\0")),
    "a size below zero": _replaced(_sized(b"\xff" * 12)),
    "a size that is no number": _replaced(_sized(b"99999999999\0")),
    "a gzip bomb": _whole(_bomb),
    "a bomb behind the mark": _replaced(_bomb),
    "a terabyte of holes": _holes,
    "a volume in a volume": _replaced(_inside),
    "something behind the end": _replaced(
        lambda made, _: made.volume(2).read_bytes()[1024:] + bytes(1024) + b"x" * 512
    ),
    "no tar": _whole(lambda *_: b"#!/bin/sh\ntouch /tmp/x\n" * 1000),
}


# --- a folder with what is no file -----------------------------------------------------------------------------------


def _pipe(name: str) -> Harm:
    def harm(made: Made, _: Path) -> None:
        (made.folder / name).unlink(missing_ok=True)
        os.mkfifo(made.folder / name)

    return harm


def _device(name: str) -> Harm:
    """An endless file; where nobody may make one, a link to one."""

    def harm(made: Made, _: Path) -> None:
        file = made.folder / name
        file.unlink(missing_ok=True)
        try:
            os.mknod(file, 0o666 | 0o020000, os.makedev(1, 5))
        except PermissionError:
            file.symlink_to("/dev/zero")

    return harm


def _linked(name: str, target: str = "") -> Harm:
    """A link, to that or to the very file moved elsewhere."""

    def harm(made: Made, outside: Path) -> None:
        file = made.folder / name
        moved = outside.parent / "moved"
        file.rename(moved)
        file.symlink_to(target or moved)

    return harm


def _folder(name: str) -> Harm:
    def harm(made: Made, _: Path) -> None:
        (made.folder / name).unlink()
        (made.folder / name).mkdir()

    return harm


def _socket(made: Made, _: Path) -> None:
    made.volume(2).unlink()
    here = Path.cwd()
    os.chdir(made.folder)  # the path of a socket must be short
    try:
        with socket.socket(socket.AF_UNIX) as door:
            door.bind("volume-002.tar")
    finally:
        os.chdir(here)


def _crowd(made: Made, _: Path) -> None:
    """A volume among twenty thousand files."""
    made.volume(2).unlink()
    for number in range(20_000):
        (made.folder / f"volume-{number + 100:06}.tar").touch()


def _loop(made: Made, _: Path) -> None:
    made.volume(2).unlink()
    made.volume(2).symlink_to(made.volume(2))


def _strange(made: Made, outside: Path) -> None:
    """A damaged volume whose name steers terminals."""
    _replaced(_twice)(made, outside)
    made.volume(2).rename(os.fsdecode(os.fsencode(made.folder) + b"/volume-\x1b[31m\n\xff.tar"))


def _signature(made: Made) -> Path:
    (file,) = made.folder.glob("bundle.*.sigstore.json")
    return file


def _emptied(made: Made, _: Path) -> None:
    shutil.rmtree(made.folder)
    made.folder.mkdir()


def _no_folder(made: Made, _: Path) -> None:
    shutil.rmtree(made.folder)
    os.mkfifo(made.folder)


_FOLDERS: dict[str, Harm] = {
    "a named pipe for a volume": _pipe("volume-002.tar"),
    "a named pipe for bundle.json": _pipe("bundle.json"),
    "a named pipe for journal.json": _pipe("journal.json"),
    "a named pipe for a signature": lambda made, outside: _pipe(_signature(made).name)(made, outside),
    "a device for a volume": _device("volume-002.tar"),
    "a device for bundle.json": _device("bundle.json"),
    "a device for journal.json": _device("journal.json"),
    "a device for a signature": lambda made, outside: _device(_signature(made).name)(made, outside),
    "a linked volume": _linked("volume-002.tar"),
    "a linked bundle.json": _linked("bundle.json"),
    "a linked journal.json": _linked("journal.json"),
    "bundle.json linked to an endless file": _linked("bundle.json", "/dev/zero"),
    "a volume linked to itself": _loop,
    "a folder for a volume": _folder("volume-002.tar"),
    "a folder for bundle.json": _folder("bundle.json"),
    "a socket for a volume": _socket,
    "a volume among twenty thousand": _crowd,
    "a volume whose name steers terminals, damaged": _strange,
    "an empty folder": _emptied,
    "a named pipe for the folder": _no_folder,
}


# --- documents -------------------------------------------------------------------------------------------------------


def _document(raw: bytes, *, lies: bool = False) -> Harm:
    return lambda made, _: (made.altered(raw, vouched=lies), None)[1]


def _large(name: str, size: int = 2**40) -> Harm:
    """That file is a terabyte of zeros that takes no room."""

    def harm(made: Made, _: Path) -> None:
        with (made.folder / name).open("r+b") as file:
            file.truncate(size)

    return harm


def _written(name: str, raw: bytes) -> Harm:
    return lambda made, _: ((made.folder / name).write_bytes(raw), None)[1]


def _lie(change: Callable[[dict[str, Any]], object]) -> Harm:
    """The manifest says something else, and is signed."""

    def harm(made: Made, _: Path) -> None:
        document = orjson.loads((made.folder / "bundle.json").read_bytes())
        change(document)
        made.altered(orjson.dumps(document, option=orjson.OPT_SORT_KEYS), vouched=True)

    return harm


def _many_signatures(made: Made, _: Path) -> None:
    raw = _signature(made).read_bytes()
    for number in range(2_000):
        (made.folder / f"bundle.{number:016x}.sigstore.json").write_bytes(raw)


def _rotations(made: Made, _: Path) -> None:
    for number in range(2_000):
        (made.folder / f"rotation.{number:016x}.sigstore.json").write_bytes(b"[" * 10_000)


def _many_volumes(made: Made, outside: Path) -> None:
    for number in range(9_000):
        (made.folder / f"volume-{number + 100:06}.tar").touch()
    _lie(_carried(_HIGH, 2**20 * 19_000))(made, outside)


def _first(key: str, **values: Any) -> Callable[[dict[str, Any]], object]:
    return lambda document: document[key][0].update(values)


def _carried(digest: str, size: Any) -> Callable[[dict[str, Any]], object]:
    return lambda document: document["provides"].append([digest, size])


_HIGH = "sha256:" + "f" * 64
_DOCUMENTS: dict[str, Harm] = {
    "deep JSON": _document(b"[" * DEEP + b"]" * DEEP),
    "deep JSON, a lie": _document(b'{"a":' * DEEP + b"1" + b"}" * DEEP, lies=True),
    "four million lists": _document(b'{"names":[' + b"[]," * 4_000_000 + b"0]}"),
    "a terabyte of bundle.json": _large("bundle.json"),
    "a terabyte of journal.json": _large("journal.json"),
    "a terabyte of a signature": lambda made, outside: _large(_signature(made).name)(made, outside),
    "deep JSON for a signature": lambda made, outside: _written(_signature(made).name, b"[" * DEEP)(made, outside),
    "deep JSON for the journal": _written("journal.json", b"[" * DEEP),
    "two thousand signatures": _many_signatures,
    "two thousand rotations": _rotations,
    "a name that goes up, a lie": _lie(_first("names", reference="registry.example.com/../../x:1")),
    "a name with a line in it, a lie": _lie(_first("names", reference="registry.example.com/team/app\n:1")),
    "a digest that goes up, a lie": _lie(_carried("sha256:../../../../outside/new", 1)),
    "a digest of no algorithm, a lie": _lie(_carried("md5:" + "0" * 32, 1)),
    "a size below zero, a lie": _lie(_carried(_HIGH, -1)),
    "a size of four exabytes, a lie": _lie(_carried(_HIGH, 2**62)),
    "a size for nineteen thousand volumes, a lie": _lie(_carried(_HIGH, 2**20 * 19_000)),
    "as many volumes among as many files, a lie": _many_volumes,
    "a size beyond numbers, a lie": _lie(_carried(_HIGH, 1e300)),
    "a size that is a text, a lie": _lie(_carried(_HIGH, "1")),
    "volumes of one byte, a lie": _lie(lambda document: document.update(volumeSize=1)),
    "a set that goes up, a lie": _lie(lambda document: document.update({"set": "../../outside"})),
    "content twice, a lie": _lie(lambda document: document["provides"].append(document["provides"][-1])),
    "something nobody knows, a lie": _lie(lambda document: document.update(run="/bin/sh")),
    "pieces of nothing, a lie": _lie(lambda document: document.update(pieces={_HIGH: ["0" * 64]})),
    "pieces that are none, a lie": _lie(lambda document: document.update(pieces={})),
    "content that is nowhere, a lie": _lie(lambda document: document["provides"].pop()),
    "an attachment that is a tag, a lie": _lie(_first("attachments", reference="registry.example.com/team/app:1")),
    "two hundred thousand names, a lie": _lie(
        lambda document: document.update(
            names=[
                {**document["names"][0], "reference": f"registry.example.com/team/app-{number:06}:1"}
                for number in range(200_000)
            ]
        )
    ),
}

HOSTILE: dict[str, Harm] = {**_VOLUMES, **_FOLDERS, **_DOCUMENTS}
