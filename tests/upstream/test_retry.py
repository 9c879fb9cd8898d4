"""When something is tried again, and how long is waited."""

from __future__ import annotations

import random
from contextlib import suppress
from datetime import UTC, datetime

import pytest

from dialing import Waits
from iarproxy.errors import (
    Denied,
    IarproxyError,
    UpstreamBusy,
    UpstreamDown,
    UpstreamHeld,
    UpstreamTimeout,
    UpstreamUnavailable,
    UpstreamWrong,
)
from iarproxy.upstream.retry import Allowance, Retry, parse_retry_after

NOW = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("7", 7.0),
        (" 7 ", 7.0),
        ("0", 0.0),
        ("999999999999999999999", 3600.0),
        ("Sun, 22 Nov 2026 12:00:30 GMT", 30.0),
        ("Sun, 22 Nov 2026 11:00:00 GMT", 0.0),
        ("Sun, 22 Nov 2029 11:00:00 GMT", 3600.0),
        ("Sun, 22 Nov 2026 13:00:30 +0100", 30.0),
        ("Sun, 22 Nov 2026 12:00:00 +99999999999999", None),
        ("Sun, 22 Nov 20269999999999999999999 12:00:00 GMT", None),
        ("-7", None),
        ("7.5", None),
        ("soon", None),
        ("٧", None),  # noqa: RUF001  # an Arabic digit
        ("", None),
        (None, None),
    ],
)
def test_retry_after(header: str | None, expected: float | None) -> None:
    """A number of seconds or a date, never more than an hour; anything else says nothing."""
    assert parse_retry_after(header, NOW) == expected


@pytest.mark.parametrize(
    ("error", "waits"),
    [
        (UpstreamUnavailable("x"), [0.25, 0.5]),
        (UpstreamTimeout("x"), [0.25, 0.5]),
        (UpstreamUnavailable("x", retry_after=3), [3.15, 3.15]),
        (UpstreamUnavailable("x", retry_after=0), [0.25, 0.5]),
        (UpstreamUnavailable("x", retry_after=6), []),
        (UpstreamBusy("x"), []),
        (UpstreamBusy("x", retry_after=3), [3.15, 3.15]),
        (UpstreamHeld("x", retry_after=3), []),
        (UpstreamDown("x"), []),
        (UpstreamWrong("x"), []),
        (Denied("x"), []),
    ],
)
async def test_which_failures(error: IarproxyError, waits: list[float]) -> None:
    """What may pass is tried three times; a refusal, a lie, and a time beyond the budget are final at once."""
    waited, tries = Waits(), 0

    async def attempt() -> None:
        nonlocal tries
        tries += 1
        raise error

    with pytest.raises(type(error)):
        await Retry(sleep=waited, jitter=lambda: 0.5).run("it", attempt)
    assert (waited.seconds, tries) == (waits, len(waits) + 1)


async def test_waits_are_spread() -> None:
    """The same failure at the same moment does not bring all callers back at the same moment."""
    seen = set()
    for share in (0.0, 0.3, 0.999):
        waited = Waits()

        def jitter(share: float = share) -> float:
            return share

        async def attempt() -> None:
            raise UpstreamUnavailable("x")

        with pytest.raises(UpstreamUnavailable):
            await Retry(tries=2, sleep=waited, jitter=jitter).run("it", attempt)
        seen.add(waited.seconds[0])
        assert 0.125 <= waited.seconds[0] < 0.375
    assert len(seen) == 3


async def test_flapping_is_hidden() -> None:
    """Every second request fails: all callers succeed, with one more request each at most (R43)."""
    tries = 0

    async def attempt() -> str:
        nonlocal tries
        tries += 1
        if tries % 2:
            raise UpstreamUnavailable("x")
        return "done"

    for _ in range(50):
        assert await Retry(sleep=Waits()).run("it", attempt) == "done"
    assert tries == 100


async def test_the_allowance_bounds_amplification() -> None:
    """An upstream that fails half of the time gets at most a fifth more requests than were needed (R43)."""
    share = random.Random(4)
    tries, retry = 0, Retry(sleep=Waits(), allowance=Allowance())

    async def attempt() -> None:
        nonlocal tries
        tries += 1
        if share.random() < 0.5:
            raise UpstreamUnavailable("x")

    for _ in range(200):
        with suppress(UpstreamUnavailable):
            await retry.run("it", attempt)
    assert 200 < tries <= 1.2 * 200


def test_the_allowance_of_a_lone_pull() -> None:
    """Nothing was earned: a few tries are there all the same, and come back slowly."""
    allowance = Allowance()
    assert [True] * 10 + [False] == [allowance.withdraw(0.0) for _ in range(11)]
    assert [False, True, False] == [allowance.withdraw(now) for now in (5.0, 10.0, 11.0)]
    for _ in range(25):
        allowance.deposit()
    assert [True, True, False] == [allowance.withdraw(11.0) for _ in range(3)]
    assert [True] * 10 + [False] == [allowance.withdraw(10_000.0) for _ in range(11)]
