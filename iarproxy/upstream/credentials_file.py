"""Credentials in files: a password, or the logins that docker, podman and Kubernetes keep (clients.md 11.5).

Rule 1: a file is read when a credential is needed, once however many need it; nothing is remembered but its parsed form
        for as long as its bytes are the same.
Rule 2: of an auth file only the entry that is meant for this registry is looked at; what it asks for first is a helper
        for this host (`credHelpers`), then a helper for all (`credsStore`), then `auths`. A file without these keys is
        the legacy form, all `auths`.
Rule 3: a registry that the file has nothing for is anonymous, which is said once.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import structlog

from iarproxy.config.values import HELPER_NAME
from iarproxy.errors import UpstreamUnavailable
from iarproxy.inflight import InFlight
from iarproxy.upstream.credentials import Credential, IdentityToken, Login, RegistryToken, Secret, login_of
from iarproxy.upstream.credentials_helper import Helper
from iarproxy.upstream.credentials_match import Server

log = structlog.get_logger("iarproxy.upstream")

_MAX_PASSWORD = 16_384  # bytes: some registries hand out tokens of several kilobytes as passwords
_MAX_AUTH_FILE = 2**20
_MAX_HELPERS = 64  # that one file may name for one registry
_KEY_FILES = frozenset({"_json_key"})  # users whose password is a whole document (clients.md 11.3)


class _File:
    """A file with secrets. `setting`: the configuration key that names it, for messages."""

    def __init__(self, upstream: str, setting: str, path: Path, limit: int) -> None:
        self._upstream = upstream
        self._where = f'upstreams."{upstream}".{setting} {path}'
        self._path = path
        self._limit = limit
        self._reading: InFlight[Path, bytes] = InFlight()

    async def read(self) -> bytes:
        """All of it.

        Raises:
            UpstreamUnavailable: it cannot be read, or is longer than the limit.
        """
        return await self._reading.once(self._path, lambda: asyncio.to_thread(self._read))

    def failure(self, text: str) -> UpstreamUnavailable:
        """The failure that says `text` about this file."""
        return UpstreamUnavailable(f"{self._where} {text}", upstream=self._upstream)

    def _read(self) -> bytes:
        try:
            with self._path.open("rb") as file:
                raw = file.read(self._limit + 1)
        except OSError as error:
            raise self.failure(f"cannot be read: {error.strerror}") from None
        if len(raw) > self._limit:
            raise self.failure(f"is longer than {self._limit} bytes")
        return raw

    async def close(self) -> None:
        await self._reading.close()


class PasswordFile:
    """A user's name from the configuration, and the password in the first line of a file."""

    def __init__(self, upstream: str, username: str, path: Path) -> None:
        self._file = _File(upstream, "password_file", path, _MAX_PASSWORD)
        self._username = username

    async def find(self, repository: str, *, refused: bool = False) -> Credential:  # noqa: ARG002  # the protocol's
        """See `Source.find`."""
        raw = await self._file.read()
        try:
            text = raw.decode()
        except UnicodeDecodeError:
            raise self._file.failure("is not UTF-8 text") from None
        password = text.strip() if self._username in _KEY_FILES else text.partition("\n")[0].rstrip("\r")
        if not password:
            raise self._file.failure("must hold the password in its first line")
        return login_of(self._username, password)

    async def close(self) -> None:
        """See `Source.close`."""
        await self._file.close()


@dataclass(frozen=True, slots=True)
class _Parsed:
    """What an auth file held when it was last read; it shows nothing of it."""

    raw: bytes = field(repr=False)
    document: dict[str, Any] = field(repr=False)


