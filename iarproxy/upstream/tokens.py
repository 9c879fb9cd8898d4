"""What goes into the Authorization header for an upstream: nothing, Basic, or a token from its realm.

Rule 1: a token is kept by upstream, realm, service, scope and credential, and goes to the upstream's origin only (T40).
Rule 2: one request for a token per key, however many wait; it is renewed at 80 % of its life, or once on a 401 (R40).
Rule 3: without a stated life it lives 60 seconds (distribution docs, spec/auth/token); at most an hour is believed.
Rule 4: the scope is the pulling of one repository, never what a challenge would like us to ask for beyond it.
"""

from __future__ import annotations

import hashlib
import re
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import aiohttp
import orjson
from yarl import URL

from iarproxy.errors import Denied, Unavailable, UpstreamBusy, UpstreamUnavailable, UpstreamWrong
from iarproxy.inflight import InFlight
from iarproxy.upstream.cache import SharedCache
from iarproxy.upstream.challenge import Challenge
from iarproxy.upstream.client import Client
from iarproxy.upstream.credentials import Credential, Secret
from iarproxy.upstream.realms import check_realm
from iarproxy.upstream.retry import parse_retry_after

_MAX_ANSWER = 65_536  # bytes of the token server's answer
_DEFAULT_LIFE = 60.0  # seconds
_MAX_LIFE = 3600.0
_FRESH = 0.8
_REMEMBERED = 4096
_TOKEN = re.compile(r"[\x21-\x7e]{1,16384}", re.ASCII)
_PULL = re.compile(r"repository:[a-z0-9._/-]{1,255}:pull", re.ASCII)
_MAX_SERVICE = 512
_HTTP_OK = 200


@dataclass(frozen=True, slots=True)
class Realm:
    """Where a token for some repository comes from, and for what."""

    url: URL
    service: str
    scope: str


@dataclass(frozen=True, slots=True)
class Token:
    """A Bearer token and, in seconds since 1970, until when it is as good as new and until when it is good at all."""

    secret: Secret
    fresh_until: float
    expires: float

    @property
    def header(self) -> Secret:
        """The value of an Authorization header (RFC 6750)."""
        return Secret(f"Bearer {self.secret.reveal()}")


