"""The OCI image layout that a bundle is (image-spec v1.1, image-layout.md), as its manifest decides it.

Rule 1: `index.json` lists images only, and those only of which all that the wanted platforms need is in this bundle:
        runtimes that import every entry find nothing that they cannot read or have. `iarproxy/index-full.json` lists
        all names and attachments whose manifests are in this bundle; what the site holds `bundle.json` tells.
Rule 2: full names stand in both annotations, `org.opencontainers.image.ref.name` and `io.containerd.image.name`: the
        first is compared as a whole by skopeo and podman, the second is preferred by containerd.
Rule 3: an index that is carried without some of its children is listed, and says so: podman, skopeo and containerd
        take the platform that they run on from it, under its own, signed digest. What copies whole indexes (crane,
        oras, regctl) refuses it, as it has to.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import orjson

from iarproxy.oci.bundle_manifest import BundledAttachment, BundledName, BundleManifest
from iarproxy.oci.descriptor import Descriptor
from iarproxy.oci.media_types import OCI_INDEX
from iarproxy.oci.set_record import described
from iarproxy.oci.volumes import Literal, Volume, volume_sizes, volumes

REF_NAME = "org.opencontainers.image.ref.name"
IMAGE_NAME = "io.containerd.image.name"
LAYOUT = Literal("oci-layout", orjson.dumps({"imageLayoutVersion": "1.0.0"}))
SPARSE = "dev.iarproxy.sparse"  # how many children of an index are left out


def layout_files(manifest: BundleManifest) -> list[Literal]:
    """The layout's own files, in the order in which they are written."""
    listed = [each for each in manifest.names if each.listed]
    carried = {each.digest.hex for each in manifest.provides}
    every: Iterable[BundledName | BundledAttachment] = (*manifest.names, *manifest.attachments)
    full = [each for each in every if each.descriptor.digest.hex in carried]
    return [
        LAYOUT,
        Literal("index.json", index_of(listed)),
        Literal("iarproxy/index-full.json", index_of(full)),
    ]


def volumes_of(manifest: BundleManifest) -> list[Volume]:
    """How the bundle is cut into volumes.

    Raises:
        Malformed: its volumes are too small for it.
    """
    return volumes(manifest.identity, layout_files(manifest), manifest.provides, manifest.volume_size)


def sizes_of(manifest: BundleManifest) -> list[int]:
    """The sizes of the bundle's volumes in bytes, the first volume's first.

    Raises:
        Malformed: its volumes are too small for it.
    """
    return volume_sizes(layout_files(manifest), manifest.provides, manifest.volume_size)


def index_of(listed: Iterable[BundledName | BundledAttachment], untagged: Iterable[Descriptor] = ()) -> bytes:
    """An `index.json` with these entries, and those without a name behind them: what refers to others."""
    entries = [*map(_entry, listed), *map(described, untagged)]
    return orjson.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries})


def _entry(each: BundledName | BundledAttachment) -> dict[str, Any]:
    name = str(each.reference)
    annotations = {REF_NAME: name, IMAGE_NAME: name}
    if isinstance(each, BundledName) and each.omitted:
        annotations[SPARSE] = str(len(each.omitted))
    return {**described(each.descriptor), "annotations": annotations}
