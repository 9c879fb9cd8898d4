"""How a token server is asked, and what its answer means (distribution docs, spec/auth/token and spec/auth/oauth).

Rule 1: a password goes by GET and Basic; by POST (the OAuth2 form) only where GET does not exist, so that a wrong one
        is not tried twice. An identity token goes by POST; where that form is not known (404, 405, and 400 and 401 of
        some), by GET as the password of its user.
Rule 2: a life that is stated is believed, up to an hour; none means 60 seconds. It counts from before the question.
Rule 3: nothing of an answer is repeated except what kind of failure it is (T39).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

import aiohttp
import orjson
from yarl import URL

from iarproxy.errors import Denied, IarproxyError, UpstreamBusy, UpstreamUnavailable, UpstreamWrong
from iarproxy.upstream.asked import Kind
from iarproxy.upstream.client import Client
from iarproxy.upstream.credentials import Credential, IdentityToken, Login, RegistryToken, Secret, user_of
from iarproxy.upstream.retry import parse_retry_after

_MAX_ANSWER = 65_536  # bytes of the token server's answer
_DEFAULT_LIFE = 60.0  # seconds
_MIN_LIFE, _MAX_LIFE = 1.0, 3600.0
_FRESH = 0.8
_TOKEN = re.compile(r"[\x21-\x7e]{1,16384}", re.ASCII)
_HTTP_OK = 200
_NO_GET = frozenset({404, 405})
_NO_GRANT = frozenset({400, 401, 404, 405})


@dataclass(frozen=True, slots=True)
class Realm:
    """Where a token for some repository comes from, and for what."""

    url: URL
    service: str
    scope: str

    @property
    def repository(self) -> str:
        """The repository that the scope names."""
        return self.scope.removeprefix("repository:").rpartition(":")[0]


@dataclass(frozen=True, slots=True)
class Token:
    """A Bearer token. Times are in seconds since 1970: when it was asked for, and until when it is as good as new, and
    good at all.
    """

    secret: Secret
    issued: float
    fresh_until: float
    expires: float

    @property
    def header(self) -> Secret:
        """The value of an Authorization header (RFC 6750)."""
        return Secret(f"Bearer {self.secret.reveal()}")

    def dump(self) -> list[str | float]:
        """For the cache of this node's workers."""
        return [self.secret.reveal(), self.issued, self.fresh_until, self.expires]

    @classmethod
    def load(cls, dumped: Any) -> Token | None:
        """What `dump` gave; None: anything else."""
        match dumped:
            case [str(text), int() | float() as issued, int() | float() as fresh, int() | float() as expires]:
                return cls(Secret(text), issued, fresh, expires) if _TOKEN.fullmatch(text) else None
            case _:
                return None


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    body: bytes
    retry_after: float | None


