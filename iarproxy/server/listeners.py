"""The listening sockets: bound, or inherited from systemd, once and by the master only.

Rule 1: workers inherit them; never SO_REUSEPORT: one hung worker must not take half the clients (threats L6).
Rule 2: an address that cannot be had is one line that names it and the remedy, before anything starts.
Rule 3: what systemd handed over stays systemd's: it is never unlinked. It replaces the configured addresses of its
        role, which its `FileDescriptorName` tells (`admin`, `probes`, `tls`, anything else: the registry). At the
        address of an environment it replaces that address alone, and shows the environment.
Rule 4: an address that is wanted only where the machine has it is left out where it has not.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from iarproxy.errors import ConfigError

BACKLOG = 2048
_FIRST_INHERITED = 3  # SD_LISTEN_FDS_START
_REMEDIES = {
    errno.EADDRINUSE: "another process has it; stop that one, or choose another address for `{key}`",
    errno.EADDRNOTAVAIL: "this machine has no such address; choose another one for `{key}`",
    errno.EACCES: "not permitted; choose a port above 1023 or another path for `{key}`, or grant CAP_NET_BIND_SERVICE",
    errno.ENOENT: "its folder does not exist; make it, or choose another path for `{key}`",
}


class Role(StrEnum):
    """Which face a listener shows."""

    REGISTRY = "registry"
    TLS = "tls"  # the registry too
    ENVIRONMENT = "environment"  # the registry as well, with the pins of one environment; the address tells which
    ADMIN = "admin"
    PROBES = "probes"


_KEYS = {
    Role.REGISTRY: "[server] listen",
    Role.TLS: "[server.tls] listen",
    Role.ENVIRONMENT: "[environments.*] listen",
    Role.ADMIN: "[admin] listen",
    Role.PROBES: "[admin] probes",
}
_NAMES = {"tls": Role.TLS, "registry-tls": Role.TLS, "admin": Role.ADMIN, "probes": Role.PROBES}  # of what is inherited
_ABSENT = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT)


@dataclass(frozen=True, slots=True)
class Listener:
    """A listening socket. `address` is as configured, or as the kernel tells for an inherited one."""

    role: Role
    address: str
    sock: socket.socket
    inherited: bool = False

    def close(self) -> None:
        """Close it here and remove the path of a unix socket that we made."""
        if self.sock.family == socket.AF_UNIX and not self.inherited and self.sock.fileno() >= 0:
            Path(self.sock.getsockname()).unlink(missing_ok=True)
        self.sock.close()


def open_listeners(
    wanted: Iterable[tuple[Role, str]], inherited: Iterable[Listener] = (), optional: Iterable[str] = ()
) -> list[Listener]:
    """Every listener: the inherited ones, and those of `wanted` that they do not replace.

    `optional`: addresses that need not exist on this machine.

    Raises:
        ConfigError: an address cannot be had; nothing stays open then.
    """
    asked = list(wanted)
    given = [_placed(each, asked) for each in inherited]
    opened = given.copy()
    try:
        for role, address in asked:
            if not is_replaced(role, address, given):
                opened += _bind(role, address, optional=address in optional)
    except ConfigError:
        for listener in opened:
            listener.close()
        raise
    return opened


def is_replaced(role: Role, address: str, inherited: Iterable[Listener]) -> bool:
    """Whether a configured address is not opened because of what socket activation gave (rule 3)."""
    if role is Role.ENVIRONMENT:
        return any(each.address == address for each in inherited)
    return any(each.role is role for each in inherited)


def _placed(given: Listener, asked: Iterable[tuple[Role, str]]) -> Listener:
    shows_environment = given.role is Role.REGISTRY and (Role.ENVIRONMENT, given.address) in asked
    return replace(given, role=Role.ENVIRONMENT) if shows_environment else given


def inherited_listeners(environment: Mapping[str, str]) -> list[Listener]:
    """What socket activation handed over (sd_listen_fds(3)); nothing where it is meant for another process."""
    if environment.get("LISTEN_PID") != str(os.getpid()):
        return []
    count = environment.get("LISTEN_FDS", "")
    names = environment.get("LISTEN_FDNAMES", "").split(":")
    found = []
    for offset in range(int(count) if count.isdecimal() else 0):
        sock = socket.socket(fileno=_FIRST_INHERITED + offset)
        _prepare(sock)
        role = _NAMES.get(names[offset], Role.REGISTRY) if offset < len(names) else Role.REGISTRY
        found.append(Listener(role, _name_of(sock), sock, inherited=True))
    return found


def _prepare(sock: socket.socket) -> None:
    sock.setblocking(False)  # noqa: FBT003  # the socket's own signature
    os.set_inheritable(sock.fileno(), False)  # noqa: FBT003  # as above; forked workers have it anyway


def _bind(role: Role, address: str, *, optional: bool) -> list[Listener]:
    try:
        if address.startswith("unix:"):
            return [Listener(role, address, _bind_path(Path(address.removeprefix("unix:"))))]
        return [Listener(role, address, sock) for sock in _bind_tcp(address)]
    except OSError as error:
        if optional and (isinstance(error, socket.gaierror) or error.errno in _ABSENT):
            return []
        remedy = _REMEDIES.get(error.errno or 0, "choose another address for `{key}`").format(key=_KEYS[role])
        usual = usual_holder(address, sys.platform) if error.errno == errno.EADDRINUSE else ""
        raise ConfigError(f"cannot listen on {address} ({error.strerror}): {usual}{remedy}") from error


def usual_holder(address: str, system: str) -> str:
    """Who is known to take this port on such a system (`sys.platform`), as the start of a remedy; "" for nobody."""
    port = address.rpartition(":")[2]
    if port == "5000" and system == "darwin":
        return "AirPlay Receiver of macOS takes this port (System Settings > General > AirDrop & Handoff); "
    if port == "5001":
        return "kind's example of a local registry takes this port; "
    return ""


def _bind_tcp(address: str) -> list[socket.socket]:
    host, _, port = address.rpartition(":")
    wanted = socket.getaddrinfo(host.strip("[]") or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    opened: list[socket.socket] = []
    try:
        for family, kind, protocol, _, where in dict.fromkeys(wanted):
            sock = socket.socket(family, kind, protocol)
            opened.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6 and host.strip("[]") != "::":
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind(where)
            sock.listen(BACKLOG)
            _prepare(sock)
    except OSError:
        for sock in opened:
            sock.close()
        raise
    return opened


def _bind_path(path: Path) -> socket.socket:
    _remove_stale(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o117)  # owner and group
    try:
        sock.bind(str(path))
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    finally:
        os.umask(before)
    _prepare(sock)
    return sock


def _remove_stale(path: Path) -> None:
    """Remove a socket that nobody listens on any more.

    Raises:
        OSError: somebody does, or it is no socket.
    """
    with suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise OSError(errno.EADDRINUSE, "the path is not a socket")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(str(path))
            except ConnectionRefusedError:
                path.unlink()
                return
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def _name_of(sock: socket.socket) -> str:
    where = sock.getsockname()
    if not isinstance(where, tuple):
        return f"unix:{os.fsdecode(where)}"
    host, port = where[:2]
    return f"[{host}]:{port}" if sock.family == socket.AF_INET6 else f"{host}:{port}"
