"""The configuration files that are shipped: they load, and the example shows every key there is, with its default."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from iarproxy.config import AdminSettings, Config, DriftSettings, ServerSettings, UpstreamSettings, load, parse
from iarproxy.config.environments import EnvironmentSettings
from iarproxy.config.gates import GateSettings
from iarproxy.config.inbox import InboxSettings
from iarproxy.config.journaling import JournalSettings
from iarproxy.config.listening import TlsSettings
from iarproxy.config.retention import RetentionSection
from iarproxy.config.settings import LedgerSettings, PinSettings, StoreSettings, TagSection
from iarproxy.config.webhooks import WebhookSettings

FOLDER = Path(__file__).parent.parent / "config"
EXAMPLE = FOLDER / "iarproxy.example.toml"
SECTIONS: dict[str, type[BaseModel]] = {
    "server": ServerSettings,
    "admin": AdminSettings,
    "store": StoreSettings,
    "ledger": LedgerSettings,
    "journal": JournalSettings,
    "inbox": InboxSettings,
    "pins": PinSettings,
    "drift": DriftSettings,
    "upstreams": UpstreamSettings,
    "environments": EnvironmentSettings,
    "webhooks": WebhookSettings,
    "retention": RetentionSection,
    "tags": TagSection,
}

NAMED = {"upstreams", "environments", "webhooks"}
LISTED = {"tags", "retention"}


def uncommented(text: str) -> dict[str, Any]:
    """The document with every shown setting switched on."""
    return tomllib.loads(re.sub(r'^#("?[a-z.]+"?[a-z_]* = |\[)', r"\1", text, flags=re.MULTILINE))


def shown(document: dict[str, Any], section: str) -> set[str]:
    """The keys that the document has in a section, in all of its instances."""
    found = document[section]
    instances = list(found.values()) if section in NAMED else found if section in LISTED else [found]
    return {key for each in instances for key in each}


@pytest.mark.parametrize("name", sorted(path.name for path in FOLDER.glob("[!s]*.toml")))
def test_loads(name: str) -> None:
    """A shipped file is a configuration."""
    assert load(FOLDER / name, {}).source == FOLDER / name


def test_the_sections_are_all() -> None:
    """A new section of the model needs its place in the example."""
    assert set(SECTIONS) == set(Config.model_fields) - {"source"}


@pytest.mark.parametrize("section", SECTIONS)
def test_every_key_is_shown(section: str) -> None:
    """The example shows each key of the model, and none that is not there."""
    assert shown(uncommented(EXAMPLE.read_text()), section) == set(SECTIONS[section].model_fields)


def test_every_key_of_tls_is_shown() -> None:
    """So does the section within the section; what it calls the default is it."""
    written = uncommented(EXAMPLE.read_text())["server"]["tls"]
    assert set(TlsSettings.model_fields) == set(written)
    assert TlsSettings.model_fields["client_certificates"].default == written["client_certificates"]


def test_every_key_of_gates_is_shown() -> None:
    """So does that of an environment's gates."""
    written = uncommented(EXAMPLE.read_text())["environments"]["prod"]["gates"]
    assert set(GateSettings.model_fields) == set(written)
    assert GateSettings().timeout == GateSettings.model_validate(written).timeout


def test_what_is_shown_is_accepted() -> None:
    """With every commented setting switched on the example is still a configuration."""
    assert parse(uncommented(EXAMPLE.read_text()), EXAMPLE).server.bind == {"hub.mirror.example": "docker.io"}


def test_defaults_are_true() -> None:
    """What the example calls a default is the default."""
    found = parse(uncommented(EXAMPLE.read_text()), EXAMPLE)
    given: dict[str, Any] = {"default_upstream": None, "bind": {}, "tls": None}
    assert found.server.model_copy(update=given) == ServerSettings()
    assert found.admin.model_copy(update={"probes": None}) == AdminSettings()
    assert found.drift == DriftSettings()
    assert found.store == StoreSettings(path=found.store.path)
    written = {"username": None, "password_file": None, "auth_hosts": (), "ca_file": None}
    hub = found.upstreams["docker.io"].model_copy(update=written)
    assert hub == parse({}, None).upstreams["docker.io"]
    assert found.tags[1] == TagSection.model_validate({"match": "registry.example.com/**"})
