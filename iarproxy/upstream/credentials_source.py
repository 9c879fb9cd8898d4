"""The source of credentials that the configuration of an upstream names."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from yarl import URL

from iarproxy.config import UpstreamSettings
from iarproxy.upstream.credentials import Anonymous, Source
from iarproxy.upstream.credentials_file import AuthFile, PasswordFile
from iarproxy.upstream.credentials_helper import Helper
from iarproxy.upstream.credentials_match import Server


def source_of(name: str, settings: UpstreamSettings, url: URL, now: Callable[[], datetime]) -> Source:
    """Where the credential for the endpoint `url` of the upstream `name` comes from; nothing is read yet.

    A user and password of the section are for all its endpoints; a file or helper is asked for the endpoint's host.
    """
    if settings.username is not None and settings.password_file is not None:
        return PasswordFile(name, settings.username, settings.password_file)
    if settings.auth_file is not None:
        return AuthFile(name, settings.auth_file, Server.of(url), lambda: now().timestamp())
    if settings.credential_helper is not None:
        return Helper(name, settings.credential_helper, Server.of(url).address, lambda: now().timestamp())
    return Anonymous()
