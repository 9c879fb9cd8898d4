"""Who we are towards an upstream: the kinds of credential, and where one comes from.

Rule 1: a secret is shown where it is sent and nowhere else: not in logs, messages, or the `repr` of anything (T39).
Rule 2: a source is asked each time a credential is needed, so that a changed one is found without a restart.
Rule 3: a source that cannot answer is `Unavailable`: a file that is being replaced is whole again in a moment.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from dataclasses import dataclass
from typing import Protocol, TypeAlias

# The user names that say that what follows is an identity token: the credential helpers' and Azure's (clients.md 11.3).
_HELPERS_TOKEN = "<token>"  # noqa: S105  # a user name of the protocol
_AZURE = "00000000-0000-0000-0000-000000000000"


@dataclass(frozen=True, slots=True)
class Secret:
    """Text that no log, repr or traceback shows. `reveal` is called where it is sent."""

    _text: str

    def __repr__(self) -> str:
        return "Secret(***)"

    def __str__(self) -> str:
        return "***"

    def reveal(self) -> str:
        """The text."""
        return self._text


@dataclass(frozen=True, slots=True)
class Login:
    """A user's name, without a colon, and password."""

    username: str
    password: Secret

    @property
    def basic(self) -> Secret:
        """The value of an Authorization header (RFC 7617)."""
        pair = f"{self.username}:{self.password.reveal()}"
        return Secret(f"Basic {base64.b64encode(pair.encode()).decode('ascii')}")


@dataclass(frozen=True, slots=True)
class IdentityToken:
    """What a token server takes in place of a password (`grant_type=refresh_token`).

    Attributes:
        login: what a server that knows no such grant takes instead; None: nothing.
    """

    token: Secret
    login: Login | None = None


@dataclass(frozen=True, slots=True)
class RegistryToken:
    """What the registry itself takes as a Bearer token, as it is."""

    token: Secret


Credential: TypeAlias = Login | IdentityToken | RegistryToken


def login_of(username: str, secret: str) -> Login | IdentityToken:
    """The credential that a name and a secret are; some names say that the secret is an identity token."""
    if username == _HELPERS_TOKEN:
        return IdentityToken(Secret(secret))
    login = Login(username, Secret(secret))
    return IdentityToken(login.password, login) if username == _AZURE else login


def user_of(credential: Credential | None) -> str:
    """Who that is, for messages."""
    match credential:
        case Login(username=username) | IdentityToken(login=Login(username=username)):
            return f"the user {username}"
        case IdentityToken():
            return "an identity token"
        case RegistryToken():
            return "a registry token"
        case None:
            return "anonymous"


def identity_of(credential: Credential | None, key: bytes) -> str:
    """A name for the credential that changes with its secret and does not tell it to those who have no `key`."""
    match credential:
        case None:
            return "anonymous"
        case Login(username=username, password=secret) | IdentityToken(token=secret, login=Login(username=username)):
            pass
        case IdentityToken(token=secret) | RegistryToken(token=secret):
            username = ""
    text = f"{type(credential).__name__}\n{username}\n{secret.reveal()}"
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()[:16]


class Source(Protocol):
    """Where the credential of one upstream comes from."""

    async def find(self, repository: str, *, refused: bool = False) -> Credential | None:
        """The credential for a repository now; None: there is none, be anonymous.

        Args:
            repository: its name in the registry.
            refused: upstream has just refused the last one; one that is remembered counts for nothing then.

        Raises:
            UpstreamUnavailable: it cannot be had.
        """
        ...

    async def close(self) -> None:
        """End what is under way."""
        ...


class Anonymous:
    """No credential."""

    async def find(self, repository: str, *, refused: bool = False) -> None:  # the protocol's signature
        """None."""

    async def close(self) -> None:
        """Nothing."""
