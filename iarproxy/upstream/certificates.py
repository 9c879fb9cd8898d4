"""Whom an endpoint's TLS trusts, and which certificate it shows.

Rule 1: a certificate of ours is shown to the endpoint's own origin only, as any credential.
Rule 2: files are read in a thread, when the proxy starts and again when they have changed; a changed file that cannot
        be used leaves what is in use as it is, and says so in the log.
Rule 3: a key that is encrypted is refused: nobody is there to be asked for its password.
"""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import structlog

from iarproxy.errors import ConfigError

log = structlog.get_logger("iarproxy.upstream")

_LOOK_AGAIN = 10.0  # seconds
_Seen: TypeAlias = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True)
class Files:
    """PEM files of one upstream, or of another `section`. `key`: None where it is in the file of the certificate."""

    name: str
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    section: str | None = None

    @property
    def all(self) -> dict[str, Path]:
        """The files by the setting that names each."""
        named = {"ca_file": self.ca, "client_cert_file": self.certificate, "client_key_file": self.key}
        return {setting: path for setting, path in named.items() if path is not None}


@dataclass(frozen=True, slots=True)
class _Contexts:
    own: ssl.SSLContext
    others: ssl.SSLContext


class Certificates:
    """The TLS contexts of one endpoint. Made anew where a file changed; connections that are open stay as they are.

    Args:
        look_again: seconds between two looks at the files.
    """

    def __init__(self, files: Files, *, look_again: float = _LOOK_AGAIN) -> None:
        self._files = files
        self._look_again = look_again
        self._contexts: _Contexts | None = None
        self._seen: _Seen = ()
        self._look_at = 0.0
        self._looking = asyncio.Lock()

    async def check(self) -> None:
        """Read the files, if there are any.

        Raises:
            ConfigError: one of them cannot be used; names the setting and what to do.
        """
        if self._files.all:
            await self.context(home=True)

    async def context(self, *, home: bool) -> ssl.SSLContext:
        """The context for a connection to the endpoint's own origin (`home`), or to any other host."""
        now = asyncio.get_running_loop().time()
        if self._contexts is None or now >= self._look_at:
            async with self._looking:
                if self._contexts is None or now >= self._look_at:
                    self._contexts = await asyncio.to_thread(self._current)
                    self._look_at = asyncio.get_running_loop().time() + self._look_again
        return self._contexts.own if home else self._contexts.others

    def _current(self) -> _Contexts:
        """Reads files, and the system's certificates: 0.1 s of a core."""
        seen = _state(self._files)
        if self._contexts is not None and seen == self._seen:
            return self._contexts
        try:
            contexts = _load(self._files)
        except ConfigError as error:
            if self._contexts is None:
                raise
            log.warning("changed certificates are not used", upstream=self._files.name, reason=str(error))
            contexts = self._contexts
        self._seen = seen
        return contexts


def _state(files: Files) -> _Seen:
    found = []
    for path in files.all.values():
        try:
            state = path.stat()
        except OSError:
            found.append((0, 0, 0))
        else:
            found.append((state.st_mtime_ns, state.st_size, state.st_ino))
    return tuple(found)


def _load(files: Files) -> _Contexts:
    others = _trusting(files)
    if files.certificate is None:
        return _Contexts(others, others)
    own = _trusting(files)
    _show(own, files, files.certificate)
    return _Contexts(own, others)


def _trusting(files: Files) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=files.ca)
    except OSError as error:
        raise _unusable(files, "ca_file", _why(error, "not a PEM certificate; write the path of one")) from None


def _show(context: ssl.SSLContext, files: Files, certificate: Path) -> None:
    setting = "client_cert_file"
    try:
        if files.key is not None:
            files.key.open("rb").close()
    except OSError as error:
        raise _unusable(files, "client_key_file", _why(error, "unreadable")) from None
    try:
        context.load_cert_chain(certificate, files.key, password=lambda: "")
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise _unusable(files, setting, "its key belongs to another certificate") from None
        remedy = "write client_key_file" if files.key is None else "check both files"
        why = f"no PEM certificate with a key that is not encrypted; {remedy}"
        raise _unusable(files, setting, why) from None
    except (OSError, ValueError) as error:
        raise _unusable(files, setting, _why(error, "unreadable")) from None


def _why(error: Exception, otherwise: str) -> str:
    strerror = error.strerror if isinstance(error, OSError) and not isinstance(error, ssl.SSLError) else None
    return f"{strerror}; check its path, owner and mode" if strerror else otherwise


def _unusable(files: Files, setting: str, why: str) -> ConfigError:
    section = files.section or f'upstreams."{files.name}"'
    return ConfigError(f"{section}.{setting} {files.all[setting]} cannot be used: {why}")