class Issuer:
    """Asks token servers for one upstream."""

    def __init__(self, client: Client, now: Callable[[], datetime]) -> None:
        self._client = client
        self._now = now

    async def issue(self, realm: Realm, credential: Credential | None) -> Token:
        """A new token.

        Raises:
            Denied: the token server says no. UpstreamWrong: its answer is no token. Unavailable: no answer.
        """
        asked = self._now().timestamp()
        answer = await self._ask(realm, credential)
        if answer.status != _HTTP_OK:
            raise self._refusal(realm, credential, answer)
        return self._read(answer.body, asked)

    async def _ask(self, realm: Realm, credential: Credential | None) -> _Answer:
        match credential:
            case Login(username=username, password=password):
                answer = await self._get(realm, credential)
                if answer.status not in _NO_GET:
                    return answer
                form = {"grant_type": "password", "username": username, "password": password.reveal()}
                return await self._post(realm, form)
            case IdentityToken(token=token, login=login):
                answer = await self._post(realm, {"grant_type": "refresh_token", "refresh_token": token.reveal()})
                return answer if login is None or answer.status not in _NO_GRANT else await self._get(realm, login)
            case RegistryToken() | None:
                return await self._get(realm, None)

    async def _get(self, realm: Realm, login: Login | None) -> _Answer:
        query = {"client_id": "iarproxy", "scope": realm.scope}
        if realm.service:
            query["service"] = realm.service
        headers = {"Accept": "application/json"}
        if login is not None:
            query["account"] = login.username
            headers["Authorization"] = login.basic.reveal()
        return await self._exchange("GET", realm, realm.url.update_query(query), headers)

    async def _post(self, realm: Realm, grant: dict[str, str]) -> _Answer:
        form = {**grant, "client_id": "iarproxy", "scope": realm.scope}
        if realm.service:
            form["service"] = realm.service
        headers = {"Accept": "application/json", "Content-Type": "application/x-www-form-urlencoded"}
        data = URL.build(query=form).raw_query_string.encode()
        try:
            return await self._exchange("POST", realm, realm.url, headers, data)
        except UpstreamUnavailable as error:
            if type(error) is not UpstreamUnavailable:
                raise
        # The connection was kept from the question before, and closed meanwhile: aiohttp repeats only GET by itself.
        return await self._exchange("POST", realm, realm.url, headers, data)

    async def _exchange(
        self, method: str, realm: Realm, url: URL, headers: dict[str, str], data: bytes | None = None
    ) -> _Answer:
        client = self._client
        send = partial(client.send, method, url, headers, data=data)
        async with client.within(client.timeouts.manifest):
            if client.budget is None:
                response = await send()
            else:
                about = Kind.TOKEN, realm.repository
                response = await client.budget.beside(url).through(method, url, send, about=about)
            try:
                body = await self._body(response)
            finally:
                response.release()
        return _Answer(response.status, body, parse_retry_after(response.headers.get("Retry-After"), self._now()))

    async def _body(self, response: aiohttp.ClientResponse) -> bytes:
        body = b""
        while len(body) <= _MAX_ANSWER and (piece := await self._client.read(response)):
            body += piece
        if len(body) > _MAX_ANSWER:
            raise UpstreamWrong(f"the token server of {self._client.name} sent more than {_MAX_ANSWER} bytes")
        return body

    def _refusal(self, realm: Realm, credential: Credential | None, answer: _Answer) -> IarproxyError:
        name, host, status = self._client.name, realm.url.host, answer.status
        text = f"the token server {host} of {name} answered {status} for {realm.scope} to {user_of(credential)}"
        if status in (400, 401, 403, 404):
            return Denied(text, "upstream", upstream=name, status=status)
        if status == 429:  # noqa: PLR2004  # the status is its own name
            return UpstreamBusy(text, upstream=name, status=status, retry_after=answer.retry_after)
        return UpstreamUnavailable(text, upstream=name, status=status, retry_after=answer.retry_after)

    def _read(self, body: bytes, asked: float) -> Token:
        try:
            answer = orjson.loads(body)
        except orjson.JSONDecodeError:
            answer = None
        answer = answer if isinstance(answer, dict) else {}
        value = answer.get("token") or answer.get("access_token")
        if not isinstance(value, str) or _TOKEN.fullmatch(value) is None:
            raise UpstreamWrong(f"the token server of {self._client.name} answered without a usable token")
        life = _life(answer.get("expires_in"))
        # A short life is used to its end: what is left of it then is no time to be early in.
        fresh = life if life < _DEFAULT_LIFE else _FRESH * life
        return Token(Secret(value), asked, asked + fresh, asked + life)


def _life(stated: Any) -> float:
    """Seconds. Some servers state them as text."""
    if isinstance(stated, str) and re.fullmatch(r"[0-9]{1,9}", stated, re.ASCII):
        stated = int(stated)
    if isinstance(stated, bool) or not isinstance(stated, (int, float)) or stated <= 0:
        return _DEFAULT_LIFE
    return min(max(float(stated), _MIN_LIFE), _MAX_LIFE)
