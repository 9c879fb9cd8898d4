"""From files to settings: where a configuration is looked for, and the one line that each error gets."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import platformdirs
from pydantic import ValidationError

from iarproxy.config.explaining import explain
from iarproxy.config.settings import Config
from iarproxy.errors import ConfigError, Malformed
from iarproxy.oci import DOCKER_HUB, canonical_registry

SYSTEM_FILE = Path("/etc/iarproxy/iarproxy.toml")
DEFAULT_UPSTREAMS = (DOCKER_HUB, "ghcr.io", "quay.io", "registry.k8s.io")


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
        if not named.exists() or named.is_dir():
            what = "a folder" if named.is_dir() else "no such file"
            raise ConfigError(f"{named}: {what}; give --config or IARPROXY_CONFIG the path of a configuration file")
        return named
    own = _in_home(platformdirs.user_config_path)
    usual = (SYSTEM_FILE, *([own / "iarproxy.toml"] if own else []))
    return next((path for path in usual if path.is_file()), None)


def _in_home(place: Callable[[str], Path]) -> Path | None:
    """A folder of the user's; None: without HOME and without an entry in the password file there is none."""
    try:
        return place("iarproxy")
    except RuntimeError:
        return None


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
        raise ConfigError(f"{where}: {explain(error, Config)}") from error
    except Malformed as error:
        raise ConfigError(f"{where}: {error}") from error


def _with_default_path(section: Any) -> Any:
    if isinstance(section, dict) and "path" not in section:
        path = _in_home(platformdirs.user_data_path)
        if path is None:
            raise ConfigError(
                "store.path: this user has no home folder to put the store in; set HOME, or write the path"
            )
        return {"path": path, **section}
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
