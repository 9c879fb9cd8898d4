"""From files to settings: where a configuration is looked for, and the one line that each error gets."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args

import platformdirs
from pydantic import BaseModel, ValidationError

from iarproxy.config.settings import Config
from iarproxy.errors import ConfigError, Malformed
from iarproxy.oci import DOCKER_HUB, canonical_registry

SYSTEM_FILE = Path("/etc/iarproxy/iarproxy.toml")
DEFAULT_UPSTREAMS = (DOCKER_HUB, "ghcr.io", "quay.io", "registry.k8s.io")
# pydantic's words for what a newcomer gets wrong most, in the form of a remedy
_REMEDIES = {
    "int_parsing": "not a whole number; write digits without quotes",
    "int_type": "not a whole number; write digits without quotes",
    "bool_parsing": "neither true nor false; write one of them without quotes",
    "dict_type": 'not a section; write it as a table, such as [store] or [upstreams."ghcr.io"]',
    "model_type": 'not a section; write it as a table, such as [store] or [upstreams."ghcr.io"]',
    "tuple_type": 'not a list; write ["..."]',
    "string_type": 'not a text; write it in quotes ("...")',
    "missing": "missing; add it",
    "too_short": "empty; write at least one",
}


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
        raise ConfigError(f"{where}: {_explain(error)}") from error
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


def _explain(error: ValidationError) -> str:
    found = error.errors(include_url=False, include_context=False, include_input=False)
    # a key that is missing is mostly one that is misspelled
    first = next((each for each in found if each["type"] == "extra_forbidden"), found[0])
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
