"""The index of what refers to a subject (distribution-spec v1.1), as it grows.

Rule: what is listed stays listed, as it is written; where nothing is new the bytes stay the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import orjson

from iarproxy.errors import Malformed
from iarproxy.oci.manifest import Manifest, parse_manifest
from iarproxy.oci.media_types import OCI_INDEX
from iarproxy.oci.set_record import described


def entry_of(referrer: Manifest) -> dict[str, Any]:
    """How a registry lists a manifest that refers to another one."""
    listed = described(referrer.descriptor)
    listed |= {"artifactType": referrer.artifact_type} if referrer.artifact_type else {}
    return listed | ({"annotations": referrer.annotations} if referrer.annotations else {})


def joined(indexes: Sequence[bytes], entries: Iterable[dict[str, Any]] = ()) -> bytes:
    """One index of everything: the first one, and what the others and `entries` have beside it.

    Raises:
        Malformed: one of them is no image index.
    """
    fresh: list[dict[str, Any]] = []
    seen: set[str] = set()
    for raw in indexes:
        if parse_manifest(raw).descriptor.media_type != OCI_INDEX:
            raise Malformed("a fallback tag stands for something else than an image index")
    lists: list[list[dict[str, Any]]] = [orjson.loads(raw).get("manifests") or [] for raw in indexes]
    every = [each for listed in lists for each in listed]
    for each in (*every, *entries):
        if each["digest"] not in seen:
            seen.add(each["digest"])
            fresh.append(each)
    if indexes and len(fresh) == len(lists[0]):
        return indexes[0]
    return orjson.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": fresh})
