"""What an image's config says of how it runs: read for people who compare two images, never to run one.

Rule 1: whoever built the image wrote it. What has another type than the image-spec gives it counts as not written;
        it is bounded in bytes, entries and characters, and never an error.
Rule 2: it is compared as it is, and shown only by the functions here, whose result has no secrets: values of names that
        look like a secret's are masked, and so are logins in URLs and tokens of known forms. It is printable: a
        terminal obeys nothing of it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import orjson

MAX_CONFIG = 1 << 20  # bytes
MASK = "***"
_ENTRIES = 500  # of a list or map
_LENGTH = 400  # characters of a text
_READ = 2000  # characters of a text in which secrets are looked for, so that none is shown that is cut
_SECRET = re.compile(r"(?i)pass|secret|token|credential|private|pwd|(?<![a-z])pw$|api.?key|[_-]key$|^key$|auth(?!or)")
_TOKEN = re.compile(  # of GitHub, GitLab, AWS and Slack; a JWT; a private key
    r"gh[oprsu]_\w{20,}|github_pat_\w{20,}|glpat-[\w-]{20,}|(?:AKIA|ASIA)[A-Z0-9]{16}|xox[abeprs]-[\w-]{10,}"
    r"|eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]*|-----BEGIN [A-Z ]*PRIVATE KEY.*",
    re.ASCII | re.DOTALL,
)
_LOGIN = re.compile(r"(?<=://)[^/@\s]+(?=@)")


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """How an image runs. Its texts may be secret: see rule 2.

    Attributes:
        created: None: not written, or not a date.
        settings: `entrypoint`, `cmd`, `user`, `working directory`, `stop signal`: the words of each that is written.
        env, labels: by name; `ports`, `volumes`: what is declared.
    """

    platform: str = ""
    created: datetime | None = None
    settings: dict[str, tuple[str, ...]] = field(default_factory=dict, repr=False)
    env: dict[str, str] = field(default_factory=dict, repr=False)
    labels: dict[str, str] = field(default_factory=dict, repr=False)
    ports: frozenset[str] = frozenset()
    volumes: frozenset[str] = frozenset()


def read_config(raw: bytes) -> ImageConfig | None:
    """The config of an image (image-spec, config.md); None: these bytes are none."""
    if len(raw) > MAX_CONFIG:
        return None
    try:
        document = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(document, dict):
        return None
    found = document.get("config")
    inner: dict[str, Any] = found if isinstance(found, dict) else {}
    settings = {
        "entrypoint": _words(inner.get("Entrypoint")),
        "cmd": _words(inner.get("Cmd")),
        "user": _words(inner.get("User")),
        "working directory": _words(inner.get("WorkingDir")),
        "stop signal": _words(inner.get("StopSignal")),
    }
    parts = (document.get(name) for name in ("os", "architecture", "variant"))
    return ImageConfig(
        platform=shown("/".join(part for part in parts if isinstance(part, str) and part)),
        created=_moment(document.get("created")),
        settings={name: words for name, words in settings.items() if words},
        env=_env(inner.get("Env")),
        labels=texts(inner.get("Labels")),
        ports=_names(inner.get("ExposedPorts")),
        volumes=_names(inner.get("Volumes")),
    )


def texts(found: Any) -> dict[str, str]:
    """The texts by name in a JSON object, such as labels and annotations."""
    if not isinstance(found, dict):
        return {}
    pairs = ((str(name), value) for name, value in found.items() if isinstance(value, str))
    return dict(sorted(pairs)[:_ENTRIES])


def shown(text: str) -> str:
    """`text` as a terminal may print it: bounded, on one line, without logins of URLs and tokens."""
    plain = _TOKEN.sub(MASK, _LOGIN.sub(MASK, text[: _READ + 1]))[: _LENGTH + 1]
    plain = "".join(each if each.isprintable() else f"\\x{ord(each):02x}" for each in plain)
    return plain if len(plain) <= _LENGTH else f"{plain[:_LENGTH]}..."


def shown_value(name: str, value: str) -> str:
    """The value that goes with `name`, masked where that is the name of a secret."""
    return MASK if _SECRET.search(name) and value else shown(value)


def shown_command(words: Sequence[str]) -> str:
    """A command line; the value of an argument that names a secret is masked, `--name=value` or `--name value`."""
    shown_words, hidden = list[str](), False
    for each in words:
        name, equals, value = each.partition("=")
        secret = each.startswith("-") and _SECRET.search(name) is not None
        if hidden and not each.startswith("-"):
            shown_words.append(MASK)
        elif secret and equals:
            shown_words.append(f"{shown(name)}={MASK if value else ''}")
        else:
            shown_words.append(shown(each) if each and " " not in each else f"'{shown(each)}'")
        hidden = secret and not equals
    return shown(" ".join(shown_words))


def _env(found: Any) -> dict[str, str]:
    return dict(_pair(each) for each in found[:_ENTRIES] if isinstance(each, str)) if isinstance(found, list) else {}


def _pair(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    return name, value


def _words(found: Any) -> tuple[str, ...]:
    if isinstance(found, str):
        found = [found] if found else []
    return tuple(each for each in found[:_ENTRIES] if isinstance(each, str)) if isinstance(found, list) else ()


def _names(found: Any) -> frozenset[str]:
    return frozenset(str(name) for name in list(found)[:_ENTRIES]) if isinstance(found, dict) else frozenset()


def _moment(found: Any) -> datetime | None:
    try:
        moment = datetime.fromisoformat(found) if isinstance(found, str) else None
    except ValueError:
        return None
    return moment if moment is not None and moment.tzinfo is not None else None
