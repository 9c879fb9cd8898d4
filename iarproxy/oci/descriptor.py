"""Descriptor: media type, digest and size. Content is asked for by it, so that every read is bounded and checked."""

from __future__ import annotations

from dataclasses import dataclass

from iarproxy.errors import ManifestInvalid
from iarproxy.oci.digest import Digest
from iarproxy.oci.media_types import is_media_type

MAX_SIZE = 2**53 - 1  # what every JSON implementation can hold exactly


@dataclass(frozen=True, slots=True)
class Descriptor:
    """What some content is (image-spec v1.1, descriptor.md). `size` is in bytes."""

    media_type: str
    digest: Digest
    size: int

    def __post_init__(self) -> None:
        if not is_media_type(self.media_type):
            raise ManifestInvalid(f"not a media type: {self.media_type[:160]!r}")
        if type(self.size) is not int or not 0 <= self.size <= MAX_SIZE:
            raise ManifestInvalid(f"not a size in bytes: {str(self.size)[:40]}")
