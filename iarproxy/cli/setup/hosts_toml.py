"""hosts.toml, the grammar of containerd, nerdctl and newer dockerd: making it, and what they would make of it.

Rule 1: strict is `server` and `[host]` both naming the mirror: the one form that holds on every containerd from 1.6 on;
        `server` alone is ignored by 1.6 and 1.7, which then ask the real registry (clients.md sections 2.3, 3.2).
Rule 2: no word is written that an old version does not know: it would ignore the whole file, without an error.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, assert_never
from urllib.parse import urlsplit

from iarproxy.cli.setup.plan import (
    EVERY,
    MARK,
    Fall,
    Finding,
    Mirror,
    Version,
    Weight,
    Whole,
    means_this_machine,
    real_url,
)
from iarproxy.cli.setup.reading import read
from iarproxy.errors import Refused

FILE = "hosts.toml"
_WORDS = frozenset({"pull", "resolve", "push"})
_SERVER_ALONE = (1, 7, 34)  # from here on a file without [host] is read


@dataclass(frozen=True, slots=True)
class Dialect:
    """What the reader of the file knows.

    `referrers`: the version from which on that capability is a word; `server_alone`: from which on a file without
    [host] is read; `brackets`: from which on a host may be an IPv6 address (seen: 1.6 and 1.7 ignore such a file).
    """

    name: str
    referrers: Version
    server_alone: Version = (0,)
    brackets: Version = (0,)


CONTAINERD = Dialect("containerd", (2, 2), _SERVER_ALONE, (2, 0))
NERDCTL = Dialect("nerdctl", (2, 2), brackets=(2, 0))
DOCKERD = Dialect("dockerd", (29, 1))


def folder_name(registry: str) -> str:
    """The folder in which a registry's file is looked for first (containerd's `hostDirectory`)."""
    if registry == EVERY:
        return "_default"
    host, _, port = registry.rpartition(":")
    return f"{host}_{port}_" if host else registry


def render(registry: str, mirror: Mirror, fall: Fall, *, ca: str | None, referrers: bool = False) -> str:
    """The file for one registry. `ca`: the path of the authority's file as the client sees it."""
    words = ["pull", "resolve", *(["referrers"] if referrers else [])]
    trust = [f"ca = {json.dumps(ca)}"] if ca and not mirror.plain else []
    lines = [MARK]
    match fall:
        case Fall.OPEN:
            lines += [] if registry == EVERY else [f"server = {json.dumps(real_url(registry))}"]
        case Fall.DIGESTS:
            lines += [f"server = {json.dumps(real_url(registry))}", 'capabilities = ["push"]']
        case Fall.NONE:
            lines += [f"server = {json.dumps(mirror.url)}", *trust]
        case _:
            assert_never(fall)
    lines += ["", f"[host.{json.dumps(mirror.url)}]", f"  capabilities = {json.dumps(words)}"]
    return "\n".join([*lines, *(f"  {each}" for each in trust)]) + "\n"


def files(folder: Path, mirror: Mirror, fall: Fall, version: Version | None, dialect: Dialect) -> tuple[Whole, ...]:
    """A file for each registry of the mirror.

    Raises:
        Refused: the client would, or might, ignore all of it, and ask the real registry.
    """
    if _takes_no_brackets(mirror, version, dialect):
        raise Refused(
            f"{dialect.name} before {_dotted(dialect.brackets)} ignores a file with an IPv6 address silently; give"
            " --url a host name, or --client-version if it is newer"
        )
    referrers = version is not None and version >= dialect.referrers
    ca = str(mirror.ca) if mirror.ca else None
    return tuple(
        Whole(
            folder / folder_name(each) / FILE,
            render(each, mirror, fall, ca=ca, referrers=referrers).encode(),
        )
        for each in mirror.registries
    )


def _takes_no_brackets(mirror: Mirror, version: Version | None, dialect: Dialect) -> bool:
    """Whether the mirror is an IPv6 address that the client does not take, or is not known to."""
    return mirror.authority.startswith("[") and (version or (0,)) < dialect.brackets


def find(folder: Path, registry: str) -> Path | None:
    """The folder that is read for a registry: the first that exists, and no other (`hostPaths`)."""
    names = [folder_name(registry), registry, "_default"]
    return next((folder / name for name in names if (folder / name).is_dir()), None)


