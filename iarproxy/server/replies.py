"""How the admin face replies: JSON that nothing keeps, errors as the registry's, and a bound on every wait."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from aiohttp import web

from iarproxy.errors import LedgerUnavailable, StoreUnavailable
from iarproxy.server.errors import answer_error

HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}
_PATIENCE = 5.0  # seconds until a store or ledger that does not answer counts as not ready


def reply(value: Any, status: int = 200) -> web.Response:
    """`value` as JSON."""
    return web.Response(
        status=status, body=orjson.dumps(value), headers={**HEADERS, "Content-Type": "application/json"}
    )


async def soon(answer: Awaitable[Any]) -> Any:
    """What `answer` gives, within `_PATIENCE`.

    Raises:
        StoreUnavailable, LedgerUnavailable: it did not come, or a file cannot be read.
    """
    try:
        async with asyncio.timeout(_PATIENCE):
            return await answer
    except TimeoutError as error:
        raise StoreUnavailable(f"the disk did not answer within {_PATIENCE:g} s") from error
    except OSError as error:
        raise LedgerUnavailable(f"a file cannot be read: {error.strerror}") from error


async def anonymous(_: web.Request, answer: web.StreamResponse) -> None:
    """Do not tell which program serves."""
    answer.headers.popall("Server", None)


@web.middleware
async def as_json_errors(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Whatever fails becomes the JSON of an error."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        return reply({"errors": [{"code": "UNSUPPORTED", "message": error.reason}]}, error.status)
    except Exception as error:  # noqa: BLE001  # the edge of this face: everything becomes an answer
        answer = answer_error(error)
        return web.Response(status=answer.status, body=answer.body, headers={**HEADERS, **answer.headers})
