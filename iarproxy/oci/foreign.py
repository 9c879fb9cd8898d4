"""Foreign layers: descriptors whose `urls` say where else their bytes are (image-spec, descriptor.md; Docker's
`foreign` media types). Registries take a manifest with such layers without having them.

Rule: what is listed is a claim of whoever wrote the manifest. It is read here and followed nowhere but where the
      configuration names the host (threats T36).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from iarproxy.oci.digest import Digest
from iarproxy.oci.manifest import Manifest

_MAX_URLS = 8  # of one layer
_MAX_URL = 2048  # characters


@dataclass(frozen=True, slots=True)
class Foreign:
    """Where a layer's bytes are said to be. `size` is in bytes."""

    digest: Digest
    size: int
    urls: tuple[str, ...]


def foreign_layers(manifest: Manifest) -> tuple[Foreign, ...]:
    """The foreign layers of a manifest; what else its `urls` hold is left out."""
    if not manifest.foreign:
        return ()
    document = orjson.loads(manifest.raw)
    listed = document.get("layers") or document.get("blobs") or []
    found = (_read(layer.size, layer.digest, each) for layer, each in zip(manifest.layers, listed, strict=True))
    return tuple(each for each in found if each.urls)


def _read(size: int, digest: Digest, entry: dict[str, Any]) -> Foreign:
    urls = entry.get("urls")
    named = urls if isinstance(urls, list) else []
    usable = [each for each in named if isinstance(each, str) and len(each) <= _MAX_URL and _is_web(each)]
    return Foreign(digest, size, tuple(usable[:_MAX_URLS]))


def _is_web(url: str) -> bool:
    return url.isascii() and url.isprintable() and url.lower().startswith(("https://", "http://"))
