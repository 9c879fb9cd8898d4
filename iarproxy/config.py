"""The configuration: frozen values, parsed once and handed in.

Rule 1: an unknown key is an error that suggests the right one; nothing is ignored (threats T89).
Rule 2: every error is one line: file, key, what is wrong, what to write instead.
Rule 3: what is dangerous is refused here, before anything starts: an upstream with credentials on an open listener
        (design invariant 10), credentials over plain http to a host that is not local, two sections for one upstream.
Rule 4: nothing reads the environment at import; `load` is told it.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Self, get_args

import platformdirs
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from yarl import URL

from iarproxy.errors import ConfigError, Malformed
from iarproxy.oci import DOCKER_HUB, canonical_registry
from iarproxy.trust import Mode, OnDrift, Pattern, TagRule

SYSTEM_FILE = Path("/etc/iarproxy/iarproxy.toml")
DEFAULT_UPSTREAMS = (DOCKER_HUB, "ghcr.io", "quay.io", "registry.k8s.io")
_UNITS = {"": 1, "B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
_UNITS |= {"kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_TCP = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9_.-]+):([0-9]{1,5})", re.ASCII)
_MAX_PORT = 65535
# pydantic's words for what a newcomer gets wrong most, in the form of a remedy
_REMEDIES = {
    "int_parsing": "not a whole number; write digits without quotes",
    "int_type": "not a whole number; write digits without quotes",
    "bool_parsing": "neither true nor false; write one of them without quotes",
    "dict_type": 'not a section; write it as a table, for example [store] or [upstreams."ghcr.io"]',
    "model_type": 'not a section; write it as a table, for example [store] or [upstreams."ghcr.io"]',
    "tuple_type": 'not a list; write ["..."]',
    "string_type": 'not a text; write it in quotes ("...")',
    "missing": "missing; add it",
    "too_short": "empty; write at least one",
}


def _size(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?([kKMGT]i?B|B)?", str(value), re.ASCII)
    if found is None or found[2] not in (None, *_UNITS) or float(found[1]) == 0:
        raise ValueError(f'not a size: {str(value)[:40]!r}; write for example "50GiB"')
    return int(float(found[1]) * _UNITS[found[2] or ""])


def _duration(value: Any) -> Any:
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d|w)", str(value), re.ASCII)
    if found is None:
        raise ValueError(f'not a duration: {str(value)[:40]!r}; write for example "30s", "6h" or "7d"')
    return timedelta(seconds=float(found[1]) * _SECONDS[found[2]])


def _address(value: Any) -> Any:
    found = _TCP.fullmatch(str(value))
    if str(value).startswith("unix:/") or (found and 0 < int(found[2]) <= _MAX_PORT):
        return value
    raise ValueError(f'not an address: {str(value)[:80]!r}; write "127.0.0.1:5000" or "unix:/path"')


def _pattern(value: Any) -> Any:
    try:
        return value if isinstance(value, Pattern) else Pattern(str(value))
    except Malformed as error:
        raise ValueError(str(error)) from error


Size = Annotated[int, BeforeValidator(_size)]
Duration = Annotated[timedelta, BeforeValidator(_duration)]
Address = Annotated[str, BeforeValidator(_address)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)


class ServerSettings(_Section):
    """`[server]`. `workers`: 0 means one per CPU.

    `bind`: a listener's address or a host name, to the one upstream that it serves.
    """

    listen: tuple[Address, ...] = Field(("127.0.0.1:5000",), min_length=1)
    workers: int = Field(0, ge=0, le=256)
    default_upstream: str | None = None
    bind: dict[str, str] = {}
    graceful_timeout: Duration = timedelta(seconds=30)
    stall_timeout: Duration = timedelta(seconds=30)
    access_log: bool = True


class AdminSettings(_Section):
    """`[admin]`: health, metrics and API; `probes`: health and metrics only."""

    listen: Address = "127.0.0.1:5001"
    probes: Address | None = None


class StoreSettings(_Section):
    """`[store]`. `max_size` is in bytes; above it blobs are relayed and not kept."""

    path: Path
    max_size: Size = 50 * 2**30


class LedgerSettings(_Section):
    """`[ledger]`. `url`: None means `ledger.db` in the store."""

    url: str | None = None


class DriftSettings(_Section):
    """`[drift]`: how often upstream is asked in the background what it offers for a pinned tag; `0s` switches it off."""

    interval: Duration = timedelta(hours=6)


class UpstreamSettings(_Section):
    """`[upstreams."NAME"]`. `auth_hosts`: further hosts that may issue tokens for this registry."""

    url: str
    username: str | None = None
    password_file: Path | None = None
    anonymous_read: bool = False
    auth_hosts: tuple[str, ...] = ()
    ca_file: Path | None = None
    connect_timeout: Duration = timedelta(seconds=10)
    read_timeout: Duration = timedelta(seconds=30)
    max_connections: int = Field(32, ge=1, le=1024)

    @property
    def has_credentials(self) -> bool:
        """Whether requests to this upstream carry a user's name and password."""
        return self.username is not None

    @model_validator(mode="after")
    def _checked(self) -> Self:
        url = URL(self.url)
        if url.scheme not in ("http", "https") or not url.host:
            raise ValueError(
                f'url {self.url[:120]!r} is no registry address; write "https://HOST" or "http://HOST:PORT"'
            )
        if url.user or url.password or url.query_string or url.fragment or url.path not in ("", "/"):
            raise ValueError("url takes only scheme, host and port; credentials go into username and password_file")
        if (self.username is None) != (self.password_file is None):
            raise ValueError("username and password_file go together; write both or neither")
        if self.username is not None and url.scheme == "http" and not is_loopback(url.host):
            raise ValueError("credentials would cross the network in the clear; use https, or remove them")
        return self


