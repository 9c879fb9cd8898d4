"""The settings, section by section, and what is refused about them before anything starts."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from iarproxy.config.endpoints import EndpointSettings, in_the_clear, is_loopback, leads_back
from iarproxy.config.environments import EnvironmentSettings, Surroundings, check_environments
from iarproxy.config.inbox import InboxSettings
from iarproxy.config.journaling import JournalSettings
from iarproxy.config.listening import TlsSettings
from iarproxy.config.retention import RetentionSection
from iarproxy.config.values import HELPER_NAME, Address, Duration, Glob, HomePath, Size
from iarproxy.config.webhooks import WebhookName, WebhookSettings
from iarproxy.errors import Malformed
from iarproxy.oci import DOCKER_HUB, Platform, canonical_registry
from iarproxy.oci.routing import DEFAULT
from iarproxy.trust import Admission, Mode, OnDrift, RefusalForm, TagRule


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)


class ServerSettings(_Section):
    """`[server]`. `workers`: 0 means one per CPU.

    `refusal`: how clients are told that policy refuses a tag for another reason than drift.
    `offline`: no upstream is ever asked, by `serve` or by any command.
    `bind`: a listener's address or a host name, to the one upstream that it serves.
    `record_clients`: keep the addresses of those who pulled a manifest.
    """

    tls: TlsSettings | None = None  # before `listen`, which may be empty then
    listen: tuple[Address, ...] = ("127.0.0.1:5000",)
    workers: int = Field(0, ge=0, le=256)
    default_upstream: str | None = None
    refusal: RefusalForm = RefusalForm.ERROR
    offline: bool = False
    bind: dict[str, str] = {}
    graceful_timeout: Duration = timedelta(seconds=30)
    stall_timeout: Duration = timedelta(seconds=30)
    access_log: bool = True
    record_clients: bool = True

    @property
    def every_listen(self) -> tuple[str, ...]:
        """Where the registry listens, with TLS and without."""
        return self.listen + (self.tls.listen if self.tls is not None else ())

    @property
    def optional_listen(self) -> tuple[str, ...]:
        """Where it listens too, if this machine has that address (clients.md section 10, item 75)."""
        return () if "listen" in self.model_fields_set else ("[::1]:5000",)

    @field_validator("listen")
    @classmethod
    def _not_empty(cls, listen: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if not listen and info.data.get("tls") is None:
            raise ValueError("empty; write at least one, or [server.tls]")
        return listen


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
    """`[drift]`: within what time upstream is asked in the background what it offers for each pinned tag; `0s`: never.

    `rate`: how many a second each upstream is asked for at most.
    """

    interval: Duration = timedelta(hours=6)
    rate: float = Field(10.0, gt=0, le=1000)


def _platform(value: Any) -> Any:
    try:
        return Platform.parse(str(value))
    except Malformed as error:
        raise ValueError(str(error)) from error


def _this_machine() -> Platform:
    machine = platform.machine().lower()
    return Platform("linux", {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine))


class PinSettings(_Section):
    """`[pins]`. `platforms`: what a pin promises to hold once upstream moved or lost its tag."""

    platforms: tuple[Annotated[Platform, BeforeValidator(_platform)], ...] = Field(
        default_factory=lambda: (_this_machine(),)
    )


class UpstreamSettings(EndpointSettings):
    """`[upstreams."NAME"]`; see `EndpointSettings` too.

    `auth_hosts`: further hosts that may issue tokens for this registry.
    `allow_private`: the name may resolve to private addresses, as that of a registry inside a company does.
    `auth_file`: a file of logins as docker, podman and Kubernetes write it; `credential_helper`: the NAME of a program
    docker-credential-NAME.
    `negative_ttl`: for so long a "there is none" for a tag, or an access denied, is not asked again; 0s: never.
    `budget_floor`: requests of a quota that background work leaves to clients.
    """

    username: str | None = None
    password_file: HomePath | None = None
    auth_file: HomePath | None = None
    credential_helper: str | None = None
    anonymous_read: bool = False
    allow_private: bool = False
    auth_hosts: tuple[str, ...] = ()
    connect_timeout: Duration = timedelta(seconds=10)
    read_timeout: Duration = timedelta(seconds=30)
    max_connections: int = Field(32, ge=1, le=1024)
    negative_ttl: Duration = Field(timedelta(seconds=10), le=timedelta(seconds=60))
    budget_floor: int = Field(10, ge=0, le=1_000_000)

    @property
    def has_credentials(self) -> bool:
        """Whether requests to this upstream may carry a user's credentials, whichever source they come from."""
        return any(each is not None for each in (*self._logins, self.client_cert_file))

    @property
    def _logins(self) -> tuple[object, ...]:
        return self.username, self.auth_file, self.credential_helper

    @model_validator(mode="after")
    def _checked(self) -> Self:
        if (self.username is None) != (self.password_file is None):
            raise ValueError("username and password_file go together; write both or neither")
        if self._logins.count(None) < 2:  # noqa: PLR2004  # all but one
            raise ValueError("write one of username with password_file, auth_file, and credential_helper")
        if ":" in (self.username or ""):
            raise ValueError("username cannot hold a colon")
        if self.credential_helper is not None and HELPER_NAME.fullmatch(self.credential_helper) is None:
            raise ValueError('credential_helper is the NAME of a program docker-credential-NAME; write "ecr-login"')
        if any(self._logins) and in_the_clear(self):
            raise ValueError("credentials would cross the network in the clear; use https, or remove them")
        return self


