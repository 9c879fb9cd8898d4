"""What the fast lane relies on in aiohttp is tried out at start; where it does not hold, the lane is off."""

from __future__ import annotations

import asyncio

import pytest

from iarproxy.server.connection import Connection
from iarproxy.server.rehearsal import misfit
from serving import both_loops


class NeverIdle(Connection):
    """An aiohttp that keeps its state elsewhere."""

    @property
    def idle(self) -> bool:
        return False


class AlwaysIdle(Connection):
    """An aiohttp that does not show that a request has come."""

    @property
    def idle(self) -> bool:
        return True


class Impatient(Connection):
    """An aiohttp that closes idle connections by another clock."""

    def _process_keepalive(self) -> None:
        self.force_close()


class Eternal(Connection):
    """An aiohttp that does not close idle connections there."""

    def _process_keepalive(self) -> None:
        """Nothing."""


class Broken(Connection):
    """An aiohttp that calls what is not there."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        raise AttributeError("no such thing")


class Poorer(Connection):
    """An aiohttp without one of the names."""

    def __getattribute__(self, name: str) -> object:
        if name == "_messages":
            raise AttributeError(name)
        return super().__getattribute__(name)


@both_loops
async def test_todays_aiohttp_fits() -> None:
    """The aiohttp that is installed is the one that the lane was written for."""
    assert await misfit() is None


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (NeverIdle, "waits for its first request"),
        (AlwaysIdle, "that a request has come"),
        (Impatient, "any patience"),
        (Eternal, "the door"),
        (Broken, "no such thing"),
        (Poorer, "have no _messages"),
    ],
)
async def test_another_aiohttp_does_not(kind: type[Connection], reason: str) -> None:
    """Each thing that is relied on is noticed when it is not so."""
    found = await misfit(kind)
    assert found is not None
    assert reason in found
