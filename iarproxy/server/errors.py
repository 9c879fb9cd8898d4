"""The one place that turns a failure into an HTTP answer.

Rule 1: no 401, no challenge: a client answers one with its user's password (clients.md section 1, number 6).
Rule 2: the body is always the OCI errors JSON, its list never empty; HEAD answers the same length without it.
Rule 3: a failure that nobody foresaw says nothing to the client and everything, with its traceback, to the log.
Rule 4: an error is never cached.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType

import structlog

from iarproxy import errors
from iarproxy.oci import ErrorCode, Tag, error_body
from iarproxy.oci.request import BlobTarget, ManifestTarget, ReferrersTarget, TagsTarget, Target
from iarproxy.server.answer import NO_STORE, Answer

_log = structlog.get_logger("iarproxy.server")

MAX_RETRY_AFTER = 60  # seconds; clients give up on a host that asks for more (clients.md section 10, item 61)
_DEFAULT_RETRY_AFTER = 5

STATUSES: Mapping[type[errors.IarproxyError], tuple[int, ErrorCode]] = MappingProxyType(
    {
        errors.Malformed: (400, ErrorCode.NAME_INVALID),
        errors.DigestInvalid: (400, ErrorCode.DIGEST_INVALID),
        errors.NameInvalid: (404, ErrorCode.NAME_INVALID),
        errors.ManifestInvalid: (404, ErrorCode.MANIFEST_INVALID),
        errors.UnknownName: (404, ErrorCode.NAME_UNKNOWN),
        errors.UnknownManifest: (404, ErrorCode.MANIFEST_UNKNOWN),
        errors.UnknownBlob: (404, ErrorCode.BLOB_UNKNOWN),
        errors.Denied: (403, ErrorCode.DENIED),
        errors.RangeUnsatisfiable: (416, ErrorCode.SIZE_INVALID),
        errors.Unsupported: (405, ErrorCode.UNSUPPORTED),
        errors.Refused: (403, ErrorCode.DENIED),
        errors.UpstreamLoops: (508, ErrorCode.UNAVAILABLE),
        errors.UpstreamWrong: (502, ErrorCode.UNAVAILABLE),
        errors.UpstreamTimeout: (504, ErrorCode.UNAVAILABLE),
        errors.UpstreamBusy: (429, ErrorCode.TOOMANYREQUESTS),
        errors.UpstreamUnavailable: (502, ErrorCode.UNAVAILABLE),
        # A full disk is 503 too: no client understands 507.
        errors.StoreUnavailable: (503, ErrorCode.UNAVAILABLE),
        # On any 5xx clients would try again for minutes (item 60); which of the three codes, `_absence` says.
        errors.Offline: (404, ErrorCode.MANIFEST_UNKNOWN),
        errors.LedgerUnavailable: (503, ErrorCode.UNAVAILABLE),
        errors.Unavailable: (503, ErrorCode.UNAVAILABLE),
    }
)


def answer_error(error: Exception, target: Target | None = None) -> Answer:
    """The answer to a request that failed with `error`. `target`: what was asked, None if that did not parse."""
    if not isinstance(error, errors.IarproxyError):
        _log.error("a request failed for a reason that nobody foresaw", target=str(target), exc_info=error)
        return _answer(500, ErrorCode.UNAVAILABLE, "iarproxy: internal error; the log holds the reason", {})
    status, code = _status(error, target)
    return _answer(status, code, _message(error, code), error.detail, _headers(error, status))


def malformed_http(status: int, message: str) -> Answer:
    """The answer to bytes that are no HTTP request that we take; the connection closes after it."""
    return _answer(status, ErrorCode.UNSUPPORTED, message, {})


def _status(error: errors.IarproxyError, target: Target | None) -> tuple[int, ErrorCode]:
    status, code = next(STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES)
    if isinstance(error, errors.Offline):
        return status, _absence(target)
    if _signature_lookup(target) and code is ErrorCode.NAME_UNKNOWN:
        return 404, ErrorCode.MANIFEST_UNKNOWN
    if isinstance(target, ReferrersTarget) and isinstance(error, errors.UpstreamUnavailable | errors.Denied):
        # Clients fail the whole operation on 403 and 5xx here; on 404 they look at the fallback tag (items 11, 53).
        return 404, ErrorCode.MANIFEST_UNKNOWN
    return status, code


def _absence(target: Target | None) -> ErrorCode:
    """How it is said that what was asked for is not there."""
    match target:
        case BlobTarget():
            return ErrorCode.BLOB_UNKNOWN
        case TagsTarget():
            return ErrorCode.NAME_UNKNOWN
        case _:
            return ErrorCode.MANIFEST_UNKNOWN


def _signature_lookup(target: Target | None) -> bool:
    """Whether this asks for what is attached to a digest; NAME_UNKNOWN would break signature checks (item 31)."""
    match target:
        case ReferrersTarget():
            return True
        case ManifestTarget(wanted=Tag() as tag):
            return tag.is_attachment
        case _:
            return False


def _message(error: errors.IarproxyError, code: ErrorCode) -> str:
    message = str(error)
    if code is ErrorCode.DENIED and not message.startswith("iarproxy:"):
        return f"iarproxy: {message}"
    if isinstance(error, errors.UpstreamUnavailable):
        return f"{message}; nothing held here answers this: ask again when upstream does"
    return message


def _headers(error: errors.IarproxyError, status: int) -> dict[str, str]:
    if isinstance(error, errors.RangeUnsatisfiable):
        return {"Content-Range": f"bytes */{error.size}", "Accept-Ranges": "bytes"}
    if isinstance(error, errors.Unsupported):
        return {"Allow": "GET, HEAD"}
    if isinstance(error, errors.Unavailable) and status in (429, 503):
        return {"Retry-After": str(_seconds(error.retry_after))}
    return {}


def _seconds(retry_after: float | None) -> int:
    if retry_after is None or not math.isfinite(retry_after):
        return _DEFAULT_RETRY_AFTER
    return min(max(1, math.ceil(retry_after)), MAX_RETRY_AFTER)


def _answer(
    status: int,
    code: ErrorCode,
    message: str,
    detail: Mapping[str, str | int | None],
    headers: Mapping[str, str] | None = None,
) -> Answer:
    fixed = {"Content-Type": "application/json", "Cache-Control": NO_STORE}
    return Answer(status, {**fixed, **(headers or {})}, error_body(code, message, detail))
