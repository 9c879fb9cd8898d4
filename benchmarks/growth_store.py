"""A store and a ledger of any size, made in minutes instead of days: exactly what a long-lived `serve` would hold.

Rule 1: every name, row, checksum and hash comes from the rooms' own functions, and the database's triggers are on;
        only the fsync of each single file and the commit of each single pin are left out. `os.sync` ends it.
Rule 2: content is computed from its number, so that a client needs no list of names: `tag_of`, `layer_of`.
Rule 3: `count` blobs and `count` pins: half of the blobs are manifests with two tags each, half are their layers.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache
from itertools import islice
from pathlib import Path

import orjson
import xxhash
from sqlalchemy import insert

from iarproxy.ledger import EventKind, journal, pins
from iarproxy.ledger.connection import transaction
from iarproxy.ledger.database import Database
from iarproxy.ledger.journal import Entry
from iarproxy.ledger.opening import open_database
from iarproxy.ledger.rows import JOURNAL, PINS
from iarproxy.ledger.values import to_json
from iarproxy.oci import Descriptor, Digest, Repository, Tag, TagReference
from iarproxy.store import Store
from iarproxy.store.layout import Layout

REGISTRY = "growth.test"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
LAYER_SIZE = 1000  # bytes: of a file system's block it takes one, like any small blob
_BATCH = 10_000
_CONFIG = b"{}"


def repository_of(image: int) -> Repository:
    """The repository of an image: a thousand teams, each with its own ones."""
    return Repository(REGISTRY, f"team{image % 1000}/app{image}")


def tag_of(pin: int) -> TagReference:
    """The name of pin number `pin`."""
    return TagReference(repository_of(pin // 2), Tag("v1" if pin % 2 == 0 else "v1.0"))


@cache
def _config() -> Descriptor:
    return Descriptor("application/vnd.oci.image.config.v1+json", Digest.of(_CONFIG), len(_CONFIG))


def layer_of(image: int) -> bytes:
    """The one layer of an image."""
    return random.Random(image).randbytes(LAYER_SIZE)


def manifest_of(image: int) -> bytes:
    """The manifest of an image, as its upstream would have sent it."""
    layer = layer_of(image)
    described = Descriptor("application/vnd.oci.image.layer.v1.tar+gzip", Digest.of(layer), len(layer))
    document = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": to_json(_config()),
        "layers": [to_json(described)],
        "annotations": {"org.opencontainers.image.title": f"application {image}"},
    }
    return orjson.dumps(document)


def build(root: Path, count: int) -> None:
    """Make a store of `count` blobs and pins at `root`, which must not exist."""
    store = Store.open(root, max_size=2**50)
    database = open_database(
        root / "ledger.db", store_identity=store.identity, store_is_empty=True, now=lambda: datetime.now(UTC)
    )
    try:
        with (root / "checksums").open("ab") as checksums:
            for image in range(count // 2):
                for data in (manifest_of(image), layer_of(image)):
                    checksums.write(_kept(Layout(str(root)), data))
            checksums.write(_kept(Layout(str(root)), _CONFIG))
        _pin_all(database, count)
    finally:
        database.close()
    (root / "usage").unlink(missing_ok=True)  # a lost counter: the store counts anew
    os.sync()


def _kept(layout: Layout, data: bytes) -> bytes:
    """Write a blob under its final name; the line that notes its checksum."""
    digest = Digest.of(data)
    descriptor = os.open(layout.blob(digest), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o444)
    try:
        os.write(descriptor, data)
    finally:
        os.close(descriptor)
    return f"{digest} {xxhash.xxh3_128_hexdigest(data)} {len(data)}\n".encode()


def _pin_all(database: Database, count: int) -> None:
    entries = _entries(database, count)
    columns = [each.name for each in JOURNAL.columns]
    while batch := list(islice(entries, _BATCH)):
        with transaction(database.connection, "IMMEDIATE"):
            rows = [{name: getattr(entry, name) for name in columns} for entry in batch]
            database.connection.execute(insert(JOURNAL), rows)
            database.connection.execute(insert(PINS), [pins.row_of(entry) for entry in batch])
    database.write([lambda _: None])  # brings the journal file up to the database


def _entries(database: Database, count: int) -> Iterator[Entry]:
    head = journal.last(database.connection)
    for pin in range(count):
        raw = manifest_of(pin // 2)
        described = Descriptor(MANIFEST, Digest.of(raw), len(raw))
        body = {"descriptor": to_json(described), "source": "http://127.0.0.1:9", "previous": None}
        now = datetime.now(UTC)
        entry = Entry.made(head, now, EventKind.PINNED, tag_of(pin), actor=pins.SELF, revision=1, body=body)
        head = entry.head
        yield entry
