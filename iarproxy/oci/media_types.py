"""Media types of manifests, and which of them upstream is asked for.

Rule 1: a media type is data: an unknown one passes verbatim.
Rule 2: `Accept` never selects what a client gets; towards upstream the whole list is sent, so that a pin is the
        index and not one platform of it (distribution-spec, content-negotiation.md).
"""

from __future__ import annotations

import re

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_ARTIFACT = "application/vnd.oci.artifact.manifest.v1+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_SCHEMA1 = "application/vnd.docker.distribution.manifest.v1+json"
DOCKER_SCHEMA1_SIGNED = "application/vnd.docker.distribution.manifest.v1+prettyjws"
OCTET_STREAM = "application/octet-stream"

INDEXES = frozenset({OCI_INDEX, DOCKER_LIST})
SCHEMA1 = frozenset({DOCKER_SCHEMA1, DOCKER_SCHEMA1_SIGNED})
# What servers say when they do not know: the document decides instead (clients.md section 10, item 23).
VAGUE = frozenset({"", "text/plain", "application/json", OCTET_STREAM})

ACCEPT_MANIFESTS = ", ".join((OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST, OCI_ARTIFACT, "*/*"))

_MEDIA_TYPE = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9!#$&^_.+-]{0,126}/[a-zA-Z0-9][a-zA-Z0-9!#$&^_.+-]{0,126}", re.ASCII)


def is_media_type(text: str) -> bool:
    """Whether `text` is a type and a subtype (RFC 6838 section 4.2) and nothing else."""
    return _MEDIA_TYPE.fullmatch(text) is not None


def without_parameters(header: str | None) -> str:
    """The media type in a `Content-Type` header; the empty string where there is none or it is not one."""
    candidate = (header or "").partition(";")[0].strip()
    return candidate if is_media_type(candidate) else ""
