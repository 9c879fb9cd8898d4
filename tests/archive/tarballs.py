"""Tar archives byte by byte, as no sane program writes them; and layouts to put into them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from iarproxy.oci import Digest
from iarproxy.oci.media_types import OCI_INDEX
from images import Published

BLOCK = 512
END = bytes(2 * BLOCK)
LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % BLOCK)


def header(
    name: str | bytes, size: int | bytes = 0, kind: bytes = b"0", link: str = "", magic: bytes = b"ustar\x0000"
) -> bytes:
    """One header; `size` as bytes stands there as it is."""
    raw = bytearray(BLOCK)
    path = name.encode() if isinstance(name, str) else name
    raw[: len(path)] = path
    raw[100:108] = b"0000644\0"
    raw[124:136] = (b"%011o\0" % size if isinstance(size, int) else size).ljust(12, b"\0")
    raw[156:157] = kind
    raw[157 : 157 + len(link)] = link.encode()
    raw[257 : 257 + len(magic)] = magic
    raw[148:156] = b" " * 8
    raw[148:156] = b"%06o\0 " % sum(raw)
    return bytes(raw)


def file(name: str | bytes, data: bytes = b"", kind: bytes = b"0", link: str = "") -> bytes:
    return header(name, len(data), kind, link) + padded(data)


def pax(*records: tuple[str, bytes], kind: bytes = b"x") -> bytes:
    """An extended header with these records."""
    body = b""
    for key, value in records:
        rest = b" " + key.encode() + b"=" + value + b"\n"
        size = len(rest) + 1
        while len(str(size)) + len(rest) != size:
            size = len(str(size)) + len(rest)
        body += str(size).encode() + rest
    return file("pax", body, kind)


def listing(*entries: tuple[Published, dict[str, str]]) -> bytes:
    """An `index.json` with annotated entries."""
    manifests: list[dict[str, Any]] = [
        {"mediaType": each.media_type, "digest": str(each.digest), "size": len(each.raw), "annotations": notes}
        for each, notes in entries
    ]
    return orjson.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests})


def named(name: str) -> dict[str, str]:
    return {"org.opencontainers.image.ref.name": name}


def contents(*published: Published) -> dict[Digest, bytes]:
    """Everything below these, themselves included."""
    found: dict[Digest, bytes] = {}
    for each in published:
        found |= {each.digest: each.raw, **each.blobs, **contents(*each.children)}
    return found


def layout(*entries: tuple[Published, str]) -> dict[str, bytes]:
    """The files of an OCI layout whose images have these names."""
    files = {"oci-layout": LAYOUT, "index.json": listing(*((each, named(name)) for each, name in entries))}
    blobs = contents(*(each for each, _ in entries))
    return files | {f"blobs/{digest.algorithm}/{digest.hex}": data for digest, data in blobs.items()}


def saved(config: bytes, layers: Sequence[bytes], *tags: str) -> dict[str, bytes]:
    """The files of a docker-archive as older `docker save` wrote it."""
    names = [f"{number}/layer.tar" for number in range(len(layers))]
    manifest = orjson.dumps([{"Config": "config.json", "RepoTags": list(tags), "Layers": names}])
    return {"manifest.json": manifest, "config.json": config, **dict(zip(names, layers, strict=True))}


def config_of(*layers: bytes) -> bytes:
    ids = [str(Digest.of(each)) for each in layers]
    return orjson.dumps({"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": ids}})


def tar(files: dict[str, bytes]) -> bytes:
    return b"".join(file(name, data) for name, data in files.items()) + END