class _TagSection(_Section):
    match: Annotated[Pattern, BeforeValidator(_pattern)]
    mode: Mode = Mode.PIN
    ttl: Duration = timedelta(hours=1)
    on_drift: OnDrift = OnDrift.KEEP


class Config(_Section):
    """All of it. `source`: the file it came from; None: the defaults.

    `upstreams` is the closed list, by canonical name. `tags`: first match wins; where none does, a tag is pinned.
    """

    server: ServerSettings = ServerSettings()
    admin: AdminSettings = AdminSettings()
    store: StoreSettings
    ledger: LedgerSettings = LedgerSettings()
    drift: DriftSettings = DriftSettings()
    upstreams: dict[str, UpstreamSettings] = Field(min_length=1)
    tags: tuple[_TagSection, ...] = ()
    source: Path | None = None

    @property
    def rules(self) -> tuple[TagRule, ...]:
        """The tag policies, in order."""
        return tuple(TagRule(each.match, each.mode, each.ttl, each.on_drift) for each in self.tags)

    @property
    def ledger_path(self) -> Path:
        """The file of the embedded ledger."""
        return Path(self.ledger.url.removeprefix("sqlite:///")) if self.ledger.url else self.store.path / "ledger.db"

    @property
    def default_upstream(self) -> str | None:
        """The upstream of names that say nothing; None: such names are unknown."""
        chosen = self.server.default_upstream
        if chosen is None:
            return DOCKER_HUB if DOCKER_HUB in self.upstreams else None
        return canonical_registry(chosen)

    @model_validator(mode="after")
    def _checked(self) -> Self:
        for name, where in [(self.server.default_upstream, "server.default_upstream"), *_bound(self.server.bind)]:
            if name is not None and canonical_registry(name) not in self.upstreams:
                raise ValueError(f"{where} names {name!r}, which has no [upstreams] section; add one or change it")
        taken = [*self.server.listen, self.admin.listen, *filter(None, [self.admin.probes])]
        for address in taken:
            if taken.count(address) > 1:
                raise ValueError(f"admin.listen, admin.probes or server.listen name {address} twice; give each its own")
        if self.ledger.url is not None and not self.ledger.url.startswith("sqlite:////"):
            raise ValueError('ledger.url must be "sqlite:////ABSOLUTE/PATH"; other databases are not supported yet')
        self._refuse_open_credentials()
        if not _is_local(self.admin.listen):
            raise ValueError("admin.listen is open to the network and has no access control; use admin.probes for that")
        return self

    def _refuse_open_credentials(self) -> None:
        opened = [each for each in self.server.listen if not _is_local(each)]
        for name, upstream in self.upstreams.items():
            if opened and upstream.has_credentials and not upstream.anonymous_read:
                raise ValueError(
                    f'upstreams."{name}" has credentials, and server.listen {opened[0]} lets anybody read what they open;'
                    " listen on 127.0.0.1, or write anonymous_read = true in that section"
                )


