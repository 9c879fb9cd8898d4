"""The images of a Kubernetes cluster: from manifests, and from what `kubectl get pods -o json` tells of running ones.

Rule 1: containers are read wherever `containers`, `initContainers` or `ephemeralContainers` hold a list: in pods, in
        every kind of workload and CronJob, in templates of kinds that we never heard of; and image volumes.
Rule 2: a running pod's `imageID` is what was observed. Only one that ends in `@sha256:...` names a manifest; a bare
        `sha256:...` is the runtime's own number of an image, and says nothing about a digest of the registry.
Rule 3: what looks like an image elsewhere (`image` fields of other kinds, `RELATED_IMAGE_...` variables, any text
        with `@sha256:`) is `Skipped` with its place, never dropped silently and never guessed at.
Rule 4: a document is walked without recursion, to the depth that its reading allowed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from iarproxy.errors import Malformed
from iarproxy.oci.digest import Digest
from iarproxy.oci.lock import Named, Skipped
from iarproxy.oci.yaml_text import Node, documents, line_of, text_of

_CONTAINERS = {
    "containers": "containerStatuses",
    "initContainers": "initContainerStatuses",
    "ephemeralContainers": "ephemeralContainerStatuses",
}
_MAX_SKIPPED = 1000  # of one file: a list for people
_MAX_TEXT = 4096  # characters of a text that is looked at for digests
_NOT_READ = "is not read: no container and no image volume"
_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"  # the same once more, as it was applied


@dataclass(frozen=True, slots=True)
class Running:
    """An image that a container or volume names.

    Attributes:
        where: for people: kind, namespace, name and container.
        file, line: where that is written; line 0: not known.
        named: as it is written there.
        observed: the manifest that runs, as the cluster tells; None: it does not.
        running: what the cluster tells where that names no manifest; empty: nothing.
    """

    where: str
    file: str
    line: int
    named: Named
    observed: Digest | None = None
    running: str = ""

    @property
    def place(self) -> str:
        """Where it is, with file and line."""
        return f"{self.file}{f', line {self.line}' if self.line else ''}: {self.where}"


@dataclass(frozen=True, slots=True)
class Cluster:
    """What was found, in order, and what looks like an image and was not read."""

    images: tuple[Running, ...]
    skipped: tuple[Skipped, ...]


@dataclass(slots=True)
class _Found:
    file: str
    images: list[Running] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)

    def skip(self, node: Node, text: str, where: str, reason: str) -> None:
        if len(self.skipped) < _MAX_SKIPPED:
            self.skipped.append(Skipped.of(line_of(node), text, f"{reason} ({self.file}: {where})"))


def read_cluster(data: bytes, name: str) -> Cluster:
    """The images in a file of manifests, or of what `kubectl get ... -o json|yaml` printed.

    Raises:
        Malformed: it is no YAML and no JSON, or out of bounds; with name and line.
    """
    found = _Found(name)
    try:
        for document in documents(text_of(data)):
            for each in _objects(document):
                _read_object(found, each)
    except Malformed as error:
        raise Malformed(f"{name}, {error}") from None
    return Cluster(tuple(found.images), tuple(found.skipped))


def _objects(document: Node) -> Iterator[Node]:
    """The objects of a document: itself, or those of a list, in lists of lists too."""
    ahead = [document]
    while ahead:
        each = ahead.pop()
        items = each.get("items") if isinstance(each, dict) and str(each.get("kind")).endswith("List") else each
        if isinstance(items, list):
            ahead += reversed(items)
        else:
            yield each


def _read_object(found: _Found, document: Node) -> None:
    if not isinstance(document, dict):
        return
    where, status = _title(document), document.get("status")
    observed = _observed(status) if isinstance(status, dict) else {}
    ahead: list[tuple[Node, str]] = [(document, "")]
    while ahead:
        node, key = ahead.pop()
        match node:
            case dict():
                ahead += reversed(_mapping(found, node, where, observed, is_pod=bool(observed)))
            case list():
                ahead += [(each, key) for each in reversed(node)]
            case str():
                _look_at(found, key, node, where)
            case _:
                pass


def _mapping(
    found: _Found, node: dict[str, Node], where: str, observed: dict[tuple[str, str], str], *, is_pod: bool
) -> list[tuple[Node, str]]:
    """Read the containers and image volumes of a mapping; what else is to be looked at."""
    ahead: list[tuple[Node, str]] = []
    name, value = node.get("name"), node.get("value")
    for key, inner in node.items():
        if (is_pod and key == "status") or key == _APPLIED:
            continue
        if key in _CONTAINERS and isinstance(inner, list):
            for each in inner:
                ahead += _container(found, each, where, key, observed)
        elif key == "volumes" and isinstance(inner, list):
            for each in inner:
                ahead += _volume(found, each, where)
        else:
            named = key == "value" and isinstance(name, str) and inner is value
            ahead.append((inner, str(name) if named else key))
    return ahead


def _container(
    found: _Found, node: Node, where: str, kind: str, observed: dict[tuple[str, str], str]
) -> list[tuple[Node, str]]:
    if not isinstance(node, dict):
        return [(node, kind)]
    name, image = str(node.get("name")), node.get("image")
    if isinstance(image, str):
        _take(found, image, f"{where}, container {name}", observed.get((kind, name), ""))
    elif image is not None:
        return [(node, kind)]
    return [({key: inner for key, inner in node.items() if key != "image"}, kind)]


def _volume(found: _Found, node: Node, where: str) -> list[tuple[Node, str]]:
    source = node.get("image") if isinstance(node, dict) else None
    image = source.get("reference") if isinstance(source, dict) else None
    if not isinstance(node, dict) or not isinstance(image, str):
        return [(node, "volumes")]
    _take(found, image, f"{where}, volume {node.get('name')}", "")
    return []


def _take(found: _Found, image: str, where: str, running: str) -> None:
    try:
        named = Named.parse(image)
    except Malformed:
        found.skip(image, image, where, "is no name of an image")
        return
    observed = _digest_of(running)
    found.images.append(Running(where, found.file, line_of(image), named, observed, "" if observed else running))


def _observed(status: dict[str, Node]) -> dict[tuple[str, str], str]:
    """What the cluster tells of its containers: by their list and name, the `imageID`."""
    found: dict[tuple[str, str], str] = {}
    for kind, name in _CONTAINERS.items():
        told = status.get(name)
        for each in told if isinstance(told, list) else []:
            image = each.get("imageID") if isinstance(each, dict) else None
            if isinstance(each, dict) and isinstance(image, str) and image:
                found[kind, str(each.get("name"))] = image
    return found


def _digest_of(running: str) -> Digest | None:
    _, at, digest = running.rpartition("@")
    try:
        return Digest.parse(digest) if at else None
    except Malformed:
        return None


def _look_at(found: _Found, key: str, text: str, where: str) -> None:
    """List a text that looks like an image (rule 3)."""
    lower = key.lower().replace("-", "_")
    telling = lower.endswith("image") or "_image" in lower or lower.startswith("image_")
    if "@sha256:" in text[:_MAX_TEXT] or (telling and _is_image(text)):
        found.skip(text, text, f"{where}, {key}", _NOT_READ)


def _is_image(text: str) -> bool:
    try:
        Named.parse(text)
    except Malformed:
        return False
    return True


def _title(document: dict[str, Node]) -> str:
    metadata = document.get("metadata")
    about = metadata if isinstance(metadata, dict) else {}
    namespace, name = about.get("namespace"), about.get("name") or about.get("generateName")
    path = "/".join(str(each) for each in (namespace, name) if each)
    return f"{document.get('kind') or 'a document without a kind'} {path}".strip()
