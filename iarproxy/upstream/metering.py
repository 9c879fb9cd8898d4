"""What is counted of the work with upstreams, and who counts nothing."""

from __future__ import annotations

from typing import Protocol


class Meter(Protocol):
    """Whoever counts what upstreams are asked and send; `iarproxy.metrics.Metrics` is one."""

    def asked(self, upstream: str, outcome: str) -> None:
        """One request was answered with a status of the class `outcome` (`2xx`...), or `timeout`, `unreachable`."""
        ...

    def received(self, upstream: str, count: int) -> None:
        """So many bytes of a body came."""
        ...

    def spent(self, upstream: str, kind: str) -> None:
        """One request of that `asked.Kind` was sent."""
        ...

    def turned_away(self, upstream: str, reason: str) -> None:
        """Upstream was not asked: `held` (429), `down` (failing), `floor` (its quota is kept), `full` (a queue)."""
        ...

    def remembered(self, upstream: str) -> None:
        """Upstream was not asked: it said no a moment ago."""
        ...


class Unmetered:
    """Counts nothing."""

    def asked(self, upstream: str, outcome: str) -> None:
        """Nothing."""

    def received(self, upstream: str, count: int) -> None:
        """Nothing."""

    def spent(self, upstream: str, kind: str) -> None:
        """Nothing."""

    def turned_away(self, upstream: str, reason: str) -> None:
        """Nothing."""

    def remembered(self, upstream: str) -> None:
        """Nothing."""
