"""podman, skopeo, buildah and CRI-O: one drop-in file of registries.conf.

Rule 1: strict is a remap: the registry's place *is* the mirror, so nothing else is left to ask (clients.md 6.1).
Rule 2: they send no `ns`: the registry is the first part of the path.
Rule 3: drop-ins are read in the order of their names, and a later one replaces a prefix: the check reads them all.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, assert_never

from iarproxy.cli.setup.plan import EVERY, MARK, Change, Fall, Finding, Mirror, Plan, Weight, Whole, Wish
from iarproxy.cli.setup.reading import read, read_ca
from iarproxy.errors import Refused

DROP_IN = "registries.conf.d/50-iarproxy.conf"
_MAIN = "registries.conf"
_PROBED = "library/iarproxy-check"


def plan(wish: Wish) -> Plan:
    """The drop-in, and the certificate authority where these programs look for it.

    Raises:
        Refused: these programs cannot be told so.
    """
    if wish.mirror.authority.startswith("["):
        raise Refused("podman, skopeo, buildah and CRI-O take no IPv6 address for a registry; give --url a name")
    changes: list[Change] = [Whole(wish.folder / DROP_IN, render(wish.mirror, wish.fall).encode())]
    if wish.mirror.ca and not wish.mirror.plain:
        changes.append(Whole(wish.folder / "certs.d" / wish.mirror.authority / "ca.crt", read_ca(wish.mirror.ca)))
    notes = ["tag lists (skopeo list-tags, skopeo inspect without --no-tags) and pushes ask the real registry anyway"]
    if wish.strict:
        notes[0] = "pushes to these registries come here too and are refused; tag lists may still ask the real registry"
    if wish.mirror.is_loopback:
        notes.append("podman machine (macOS, Windows) has a loopback of its own: give it a reachable --url")
    return Plan(tuple(changes), ("nothing to restart: it is read at each start of the program",), tuple(notes))


def crio(wish: Wish) -> Plan:
    """The same file for CRI-O."""
    made = plan(wish)
    then = ("systemctl reload crio (it reads the file again on SIGHUP)",)
    return Plan(made.changes, then, (*made.notes, "not tested with the real program"))


def render(mirror: Mirror, fall: Fall) -> str:
    """The drop-in's text.

    Raises:
        Refused: for every registry, or for pushes beside a strict form: there is no such form.
    """
    if EVERY in mirror.registries:
        raise Refused("registries.conf has no entry for every registry; name them with --registry")
    return "\n\n".join([MARK, *(_entry(each, mirror, fall) for each in mirror.registries)]) + "\n"


def _entry(registry: str, mirror: Mirror, fall: Fall) -> str:
    place = [
        f"location = {json.dumps(f'{mirror.authority}/{registry}')}",
        *(["insecure = true"] if mirror.plain else []),
    ]
    head = ["[[registry]]", f"prefix = {json.dumps(registry)}"]
    match fall:
        case Fall.OPEN:
            return "\n".join([*head, f"location = {json.dumps(registry)}", "[[registry.mirror]]", *place])
        case Fall.NONE:
            return "\n".join([*head, *place])
        case Fall.DIGESTS:
            raise Refused("podman's strict form has no exception for pushes; leave --push out")
        case _:
            assert_never(fall)


def inspect(wish: Wish, environment: Mapping[str, str], also: tuple[Path, ...] = ()) -> list[Finding]:
    """What these programs would do. `also`: a further configuration folder, whose files come after (the user's)."""
    try:
        entries = _read(wish.folder, environment, also)
    except Refused as error:
        return [Finding(Weight.WRONG, str(wish.folder), str(error))]
    return [each for registry in wish.mirror.registries for each in _judge(registry, entries, wish)]


def _read(
    folder: Path, environment: Mapping[str, str], also: tuple[Path, ...]
) -> dict[str, tuple[Path, dict[str, Any]]]:
    """Each prefix with the entry that counts for it, and the file that holds that."""
    mains = [each / _MAIN for each in (*reversed(also), folder) if (each / _MAIN).is_file()]
    named = environment.get("CONTAINERS_REGISTRIES_CONF")
    files = [Path(named)] if named else mains[:1]  # the user's file replaces the system's
    for each in (folder, *also):
        files += sorted((each / "registries.conf.d").glob("*.conf"))
    entries: dict[str, tuple[Path, dict[str, Any]]] = {}
    for file in files:
        try:
            document = tomllib.loads(read(file).decode())
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
            raise Refused(f"{file}: cannot be read ({error}); these programs stop at it") from error
        for entry in _tables(document.get("registry")):
            entries[str(entry.get("prefix") or entry.get("location"))] = (file, entry)
    return entries


def _judge(registry: str, entries: Mapping[str, tuple[Path, dict[str, Any]]], wish: Wish) -> list[Finding]:
    name = f"{registry}/{_PROBED}"
    matching = [prefix for prefix in entries if _matches(prefix, name)]
    if not matching:
        return [Finding(Weight.WRONG, str(wish.folder), "no entry for it: pulls go to the real registry", registry)]
    path, entry = entries[max(matching, key=len)]

    def say(weight: Weight, text: str) -> Finding:
        return Finding(weight, str(path), text, registry)

    place, ours = f"{wish.mirror.authority}/{registry}", wish.mirror
    mirrors = _tables(entry.get("mirror"))
    places = [str(each.get("location", "")) for each in mirrors]
    remapped = str(entry.get("location", "")) == place
    if not remapped and place not in places:
        return [say(Weight.WRONG, f"neither its location nor a mirror is {place}: pulls do not come here")]
    found = []
    chosen = entry if remapped and place not in places else mirrors[places.index(place)]
    if ours.plain and not chosen.get("insecure"):
        found.append(say(Weight.WRONG, f"{place} lacks insecure = true, without which plain HTTP is not spoken"))
    if places and places[0] != place:
        found.append(say(Weight.NOTE, f"{places[0]} is asked before {place}"))
    if not remapped and not entry.get("blocked"):
        text = f"what we refuse is asked of {entry.get('location') or registry} next; --strict forbids that"
        found.append(say(Weight.OPEN, text))
    longer = [each for each in entries if each.startswith(f"{registry}/")]
    found += [say(Weight.NOTE, f"{each} has an entry of its own") for each in longer]
    return found


def _tables(value: object) -> list[dict[str, Any]]:
    """The tables of what should be an array of tables."""
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _matches(prefix: str, name: str) -> bool:
    if prefix.startswith("*."):
        return name.partition("/")[0].endswith(prefix[1:])
    return name.startswith((f"{prefix}/", f"{prefix}:", f"{prefix}@"))
