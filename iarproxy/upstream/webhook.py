"""A webhook: a POST that is signed as Standard Webhooks 1.0 say, so that its receiver can tell who sent it and when.

Rule 1: signed is `ID.SECONDS.BODY`, with HMAC-SHA256, for each secret in the file; while a secret is changed there are
        two, and the receiver takes either.
Rule 2: the file is read anew for each event: a changed secret needs no restart. Its content is told nowhere.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

from iarproxy.errors import ConfigError
from iarproxy.upstream.credentials import Secret
from iarproxy.upstream.posting import Posted, Poster

_PREFIX = "whsec_"  # then base64, as the libraries of Standard Webhooks write it
_SHORTEST = 16  # bytes
_MAX_FILE = 4096  # bytes
_MAX_SECRETS = 4


class Webhook:
    """One receiver of events.

    Args:
        name: of its section.
        poster: where to.
        secret_file: a secret in each line: `whsec_` and base64, or any other text of at least 16 bytes.
        now: aware UTC.
    """

    def __init__(self, name: str, poster: Poster, secret_file: Path, now: Callable[[], datetime]) -> None:
        self.name = name
        self._poster = poster
        self._secret_file = secret_file
        self._now = now

    async def send(self, identity: str, body: bytes, *, media_type: str) -> Posted:
        """Send one event; `identity` is the same however often it is sent, and holds no dot.

        Raises:
            Refused: the receiver said no (`detail["status"]`), or the secret cannot be used.
            Unavailable: no usable answer came in time.
        """
        secrets = await asyncio.to_thread(read_secrets, self.name, self._secret_file)
        at = int(self._now().timestamp())
        headers = {
            "webhook-id": identity,
            "webhook-timestamp": str(at),
            "webhook-signature": signatures(secrets, identity, at, body),
        }
        return await self._poster.post(body, headers, media_type=media_type, wanted=0)

    async def close(self) -> None:
        """Close what is open."""
        await self._poster.close()


def signatures(secrets: Sequence[Secret], identity: str, at: int, body: bytes) -> str:
    """The value of `webhook-signature`; `at` in seconds since 1970."""
    signed = b"%s.%d.%s" % (identity.encode(), at, body)
    made = (hmac.digest(_key(each), signed, hashlib.sha256) for each in secrets)
    return " ".join(f"v1,{base64.b64encode(each).decode('ascii')}" for each in made)


def read_secrets(name: str, path: Path) -> list[Secret]:
    """The secrets of the webhook `name`.

    Raises:
        ConfigError: there is none that can be used; it is not quoted.
    """
    where = f"webhooks.{name}.secret_file {path}"
    try:
        with path.open("rb") as file:
            lines = file.read(_MAX_FILE).decode().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        cause = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigError(f"{where} cannot be read: {cause}; check its path, owner and mode") from None
    secrets = [Secret(line.strip()) for line in lines if line.strip()][:_MAX_SECRETS]
    try:
        shortest = min((len(_key(each)) for each in secrets), default=0)
    except binascii.Error:
        raise ConfigError(f"{where}: what follows whsec_ must be base64") from None
    if shortest < _SHORTEST:
        raise ConfigError(
            f"{where} must hold a secret of at least {_SHORTEST} bytes; `openssl rand -base64 32` makes one"
        )
    return secrets


def _key(secret: Secret) -> bytes:
    text = secret.reveal()
    if text.startswith(_PREFIX):
        return base64.b64decode(text.removeprefix(_PREFIX), validate=True)
    return text.encode()
