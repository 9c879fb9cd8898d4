"""What a status of upstream that is no success means, in our two kinds of failure.

Rule 1: every status is decided; one that nobody expects is `UpstreamWrong`.
Rule 2: upstream's words are not repeated, except an OCI error code, which is a word of a known shape.
Rule 3: a refusal by a storage host is no verdict about access: its signed URL may have run out. It may be tried again.
"""

from __future__ import annotations

import re
from datetime import datetime

import aiohttp
import orjson

from iarproxy.errors import (
    Denied,
    IarproxyError,
    Refused,
    UnknownManifest,
    UnknownName,
    UpstreamBusy,
    UpstreamLoops,
    UpstreamTimeout,
    UpstreamUnavailable,
    UpstreamWrong,
)
from iarproxy.upstream.client import Client
from iarproxy.upstream.redirects import Landed
from iarproxy.upstream.retry import parse_retry_after

_LOOP = 508
_MAX_BODY = 8192
_CODE = re.compile(r"[A-Z_]{1,40}", re.ASCII)


async def failure(client: Client, landed: Landed, what: str, missing: type[Refused], now: datetime) -> IarproxyError:
    """The failure that an answer is, where `what` was asked for and a 404 means `missing`.

    Reads a little of the answer's body, and releases it.
    """
    status, name = landed.response.status, client.name
    retry_after = parse_retry_after(landed.response.headers.get("Retry-After"), now)
    code = await _code(client, landed.response)
    said = f"{status}{f' {code}' if code else ''}"
    match status:
        case 404 | 410:
            kind = UnknownName if code == "NAME_UNKNOWN" and missing is UnknownManifest else missing
            return kind(f"{name} has no {what} ({said})", upstream=name, status=status)
        case 401 | 403 | 451 if landed.home:
            remedy = "if it is private, set username and password_file (or auth_file, or credential_helper) for it"
            text = f"{name} refuses access to {what} ({said}); {remedy}"
            return Denied(text, "upstream", upstream=name, status=status, said_by="registry")
        case 429:
            text = f"{name} answered {said} for {what}: its rate limit is used up"
            return UpstreamBusy(text, upstream=name, status=status, retry_after=retry_after)
        case 408:
            return UpstreamTimeout(f"{name} answered {said} for {what}", upstream=name, status=status)
        case _ if status >= 500 or (not landed.home and status in (400, 401, 403)):  # noqa: PLR2004  # 5xx
            text = f"{name} answered {said} for {what}"
            failed = UpstreamUnavailable(text, upstream=name, status=status, retry_after=retry_after)
            return _looped(name, what) if landed.home and status == _LOOP else failed
        case _:
            return UpstreamWrong(f"{name} answered {said} for {what}", upstream=name, status=status)


def _looped(name: str, what: str) -> UpstreamLoops:
    text = f"{name} answered 508 for {what}: the request came back to where it was sent from"
    remedy = f'write into upstreams."{name}" the url of the registry itself, not of a mirror that asks this one'
    return UpstreamLoops(f"{text}; {remedy}", upstream=name, status=_LOOP)


async def _code(client: Client, response: aiohttp.ClientResponse) -> str:
    """The OCI error code in an error's body; empty where there is none."""
    body = b""
    try:
        while len(body) < _MAX_BODY and (piece := await client.read(response)):
            body += piece
        code = orjson.loads(body)["errors"][0]["code"]
    except (UpstreamUnavailable, ValueError, TypeError, LookupError):
        return ""
    finally:
        response.release()
    return code if isinstance(code, str) and _CODE.fullmatch(code) else ""
