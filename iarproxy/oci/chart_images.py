"""The images that a Helm chart needs: those that its rendered manifests name, and those that only look as if.

Rule 1: what a container or an image volume names is an image (`oci.cluster`). What the chart's author lists, and what
        looks like one anywhere else (fields of custom resources, variables, arguments, configuration inside a text), is
        `Mentioned`: whoever asks the registry tells images from other words, and lists what no registry has.
Rule 2: documents are read one by one. One that is no YAML as we read it is told, and hides nothing in the others.
Rule 3: no file of the chart is opened here: its metadata is the config of its manifest, as JSON.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import orjson

from iarproxy.errors import Malformed
from iarproxy.oci.cluster import Running, read_cluster
from iarproxy.oci.lock import Named, Skipped
from iarproxy.oci.reference import is_registry_like
from iarproxy.oci.yaml_text import MAX_TEXT, Node, documents, text_of

CONFIG = "application/vnd.cncf.helm.config.v1+json"
CONTENT = frozenset({"application/vnd.cncf.helm.chart.content.v1.tar+gzip", "application/tar+gzip"})
MAX_MENTIONED = 500  # of one chart; each costs a request
_ANNOTATIONS = ("artifacthub.io/images", "helm.sh/images", "images")  # the last: Bitnami's
_LONGEST = 65_536  # characters of one text that are looked at
_SOURCE = re.compile(rb"^# Source: ([^\r\n]{1,300})", re.MULTILINE)
_BETWEEN = re.compile(rb"^---[ \t]*(?:#[^\n]*)?\r?$", re.MULTILINE)
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_TOKEN = re.compile(
    rf"(?<![\w./:@%$\\-])(?:[a-z0-9.-]{{1,200}}(?::[0-9]{{1,5}})?/)?{_PART}(?:/{_PART}){{0,9}}"
    r"(?::\w[\w.-]{0,127})?(?:@sha256:[0-9a-f]{64})?(?![\w/:@%$\\-])",
    re.ASCII,
)
_VERSION = re.compile(r"v?[0-9]+(?:\.[0-9]+)+.*|v[0-9].*|latest", re.ASCII)
_AN_IMAGE_FOLLOWS = re.compile(r"image[\w-]*['\"]?[ \t]*[=:][ \t]*['\"]?\Z", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Mentioned:
    """A text that looks like an image.

    Attributes:
        named: what it would be; None: it stands where an image is expected, and is no name of one.
        where: for people.
    """

    text: str
    named: Named | None
    where: str

    def __str__(self) -> str:
        shown = Skipped.of(0, self.text, "").text
        return f"{shown} ({self.where})"


@dataclass(frozen=True, slots=True)
class ChartImages:
    """What a chart names.

    Attributes:
        unread: documents that could not be read, a sentence each.
    """

    images: tuple[Running, ...]
    mentioned: tuple[Mentioned, ...]
    unread: tuple[str, ...]


def is_chart(config_type: str) -> bool:
    """Whether a manifest whose config has this media type is a Helm chart (helm.sh, "Use OCI-based registries")."""
    return config_type == CONFIG


def annotated_images(config: bytes) -> tuple[Mentioned, ...]:
    """What the chart's author says that it needs (Artifact Hub's annotation `artifacthub.io/images` and its likes).

    Raises:
        Malformed: the config is no JSON object.
    """
    try:
        document = orjson.loads(config)
    except orjson.JSONDecodeError as error:
        raise Malformed(f"the chart's metadata is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise Malformed("the chart's metadata is JSON but not an object")
    annotations = document.get("annotations")
    found: dict[str, Mentioned] = {}
    for key in _ANNOTATIONS:
        text = annotations.get(key) if isinstance(annotations, dict) else None
        for image in _listed(text) if isinstance(text, str) else ():
            found.setdefault(image, Mentioned(image, _named(image), f"annotation {key}"))
    return tuple(found.values())[:MAX_MENTIONED]


def _listed(text: str) -> Iterator[str]:
    """The images in an annotation: a YAML list of mappings with `image`, or of texts. One that is none says nothing."""
    try:
        listed = documents(text_of(text.encode()))
    except Malformed:
        return
    for each in (item for document in listed for item in (document if isinstance(document, list) else [])):
        image = each.get("image") if isinstance(each, dict) else each
        if isinstance(image, str) and image.strip():
            yield image.strip()


def rendered_images(manifests: bytes) -> ChartImages:
    """What is named in the manifests that `helm template` printed.

    Raises:
        Malformed: they are too long, or no text.
    """
    if len(manifests) > MAX_TEXT:
        raise Malformed(f"its manifests have {len(manifests)} bytes; at most {MAX_TEXT} are read")
    images: list[Running] = []
    mentioned: dict[str, Mentioned] = {}
    unread: list[str] = []
    for part in _BETWEEN.split(manifests):
        source = _SOURCE.search(part)
        name = source[1].decode("utf-8", "replace") if source else "manifests"
        try:
            images += read_cluster(part, name).images
            for each in documents(text_of(part)):
                for one in _mentions(each, name):
                    mentioned.setdefault(one.text, one)
        except Malformed as error:
            told = str(error)
            unread.append(told if told.startswith(name) else f"{name}, {told}")
    known = {image.named for image in images}
    others = [each for each in mentioned.values() if each.named not in known]
    return ChartImages(tuple(images), tuple(others[:MAX_MENTIONED]), tuple(unread))


def _mentions(document: Node, where: str) -> Iterator[Mentioned]:
    """Everything in a document that looks like an image, those of its containers included."""
    ahead: list[tuple[Node, str]] = [(document, "")]
    while ahead:
        node, key = ahead.pop()
        match node:
            case dict():
                joined = _joined(node)
                if joined is not None:
                    yield Mentioned(joined, _named(joined), f"{where}, {key}")
                name = str(node.get("name"))
                ahead += [(inner, name if each == "value" else each) for each, inner in reversed(node.items())]
            case list():
                ahead += [(each, key) for each in reversed(node)]
            case str():
                yield from _in_text(key, node, f"{where}, {key}")
            case _:
                pass


def _joined(table: dict[str, Node]) -> str | None:
    """An image that is written in parts, as custom resources often have it."""
    repository, tag, digest = (table.get(each) for each in ("repository", "tag", "digest"))
    registry = table.get("registry")
    if not isinstance(repository, str) or "://" in repository:
        return None
    name = f"{registry}/{repository}" if isinstance(registry, str) and registry else repository
    tagged = f":{tag}" if isinstance(tag, str) and tag else ""
    pinned = f"@{digest}" if isinstance(digest, str) and digest.startswith("sha256:") else ""
    return f"{name}{tagged}{pinned}" if tagged or pinned else None


def _in_text(key: str, text: str, where: str) -> Iterator[Mentioned]:
    lower = key.lower().replace("-", "_")
    telling = lower.endswith(("image", "image_name", "imagename")) or "_image" in lower or lower.startswith("image_")
    whole = text.strip()
    if telling and whole and not any(each.isspace() for each in whole):
        named = _named(whole)
        if named is None and lower == "image":
            yield Mentioned(whole, None, where)
        if named is not None and ("/" in whole or named.tag or named.digest):
            yield Mentioned(whole, named, where)
        return
    for found in _TOKEN.finditer(text[:_LONGEST]):
        named = _named(found[0])
        expected = telling or _AN_IMAGE_FOLLOWS.search(text[max(0, found.start() - 40) : found.start()]) is not None
        if named is not None and _is_likely(found[0], named, expected=expected):
            yield Mentioned(found[0], named, where)


def _is_likely(text: str, named: Named, *, expected: bool) -> bool:
    if named.digest is not None:
        return True
    if named.tag is None:
        return False
    first, slash, _ = text.partition("/")
    if expected or (slash and is_registry_like(first)):
        return True
    return bool(slash) and _VERSION.fullmatch(named.tag.value) is not None


def _named(text: str) -> Named | None:
    try:
        return Named.parse(text)
    except Malformed:
        return None
