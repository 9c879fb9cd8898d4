"""containerd, with the kubelet's way (CRI) and `ctr`; and nerdctl, which reads the same files.

Rule 1: hosts.toml is read at each pull; `config_path`, which makes CRI read them at all, at start only.
Rule 2: `config_path` is one folder: from 2.2 on the default is a list, which the pulls of the transfer service take for
        one folder's name, so that mirrors are ignored without an error (clients.md section 3.1).
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from iarproxy.cli.setup import hosts_toml
from iarproxy.cli.setup.merging import read_toml, with_value
from iarproxy.cli.setup.plan import EVERY, Change, Fall, Finding, Merged, Plan, Version, Weight, Wish
from iarproxy.cli.setup.reading import read
from iarproxy.errors import Refused

_SECTIONS = {
    2: ("plugins", "io.containerd.grpc.v1.cri", "registry"),
    3: ("plugins", "io.containerd.cri.v1.images", "registry"),
}
_LIST_BY_DEFAULT = (2, 2)
_READS_3 = (2, 0)


def plan(wish: Wish) -> Plan:
    """hosts.toml for each registry, and `config_path` in config.toml."""
    changes: tuple[Change, ...] = hosts_toml.files(
        wish.folder, wish.mirror, wish.fall, wish.version, hosts_toml.CONTAINERD
    )
    then = ["nothing to restart for hosts.toml: it is read at each pull"]
    if wish.config_file is not None:
        changes = (*changes, _config_path(wish.config_file, wish.folder, wish.version))
        then.append(f"if {wish.config_file} changed: systemctl restart containerd (running containers stay)")
    else:
        then.append(f"CRI (the kubelet) reads these only where containerd's config_path is {wish.folder}")
    return Plan(changes, tuple(then), (*_notes(wish), "ctr reads no config.toml: ctr images pull --hosts-dir FOLDER"))


def nerdctl(wish: Wish) -> Plan:
    """The same files for nerdctl, which looks into this folder by itself."""
    changes = hosts_toml.files(wish.folder, wish.mirror, wish.fall, wish.version, hosts_toml.NERDCTL)
    notes = list(_notes(wish))
    if wish.mirror.is_loopback:
        notes.append("rootless nerdctl has a loopback of its own: give it this machine's address with --url")
    return Plan(
        changes, (f"nothing to restart; elsewhere than by default: nerdctl --hosts-dir {wish.folder}",), tuple(notes)
    )


def _notes(wish: Wish) -> tuple[str, ...]:
    notes = []
    if EVERY in wish.mirror.registries:
        notes.append(
            "_default also catches registries of your own that this mirror does not know; give each a folder with its"
            " real `server`"
        )
    if wish.fall is Fall.NONE:
        notes.append("pushes to these registries come here too and are refused; --push keeps them working")
    if wish.fall is Fall.DIGESTS:
        notes.append("content by digest may still come from the real registry: verified by digest, so it cannot differ")
    return tuple(notes)


def _config_path(file: Path, folder: Path, version: Version | None) -> Merged:
    def merge(data: bytes | None) -> bytes:
        document = read_toml(data, file)
        if "cri" in _disabled(document):
            return data or b""
        if data is None:
            number = 3 if version is not None and version >= _READS_3 else 2
            data = f"version = {number}\n".encode()
        else:
            number = _format(document)
        if number not in _SECTIONS:
            raise Refused(f"{file}: version {number} of the format; run `containerd config migrate`, or use --root")
        _refuse_others(file, _at(document, _SECTIONS[number]), folder)
        return with_value(data, file, _SECTIONS[number], "config_path", str(folder))

    shown = (
        '# version = 2:\n[plugins."io.containerd.grpc.v1.cri".registry]\n'
        f'  config_path = "{folder}"\n'
        '# version = 3 (containerd 2.x):\n[plugins."io.containerd.cri.v1.images".registry]\n'
        f'  config_path = "{folder}"\n'
    )
    return Merged(file, shown, merge)


def _format(document: dict[str, Any]) -> int:
    """Which version of the format a config.toml has."""
    number = document.get("version", 1)
    return number if isinstance(number, int) else 1


def _disabled(document: dict[str, Any]) -> set[str]:
    """The short names of the plugins that are switched off (docker's packages switch CRI off)."""
    named = document.get("disabled_plugins", [])
    return {str(each).rpartition(".")[2] for each in named} if isinstance(named, list) else set()


def _refuse_others(file: Path, registry: dict[str, Any], folder: Path) -> None:
    present = registry.get("config_path")
    if present and present != str(folder):
        raise Refused(f"{file}: config_path is {present!r} already; write there: --root {str(present).split(':')[0]}")
    if registry.get("mirrors") or registry.get("configs"):
        raise Refused(
            f"{file}: has registry.mirrors or registry.configs, which exclude config_path, and always end at the real"
            " registry; remove them first (their TLS and credentials go into hosts.toml)"
        )


def _at(document: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    for name in path:
        inner = document.get(name)
        document = inner if isinstance(inner, dict) else {}
    return document


def inspect(wish: Wish) -> list[Finding]:
    """What containerd, and CRI in it, would do."""
    found = [
        each
        for registry in wish.mirror.registries
        for each in hosts_toml.judge(wish.folder, registry, wish.mirror, wish.version, hosts_toml.CONTAINERD)
    ]
    return [*found, *(_inspect_config(wish.config_file, wish.folder, wish.version) if wish.config_file else [])]


def inspect_nerdctl(wish: Wish) -> list[Finding]:
    """What nerdctl would do."""
    return [
        each
        for registry in wish.mirror.registries
        for each in hosts_toml.judge(wish.folder, registry, wish.mirror, wish.version, hosts_toml.NERDCTL)
    ]


def _inspect_config(file: Path, folder: Path, version: Version | None) -> list[Finding]:
    try:
        document = tomllib.loads(read(file).decode())
    except FileNotFoundError:
        document = {"version": 3 if version and version >= _READS_3 else 2}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        return [Finding(Weight.WRONG, str(file), f"cannot be read ({error})")]
    if "cri" in _disabled(document):
        return [Finding(Weight.NOTE, str(file), "CRI is switched off: only ctr, nerdctl and the like pull here")]
    section = _at(document, _SECTIONS.get(_format(document), ("plugins", "cri", "registry")))
    wrong = _wrong_in(section, folder, version)
    return [Finding(Weight.WRONG, str(file), wrong)] if wrong else []


def _wrong_in(section: dict[str, Any], folder: Path, version: Version | None) -> str | None:
    """Why CRI would not read hosts.toml below `folder`; None: it does."""
    path = str(section.get("config_path") or "")
    if section.get("mirrors"):
        return "registry.mirrors is the old form, which always ends at the real registry; remove it"
    if ":" in path or (not path and version is not None and version >= _LIST_BY_DEFAULT):
        shown = path or "/etc/containerd/certs.d:/etc/docker/certs.d, the default,"
        return f"config_path {shown} is a list, which CRI takes for one folder; write {folder} alone"
    if not path:
        return f"no config_path: CRI (the kubelet) reads no hosts.toml; write {folder}"
    if Path(path) != folder:
        return f"config_path is {path}, not {folder}: CRI does not read these files"
    return None
