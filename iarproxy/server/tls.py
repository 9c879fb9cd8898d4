"""TLS for clients: certificate, key and client authority as one context, made anew when their files change.

Rule 1: a context that is in use never changes: handshakes that come get the new one, connections that stand keep
        theirs. Loading into a live one is no transaction: a pair that does not fit leaves it broken.
Rule 2: files that cannot be used keep a server from starting, in one line; under a running one they are an error in
        the log and a metric, and what was read last goes on.
Rule 3: they are read before the fork: a worker that is started while they are broken has what the others have, and a
        session ticket is good at every worker until they change.
Rule 4: a running server reads them in a thread.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import stat
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeAlias

import structlog
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from iarproxy.errors import ConfigError

_log = structlog.get_logger("iarproxy.server")

EXPIRES_SOON = timedelta(days=14)
_REMIND = timedelta(days=1)
_MAX_FILE = 1 << 20  # bytes

# Of each file: device, inode, size, time of change; None: it cannot be looked at.
Look: TypeAlias = tuple[tuple[int, int, int, int] | None, ...]


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Where the material is (PEM).

    Attributes:
        certificate: the server's, and those between it and its authority.
        client_ca: who may issue client certificates; None: clients are not asked for any.
        required: a client without one gets no connection; else one that is sent is verified.
    """

    certificate: Path
    key: Path
    client_ca: Path | None = None
    required: bool = True

    def look(self) -> Look:
        """What tells a changed file from an unchanged one."""
        return tuple(_look(path) for path in (self.certificate, self.key, self.client_ca) if path is not None)


@dataclass(frozen=True, slots=True)
class Identity:
    """What was read.

    Attributes:
        context: for handshakes; never changed.
        look: of the files, from before they were read.
        not_after: when the first certificate of the chain expires.
        remarks: what is allowed and unwise.
    """

    files: TlsFiles
    context: ssl.SSLContext
    look: Look
    not_after: datetime
    remarks: tuple[str, ...]


def read_identity(files: TlsFiles) -> Identity:
    """Read the files.

    Raises:
        ConfigError: one cannot be read, or they do not fit; one line that names key, file and remedy.
    """
    look = files.look()
    chain, mode = _read_chain(files.certificate), _check_key(files)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(files.certificate, files.key, password=lambda: "")
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"server.tls.cert_file: {files.certificate} cannot be used with {files.key} ({_reason(error)}); give a"
            " certificate and the key that belongs to it"
        ) from error
    if files.client_ca is not None:
        _trust(context, files.client_ca, required=files.required)
    not_after = min(each.not_valid_after_utc for each in chain)
    return Identity(files, context, look, not_after, tuple(_remarks(files, chain[0], mode)))


