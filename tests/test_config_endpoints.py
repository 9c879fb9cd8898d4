"""What a section may say of where its upstream's requests go, and what is refused before anything starts."""

from __future__ import annotations

from typing import Any

import pytest

from iarproxy.config import parse
from iarproxy.errors import ConfigError


def section(server: dict[str, Any] | None = None, **keys: Any) -> Any:
    """The upstream `registry.example.com` of a configuration."""
    document = {"store": {"path": "/store"}, "server": server or {}, "upstreams": {"registry.example.com": keys}}
    return parse(document, None).upstreams["registry.example.com"]


def test_endpoints_in_order() -> None:
    """The primary endpoint comes first, then the others as they are written."""
    found = section(url="https://a.example", fallback_urls=["https://c.example", "https://b.example"])
    assert ("https://a.example", "https://c.example", "https://b.example") == found.urls


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"fallback_urls": ["ftp://b.example"]}, "fallback_urls"),
        ({"fallback_urls": ["https://me:pw@b.example"]}, "credentials go into"),
        ({"fallback_urls": ["https://b.example/path"]}, "only scheme, host and port"),
        ({"url": "https://b.example", "fallback_urls": ["https://b.example:443/"]}, "twice"),
        ({"client_key_file": "/key"}, "client_cert_file"),
        ({"url": "http://127.0.0.1:9", "client_cert_file": "/cert"}, "https only"),
        ({"proxy": "https://proxy:3128"}, "http://HOST:PORT"),
        ({"proxy": "socks5://proxy:3128"}, "http://HOST:PORT"),
        ({"proxy": "http://me:pw@proxy:3128"}, "proxy_username"),
        ({"proxy": "http://proxy:99999"}, "http://HOST:PORT"),
        ({"proxy_username": "me", "proxy": "http://proxy:3128"}, "proxy_password_file"),
        ({"proxy_username": "me", "proxy_password_file": "/pw"}, "needs proxy"),
        ({"foreign_hosts": ["https://mcr.example.com/path"]}, "foreign_hosts"),
        ({"foreign_hosts": ["*.example.com"]}, "foreign_hosts"),
        (
            {"username": "me", "password_file": "/pw", "fallback_urls": ["http://registry.example.net"]},
            "in the clear",
        ),
        (
            {"url": "http://127.0.0.1:9", "username": "me", "password_file": "/pw", "proxy": "http://proxy:3128"},
            "in the clear",
        ),
    ],
)
def test_refused(keys: dict[str, Any], told: str) -> None:
    """Each mistake is told in one line that names the key or the remedy."""
    with pytest.raises(ConfigError, match=told) as caught:
        section(**keys)
    assert "\n" not in str(caught.value)
    assert "pw" not in str(caught.value).replace("/pw", "").replace("me:pw@", "")


@pytest.mark.parametrize(
    ("listen", "url"),
    [
        ("127.0.0.1:7000", "http://127.0.0.1:7000"),
        ("127.0.0.1:7000", "http://localhost:7000"),
        ("localhost:7000", "http://127.0.0.1:7000"),
        ("0.0.0.0:7000", "http://127.0.0.1:7000"),
        ("[::]:7000", "http://[::1]:7000"),
        ("0.0.0.0:443", "https://localhost"),
        ("10.0.0.5:7000", "http://10.0.0.5:7000"),
        ("127.0.0.1:7000", "http://127.0.0.1:5001"),
    ],
)
def test_itself_is_no_upstream(listen: str, url: str) -> None:
    """A URL that is a listener of this server, also the one of the admin face, would have it ask itself."""
    with pytest.raises(ConfigError, match="this server itself"):
        section({"listen": [listen]}, url=url)
    with pytest.raises(ConfigError, match="this server itself"):
        section({"listen": [listen]}, url="https://a.example", fallback_urls=[url])


@pytest.mark.parametrize(
    ("listen", "url"),
    [
        ("127.0.0.1:7000", "http://127.0.0.1:7001"),
        ("127.0.0.1:7000", "http://127.0.0.2:7000"),
        ("0.0.0.0:7000", "http://registry.example.com:7000"),
        ("unix:/run/iarproxy.sock", "http://127.0.0.1:7000"),
    ],
)
def test_a_neighbour_is_an_upstream(listen: str, url: str) -> None:
    """Another port, another loopback address and another name are somebody else, as far as can be told."""
    assert url == section({"listen": [listen]}, url=url).url
