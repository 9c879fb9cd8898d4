"""Which upstream and repository a request means (design section 6, clients.md section 12).

Rule 1: the closed list of upstreams is the only source of dial targets; `ns` is a key into it, never an address.
Rule 2: the order is: binding of the listener or host name, `ns`, first path segment, default upstream.
Rule 3: a name is canonical, so pins and content never depend on the route that found them (threats T26, T27).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from iarproxy.errors import Malformed, NameInvalid, UnknownName
from iarproxy.oci.reference import Repository, canonical_registry, is_registry_like

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Routes:
    """The closed list, as routing needs it.

    Attributes:
        upstreams: canonical names.
        default: the upstream of a name that says nothing; None: such names are unknown.
        bindings: listener address or host name (lower case) to the one upstream it serves.
        own: our own addresses; a client that names one in `ns` says nothing by it.
    """

    upstreams: frozenset[str]
    default: str | None = None
    bindings: Mapping[str, str] = field(default_factory=dict)
    own: frozenset[str] = frozenset()

    def repository(self, name: str, *, namespace: str | None = None, listener: str = "", host: str = "") -> Repository:
        """The canonical repository that `name` means on this route.

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
        bound = self.bindings.get(listener) or self.bindings.get(host.lower()) or self.bindings.get(_without_port(host))
        if bound is None:
            return None
        if self._named(namespace) not in (None, bound):
            raise Malformed(f"`ns` names {namespace!r} but this address serves only {bound}")
        return bound

    def _named(self, namespace: str | None) -> str | None:
        if namespace is None or namespace.lower() in self.own:
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


def _without_port(host: str) -> str:
    name, colon, port = host.lower().rpartition(":")
    return name if colon and port.isdigit() else host.lower()