def _bound(bind: Mapping[str, str]) -> list[tuple[str, str]]:
    return [(upstream, f'server.bind."{address}"') for address, upstream in bind.items()]


def is_loopback(host: str) -> bool:
    """Whether `host` is this machine by its very spelling."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _is_local(address: str) -> bool:
    return address.startswith("unix:") or is_loopback(address.rpartition(":")[0])


def default_url(registry: str) -> str:
    """Where a registry's API is unless its section says otherwise (clients.md section 11.1)."""
    return "https://registry-1.docker.io" if registry == DOCKER_HUB else f"https://{registry}"


def find(chosen: Path | None, environment: Mapping[str, str]) -> Path | None:
    """The file to read: `chosen`, `IARPROXY_CONFIG`, the system's, the user's; None: there is none.

    Raises:
        ConfigError: when one that was asked for is missing.
    """
    named = chosen or (Path(environment["IARPROXY_CONFIG"]) if environment.get("IARPROXY_CONFIG") else None)
    if named is not None:
        if not named.is_file():
            raise ConfigError(f"{named}: no such file; give --config or IARPROXY_CONFIG the path of one")
        return named
    usual = (SYSTEM_FILE, platformdirs.user_config_path("iarproxy") / "iarproxy.toml")
    return next((path for path in usual if path.is_file()), None)


def load(chosen: Path | None, environment: Mapping[str, str]) -> Config:
    """The configuration of this machine, or the defaults where there is no file.

    Raises:
        ConfigError: one line that names file, key and remedy.
    """
    path = find(chosen, environment)
    if path is None:
        return parse({}, None)
    try:
        return parse(tomllib.loads(path.read_text(encoding="utf-8")), path)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not TOML: {error}; see config/iarproxy.example.toml") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}; check its owner and mode") from error


def parse(document: dict[str, Any], source: Path | None) -> Config:
    """The configuration that a TOML document spells; defaults fill what it leaves out.

    Raises:
        ConfigError: as `load`.
    """
    where = str(source or "built-in defaults")
    filled = {**document, "source": source}
    filled.setdefault("upstreams", {name: {} for name in DEFAULT_UPSTREAMS})
    filled["store"] = _with_default_path(document.get("store", {}))
    try:
        if "source" in document:
            raise ConfigError(f"{where}: source: unknown key; remove it")
        filled["upstreams"] = _canonical(filled["upstreams"], where)
        return Config.model_validate(filled)
    except ValidationError as error:
        raise ConfigError(f"{where}: {_explain(error)}") from error
    except Malformed as error:
        raise ConfigError(f"{where}: {error}") from error


def _with_default_path(section: Any) -> Any:
    if isinstance(section, dict) and "path" not in section:
        return {"path": platformdirs.user_data_path("iarproxy"), **section}
    return section


def _canonical(sections: Any, where: str) -> Any:
    if not isinstance(sections, dict):
        return sections
    named: dict[str, Any] = {}
    for name, section in sections.items():
        canonical = canonical_registry(name)
        if canonical in named:
            raise ConfigError(f'{where}: upstreams."{name}" is {canonical} again; keep one section')
        has_url = not isinstance(section, dict) or "url" in section
        named[canonical] = section if has_url else {"url": default_url(canonical), **section}
    return named


def _explain(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    location = [each for each in first["loc"] if not str(each).startswith("function-")]
    key = ".".join(f'"{each}"' if "." in str(each) else str(each) for each in location)
    if first["type"] == "extra_forbidden":
        known = _keys_at(location[:-1])
        close = difflib.get_close_matches(str(location[-1]), known, n=1)
        return f"{key}: unknown key; " + (f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}")
    remedy = _REMEDIES.get(first["type"], "")
    message = remedy or first["msg"].removeprefix("Value error, ")
    return f"{key}: {message}" if key else message


def _keys_at(location: list[int | str]) -> list[str]:
    model: type[BaseModel] = Config
    for step in location:
        field = model.model_fields.get(str(step))
        inner = field.annotation if field else None
        found = [each for each in (inner, *get_args(inner)) if isinstance(each, type) and issubclass(each, BaseModel)]
        model = found[0] if found else model
    return [name for name in model.model_fields if name != "source"]