class TagSection(_Section):
    """A `[[tags]]` section; see `trust.policy.TagRule`."""

    match: Glob
    mode: Mode = Mode.PIN
    ttl: Duration = timedelta(hours=1)
    on_drift: OnDrift = OnDrift.KEEP
    admit: Admission = Admission.ANY
    cool_down: Duration = timedelta(0)

    @model_validator(mode="after")
    def _checked(self) -> Self:
        if self.mode is not Mode.PIN and not {"admit", "cool_down"}.isdisjoint(self.model_fields_set):
            raise ValueError(
                'admit and cool_down are about first pins; write them beside mode = "pin", or leave them out'
            )
        return self


class Config(_Section):
    """All of it. `source`: the file it came from; None: the defaults.

    `upstreams` is the closed list, by canonical name. `environments`: further sets of pins, by name. `tags`: first
    match wins; where none does, a tag is pinned.
    """

    server: ServerSettings = ServerSettings()
    admin: AdminSettings = AdminSettings()
    store: StoreSettings
    ledger: LedgerSettings = LedgerSettings()
    journal: JournalSettings = JournalSettings()
    pins: PinSettings = PinSettings()
    drift: DriftSettings = DriftSettings()
    upstreams: dict[str, UpstreamSettings] = Field(min_length=1)
    environments: dict[str, EnvironmentSettings] = {}
    webhooks: dict[WebhookName, WebhookSettings] = {}
    inbox: InboxSettings | None = None
    retention: tuple[RetentionSection, ...] = ()
    tags: tuple[TagSection, ...] = ()
    source: Path | None = None

    @property
    def every_listen(self) -> tuple[str, ...]:
        """Where the registry listens, for whichever environment."""
        return self.server.every_listen + tuple(each for one in self.environments.values() for each in one.listen)

    @property
    def rules(self) -> tuple[TagRule, ...]:
        """The tag policies, in order."""
        return tuple(
            TagRule(each.match, each.mode, each.ttl, each.on_drift, each.admit, each.cool_down) for each in self.tags
        )

    @property
    def ledger_path(self) -> Path:
        """The file of the embedded ledger."""
        return Path(self.ledger.url.removeprefix("sqlite:///")) if self.ledger.url else self.store.path / "ledger.db"

    @property
    def journal_key(self) -> Path:
        """The file of the key that signs the journal."""
        return self.journal.key_file or self.ledger_path.with_name("journal.key")

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
        taken = [*self.server.every_listen, self.admin.listen, *filter(None, [self.admin.probes])]
        for address in taken:
            if taken.count(address) > 1:
                raise ValueError(f"admin.listen, admin.probes or server.listen name {address} twice; give each its own")
        check_environments(self.environments, self._surroundings)
        self._refuse_strange_environments()
        if self.ledger.url is not None and not self.ledger.url.startswith("sqlite:////"):
            raise ValueError('ledger.url must be "sqlite:////ABSOLUTE/PATH"; other databases are not supported yet')
        self._refuse_open_credentials()
        self._refuse_loops()
        if not _is_local(self.admin.listen):
            raise ValueError("admin.listen is open to the network and has no access control; use admin.probes")
        return self

    @property
    def _surroundings(self) -> Surroundings:
        tls = () if self.server.tls is None else self.server.tls.listen
        listeners = {
            **dict.fromkeys((*self.server.listen, *self.server.optional_listen), "server.listen"),
            **dict.fromkeys(tls, "server.tls.listen"),
            self.admin.listen: "admin.listen",
            **({} if self.admin.probes is None else {self.admin.probes: "admin.probes"}),
        }
        return Surroundings(listeners, self.upstreams, self.server.bind)

    def _refuse_strange_environments(self) -> None:
        # a rule that keeps and is about nothing would let go what it was written for
        known = {DEFAULT, *self.environments}
        named = [(f"retention.{number}.environment", each.environment) for number, each in enumerate(self.retention)]
        hooks = self.webhooks.items()
        named += [(f"webhooks.{name}.environments", each) for name, hook in hooks for each in hook.environments or ()]
        named += [] if self.inbox is None else [("inbox.environment", self.inbox.environment)]
        for where, name in named:
            if name not in known:
                raise ValueError(f"{where} names {name!r}, which is none; there are: {', '.join(sorted(known))}")

    def _refuse_loops(self) -> None:
        own = [*self.every_listen, self.admin.listen, *filter(None, [self.admin.probes])]
        for name, upstream in self.upstreams.items():
            for url in upstream.urls:
                here = leads_back(url, own)
                if here is not None:
                    raise ValueError(
                        f'upstreams."{name}" has the url {url}, which is this server itself ({here});'
                        " write where that registry is, or change the listener"
                    )

    def _refuse_open_credentials(self) -> None:
        # A client certificate says who, not what that one may read: it is no access control yet.
        opened = [each for each in self.every_listen if not _is_local(each)]
        for name, upstream in self.upstreams.items():
            if opened and upstream.has_credentials and not upstream.anonymous_read:
                raise ValueError(
                    f'upstreams."{name}" has credentials, and anybody could read what they open at the listener'
                    f" {opened[0]}; listen on 127.0.0.1, or write anonymous_read = true in that section"
                )


def _bound(bind: Mapping[str, str]) -> list[tuple[str, str]]:
    return [(upstream, f'server.bind."{address}"') for address, upstream in bind.items()]


def _is_local(address: str) -> bool:
    return address.startswith("unix:") or is_loopback(address.rpartition(":")[0])