class Tls:
    """What a worker shows in handshakes, kept up with the files."""

    def __init__(
        self, first: Identity, *, loud: bool = True, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._identity, self._loud, self._now = first, loud, now
        self._unusable: Look | None = None  # of the files that were tried and cannot be used
        self._reminded: datetime | None = None

    @property
    def context(self) -> ssl.SSLContext:
        """For the next handshake."""
        return self._identity.context

    def gauges(self) -> dict[str, float]:
        """For `/metrics`."""
        not_after = self._identity.not_after.timestamp()
        return {"tls_not_after_seconds": not_after, "tls_files_unusable": float(self._unusable is not None)}

    async def watch(self, every: float) -> None:
        """Look at the files every so many seconds, for ever."""
        self._remark()
        while True:
            await self.check()
            await asyncio.sleep(every)

    async def check(self) -> None:
        """Take what changed, if it can be used."""
        look = await asyncio.to_thread(self._identity.files.look)
        if look == self._identity.look:
            self._unusable = None
        elif look != self._unusable:
            await self._read(look)
        self._remind()

    async def _read(self, look: Look) -> None:
        try:
            self._identity = await asyncio.to_thread(read_identity, self._identity.files)
        except Exception as error:  # noqa: BLE001  # whatever the files hold, what was read last goes on
            self._unusable = look
            self._say("error", "the new certificate cannot be used; the old one stays", reason=str(error))
            return
        self._unusable = self._reminded = None
        self._say("info", "new handshakes show a new certificate", not_after=self._identity.not_after.isoformat())
        self._remark()

    def _remark(self) -> None:
        for remark in self._identity.remarks:
            self._say("warning", remark)

    def _remind(self) -> None:
        now, not_after = self._now(), self._identity.not_after
        if not_after - now > EXPIRES_SOON or (self._reminded is not None and now - self._reminded < _REMIND):
            return
        self._reminded = now
        event = "the certificate has expired" if not_after <= now else "the certificate expires soon"
        files = self._identity.files
        self._say("warning", event, file=str(files.certificate), not_after=not_after.isoformat())

    def _say(self, level: str, event: str, **facts: str) -> None:
        if self._loud:  # one worker tells: all see the same files
            getattr(_log, level)(event, **facts)


def _look(path: Path) -> tuple[int, int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _read(path: Path, key: str) -> tuple[bytes, int]:
    """Bytes and mode of a file."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe would wait for its writer
        try:
            mode = os.fstat(fd).st_mode
            if not stat.S_ISREG(mode):
                raise ConfigError(f"{key}: {path} is no file; give the path of a PEM file")
            return os.read(fd, _MAX_FILE), mode
        finally:
            os.close(fd)
    except OSError as error:
        raise ConfigError(
            f"{key}: {path} cannot be read ({error.strerror}); check the path, its owner and mode"
        ) from error


def _read_chain(path: Path) -> list[x509.Certificate]:
    data, _ = _read(path, "server.tls.cert_file")
    try:
        chain = x509.load_pem_x509_certificates(data)
        chain[0].public_key()
        min(each.not_valid_after_utc for each in chain)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(
            f"server.tls.cert_file: {path} holds no PEM certificate; give the server's certificate and those between"
            " it and its authority"
        ) from error
    return chain


def _check_key(files: TlsFiles) -> int:
    """See that the key is one and needs no passphrase; the mode of its file."""
    data, mode = _read(files.key, "server.tls.key_file")
    try:
        key = load_pem_private_key(data, password=None)
    except TypeError as error:
        raise ConfigError(
            f"server.tls.key_file: {files.key} needs a passphrase; write it without one (`openssl pkey`)"
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"server.tls.key_file: {files.key} holds no PEM private key; give the key's file") from error
    if key.public_key() != _read_chain(files.certificate)[0].public_key():
        raise ConfigError(
            f"server.tls.key_file: {files.key} is not the key of {files.certificate}; give the two that belong together"
        )
    return mode


def _trust(context: ssl.SSLContext, authority: Path, *, required: bool) -> None:
    _read(authority, "server.tls.client_ca_file")
    context.verify_mode = ssl.CERT_REQUIRED if required else ssl.CERT_OPTIONAL
    try:
        context.load_verify_locations(cafile=authority)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"server.tls.client_ca_file: {authority} cannot be used ({_reason(error)}); give PEM certificates"
        ) from error
    if not context.cert_store_stats()["x509_ca"]:
        raise ConfigError(
            f"server.tls.client_ca_file: {authority} holds no authority's certificate; give that of who issues the"
            " clients' certificates"
        )


def _remarks(files: TlsFiles, leaf: x509.Certificate, mode: int) -> list[str]:
    found: list[str] = []
    if mode & (stat.S_IROTH | stat.S_IWGRP | stat.S_IWOTH):  # no refusal: a Kubernetes secret is mounted so
        found.append(f"{files.key} is open to other users (mode {stat.S_IMODE(mode):04o}); chmod 0640 or less")
    try:
        leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except (x509.ExtensionNotFound, ValueError):
        found.append(f"{files.certificate} names no host (subjectAltName); most clients will refuse it")
    return found


def _reason(error: Exception) -> str:
    return str(getattr(error, "reason", None) or getattr(error, "strerror", None) or error)
