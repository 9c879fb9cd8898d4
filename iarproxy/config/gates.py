"""The keys of `[environments.NAME.gates]`: what has to allow a promotion into that environment."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, field_serializer, model_validator
from yarl import URL

from iarproxy.config.endpoints import is_loopback
from iarproxy.config.values import Duration, HomePath, web_address

_MAX_URL = 2048


class GateSettings(BaseModel):
    """`[environments.NAME.gates]`. All that are written have to allow; with none, nobody is asked.

    `min_age`: for so long a digest must have been known here, under whatever name.
    `command`: a program and its arguments; told the facts as JSON, its exit status decides.
    `policy_url`: asked as the data API of OPA is; it may hold a secret in its path, so that only its origin is printed.
    `policy_token_file`: holds the bearer token that is shown there.
    `timeout`: of the command and of the policy endpoint, each.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_age: Duration | None = None
    command: tuple[str, ...] = ()
    policy_url: str | None = None
    policy_token_file: HomePath | None = None
    policy_ca_file: Path | None = None
    policy_allow_private: bool = False
    timeout: Duration = Field(timedelta(seconds=30), gt=timedelta(0), le=timedelta(minutes=10))

    @field_serializer("policy_url", when_used="json")
    def _only_origin(self, url: str | None) -> str | None:
        return None if url is None else str(URL(url).origin())

    @model_validator(mode="after")
    def _checked(self) -> Self:
        if self.command and not self.command[0].startswith("/"):
            raise ValueError(
                'command begins with the whole path of a program; write ["/usr/local/bin/gate", "--strict"]'
            )
        if any("\0" in each for each in self.command):
            raise ValueError("command holds a null character; no program can be given one")
        if self.policy_url is None:
            if self.policy_token_file is not None or self.policy_ca_file is not None:
                raise ValueError("policy_token_file and policy_ca_file need policy_url; write it, or remove them")
            return self
        url = web_address(self.policy_url)
        if url is None or url.scheme not in ("http", "https") or not url.host or len(self.policy_url) > _MAX_URL:
            raise ValueError('policy_url is no address; write "https://HOST/v1/data/PACKAGE/RULE"')
        if url.user or url.password or url.fragment:
            raise ValueError("policy_url takes no user, password or fragment; a token goes into policy_token_file")
        if self.policy_token_file is not None and url.scheme == "http" and not is_loopback(url.host):
            raise ValueError("the token would cross the network in the clear; use https, or remove policy_token_file")
        return self
