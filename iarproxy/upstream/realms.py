"""Where tokens may be fetched: the realm of a challenge is upstream's word, and credentials go there (T33).

Rule 1: the realm's host is the upstream's own, one of a known pair, or one that the configuration names. That both
        belong to the same company's domain is not enough (CVE-2026-33540, CVE-2020-15157).
Rule 2: https only, unless the upstream itself is plain http and the realm is on its host.
"""

from __future__ import annotations

from collections.abc import Collection

from yarl import URL

from iarproxy.errors import UpstreamWrong

# Registry host to the hosts of its token server, where they differ (clients.md 11.2, 11.3).
_PAIRS = {
    "registry-1.docker.io": frozenset({"auth.docker.io"}),
    "docker.io": frozenset({"auth.docker.io"}),
    "registry.gitlab.com": frozenset({"gitlab.com"}),
    "docker.elastic.co": frozenset({"docker-auth.elastic.co"}),
    "lscr.io": frozenset({"ghcr.io"}),
}


def check_realm(realm: str, upstream: URL, auth_hosts: Collection[str] = ()) -> URL:
    """The realm as a URL that may be asked.

    Raises:
        UpstreamWrong: it may not; the message names its host and the setting that would allow it.
    """
    try:
        url = URL(realm)
    except ValueError:
        url = URL()
    host, own = (url.host or "").lower(), (upstream.host or "").lower()
    if url.scheme not in ("http", "https") or not host or url.user is not None or url.password is not None:
        raise UpstreamWrong(f"{own} asks for a token from a realm that is no usable URL", upstream=own)
    named = {each.lower() for each in auth_hosts}
    if host != own and host not in _PAIRS.get(own, ()) and not {host, f"{host}:{url.port}"} & named:
        raise UpstreamWrong(
            f"{own} asks for a token from {host[:120]}, which is not known to be its token server; nothing was sent. "
            f'If it is, add auth_hosts = ["{host[:120]}"] to the upstream\'s section',
            upstream=own,
            realm_host=host,
        )
    if url.scheme == "http" and not (upstream.scheme == "http" and host == own):
        raise UpstreamWrong(f"{own} asks for a token over plain http from {host[:120]}", upstream=own, realm_host=host)
    return url.with_fragment(None)