class Tokens:
    """The authorization of one upstream."""

    def __init__(
        self,
        client: Client,
        *,
        cache: SharedCache,
        now: Callable[[], datetime],
        credential: Credential | None = None,
        auth_hosts: Collection[str] = (),
    ) -> None:
        self._client = client
        self._cache = cache
        self._now = now
        self._credential = credential
        self._auth_hosts = auth_hosts
        self._basic: Secret | None = None
        self._realms: OrderedDict[str, Realm] = OrderedDict()
        self._tokens: OrderedDict[Realm, Token] = OrderedDict()
        self._flights: InFlight[Realm, Token] = InFlight()

    async def known(self, repository: str) -> Secret | None:
        """The header to send without having been asked; None: none is known to be needed."""
        realm = self._realms.get(repository)
        if realm is None:
            return self._basic
        token, now = self._tokens.get(realm), self._now().timestamp()
        if token is not None and now < token.fresh_until:
            return token.header
        try:
            return (await self._token(realm, token)).header
        except Unavailable:
            if token is not None and now < token.expires:
                return token.header
            raise

    async def renew(self, repository: str, challenges: Sequence[Challenge], rejected: Secret | None) -> Secret | None:
        """The header that answers a 401 for `repository`, other than `rejected`, which was just refused.

        None: there is none, the 401 stands.

        Raises:
            Denied: the realm says no. UpstreamWrong: it may not be asked. Unavailable: it does not answer.
        """
        schemes = {challenge.scheme: challenge for challenge in reversed(challenges)}
        if "bearer" in schemes:
            realm = self._realm(repository, schemes["bearer"])
            self._remember(self._realms, repository, realm)
            held = self._tokens.get(realm)
            if held is not None and held.header != rejected and self._now().timestamp() < held.expires:
                return held.header
            return (await self._token(realm, held)).header
        if "basic" in schemes and self._credential is not None:
            self._basic = await self._credential.basic()
            if self._basic != rejected:
                return self._basic
        return None

    async def forget(self, repository: str) -> None:
        """Drop the token of `repository` without having been challenged (public.ecr.aws answers 400 to an old one)."""
        realm = self._realms.pop(repository, None)
        if realm is not None:
            self._tokens.pop(realm, None)
            await self._cache.forget(self._key(realm))

    async def close(self) -> None:
        """Cancel the requests for tokens that are under way."""
        await self._flights.close()

    def _who(self) -> str:
        return "anonymous" if self._credential is None else f"the user {self._credential.username}"

    def _realm(self, repository: str, challenge: Challenge) -> Realm:
        url = check_realm(challenge.parameters.get("realm", ""), self._client.url, self._auth_hosts)
        asked = challenge.parameters.get("scope", "")
        scope = asked if _PULL.fullmatch(asked) else f"repository:{repository}:pull"
        return Realm(url, challenge.parameters.get("service", "")[:_MAX_SERVICE], scope)

    @staticmethod
    def _remember(table: OrderedDict[Any, Any], key: Any, value: Any) -> None:
        table[key] = value
        table.move_to_end(key)
        while len(table) > _REMEMBERED:
            table.popitem(last=False)

    async def _token(self, realm: Realm, stale: Token | None) -> Token:
        return await self._flights.once(realm, lambda: self._obtain(realm, stale))

    async def _obtain(self, realm: Realm, stale: Token | None) -> Token:
        """A token from another worker, or a new one; remembered before anybody else may ask for one."""
        token = await self._shared(realm, stale) or await self._issued(realm)
        self._remember(self._tokens, realm, token)
        return token

    async def _shared(self, realm: Realm, stale: Token | None) -> Token | None:
        shared = _load(await self._cache.get(self._key(realm)))
        good = shared is not None and self._now().timestamp() < shared.fresh_until
        return shared if good and (stale is None or shared != stale) else None

    async def _issued(self, realm: Realm) -> Token:
        status, body, retry_after = await self._ask(realm)
        if status != _HTTP_OK:
            raise self._refusal(realm, status, retry_after)
        token = self._read(body)
        life = token.expires - self._now().timestamp()
        await self._cache.put(self._key(realm), _dump(token), life)
        return token

    async def _ask(self, realm: Realm) -> tuple[int, bytes, float | None]:
        """Status, body and Retry-After of the token server: GET, and the OAuth2 form only where GET does not exist."""
        query = {"client_id": "iarproxy", "scope": realm.scope}
        if realm.service:
            query["service"] = realm.service
        headers = {"Accept": "application/json"}
        if self._credential is not None:
            query["account"] = self._credential.username
            headers["Authorization"] = (await self._credential.basic()).reveal()
        answer = await self._exchange("GET", realm.url.update_query(query), headers)
        if answer[0] not in (404, 405) or self._credential is None:
            return answer
        form = {"grant_type": "password", "username": self._credential.username}
        form |= {"password": (await self._credential.password()).reveal(), "client_id": "iarproxy"}
        form |= {"service": realm.service, "scope": realm.scope}
        headers = {"Accept": "application/json", "Content-Type": "application/x-www-form-urlencoded"}
        return await self._exchange("POST", realm.url, headers, URL.build(query=form).raw_query_string.encode())

    async def _exchange(
        self, method: str, url: URL, headers: dict[str, str], data: bytes | None = None
    ) -> tuple[int, bytes, float | None]:
        client = self._client
        async with client.within(client.timeouts.manifest):
            response = await client.send(method, url, headers, data=data)
            try:
                body = await self._body(response)
            finally:
                response.release()
        return response.status, body, parse_retry_after(response.headers.get("Retry-After"), self._now())

    async def _body(self, response: aiohttp.ClientResponse) -> bytes:
        body = b""
        while len(body) <= _MAX_ANSWER and (piece := await self._client.read(response)):
            body += piece
        if len(body) > _MAX_ANSWER:
            raise UpstreamWrong(f"the token server of {self._client.name} sent more than {_MAX_ANSWER} bytes")
        return body

    def _refusal(self, realm: Realm, status: int, retry_after: float | None) -> Exception:
        name, host = self._client.name, realm.url.host
        text = f"the token server {host} of {name} answered {status} for {realm.scope} to {self._who()}"
        if status in (400, 401, 403, 404):
            return Denied(text, upstream=name, status=status)
        if status == 429:  # noqa: PLR2004  # the status is its own name
            return UpstreamBusy(text, upstream=name, status=status, retry_after=retry_after)
        return UpstreamUnavailable(text, upstream=name, status=status, retry_after=retry_after)

    def _read(self, body: bytes) -> Token:
        try:
            answer = orjson.loads(body)
        except orjson.JSONDecodeError:
            answer = None
        answer = answer if isinstance(answer, dict) else {}
        value = answer.get("token") or answer.get("access_token")
        if not isinstance(value, str) or _TOKEN.fullmatch(value) is None:
            raise UpstreamWrong(f"the token server of {self._client.name} answered without a usable token")
        stated = answer.get("expires_in")
        life = float(stated) if isinstance(stated, (int, float)) and stated > 0 else _DEFAULT_LIFE
        life, now = min(max(life, _DEFAULT_LIFE), _MAX_LIFE), self._now().timestamp()
        return Token(Secret(value), now + _FRESH * life, now + life)

    def _key(self, realm: Realm) -> str:
        identity = self._credential.identity if self._credential else "anonymous"
        parts = (self._client.name, str(self._client.url), str(realm.url), realm.service, realm.scope, identity)
        return "token " + hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _dump(token: Token) -> bytes:
    return orjson.dumps([token.secret.reveal(), token.fresh_until, token.expires])


def _load(raw: bytes | None) -> Token | None:
    try:
        match orjson.loads(raw or b"null"):
            case [str(text), int() | float() as fresh, int() | float() as expires] if _TOKEN.fullmatch(text):
                return Token(Secret(text), fresh, expires)
            case _:
                return None
    except orjson.JSONDecodeError:
        return None
