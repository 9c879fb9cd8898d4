"""Which entry of an auth file is meant for a registry: its keys are written in many ways (clients.md 11.5).

Rule 1: a key is a host, perhaps with a scheme, a port, and a path of which `/v1/` and `/v2/` say nothing. Another path
        is the beginning of a repository's name, whole segments of it (podman, Kubernetes).
Rule 2: scheme and ports default to the registry's own; a credential for one port is not sent to another.
Rule 3: `*` and `?` in a host stand for characters within one label of it (Kubernetes).
Rule 4: Docker Hub is one registry under all its names, and another host never is, whatever the upstream is called.
Rule 5: the most specific key wins: the longest path, then a host without wildcards, then the longest host.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from yarl import URL

HUB_SERVER = "https://index.docker.io/v1/"  # the name of Docker Hub towards credential helpers
_HUB = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com"})
_KEY = re.compile(r"(?:https?://)?(\[[0-9a-fA-F:.]+\]|[^/:\[\]]+)(?::([0-9]{1,5}))?(/.*)?", re.ASCII | re.IGNORECASE)
_MAX_KEY = 512  # characters


@dataclass(frozen=True, slots=True)
class Server:
    """A registry as auth files name it. `hosts` are lower case; `default`: its scheme's port."""

    hosts: frozenset[str]
    port: int
    default: int

    @classmethod
    def of(cls, url: URL) -> Server:
        """The registry at `url`."""
        host = (url.host or "").lower()
        default = 80 if url.scheme == "http" else 443
        return cls(_HUB if host in _HUB else frozenset({host}), url.port or default, default)

    @property
    def address(self) -> str:
        """What credential helpers are asked for."""
        if self.hosts == _HUB:
            return HUB_SERVER
        (host,) = self.hosts
        shown = f"[{host}]" if ":" in host else host
        return shown if self.port == self.default else f"{shown}:{self.port}"

    def matching(self, keys: Iterable[str], repository: str) -> list[str]:
        """The keys that are meant for a repository of this registry, the most specific first."""
        ranked = [(rank, key) for key in keys if (rank := self._rank(key, repository)) is not None]
        return [key for _, key in sorted(ranked, reverse=True)]

    def _rank(self, key: str, repository: str) -> tuple[int, bool, int] | None:
        found = _KEY.fullmatch(key[:_MAX_KEY])
        if found is None or int(found[2] or self.default) != self.port:
            return None
        host, path = found[1].strip("[]").lower(), _path(found[3] or "")
        is_exact = host in self.hosts
        if not is_exact and not any(_globs(host, each) for each in self.hosts):
            return None
        if path and not f"{repository}/".startswith(f"{path}/"):
            return None
        return path.count("/") + bool(path), is_exact, len(host)


def _path(text: str) -> str:
    """The repository prefix that the path of a key is; empty: all of the registry."""
    path = text.strip("/")
    first, _, rest = path.partition("/")
    return rest if first in ("v1", "v2") else path


def _globs(pattern: str, host: str) -> bool:
    labels, wanted = host.split("."), pattern.split(".")
    return len(labels) == len(wanted) and all(fnmatchcase(*each) for each in zip(labels, wanted, strict=True))
