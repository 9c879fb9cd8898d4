"""Locks of other programs, read from their YAML or JSON: ImagesLock (imgpkg), kbld, compose, kpromo.

Rule 1: an ImagesLock is read as strictly as imgpkg reads it: an unknown key, another version, and an image without a
        digest are errors. The other files hold more than images, so only what names one is looked at.
Rule 2: an ImagesLock entry is a repository and a digest. Its tag is the one in its own name, else that of kbld's id
        annotation where that names the same repository (an id without a tag means latest, as kbld resolves it). An id
        in another repository is where the image came from, and says nothing about a tag where it is now: skipped.
Rule 3: kbld's override is a pin where what is replaced and what replaces it are of one repository.
Rule 4: of a compose file's services an image whose digest is none is an error, for one that was cut would drop a pin.
Rule 5: kpromo's map holds for the registries it promotes to, not for the staging one (`src`). A list of images alone
        names no registry: `prefix` does.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from iarproxy.errors import Malformed
from iarproxy.oci.digest import Digest
from iarproxy.oci.lock import NO_DIGEST, NO_TAG, Collected, Lock, Locked, Named
from iarproxy.oci.yaml_text import Node, documents, line_of, malformed_at

_API = "imgpkg.carvel.dev/v1alpha1"
_ID = "kbld.carvel.dev/id"
_KBLD = ("kbld.k14s.io/", "kbld.carvel.dev/")


# --- ImagesLock ------------------------------------------------------------------------------------------------------


def write_imageslock(lock: Lock) -> str:
    """The ImagesLock with kbld's id for the tag. Texts are quoted as JSON, which YAML reads as it is."""
    lines = ["---", f"apiVersion: {_API}", "kind: ImagesLock", "images:" if lock.entries else "images: []"]
    for each in lock.entries:
        image = json.dumps(f"{each.reference.repository}@{each.digest}")
        lines += [f"- image: {image}", "  annotations:", f"    {_ID}: {json.dumps(str(each.reference))}"]
    return "".join(f"{line}\n" for line in lines)


def read_imageslock(text: str) -> Lock:
    """What imgpkg or kbld wrote (rules 1 and 2)."""
    found = Collected()
    top = _mapping(_only(text), "the document")
    _refuse_unknown(top, ("apiVersion", "kind", "images"), "the document")
    if top.get("apiVersion") != _API or top.get("kind") != "ImagesLock":
        raise malformed_at(top, "the document", f"expected apiVersion {_API} and kind ImagesLock")
    for number, item in enumerate(_list(top.get("images"), "images")):
        path = f"images[{number}]"
        entry = _mapping(item, path)
        _refuse_unknown(entry, ("image", "annotations"), path)
        image = entry.get("image")
        named = _named(image, f"{path}.image")
        if named.digest is None:
            raise malformed_at(image, path, f"{str(image)[:200]} {NO_DIGEST}; an ImagesLock holds digests only")
        notes = _mapping(entry.get("annotations") or {}, f"{path}.annotations")
        for name, note in notes.items():
            if note is not None and not isinstance(note, str):
                raise malformed_at(entry, path, f"the annotation {name[:80]!r} is no text")
        _image(found, named, named.digest, note=notes.get(_ID), line=line_of(image), path=path)
    return found.lock()


def _image(found: Collected, named: Named, digest: Digest, *, note: Node, line: int, path: str) -> None:
    origin, image = _maybe_named(note), f"{named.repository}@{digest}"
    if named.reference is not None:
        found.add(Locked(named.reference, digest, line=line), path)
    elif origin is None or origin.digest is not None:
        found.skip(line, image, NO_TAG)
    elif origin.repository != named.repository:
        found.skip(line, image, f"{NO_TAG}; its id {note} is of another repository")
    else:
        found.add(Locked(origin.pulled, digest, line=line), path)


# --- kbld ------------------------------------------------------------------------------------------------------------


def read_kbld(text: str) -> Lock:
    """The overrides of kbld's configuration (rule 3)."""
    found = Collected()
    for top in documents(text):
        if not isinstance(top, dict) or not str(top.get("apiVersion")).startswith(_KBLD):
            continue
        for number, item in enumerate(_list(top.get("overrides"), "overrides")):
            path = f"overrides[{number}]"
            _override(found, _mapping(item, path), path)
    return found.lock()


def _override(found: Collected, entry: dict[str, Node], path: str) -> None:
    new = entry.get("newImage")
    named, old = _named(new, f"{path}.newImage"), _maybe_named(entry.get("image"))
    line, written = line_of(new), str(new)
    if named.digest is None:
        found.skip(line, written, NO_DIGEST)
    elif named.reference is not None:
        found.add(Locked(named.reference, named.digest, line=line), path)
    elif old is None or old.repository != named.repository or old.digest is not None:
        found.skip(line, written, f"{NO_TAG}; what it replaces is no tag of that repository")
    else:
        found.add(Locked(old.pulled, named.digest, line=line), path)


