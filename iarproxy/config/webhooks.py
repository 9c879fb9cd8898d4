"""The keys of `[webhooks.NAME]`: who is told of what happens in the journal."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_serializer, model_validator
from yarl import URL

from iarproxy.config.values import Duration, web_address

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}", re.ASCII)
_MAX_URL = 2048


def _name(value: Any) -> Any:
    if _NAME.fullmatch(str(value)) is None:
        raise ValueError("the name of a webhook has lower-case letters, digits, - and _; at most 63")
    return value


WebhookName = Annotated[str, BeforeValidator(_name)]  # a label of metrics, and a word in commands


class WebhookSettings(BaseModel):
    """`[webhooks.NAME]`.

    `url`: where events are posted; it may hold a secret in its path, so that only its origin is ever printed.
    `secret_file`: a secret in each line, with which each event is signed.
    `events`: kinds of entries of the journal, or "*" for all of them; `checkpoint`: its signed checkpoints too.
    `environments`: only what happens in these; None: in all, and what belongs to none.
    `attempts`: after so many an event is put aside, and the next one is sent.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str
    secret_file: Path
    events: tuple[str, ...] = Field(min_length=1)
    environments: tuple[str, ...] | None = None
    timeout: Duration = Field(timedelta(seconds=10), gt=timedelta(0), le=timedelta(seconds=60))
    attempts: int = Field(10, ge=1, le=100)
    ca_file: Path | None = None
    proxy: str | None = None
    allow_private: bool = False

    @field_serializer("url", when_used="json")
    def _only_origin(self, url: str) -> str:
        return str(URL(url).origin())

    @model_validator(mode="after")
    def _checked(self) -> Self:
        url = web_address(self.url)
        if url is None or url.scheme not in ("http", "https") or not url.host or len(self.url) > _MAX_URL:
            raise ValueError('url is no address; write "https://HOST/PATH"')
        if url.user or url.password or url.fragment:
            raise ValueError("url takes no user, password or fragment; receivers know us by the signature")
        if self.proxy is not None:
            proxy = web_address(self.proxy)
            if proxy is None or proxy.scheme != "http" or not proxy.host or proxy.user or proxy.path not in ("", "/"):
                raise ValueError('proxy must be "http://HOST:PORT"')
        return self
