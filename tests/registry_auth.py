"""Access control of the `FakeRegistry`: none, Basic, or tokens from a realm (distribution docs, spec/auth/token).

Rule 1: one `Authority` may be shared by two registries, so that the realm has a host of its own.
Rule 2: every token is unguessable to code under test and remembered here, so that a test can look for it elsewhere.
"""

from __future__ import annotations

import base64
import binascii
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass
class Authority:
    """Who may pull.

    Attributes:
        kind: what a request without the right Authorization is answered with.
        users: passwords by user name.
        anonymous: whether a token is given to somebody without a name.
        realm: the token endpoint; empty: `/token` of the registry that challenges.
        expires_in: seconds that a token lasts and what is said of it; None: 60, and nothing is said.
        token_field: the name under which the answer carries the token.
        post: whether the realm answers POST (the OAuth2 form); else it answers `post_refusal`.
        refusal: the status for an Authorization header that is not, or no longer, right; 401 is a new challenge.
        identity_tokens: what `grant_type=refresh_token` takes.
        challenges: sent instead of the computed WWW-Authenticate header.
    """

    kind: Literal["none", "basic", "bearer"] = "none"
    users: dict[str, str] = field(default_factory=dict)
    anonymous: bool = True
    realm: str = ""
    service: str = "registry.test"
    expires_in: float | None = 300
    token_field: str = "token"
    post: bool = False
    post_refusal: int = 404
    refusal: int = 401
    identity_tokens: set[str] = field(default_factory=set)
    challenges: Sequence[str] = ()
    clock: Callable[[], float] = time.monotonic
    issued: dict[str, tuple[frozenset[str], float]] = field(default_factory=dict)

    def challenge(self, base: str, repository: str) -> list[str]:
        """The WWW-Authenticate headers for a request that may not pass."""
        if self.challenges:
            return list(self.challenges)
        if self.kind == "basic":
            return [f'Basic realm="{self.service}"']
        scope = f',scope="repository:{repository}:pull"' if repository else ""
        return [f'Bearer realm="{self.realm or base + "/token"}",service="{self.service}"{scope}']

    def allows(self, authorization: str, repository: str) -> bool:
        """Whether a request for `repository` with this Authorization header passes."""
        if self.kind == "none":
            return True
        scheme, _, value = authorization.partition(" ")
        if self.kind == "basic":
            return scheme.lower() == "basic" and self._knows(value)
        scopes, expires = self.issued.get(value, (frozenset[str](), 0.0))
        return scheme.lower() == "bearer" and self.clock() < expires and (not repository or repository in scopes)

    def revoke(self) -> None:
        """No token that was given so far is good any more."""
        self.issued.clear()

    def grant(self, scopes: Sequence[str], authorization: str, form: Mapping[str, str]) -> tuple[int, dict[str, Any]]:
        """Status and JSON of the token endpoint."""
        if not self._may_have(authorization, form):
            return 401, {"errors": [{"code": "UNAUTHORIZED", "message": "no token for you"}]}
        token = f"token-{secrets.token_hex(12)}"
        lasts = 60.0 if self.expires_in is None else self.expires_in
        names = frozenset(scope.split(":")[1] for scope in scopes if scope.count(":") == 2)
        self.issued[token] = (names, self.clock() + lasts)
        answer: dict[str, Any] = {self.token_field: token}
        if self.expires_in is not None:
            answer["expires_in"] = int(self.expires_in)
        return 200, answer

    def _may_have(self, authorization: str, form: Mapping[str, str]) -> bool:
        if form.get("grant_type") == "password":
            return self.users.get(form.get("username", ""), None) == form.get("password")
        if form.get("grant_type") == "refresh_token":
            return form.get("refresh_token") in self.identity_tokens
        scheme, _, value = authorization.partition(" ")
        return self._knows(value) if scheme.lower() == "basic" else self.anonymous and not authorization

    def _knows(self, encoded: str) -> bool:
        try:
            user, _, password = base64.b64decode(encoded, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return False
        return user in self.users and self.users[user] == password
