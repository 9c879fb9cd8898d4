"""Which environment, upstream and repository a request means (design section 6, clients.md section 12).

Rule 1: the closed list of upstreams is the only source of dial targets; `ns` is a key into it, never an address.
Rule 2: the environment comes first: that of the listener or host name, else of the first path segment, which is no part
        of the name then; else the default one. Two that differ are refused: nobody gets the pins of the wrong one.
Rule 3: then, in each environment, the order is: binding of the listener or host name to an upstream, `ns`, first path
        segment, default upstream. An `ns` that names an environment's host says nothing of the upstream.
Rule 4: a name is canonical, so pins and content never depend on the route that found them (threats T26, T27).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from iarproxy.errors import Malformed, NameInvalid, UnknownName
from iarproxy.oci.reference import Repository, canonical_registry, is_registry_like

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT = "default"  # the environment of requests that name none


@dataclass(frozen=True, slots=True)
class Place:
    """What a request is about: the environment whose pins count, and the canonical repository."""

    environment: str
    repository: Repository


@dataclass(frozen=True, slots=True)
class Routes:
    """The closed list, as routing needs it.

    Attributes:
        upstreams: canonical names.
        default: the upstream of a name that says nothing; None: such names are unknown.
        bindings: listener address or host name (lower case) to the one upstream it serves.
        own: our own addresses; a client that names one in `ns` says nothing by it.
        environments: listener address or host name (lower case) to the environment that it shows.
        prefixes: first path segment to the environment that it shows.
    """

    upstreams: frozenset[str]
    default: str | None = None
    bindings: Mapping[str, str] = field(default_factory=dict)
    own: frozenset[str] = frozenset()
    environments: Mapping[str, str] = field(default_factory=dict)
    prefixes: Mapping[str, str] = field(default_factory=dict)

    def place(self, name: str, *, namespace: str | None = None, listener: str = "", host: str = "") -> Place:
        """The environment and the repository that `name` means on this route; arguments as for `repository`.

        Raises:
            Malformed: two parts of the request name two different environments, or upstreams.
            UnknownName, NameInvalid: as `repository`.
        """
        first, _, rest = name.partition("/")
        prefixed = self.prefixes.get(first) if rest else None
        named = {
            "its address": self.environments.get(listener),
            "its host": _look(self.environments, host),
            "its `ns`": _look(self.environments, namespace or ""),
            "its path": prefixed,
        }
        said = {environment: what for what, environment in named.items() if environment is not None}
        if len(said) > 1:
            both = " and ".join(f"{environment} by {what}" for environment, what in said.items())
            raise Malformed(f"the request names two environments: {both}; name one")
        repository = self.repository(rest if prefixed else name, namespace=namespace, listener=listener, host=host)
        return Place(next(iter(said), DEFAULT), repository)

    def repository(self, name: str, *, namespace: str | None = None, listener: str = "", host: str = "") -> Repository:
        """The canonical repository that `name`, an environment's prefix taken off, means on this route.

        Args:
            name: the repository as spelled in the path, perhaps with a registry in front.
            namespace: the `ns` parameter as sent.
            listener: the address that took the connection.
            host: the `Host` header as sent.

        Raises:
            UnknownName: the registry is not in the closed list.
            Malformed: two parts of the request name two different upstreams.
            NameInvalid: what is left is no repository name.
        """
        first, _, rest = name.partition("/")
        in_path = self._upstream(first) if rest else None
        chosen = self._bound(listener, host, namespace) or self._named(namespace)
        if chosen is not None:
            if in_path not in (None, chosen):
                raise Malformed(f"the path names {in_path} but the request is for {chosen}")
            return Repository.of(chosen, rest if in_path else name)
        if in_path is not None:
            return Repository.of(in_path, rest)
        if rest and is_registry_like(first):
            raise UnknownName(f"{first[:160]} is not one of the configured upstreams: {self._list()}")
        if self.default is None:
            raise UnknownName(f"the name has no registry in front; configured upstreams: {self._list()}")
        return Repository.of(self.default, name)

    def _bound(self, listener: str, host: str, namespace: str | None) -> str | None:
        bound = self.bindings.get(listener) or _look(self.bindings, host)
        if bound is None:
            return None
        if self._named(namespace) not in (None, bound):
            raise Malformed(f"`ns` names {namespace!r} but this address serves only {bound}")
        return bound

    def _named(self, namespace: str | None) -> str | None:
        if namespace is None or namespace.lower() in self.own or _look(self.environments, namespace):
            return None
        known = self._upstream(namespace)
        if known is None:
            raise UnknownName(f"ns={namespace[:160]} is not one of the configured upstreams: {self._list()}")
        return known

    def _upstream(self, text: str) -> str | None:
        """The upstream that `text` names: its name, an alias, or `host_5000_` where a colon may not stand."""
        if text.endswith("_") and text.count("_") > 1:
            text = ":".join(text.removesuffix("_").rsplit("_", 1))
        try:
            name = canonical_registry(text)
        except NameInvalid:
            return None
        return name if name in self.upstreams else None

    def _list(self) -> str:
        return ", ".join(sorted(self.upstreams)) or "none"


def _look(table: Mapping[str, str], host: str) -> str | None:
    """What `host` leads to: as it is written, else without its port, else without the dot that may end a name."""
    lower = host.lower()
    before, colon, port = lower.rpartition(":")
    name = before if colon and port.isdigit() else lower
    return table.get(lower) or table.get(name) or table.get(name.removesuffix("."))
