"""Rate limits as registries tell them, and as nobody should believe them."""

from __future__ import annotations

import pytest
from multidict import CIMultiDict

from iarproxy.upstream.limits import Quota, parse_quota

NOW = 1000.0


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (
            {
                "ratelimit-limit": "100;w=21600",
                "ratelimit-remaining": "76;w=21600",
                "docker-ratelimit-source": "203.0.113.7",
            },
            Quota(76, 100, 21600.0, NOW + 21600, "203.0.113.7"),
        ),
        ({"ratelimit-remaining": "0"}, Quota(0, None, None, NOW + 21600)),
        (
            {"RateLimit-Limit": "100, 100;w=60", "RateLimit-Remaining": "50", "RateLimit-Reset": "30"},
            Quota(50, 100, 60.0, NOW + 30),
        ),
        ({"RateLimit": "limit=100, remaining=50, reset=30"}, Quota(50, 100, None, NOW + 30)),
        (
            {"RateLimit": "limit=10, remaining=5, reset=30", "RateLimit-Policy": "10;w=60"},
            Quota(5, 10, 60.0, NOW + 30),
        ),
        (
            {"RateLimit": '"default";r=50;t=30', "RateLimit-Policy": '"default";q=100;w=60'},
            Quota(50, 100, 60.0, NOW + 30),
        ),
    ],
)
def test_what_registries_send(headers: dict[str, str], expected: Quota) -> None:
    """Docker Hub's form and those of the drafts."""
    assert expected == parse_quota(CIMultiDict(headers), NOW)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"ratelimit-limit": "100;w=21600"},
        {"ratelimit-remaining": "many"},
        {"ratelimit-remaining": "-1"},
        {"ratelimit-remaining": "1.5"},
        {"ratelimit-remaining": "٧"},  # noqa: RUF001  # an Arabic digit
        {"ratelimit-remaining": "9" * 400},
        {"ratelimit-remaining": " " * 600 + "7"},
        {"RateLimit": "remaining=" + "9" * 13},
        {"RateLimit": "xremaining=5"},
        {"X-RateLimit-Remaining": "5"},
    ],
)
def test_what_says_nothing(headers: dict[str, str]) -> None:
    """No number that we read, no quota."""
    assert parse_quota(CIMultiDict(headers), NOW) is None


def test_hostile_spans_and_sources() -> None:
    """A window of a thousand years is believed for six hours; a source that is no address or account is left out."""
    headers = {
        "ratelimit-remaining": "0;w=999999999999",
        "ratelimit-limit": "100;w=999999999999",
        "docker-ratelimit-source": "\x1b[2J<script>",
    }
    told = parse_quota(CIMultiDict(headers), NOW)
    assert told is not None
    assert (0, NOW + 21600, "") == (told.remaining, told.until, told.source)
