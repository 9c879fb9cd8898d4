"""A user's name and password for one upstream, read from a file when they are needed, and never shown."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from dataclasses import dataclass
from pathlib import Path

from iarproxy.errors import ConfigError

_MAX_PASSWORD = 16_384  # bytes: some registries hand out tokens of several kilobytes as passwords


@dataclass(frozen=True, slots=True)
class Secret:
    """Text that no log, repr or traceback shows. `reveal` is called where it is sent."""

    _text: str

    def __repr__(self) -> str:
        return "Secret(***)"

    def __str__(self) -> str:
        return "***"

    def reveal(self) -> str:
        """The text."""
        return self._text


@dataclass(frozen=True, slots=True)
class Credential:
    """Who we are towards an upstream. The file is read anew each time, so that a rotated password is found."""

    upstream: str
    username: str
    password_file: Path

    @property
    def identity(self) -> str:
        """Names this credential in keys without telling it."""
        return hashlib.sha256(f"{self.upstream}\n{self.username}\n{self.password_file}".encode()).hexdigest()[:16]

    async def password(self) -> Secret:
        """The first line of the file.

        Raises:
            ConfigError: it cannot be read or is empty.
        """
        return await asyncio.to_thread(self._read)

    async def basic(self) -> Secret:
        """The value of an Authorization header (RFC 7617)."""
        pair = f"{self.username}:{(await self.password()).reveal()}"
        return Secret(f"Basic {base64.b64encode(pair.encode()).decode('ascii')}")

    def _read(self) -> Secret:
        where = f'upstreams."{self.upstream}".password_file {self.password_file}'
        try:
            with self.password_file.open("rb") as file:
                text = file.read(_MAX_PASSWORD + 1).decode()
        except (OSError, UnicodeDecodeError) as error:
            cause = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
            raise ConfigError(f"{where} cannot be read: {cause}") from None
        line = text.partition("\n")[0].rstrip("\r")
        if not line or len(text) > _MAX_PASSWORD:
            raise ConfigError(f"{where} must hold the password in its first line")
        return Secret(line)
