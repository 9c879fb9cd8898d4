"""What goes into the Authorization header for an upstream: nothing, Basic, or a token from its realm.

Rule 1: a token is kept by upstream, realm, service, scope and credential, and goes to the upstream's origin only (T40).
        Another secret is another credential: what was got with the old one is not used any more.
Rule 2: one request for a token per key, however many wait, in all workers; it is renewed at 80 % of its life (a life
        below a minute is used to its end), or once on a refusal (R40).
Rule 3: what was refused although it was just obtained is not renewed again for a while, and a password or registry
        token that got a 401 is not even sent: repeating it would only lock somebody out.
Rule 4: the scope is the pulling of one repository, never what a challenge would like us to ask for beyond it.
"""

from __future__ import annotations

import hashlib
import re
from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from iarproxy.errors import Denied, Unavailable, UpstreamDown, UpstreamHeld
from iarproxy.inflight import InFlight
from iarproxy.upstream.cache import SharedCache
from iarproxy.upstream.challenge import Challenge
from iarproxy.upstream.client import Client
from iarproxy.upstream.credentials import (
    Anonymous,
    Credential,
    IdentityToken,
    Login,
    RegistryToken,
    Secret,
    Source,
    identity_of,
)
from iarproxy.upstream.issuing import Issuer, Realm, Token
from iarproxy.upstream.realms import check_realm
from iarproxy.upstream.sharing import SharedTokens

_REMEMBERED = 4096  # repositories, and places
_REFUSED_FOR = 10.0  # seconds
_BELIEVED_FOR = 10.0  # seconds for which a realm that gives no token is asked again all the same
_PULL = re.compile(r"repository:[a-z0-9._/-]{1,255}:pull", re.ASCII)
_MAX_SERVICE = 512


@dataclass(frozen=True, slots=True)
class Shown:
    """The value of an Authorization header, and what it stands for. `token`: None for what is no token of a realm."""

    header: Secret
    identity: str
    token: Token | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """What is asked, as far as access is decided by it. `kind`: such as `GET blobs`; some refuse HEAD or lists only."""

    repository: str
    kind: str


@dataclass(frozen=True, slots=True)
class _Basic:
    """That the upstream wants user and password themselves."""


@dataclass(frozen=True, slots=True)
class _Refused:
    """A credential that upstream refused, and how long that counts. `withheld`: it is not sent meanwhile."""

    identity: str
    until: float
    withheld: bool


