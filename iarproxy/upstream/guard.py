"""Which addresses an upstream may make us dial (design invariant 9; threats T35, L9).

Rule 1: the decision is taken on the address that is dialled, when its socket is made: names, literals in any spelling
        and names that change their mind between two look-ups all end there.
Rule 2: only public unicast addresses are dialled, unless the upstream's own configured URL says that it is a private
        one: then that upstream, and no other, may dial private addresses; loopback only where it is loopback itself.
Rule 3: link-local (cloud metadata), multicast, reserved, IPv4-mapped and tunnelled addresses are never dialled, unless
        the configured URL names that very address. NAT64 (RFC 6052, 64:ff9b::/96) counts as the address inside it.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import socket
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, TypeAlias

from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

_Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Lookup: TypeAlias = Callable[[str, int], Awaitable[list[str]]]

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_UNICAST = ipaddress.IPv6Network("2000::/3")  # all that IANA ever gave out
_PRIVATE = tuple(
    ipaddress.ip_network(net) for net in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7")
)
_TUNNELS = tuple(ipaddress.IPv6Network(net) for net in ("2002::/16", "2001::/32"))
_LOOPBACK_4 = ipaddress.IPv4Network("127.0.0.0/8")
_LOOPBACK_6 = ipaddress.IPv6Network("::1/128")
# Names that no public DNS answers for: whoever writes one means a private registry.
_PRIVATE_SUFFIXES = (".local", ".localhost", ".internal", ".lan", ".home.arpa", ".corp", ".intranet", ".svc", ".test")

_METADATA = frozenset({"metadata.google.internal", "metadata.goog", "instance-data.ec2.internal"})


class Reach(Enum):
    """Where an address leads."""

    PUBLIC = auto()
    PRIVATE = auto()
    LOOPBACK = auto()
    FORBIDDEN = auto()


class AddressRefused(OSError):
    """An address that the policy does not allow; nothing was sent to it."""

    def __init__(self, address: str) -> None:
        super().__init__(errno.EACCES, f"the address policy refuses {address[:80]}")


def reach_of(address: _Address) -> Reach:
    """Where `address` leads; what is not known to be harmless is FORBIDDEN."""
    if isinstance(address, ipaddress.IPv6Address) and address in _NAT64:
        return reach_of(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    if address in (_LOOPBACK_6 if address.version == 6 else _LOOPBACK_4):  # noqa: PLR2004  # IP version 6
        return Reach.LOOPBACK
    if any(address in net for net in _PRIVATE):
        return Reach.PRIVATE
    harmless = address.is_global and not address.is_multicast and not address.is_reserved
    known = address.version == 4 or (address in _UNICAST and not any(address in net for net in _TUNNELS))  # noqa: PLR2004
    return Reach.PUBLIC if harmless and known else Reach.FORBIDDEN


def parse_address(host: str) -> _Address | None:
    """The address that `host` spells in its canonical form; None for a name or an odd spelling."""
    try:
        return ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return None


def _reach_by_name(host: str) -> Reach:
    """Where a name leads, as far as its spelling tells."""
    if host == "localhost" or host.endswith(".localhost"):
        return Reach.LOOPBACK
    return Reach.PRIVATE if "." not in host or host.endswith(_PRIVATE_SUFFIXES) else Reach.PUBLIC


@dataclass(frozen=True, slots=True)
class Policy:
    """What one upstream may dial: addresses of these kinds, and `named`, the literal in its own URL."""

    allowed: frozenset[Reach]
    named: _Address | None = None

    @classmethod
    def of(cls, url: URL) -> Policy:
        """The policy that the configured URL of an upstream says it needs."""
        host = (url.host or "").rstrip(".").lower()
        address = parse_address(host)
        if address is not None:
            reach = reach_of(address)
            return cls(_REACHES[reach], address)
        reach = _reach_by_name(host)
        if url.scheme == "http" and reach is Reach.PUBLIC:
            reach = Reach.PRIVATE  # written out as plain http: a registry of one's own network
        return cls(_REACHES[reach])

    @classmethod
    def private(cls, url: URL) -> Policy:
        """As `of`, for an upstream whose public-looking name is known to resolve to private addresses."""
        found = cls.of(url)
        return cls(found.allowed | _REACHES[Reach.PRIVATE], found.named)

    def allows(self, text: str) -> bool:
        """Whether the address `text` may be dialled."""
        address = parse_address(text)
        return address is not None and (address == self.named or reach_of(address) in self.allowed)

    def check(self, text: str) -> None:
        """Raise `AddressRefused` unless the address `text` may be dialled."""
        if not self.allows(text):
            raise AddressRefused(text)

    def check_host(self, host: str) -> None:
        """Refuse a literal in a URL before a connection is thought of; names are checked once they are resolved."""
        if parse_address(host) is not None:
            self.check(host)

    def check_unresolved(self, host: str) -> None:
        """Refuse what is certain about a host that somebody else will resolve: an address in any spelling, or a name
        that never means a public host. `AddressRefused` as above.
        """
        host = host.rstrip(".").lower()
        try:
            spelled = socket.inet_ntoa(socket.inet_aton(host))  # "127.1", "0x7f000001", "2130706433"
        except OSError:
            spelled = host
        self.check_host(spelled)
        if host in _METADATA or not (_reach_by_name(host) in self.allowed or parse_address(spelled) is not None):
            raise AddressRefused(host)

    def socket(self, info: tuple[Any, ...]) -> socket.socket:
        """The socket factory of a connector: the last place before the network, passed by every dial.

        Raises:
            AddressRefused: instead of making a socket.
        """
        family, kind, proto, _, address = info
        self.check(str(address[0]))
        return socket.socket(family=family, type=kind, proto=proto)


_REACHES = {
    Reach.PUBLIC: frozenset({Reach.PUBLIC}),
    Reach.PRIVATE: frozenset({Reach.PUBLIC, Reach.PRIVATE}),
    Reach.LOOPBACK: frozenset({Reach.PUBLIC, Reach.PRIVATE, Reach.LOOPBACK}),
    Reach.FORBIDDEN: frozenset({Reach.PUBLIC}),
}


class SystemLookup:
    """Names looked up as the system does, in threads of their own: a dead name server occupies only these (R46)."""

    def __init__(self, *, threads: int = 4) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="iarproxy-dns")

    async def __call__(self, host: str, port: int) -> list[str]:
        """The addresses of `host`. Raises OSError when there are none."""
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self._pool, self._look_up, host, port)
        return list(dict.fromkeys(found))

    @staticmethod
    def _look_up(host: str, port: int) -> list[str]:
        infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
        return [str(info[4][0]) for info in infos]

    def close(self) -> None:
        """Let the threads end; a look-up that hangs is not waited for."""
        self._pool.shutdown(wait=False, cancel_futures=True)


class GuardedResolver(AbstractResolver):
    """Resolves for one upstream, and hands on only what its policy allows."""

    def __init__(self, policy: Policy, lookup: Lookup) -> None:
        self._policy = policy
        self._lookup = lookup

    async def resolve(
        self,
        host: str,
        port: int = 0,
        family: socket.AddressFamily = socket.AF_UNSPEC,  # noqa: ARG002  # aiohttp's signature
    ) -> list[ResolveResult]:
        """The allowed addresses of `host`.

        Raises:
            AddressRefused: it has addresses, but none that may be dialled.
            OSError: it has none.
        """
        found = await self._lookup(host, port)
        allowed = [text for text in found if self._policy.allows(text)]
        if found and not allowed:
            raise AddressRefused(f"{found[0]}, to which the name {host} resolves")
        return [_result(host, text, port) for text in allowed]

    async def close(self) -> None:
        """Nothing is held: the lookup belongs to whoever made it."""


def _result(host: str, text: str, port: int) -> ResolveResult:
    family = socket.AF_INET6 if ":" in text else socket.AF_INET
    return ResolveResult(
        hostname=host, host=text, port=port, family=family, proto=socket.IPPROTO_TCP, flags=socket.AI_NUMERICHOST
    )
