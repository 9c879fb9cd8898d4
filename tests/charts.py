"""Helm charts as they are pushed: an archive, its metadata, and the manifest over both."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from typing import Any

import orjson

from iarproxy.oci import Digest
from iarproxy.oci.media_types import OCI_MANIFEST
from images import Published

CONFIG = "application/vnd.cncf.helm.config.v1+json"
CONTENT = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"


def archive(files: Mapping[str, str], *, name: str = "app") -> bytes:
    """A chart's archive of these files, and a `Chart.yaml`."""
    meant = {"Chart.yaml": f"apiVersion: v2\nname: {name}\nversion: 1.0.0\n", **files}
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as tar:
        for path, text in meant.items():
            about = tarfile.TarInfo(f"{name}/{path}")
            about.size = len(text.encode())
            tar.addfile(about, io.BytesIO(text.encode()))
    return made.getvalue()


def chart(files: Mapping[str, str], *, annotations: Mapping[str, str] | None = None) -> Published:
    """A chart with these files, as `helm push` makes it; `annotations` as `Chart.yaml` would have them."""
    metadata: dict[str, Any] = {"apiVersion": "v2", "name": "app", "version": "1.0.0"}
    config = orjson.dumps(metadata | ({"annotations": dict(annotations)} if annotations else {}))
    content = archive(files)
    raw = orjson.dumps(
        {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": _entry(CONFIG, config)}
        | {"layers": [_entry(CONTENT, content)]}
    )
    return Published(raw, OCI_MANIFEST, {Digest.of(each): each for each in (config, content)})


def _entry(media_type: str, data: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": str(Digest.of(data)), "size": len(data)}