class Tokens:
    """The authorization of one upstream."""

    def __init__(
        self,
        client: Client,
        *,
        cache: SharedCache,
        now: Callable[[], datetime],
        source: Source | None = None,
        auth_hosts: Collection[str] = (),
    ) -> None:
        self._client = client
        self._secret = cache.secret
        self._now = now
        self._source = source or Anonymous()
        self._auth_hosts = auth_hosts
        self._issuer = Issuer(client, now)
        self._tokens = SharedTokens(cache, now)
        self._usual: _Basic | None = None
        self._wanted: OrderedDict[str, Realm | _Basic] = OrderedDict()
        self._learnt: OrderedDict[str, float] = OrderedDict()  # when a realm was named
        self._refused: OrderedDict[Place, _Refused] = OrderedDict()
        self._flights: InFlight[str, Token] = InFlight()

    async def known(self, place: Place) -> Shown | None:
        """What to show without having been asked; None: nothing is known to be needed.

        Raises:
            Denied: the realm says no. Unavailable: no credential, or no token, is to be had.
        """
        credential = await self._source.find(place.repository)
        try:
            return await self._shown(place, credential, None)
        except (UpstreamHeld, UpstreamDown):
            raise  # it was not asked
        except (Unavailable, Denied):
            self._doubt(place.repository)
            raise

    async def renew(
        self, place: Place, rejected: Shown | None, challenges: Sequence[Challenge] | None = None
    ) -> Shown | None:
        """What to show after a refusal, other than `rejected`, which was just refused.

        None: there is nothing, the refusal stands.

        Args:
            place: that was asked for.
            rejected: what was shown; None: nothing.
            challenges: those of a 401; None: it was another refusal, which says nothing of what it wants.

        Raises:
            Denied: the realm says no. UpstreamWrong: it may not be asked. Unavailable: it does not answer.
        """
        credential = await self._source.find(place.repository, refused=rejected is not None)
        if challenges is not None:
            self._learn(place.repository, challenges)
        if self._refusal(place, self._identity(credential)) is not None:
            return None
        shown = await self._shown(place, credential, rejected)
        if shown is not None and rejected is not None and shown.header == rejected.header:
            self.refused(place, rejected, withheld=challenges is not None)
            return None
        return shown

    def may_be_old(self, place: Place, shown: Shown) -> bool:
        """Whether a refusal other than a 401 may mean that what was shown ran out (ECR's 403, public.ecr.aws's 400)."""
        if self._refusal(place, shown.identity) is not None:
            return False
        now, token = self._now().timestamp(), shown.token
        return token is None or now - token.issued > _REFUSED_FOR or now >= token.expires

    def refused(self, place: Place, shown: Shown, *, withheld: bool) -> None:
        """Remember that upstream refused what it was shown although it was just obtained.

        Args:
            place: that was asked for.
            shown: what was refused.
            withheld: it refused the credential itself (401): do not send it for a while, unless it is a token's.
        """
        now = self._now().timestamp()
        if shown.token is None or now - shown.token.issued <= _REFUSED_FOR:
            found = _Refused(shown.identity, now + _REFUSED_FOR, withheld and shown.token is None)
            _remember(self._refused, place, found)

    async def close(self) -> None:
        """Cancel the requests for tokens that are under way."""
        await self._flights.close()
        await self._source.close()

    def _doubt(self, repository: str) -> None:
        """Ask the registry anew which realm it wants, since the one that it named some time ago gives nothing."""
        at, now = self._learnt.get(repository, 0.0), self._now().timestamp()
        if abs(now - at) > _BELIEVED_FOR:
            self._wanted.pop(repository, None)
            self._learnt.pop(repository, None)

    def _identity(self, credential: Credential | None) -> str:
        return identity_of(credential, self._secret)

    def _refusal(self, place: Place, identity: str) -> _Refused | None:
        found = self._refused.get(place)
        if found is None or found.identity != identity:
            return None
        # A clock that was set back must not make it last.
        return found if 0 < found.until - self._now().timestamp() <= _REFUSED_FOR else None

    def _learn(self, repository: str, challenges: Sequence[Challenge]) -> None:
        schemes = {challenge.scheme: challenge for challenge in reversed(challenges)}
        if "bearer" in schemes:
            _remember(self._wanted, repository, self._realm(repository, schemes["bearer"]))
            _remember(self._learnt, repository, self._now().timestamp())
        elif "basic" in schemes:
            self._usual = _Basic()
            _remember(self._wanted, repository, self._usual)

    def _realm(self, repository: str, challenge: Challenge) -> Realm:
        url = check_realm(challenge.parameters.get("realm", ""), self._client.url, self._auth_hosts)
        asked = challenge.parameters.get("scope", "")
        scope = asked if _PULL.fullmatch(asked) else f"repository:{repository}:pull"
        return Realm(url, challenge.parameters.get("service", "")[:_MAX_SERVICE], scope)

    async def _shown(self, place: Place, credential: Credential | None, rejected: Shown | None) -> Shown | None:
        """What this credential leads to, given what the repository is known to want."""
        identity = self._identity(credential)
        refusal = self._refusal(place, identity)
        is_withheld = refusal is not None and refusal.withheld
        match credential, self._wanted.get(place.repository, self._usual):
            case RegistryToken(token=secret), _:
                return None if is_withheld else Shown(Secret(f"Bearer {secret.reveal()}"), identity)
            case _, Realm() as realm:
                token = await self._token(realm, credential, identity, rejected)
                return Shown(token.header, identity, token)
            case (Login() as login) | IdentityToken(login=Login() as login), _Basic():
                return None if is_withheld else Shown(login.basic, identity)
            case _:
                return None

    async def _token(self, realm: Realm, credential: Credential | None, identity: str, rejected: Shown | None) -> Token:
        """A token that is not the rejected one; one that ages, where no other is to be had."""
        key = self._key(realm, identity)
        held, now = self._tokens.held(key), self._now().timestamp()
        is_rejected = held is not None and rejected is not None and held.header == rejected.header
        if held is not None and not is_rejected and now < held.fresh_until:
            return held

        def issue() -> Any:
            return self._issuer.issue(realm, credential)

        try:
            return await self._flights.once(key, lambda: self._tokens.obtain(key, held, issue))
        except (Unavailable, Denied):
            if held is not None and not is_rejected and now < held.expires:
                return held
            raise

    def _key(self, realm: Realm, identity: str) -> str:
        parts = (self._client.name, str(self._client.url), str(realm.url), realm.service, realm.scope, identity)
        return "token " + hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _remember(table: OrderedDict[Any, Any], key: Hashable, value: object) -> None:
    table[key] = value
    table.move_to_end(key)
    while len(table) > _REMEMBERED:
        table.popitem(last=False)