def judge(folder: Path, registry: str, mirror: Mirror, version: Version | None, dialect: Dialect) -> list[Finding]:
    """What the client would do with a pull from `registry`, by the file that it reads for it."""
    found = find(folder, registry)
    if found is None or not (found / FILE).is_file():
        where = str(folder if found is None else found)
        return [Finding(Weight.WRONG, where, f"no {FILE} for it: pulls go to the real registry", registry)]
    path = found / FILE
    try:
        document = tomllib.loads(read(path).decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        text = f"cannot be read ({error}): {dialect.name} ignores it silently and asks the real registry"
        return [Finding(Weight.WRONG, str(path), text, registry)]
    said = [*_judge(document, registry, mirror, version, dialect)]
    if registry == EVERY:
        own = [each.name for each in sorted(folder.iterdir()) if each.is_dir() and each.name != found.name]
        said += [(Weight.NOTE, f"does not count for {each}, which has a folder of its own") for each in own]
    if any(found.glob("*.crt")) or any(found.glob("*.cert")):
        said.append((Weight.NOTE, "the certificates beside it are not read while it is there: name them in it by `ca`"))
    return [Finding(weight, str(path), text, registry) for weight, text in said]


def _judge(
    document: dict[str, Any], registry: str, mirror: Mirror, version: Version | None, dialect: Dialect
) -> Iterator[tuple[Weight, str]]:
    """Each thing to say about a file that parses."""
    hosts, server = document.get("host"), document.get("server")
    ignored = f"{dialect.name} ignores the whole file silently and asks the real registry"
    if not isinstance(hosts, dict):
        yield from _without_host(hosts, server, mirror, version, dialect)
        return
    blocks = [document, *hosts.values()]
    if not all(isinstance(each, dict) for each in blocks) or not isinstance(server, str | None):
        yield Weight.WRONG, f"not the form that {dialect.name} knows: {ignored}"
        return
    for word in sorted({str(word) for each in blocks for word in _words(each)} - _WORDS):
        if word != "referrers":
            yield Weight.WRONG, f"the capability {word!r} is unknown: {ignored}"
        elif version is None or version < dialect.referrers:
            known = f"{dialect.name} knows it from {_dotted(dialect.referrers)} on"
            weight = Weight.NOTE if version is None else Weight.WRONG
            yield weight, f"the capability 'referrers' is new ({known}): an older one ignores the whole file silently"
    if _takes_no_brackets(mirror, version, dialect):
        known = f"{dialect.name} takes one from {_dotted(dialect.brackets)} on"
        yield (Weight.NOTE if version is None else Weight.WRONG), f"names an IPv6 address ({known}): {ignored}"
    yield from _order(list(hosts), hosts, server, mirror)
    yield from _behind(document, hosts, registry, mirror)


def _without_host(
    hosts: object, server: object, mirror: Mirror, version: Version | None, dialect: Dialect
) -> Iterator[tuple[Weight, str]]:
    if hosts is not None or not isinstance(server, str) or not _same(server, mirror):
        yield Weight.WRONG, f"names no [host] at {mirror.url}: pulls do not come here"
    elif version is None or version < dialect.server_alone:
        since = _dotted(dialect.server_alone)
        text = f"has `server` alone: {dialect.name} before {since} ignores that and asks the real registry; add [host]"
        yield (Weight.NOTE if version is None else Weight.WRONG), text


def _order(names: list[str], hosts: dict[str, Any], server: str | None, mirror: Mirror) -> Iterator[tuple[Weight, str]]:
    ours = [name for name in names if _same(name, mirror)]
    if not ours:
        at_end = " but as `server`, after the others" if server and _same(server, mirror) and names else ""
        yield (Weight.NOTE if at_end else Weight.WRONG), f"names no [host] at {mirror.url}{at_end}"
        return
    if names[0] != ours[0]:
        yield Weight.NOTE, f"{names[0]} is asked before {mirror.url}"
    words = set(_words(hosts[ours[0]]))
    if words and "pull" not in words:
        yield Weight.WRONG, f"{ours[0]} lacks the capability 'pull': nothing is pulled from it"
    elif words and "resolve" not in words and not (server and _same(server, mirror)):
        yield Weight.OPEN, f"{ours[0]} lacks the capability 'resolve': tags are resolved elsewhere"


def _behind(
    document: dict[str, Any], hosts: dict[str, Any], registry: str, mirror: Mirror
) -> Iterator[tuple[Weight, str]]:
    others = [name for name in hosts if not _same(name, mirror)]
    server = document.get("server")
    if server is None:
        others.append(f"{real_url(registry)} (no `server` is written)")
    elif not _same(server, mirror):
        words = set(_words(document))
        if not words or "resolve" in words:
            others.append(server)
        else:
            yield Weight.NOTE, f"tags are resolved here alone; content by digest may come from {server}"
    if others:
        yield (
            Weight.OPEN,
            f"what we refuse is asked of {', '.join(others)} next; --strict writes the form that does not",
        )


def _words(block: dict[str, Any]) -> list[str]:
    words = block.get("capabilities", [])
    return [str(each) for each in words] if isinstance(words, list) else [str(words)]


def _same(url: str, mirror: Mirror) -> bool:
    """Whether a host of the file is our address, however the loopback is spelled."""
    ours = urlsplit(mirror.url)
    try:
        parts = urlsplit(url if "://" in url else f"https://{url}")
        ports = [each.port or {"http": 80, "https": 443}.get(each.scheme) for each in (parts, ours)]
    except ValueError:
        return False
    names = {each.hostname or "" for each in (parts, ours)}
    alike = len(names) == 1 or all(map(means_this_machine, names))
    return parts.scheme == ours.scheme and ports[0] == ports[1] and alike


def _dotted(version: Version) -> str:
    return ".".join(map(str, version))
