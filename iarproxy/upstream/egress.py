"""The way out: straight to an upstream, or through the HTTP proxy that its section names.

Rule 1: proxies come from the configuration, never from the environment, whose NO_PROXY nobody reads alike (T37).
Rule 2: a login for the proxy goes to the proxy only: with CONNECT for https, and for plain http in a header that
        proxies take off.
Rule 3: through a proxy it is the proxy that resolves names and dials. What can be known beforehand is refused here
        (`Policy.check_unresolved`); that a public-looking name leads to a private address cannot be, so a proxy should
        have rules of its own. The address of the proxy itself was written out: it may be private.
"""

from __future__ import annotations

import asyncio
import base64
from dataclasses import dataclass
from pathlib import Path

from yarl import URL

from iarproxy.errors import UpstreamUnavailable
from iarproxy.upstream.credentials import Secret

_MAX_PASSWORD = 4096


@dataclass(frozen=True, slots=True)
class Route:
    """What one request needs to know of the proxy: headers for the request itself, and for the proxy alone."""

    proxy: URL | None = None
    headers: tuple[tuple[str, Secret], ...] = ()
    proxy_headers: tuple[tuple[str, Secret], ...] = ()


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy of one upstream. The password is read when it is needed, so that a changed one is found."""

    name: str
    url: URL
    username: str | None = None
    password_file: Path | None = None

    async def route(self, target: URL) -> Route:
        """How a request to `target` goes.

        Raises:
            UpstreamUnavailable: the password cannot be read.
        """
        if self.username is None or self.password_file is None:
            return Route(self.url)
        password = await asyncio.to_thread(self._password, self.password_file)
        shown = (("Proxy-Authorization", _basic(self.username, password)),)
        return Route(self.url, proxy_headers=shown) if target.scheme == "https" else Route(self.url, headers=shown)

    def _password(self, path: Path) -> Secret:
        where = f'upstreams."{self.name}".proxy_password_file {path}'
        try:
            with path.open("rb") as file:
                text = file.read(_MAX_PASSWORD).decode().partition("\n")[0].rstrip("\r")
        except (OSError, UnicodeDecodeError) as error:
            cause = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
            raise UpstreamUnavailable(f"{where} cannot be read: {cause}", upstream=self.name) from None
        if not text:
            raise UpstreamUnavailable(f"{where} must hold the password in its first line", upstream=self.name)
        return Secret(text)


def _basic(username: str, password: Secret) -> Secret:
    pair = f"{username}:{password.reveal()}"
    return Secret(f"Basic {base64.b64encode(pair.encode()).decode('ascii')}")
