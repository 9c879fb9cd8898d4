"""The keys of `[upstreams."NAME"]` that say where its requests go, and what is refused about them before they do.

Rule 1: a URL holds no credentials; those have keys of their own, and files.
Rule 2: an upstream that is this very server is refused: each request would ask itself (clients.md section 10, item 64).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import ip_address
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, model_validator
from yarl import URL

from iarproxy.config.values import web_address

_HOST = re.compile(r"(?:https?://)?(?:\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?", re.ASCII)
_ANY = frozenset({"0.0.0.0", "::", ""})  # noqa: S104  # recognised, not bound


class EndpointSettings(BaseModel):
    """Where requests for an upstream go.

    `url`: the primary endpoint; `fallback_urls`: asked in turn where one gives no answer.
    `client_cert_file`, `client_key_file`: PEM; the key may be in the file of the certificate.
    `proxy`: an HTTP proxy for all requests of this upstream; `http://HOST:PORT`.
    `namespace`: append `ns=NAME` to requests, for an upstream that is itself a mirror of several registries.
    `foreign_hosts`: hosts from which layers may be fetched that manifests name by `urls`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    url: str
    fallback_urls: tuple[str, ...] = ()
    ca_file: Path | None = None
    client_cert_file: Path | None = None
    client_key_file: Path | None = None
    proxy: str | None = None
    proxy_username: str | None = None
    proxy_password_file: Path | None = None
    namespace: bool = False
    foreign_hosts: tuple[str, ...] = ()

    @property
    def urls(self) -> tuple[str, ...]:
        """The base URLs of all endpoints, the primary one first."""
        return (self.url, *self.fallback_urls)

    @model_validator(mode="after")
    def _leads_somewhere(self) -> Self:
        for key, url in [("url", self.url), *(("fallback_urls", each) for each in self.fallback_urls)]:
            _check_base(key, url)
        if len({(url.scheme, url.host, url.port) for url in map(URL, self.urls)}) != len(self.urls):
            raise ValueError("fallback_urls names an endpoint twice; keep one")
        self._check_certificate()
        self._check_proxy()
        for host in self.foreign_hosts:
            if _HOST.fullmatch(host) is None:
                raise ValueError(
                    f'foreign_hosts: {host[:120]!r} is no host; write "HOST", "HOST:PORT" or "http://HOST"'
                )
        return self

    def _check_certificate(self) -> None:
        if self.client_cert_file is None:
            if self.client_key_file is not None:
                raise ValueError("client_key_file needs client_cert_file; write both, or remove it")
        elif not any(each.startswith("https://") for each in self.urls):
            raise ValueError("client_cert_file is of use over https only; change url, or remove it")

    def _check_proxy(self) -> None:
        if (self.proxy_username is None) != (self.proxy_password_file is None):
            raise ValueError("proxy_username and proxy_password_file go together; write both or neither")
        if self.proxy is None:
            if self.proxy_username is not None:
                raise ValueError("proxy_username needs proxy; write it, or remove both")
            return
        url = web_address(self.proxy)
        if url is None or url.scheme != "http" or not url.host:
            raise ValueError('proxy must be "http://HOST:PORT"; over it https upstreams are reached by CONNECT')
        if not _is_bare(url):
            raise ValueError("proxy takes only host and port; a login goes into proxy_username and proxy_password_file")
        if ":" in (self.proxy_username or ""):
            raise ValueError("proxy_username cannot hold a colon")


def in_the_clear(settings: EndpointSettings) -> bool:
    """Whether what is sent to some endpoint crosses a network unencrypted."""
    plain = [URL(each) for each in settings.urls if URL(each).scheme == "http"]
    return any(settings.proxy is not None or not is_loopback(each.host or "") for each in plain)


def leads_back(url: str, listeners: Iterable[str]) -> str | None:
    """The one of our `listeners` (`HOST:PORT`) at which `url` arrives, as far as their spelling tells."""
    target = URL(url)
    host = (target.host or "").lower()
    for each in listeners:
        bound, _, port = each.rpartition(":")
        if each.startswith("unix:") or port != str(target.port):
            continue
        bound = bound.strip("[]").lower()
        ours = bound in _ANY or (is_loopback(bound) and "localhost" in (host, bound))
        if bound == host or (is_loopback(host) and ours):
            return each
    return None


def is_loopback(host: str) -> bool:
    """Whether `host` is this machine by its very spelling."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _check_base(key: str, text: str) -> None:
    url = web_address(text)
    if url is None or url.scheme not in ("http", "https") or not url.host:
        raise ValueError(f'{key} is no registry address; write "https://HOST" or "http://HOST:PORT"')
    if not _is_bare(url):
        raise ValueError(f"{key} takes only scheme, host and port; credentials go into username and password_file")


def _is_bare(url: URL) -> bool:
    return not (url.user or url.password or url.query_string or url.fragment) and url.path in ("", "/")
