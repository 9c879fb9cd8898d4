"""The refusal manifest: an answer that stops clients which would go on to the real upstream on any error.

Rule 1: it is a well-formed OCI manifest of its own digest, so that no client looks for another opinion; its config and
        its only layer have a private media type that spells the reason, so that none takes it for an image.
Rule 2: by tag it is answered under that private type; by digest as an OCI manifest: dockerd falls through on the
        private type there, and containerd takes the OCI type by tag for an image (clients.md section 2.4).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import orjson

from iarproxy.oci.digest import Digest
from iarproxy.oci.manifest import parse_manifest
from iarproxy.oci.media_types import OCI_MANIFEST

EMPTY = b"{}"  # what its config and layer hold
_EMPTY_DIGEST = Digest.of(EMPTY)
_TYPES = "application/vnd.iarproxy.refused."
_REASON = re.compile(r"[a-z][a-z0-9-]{0,40}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Refusal:
    """A refusal manifest. `media_type`: what it is by tag; clients quote it in their errors."""

    media_type: str
    raw: bytes

    @property
    def digest(self) -> Digest:
        """What it is fetched by once it was seen."""
        return Digest.of(self.raw)


def refuse(reason: str, facts: Mapping[str, str]) -> Refusal:
    """The refusal of one thing: `reason` is a word such as `tag-drift`, `facts` are its annotations.

    The same arguments give the same bytes.

    Raises:
        ValueError: the reason cannot stand in a media type.
    """
    if _REASON.fullmatch(reason) is None:
        raise ValueError(f"no reason for a refusal: {reason!r}")
    media_type = f"{_TYPES}v1.{reason}-refused+json"
    nothing = {"mediaType": media_type, "digest": str(_EMPTY_DIGEST), "size": len(EMPTY)}
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": nothing,
        "layers": [nothing],
        "annotations": {f"dev.iarproxy.refused.{key}": value for key, value in sorted(facts.items())},
    }
    return Refusal(media_type, orjson.dumps(document))


def is_refusal(raw: bytes) -> bool:
    """Whether an acceptable manifest is a refusal, ours or that of another mirror."""
    if _TYPES.encode() not in raw:
        return False
    config = parse_manifest(raw).config
    return config is not None and config.media_type.startswith(_TYPES)