class AuthFile:
    """A file of logins for many registries.

    Args:
        server: the registry that logs in.
        clock: seconds, for what helpers said a moment ago.
    """

    def __init__(self, upstream: str, path: Path, server: Server, clock: Callable[[], float]) -> None:
        self._file = _File(upstream, "auth_file", path, _MAX_AUTH_FILE)
        self._upstream = upstream
        self._path = path
        self._server = server
        self._clock = clock
        self._parsed: _Parsed | None = None
        self._helpers: dict[str, Helper] = {}
        self._said = False

    async def find(self, repository: str, *, refused: bool = False) -> Credential | None:
        """See `Source.find`."""
        document = self._document(await self._file.read())
        for name in self._named(document, repository):
            if found := await self._helper(name).find(repository, refused=refused):
                return found
        auths = _table(document, "auths") if _is_current(document) else document
        for key in self._server.matching(auths, repository):
            if found := self._entry(key, auths[key]):
                return found
        if not self._said:
            self._said = True
            text = "no login for this upstream in its auth_file: it is asked anonymously"
            log.warning(text, upstream=self._upstream, auth_file=str(self._path))
        return None

    async def close(self) -> None:
        """See `Source.close`."""
        await self._file.close()
        for each in self._helpers.values():
            await each.close()

    def _document(self, raw: bytes) -> dict[str, Any]:
        if self._parsed is None or raw != self._parsed.raw:
            try:
                document = orjson.loads(raw)
            except orjson.JSONDecodeError:
                document = None
            if not isinstance(document, dict):
                raise self._file.failure("is no JSON object such as docker login writes")
            self._parsed, self._said = _Parsed(raw, document), False
        return self._parsed.document

    def _named(self, document: dict[str, Any], repository: str) -> list[str]:
        """The helpers that the file names for this registry, in order."""
        special = _table(document, "credHelpers")
        named = [special[key] for key in self._server.matching(special, repository)] + [document.get("credsStore")]
        good = [each for each in named if isinstance(each, str) and HELPER_NAME.fullmatch(each)]
        if len(good) != len([each for each in named if each]):
            raise self._file.failure("names a credential helper that can be no program's name")
        return good

    def _helper(self, name: str) -> Helper:
        if name not in self._helpers:
            if len(self._helpers) >= _MAX_HELPERS:
                raise self._file.failure("names too many credential helpers")
            self._helpers[name] = Helper(self._upstream, name, self._server.address, self._clock)
        return self._helpers[name]

    def _entry(self, key: str, entry: Any) -> Credential | None:
        """The credential in an entry; None: it holds none, as where a credsStore has it."""
        entry = entry if isinstance(entry, dict) else {}
        if token := _text(entry, "registrytoken"):
            return RegistryToken(Secret(token))
        username, password = _text(entry, "username"), _text(entry, "password")
        if coded := _text(entry, "auth"):
            username, password = self._decoded(key, coded)
        if token := _text(entry, "identitytoken"):
            return IdentityToken(Secret(token), _login(username, password or token))
        if ":" in username:
            raise self._file.failure(f"has a user name with a colon for {key[:80]}")
        return login_of(username, password) if username and password else None

    def _decoded(self, key: str, coded: str) -> tuple[str, str]:
        try:
            pair = base64.b64decode(coded + "=" * (-len(coded) % 4), validate=True).decode()
        except (binascii.Error, UnicodeDecodeError, ValueError):
            pair = ""
        username, colon, password = pair.partition(":")
        if not colon:
            raise self._file.failure(f"has an auth for {key[:80]} that is not the base64 of USER:PASSWORD")
        return username, password.strip("\0")


def _login(username: str, password: str) -> Login | None:
    """What may be sent as user and password; None: the name is none that a user has."""
    match login_of(username, password):
        case Login() as login:
            return login if username else None
        case IdentityToken(login=login):
            return login


def _is_current(document: dict[str, Any]) -> bool:
    return not {"auths", "credHelpers", "credsStore"}.isdisjoint(document)


def _table(document: dict[str, Any], name: str) -> dict[str, Any]:
    found = document.get(name)
    return found if isinstance(found, dict) else {}


def _text(entry: dict[str, Any], name: str) -> str:
    found = entry.get(name)
    return found if isinstance(found, str) else ""
