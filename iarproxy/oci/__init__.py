"""Pure values of the OCI specifications: digest, reference, descriptor, manifest, error codes, the request parser.

Rule 1: parse at the door, pass values inside. A value that exists is valid.
Rule 2: no input or output here, and no asyncio: `lint-imports` holds it so.
"""

from iarproxy.oci.codes import ErrorCode, error_body
from iarproxy.oci.descriptor import Descriptor
from iarproxy.oci.digest import Digest
from iarproxy.oci.manifest import MAX_MANIFEST, Child, Manifest, Platform, parse_manifest
from iarproxy.oci.reference import (
    DOCKER_HUB,
    DigestReference,
    Reference,
    Repository,
    Tag,
    TagReference,
    canonical_registry,
    parse_reference,
    parse_tag_or_digest,
)

__all__ = [
    "DOCKER_HUB",
    "MAX_MANIFEST",
    "Child",
    "Descriptor",
    "Digest",
    "DigestReference",
    "ErrorCode",
    "Manifest",
    "Platform",
    "Reference",
    "Repository",
    "Tag",
    "TagReference",
    "canonical_registry",
    "error_body",
    "parse_manifest",
    "parse_reference",
    "parse_tag_or_digest",
]
