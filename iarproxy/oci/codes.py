"""The OCI error codes (distribution-spec v1.1, "Error Codes") and the one shape of an error body."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

import orjson

if TYPE_CHECKING:
    from collections.abc import Mapping


class ErrorCode(StrEnum):
    """What a client may branch on. Codes of uploads are absent: a mirror has none."""

    BLOB_UNKNOWN = "BLOB_UNKNOWN"
    DENIED = "DENIED"
    DIGEST_INVALID = "DIGEST_INVALID"
    MANIFEST_INVALID = "MANIFEST_INVALID"
    MANIFEST_UNKNOWN = "MANIFEST_UNKNOWN"
    NAME_INVALID = "NAME_INVALID"
    NAME_UNKNOWN = "NAME_UNKNOWN"
    SIZE_INVALID = "SIZE_INVALID"
    TOOMANYREQUESTS = "TOOMANYREQUESTS"
    UNAUTHORIZED = "UNAUTHORIZED"
    UNSUPPORTED = "UNSUPPORTED"
    # Not in the spec's table, which has no code for a failing upstream; distribution answers so too.
    UNAVAILABLE = "UNAVAILABLE"


def error_body(code: ErrorCode, message: str, detail: Mapping[str, str | int | None]) -> bytes:
    """`{"errors": [{"code", "message", "detail"}]}`, the list never empty (docker reads an empty one as success)."""
    return orjson.dumps({"errors": [{"code": code.value, "message": message, "detail": dict(detail)}]})
