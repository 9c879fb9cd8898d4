"""The keys of `[environments.NAME]`: a named set of pins, where it is served, and what gives it its pins.

Rule 1: an address, a host name and a path prefix lead to one environment. What would lead to two, or away from what
        they mean already, is refused here: a client must never get the pins of another environment by mistake.
Rule 2: `default` is what `[server] listen` serves. It has no section.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, assert_never

from pydantic import BaseModel, BeforeValidator, ConfigDict

from iarproxy.config.endpoints import is_loopback
from iarproxy.config.gates import GateSettings
from iarproxy.config.values import Address
from iarproxy.errors import NameInvalid
from iarproxy.oci import canonical_registry
from iarproxy.oci.routing import DEFAULT
from iarproxy.trust.environments import Environment, PinsFrom

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}", re.ASCII)
_HOST = re.compile(r"(?:[a-z0-9_](?:[a-z0-9_.-]*[a-z0-9_])?|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?", re.ASCII)
_PREFIX = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*", re.ASCII)  # what a repository's first part may be


def _host(value: Any) -> Any:
    lower = str(value).lower().removesuffix(".")
    if _HOST.fullmatch(lower) is None:
        raise ValueError(f'not a host name: {str(value)[:120]!r}; write "prod.mirror.example", as clients do')
    return lower


def _prefix(value: Any) -> Any:
    if value is not None and _PREFIX.fullmatch(str(value)) is None:
        raise ValueError(f'not the first part of a path: {str(value)[:120]!r}; write for example "prod", without /')
    return value


class EnvironmentSettings(BaseModel):
    """`[environments.NAME]`. At least one of the first three.

    `listen`: addresses that show this environment and no other one; `hosts`: names that clients use for the addresses
    of `[server]`; `path_prefix`: the first segment of a path behind /v2/, which is no part of the repository then.
    `promote_from`: from where `iarproxy promote` takes names unless it is told.
    `gates`: what has to allow a promotion.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    listen: tuple[Address, ...] = ()
    hosts: tuple[Annotated[str, BeforeValidator(_host)], ...] = ()
    path_prefix: Annotated[str | None, BeforeValidator(_prefix)] = None
    pins_from: PinsFrom
    promote_from: str = DEFAULT
    gates: GateSettings = GateSettings()

    def named(self, name: str) -> Environment:
        """What the other rooms need of it."""
        return Environment(name, self.pins_from, self.promote_from)

    def described(self) -> str:
        """Where it is served and what gives it its pins, for people."""
        prefix = [] if self.path_prefix is None else [f"/v2/{self.path_prefix}/"]
        return f"{', '.join([*self.listen, *self.hosts, *prefix])}; pins {self._source()}"

    def _source(self) -> str:
        match self.pins_from:
            case PinsFrom.FIRST_FETCH:
                return "from first fetches"
            case PinsFrom.PROMOTION:
                return f"only by promotion, from {self.promote_from} unless told"
            case PinsFrom.LOCK:
                return "only from a lock file"
            case _:
                assert_never(self.pins_from)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What else has names and addresses.

    Attributes:
        listeners: addresses, to the key that has each.
        upstreams: canonical names.
        bound: keys of `[server.bind]`.
    """

    listeners: dict[str, str]
    upstreams: Collection[str]
    bound: Collection[str]


def check_environments(environments: Mapping[str, EnvironmentSettings], around: Surroundings) -> None:
    """Refuse what would lead to two places, or to none.

    Raises:
        ValueError: it names the keys and the remedy.
    """
    for name, section in environments.items():
        where = f"environments.{name}"
        _check_name(name)
        if not (section.listen or section.hosts or section.path_prefix):
            raise ValueError(f"{where} is served nowhere; write listen, hosts or path_prefix")
        if section.promote_from != DEFAULT and section.promote_from not in environments:
            known = ", ".join([DEFAULT, *(each for each in environments if each != name)])
            raise ValueError(f"{where}.promote_from names {section.promote_from!r}, which is none; there are: {known}")
        if section.gates != GateSettings() and section.pins_from is not PinsFrom.PROMOTION:
            raise ValueError(
                f"{where}.gates are asked by promotions only, and pins_from = {section.pins_from.value!r} lets names in"
                ' past them; write pins_from = "promotion", or remove the gates'
            )
        if section.promote_from == name:
            raise ValueError(f"{where}.promote_from names {name} itself; name another environment")
    _check_ways(environments, around)


def _check_name(name: str) -> None:
    if name == DEFAULT:
        raise ValueError("environments.default: this is what [server] listen serves; give the section another name")
    if _NAME.fullmatch(name) is None:
        raise ValueError(
            f"environments.{name!r}: a name has lower-case letters, digits and hyphens, does not begin with a"
            " hyphen, and has at most 32 characters; rename it"
        )


def _check_ways(environments: Mapping[str, EnvironmentSettings], around: Surroundings) -> None:
    taken: dict[tuple[str, str], str] = {}
    own = around.listeners | {value: f"{where}.{key}" for where, key, value in _ways(environments) if key == "listen"}
    for where, key, value in _ways(environments):
        other = _meaning(key, value, around, own) or next(
            (f"{before} has too" for (kind, had), before in taken.items() if kind == key and _overlap(had, value)), None
        )
        if other is not None:
            raise ValueError(f"{where}.{key} names {value}, which {other}; choose another one")
        taken[key, value] = f"{where}.{key}"


def _ways(environments: Mapping[str, EnvironmentSettings]) -> Iterator[tuple[str, str, str]]:
    for name, section in environments.items():
        where = f"environments.{name}"
        yield from ((where, "listen", each) for each in section.listen)
        yield from ((where, "hosts", each) for each in section.hosts)
        if section.path_prefix is not None:
            yield where, "path_prefix", section.path_prefix


def _meaning(key: str, value: str, around: Surroundings, own: Mapping[str, str]) -> str | None:
    """What `value` means already; None: nothing. `own`: all addresses, to the key that has each."""
    match key:
        case "listen":
            return next((f"{holder} has" for had, holder in around.listeners.items() if _overlap(had, value)), None)
        case "hosts":
            return _meaning_of_host(value, around, own)
        case _:
            return "is an upstream's name" if _is_upstream(value, around) else None


def _meaning_of_host(host: str, around: Surroundings, own: Mapping[str, str]) -> str | None:
    name = _name_of(host)
    if any(name == _name_of(each) for each in around.bound):
        return "[server.bind] binds to an upstream"
    if _is_upstream(host, around) or _is_upstream(name, around):
        return "is an upstream's name"
    if is_loopback(name):
        return "is this machine's own address"
    key = next((key for address, key in own.items() if _name_of(address) == name), None)
    return None if key is None else f"is this server's own address ({key})"


def _overlap(one: str, other: str) -> bool:
    """Whether both are the same, or addresses of which one has what the other would take."""
    if one == other:
        return True
    (host, _, port), (another, _, its) = one.rpartition(":"), other.rpartition(":")
    if port != its or not (host and another) or "unix" in (host, another):
        return False
    hosts = {host.strip("[]"), another.strip("[]")}
    if "0.0.0.0" in hosts:  # noqa: S104  # recognised, not bound
        return not (host.startswith("[") or another.startswith("[")) or "::" in hosts
    return "::" in hosts or ("localhost" in hosts and all(map(is_loopback, hosts)))


def _is_upstream(text: str, around: Surroundings) -> bool:
    try:
        return canonical_registry(text) in around.upstreams
    except NameInvalid:
        return False


def _name_of(host: str) -> str:
    """Without its port."""
    name, colon, port = host.lower().rpartition(":")
    return name if colon and port.isdigit() else host.lower()