# --- compose ---------------------------------------------------------------------------------------------------------


def read_compose(text: str) -> Lock:
    """The images of a compose file's services; those without a digest are skipped."""
    found = Collected()
    for top in documents(text):
        services = _mapping(_mapping(top, "the document").get("services") or {}, "services")
        for name, service in services.items():
            image = service.get("image") if isinstance(service, dict) else None
            if image is not None:
                _service(found, image, f"services.{name}.image")
    return found.lock()


def _service(found: Collected, image: Node, path: str) -> None:
    named, line = _maybe_named(image), line_of(image)
    if named is None and _is_cut(image):
        _named(image, path)
    elif named is None:
        found.skip(line, str(image), "is no name of an image")
    elif named.digest is None:
        found.skip(line, str(image), NO_DIGEST)
    elif named.reference is None:
        found.skip(line, str(image), NO_TAG)
    else:
        found.add(Locked(named.reference, named.digest, line=line), path)


def _is_cut(image: Node) -> bool:
    """Whether it is the name of an image with what is no digest: to drop it would drop a pin. A variable is no name."""
    if not isinstance(image, str) or "@" not in image or "$" in image:
        return False
    return _maybe_named(image.partition("@")[0]) is not None


# --- kpromo ----------------------------------------------------------------------------------------------------------


def read_kpromo(text: str, prefix: str | None) -> Lock:
    """A promoter's manifest, or its list of images alone (rule 5)."""
    found = Collected()
    for top in documents(text):
        images = top if isinstance(top, list) else _list(_mapping(top, "the document").get("images"), "images")
        registries = [prefix] if prefix else list(_destinations(top))
        for number, item in enumerate(images):
            path = f"images[{number}]"
            entry = _mapping(item, path)
            for digest, tags in _mapping(entry.get("dmap") or {}, f"{path}.dmap").items():
                _promoted(found, entry.get("name"), registries, _Mapped(digest, tags, f"{path}.dmap"))
    return found.lock()


def _destinations(top: Node) -> Iterator[str]:
    if not isinstance(top, dict):
        return
    for number, item in enumerate(_list(top.get("registries"), "registries")):
        path = f"registries[{number}]"
        entry = _mapping(item, path)
        name = entry.get("name")
        if not isinstance(name, str):
            raise malformed_at(entry, path, "a registry without a name")
        if str(entry.get("src")).lower() != "true" and name != top.get("src-registry"):
            yield name


class _Mapped(NamedTuple):
    digest: str
    tags: Node
    path: str


def _promoted(found: Collected, name: Node, registries: Sequence[str], mapped: _Mapped) -> None:
    digest, tags, path = mapped
    line = line_of(digest)
    if not isinstance(name, str):
        raise malformed_at(digest, path, "an image without a name")
    try:
        content = Digest.parse(digest)
    except Malformed as error:
        raise malformed_at(digest, path, str(error)) from None
    listed = _list(tags, path)
    if not listed:
        found.skip(line, f"{name}@{digest}", NO_TAG)
    if not registries:
        found.skip(line, f"{name}@{digest}", "the file names no registry that it is promoted to; give --prefix")
    for tag in listed:
        for registry in registries:
            named = _named(f"{registry}/{name}:{tag}", path, line)
            found.add(Locked(named.pulled, content, line=line_of(tag) or line), path)


# --- nodes -----------------------------------------------------------------------------------------------------------


def _only(text: str) -> Node:
    found = documents(text)
    if len(found) != 1:
        raise Malformed(f"line 1: {len(found)} documents; expected one")
    return found[0]


def _mapping(node: Node, path: str) -> dict[str, Node]:
    if not isinstance(node, dict):
        raise malformed_at(node, path, f"{path} is no mapping")
    return node


def _list(node: Node, path: str) -> list[Node]:
    if node is not None and not isinstance(node, list):
        raise malformed_at(node, path, f"{path} is no list")
    return node or []


def _refuse_unknown(table: dict[str, Node], known: Sequence[str], path: str) -> None:
    for key in table:
        if key not in known:
            raise malformed_at(key, path, f"unknown key {key[:80]!r}; known are {', '.join(known)}")


def _named(node: Node, path: str, line: int = 0) -> Named:
    if not isinstance(node, str):
        raise malformed_at(node or line, path, f"{path} is no name of an image")
    try:
        return Named.parse(node)
    except Malformed as error:
        raise malformed_at(line_of(node) or line, path, str(error)) from None


def _maybe_named(node: Node) -> Named | None:
    try:
        return Named.parse(node) if isinstance(node, str) else None
    except Malformed:
        return None
