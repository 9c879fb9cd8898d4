"""The address at which clients find us, from what is written on the command line or in the configuration.

Rule 1: a listener that is bound to one upstream is not taken by default: it serves that one alone.
Rule 2: 127.0.0.1 is given only to clients for whom that is this machine.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import assert_never
from urllib.parse import urlsplit

from iarproxy.cli.setup.clients import Client, Reach, host_of
from iarproxy.cli.setup.plan import EVERY, Mirror, means_this_machine
from iarproxy.config import Config
from iarproxy.errors import Refused
from iarproxy.oci import canonical_registry

_AUTHORITY = re.compile(r"(?:(https?)://)?((?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?)/?", re.ASCII)
_ANYWHERE = ("0.0.0.0", "[::]", "::")  # noqa: S104  # compared with, not listened on


@dataclass(frozen=True, slots=True)
class Door:
    """An address of ours. `host` may be a wildcard."""

    scheme: str
    host: str
    port: str


def doors(config: Config) -> list[Door]:
    """The TCP addresses at which the configuration serves every upstream, plain ones first."""
    return [
        Door(scheme, host, port)
        for scheme, addresses in (
            ("http", config.server.listen),
            ("https", config.server.tls.listen if config.server.tls else ()),
        )
        for address in addresses
        if not address.startswith("unix:") and address not in config.server.bind
        for host, _, port in [address.rpartition(":")]
    ]


def mirror(config: Config, client: Client, url: str | None, ca: Path | None, registries: Iterable[str]) -> Mirror:
    """The mirror as the client will be told.

    Raises:
        Refused: no address can be given, or a registry is not mirrored here.
    """
    scheme, authority = _written(url, config) if url else _found(config, client)
    if scheme == "http" and ca is not None:
        raise Refused(f"--ca-file goes with https, and the mirror is at http://{authority}; give --url https://...")
    return Mirror(scheme, authority, ca.absolute() if ca else None, _names(config, registries), config.default_upstream)


def local_url(config: Config, told: Mirror) -> str:
    """Where this machine itself asks, to see whether the mirror is there."""
    own = doors(config)
    is_ours = told.host in (host_of(Reach.DESKTOP), host_of(Reach.MINIKUBE))
    same = [each for each in own if told.authority.endswith(f":{each.port}")]
    if not is_ours or not same:
        return told.url
    return f"{same[0].scheme}://{_local(same[0].host)}:{same[0].port}"


def _written(text: str, config: Config) -> tuple[str, str]:
    found = _AUTHORITY.fullmatch(text)
    if found is None:
        raise Refused(f"{text[:120]!r} is no address of a mirror; write HOST:PORT, http://HOST:PORT or https://HOST")
    if not _is_reachable(found[2]):
        raise Refused(f"{text[:120]!r} is no address of a mirror: no such host or port can be")
    secured = {each.port for each in doors(config) if each.scheme == "https"}
    guessed = "https" if found[2].rpartition(":")[2] in secured else "http"
    return found[1] or guessed, found[2]


def _is_reachable(authority: str) -> bool:
    """Whether the host can be looked up, and the port dialled."""
    try:
        parts = urlsplit(f"//{authority}")
        host = (parts.hostname or "").encode("idna")
        return bool(host) and parts.port != 0 and (not authority.startswith("[") or bool(ip_address(host.decode())))
    except ValueError:  # of a label, an address, a port
        return False


def _found(config: Config, client: Client) -> tuple[str, str]:
    own = doors(config)
    if not own:
        raise Refused("the configuration has no TCP address that serves every upstream; give the mirror's with --url")
    match client.reach:
        case Reach.HERE | Reach.DESKTOP | Reach.MINIKUBE:
            door = own[0]
            host = _local(door.host) if client.reach is Reach.HERE else host_of(client.reach)
            return door.scheme, f"{host}:{door.port}"
        case Reach.ELSEWHERE:
            named = [each for each in own if each.host not in _ANYWHERE and not means_this_machine(each.host)]
            if not named:
                raise Refused(
                    f"{client.name} asks from beyond this machine's loopback, and the configuration names no address"
                    " that it reaches; have [server] listen there, and give it with --url http://HOST:PORT"
                )
            return named[0].scheme, f"{named[0].host}:{named[0].port}"
        case _:
            assert_never(client.reach)


def _local(host: str) -> str:
    return "127.0.0.1" if host in _ANYWHERE or not host else host


def _names(config: Config, chosen: Iterable[str]) -> tuple[str, ...]:
    names = tuple(each if each == EVERY else canonical_registry(each) for each in chosen)
    if EVERY in names:
        return (EVERY,)
    unknown = [each for each in names if each not in config.upstreams]
    if unknown:
        raise Refused(f"{unknown[0]} is not mirrored here; the upstreams are {', '.join(config.upstreams)}")
    return tuple(dict.fromkeys(names)) or tuple(config.upstreams)
