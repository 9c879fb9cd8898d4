"""Manifests: what is read is what every other reader reads, or the document is refused; the bytes are never touched."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grammar import descriptors
from iarproxy.errors import Malformed, ManifestInvalid
from iarproxy.oci import MAX_MANIFEST, Descriptor, Digest, Manifest, Platform, parse_manifest
from iarproxy.oci.manifest import MAX_DESCRIPTORS
from iarproxy.oci.media_types import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    DOCKER_SCHEMA1,
    DOCKER_SCHEMA1_SIGNED,
    OCI_ARTIFACT,
    OCI_INDEX,
    OCI_MANIFEST,
)

CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
EMPTY = "application/vnd.oci.empty.v1+json"


def entry(data: bytes = b"x", media_type: str = LAYER, **more: Any) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": str(Digest.of(data)), "size": len(data), **more}


def image(**more: Any) -> dict[str, Any]:
    return {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": entry(b"{}", CONFIG), "layers": [entry()], **more}


def index(**more: Any) -> dict[str, Any]:
    child = entry(b"m", OCI_MANIFEST, platform={"os": "linux", "architecture": "arm64", "variant": "v8"})
    return {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [child], **more}


def read(document: Any, claimed: str = "") -> Manifest:
    return parse_manifest(json.dumps(document).encode(), claimed)


def as_json(descriptor: Descriptor) -> dict[str, Any]:
    return {"mediaType": descriptor.media_type, "digest": str(descriptor.digest), "size": descriptor.size}


@given(descriptors, st.lists(descriptors, max_size=5), st.dictionaries(st.text(max_size=9), st.text(max_size=9)))
def test_an_image_reads_back(config: Descriptor, layers: list[Descriptor], annotations: dict[str, str]) -> None:
    """Config, layers and annotations come out as they were written, each blob once, and the bytes untouched."""
    document = image(config=as_json(config), layers=[as_json(each) for each in layers], annotations=annotations)
    raw = json.dumps(document).encode()
    found = parse_manifest(raw, OCI_MANIFEST)
    assert (found.raw, found.config, list(found.layers)) == (raw, config, layers)
    assert found.annotations == annotations
    assert found.descriptor == Descriptor(OCI_MANIFEST, Digest.of(raw), len(raw))
    assert {each.digest for each in found.blobs} == {each.digest for each in [config, *layers]} == set(found.links)
    assert len(found.blobs) == len(set(found.links))


@given(st.lists(descriptors, max_size=5))
def test_an_index_reads_back(children: list[Descriptor]) -> None:
    """The children come out in order."""
    found = read(index(manifests=[as_json(each) for each in children]))
    assert [child.descriptor for child in found.children] == children
    assert found.is_index


@given(st.binary(max_size=300), st.sampled_from(["", OCI_MANIFEST, OCI_INDEX, "application/json", "x/y"]))
def test_any_bytes(raw: bytes, claimed: str) -> None:
    """Bytes are a manifest or are refused; nothing else is raised."""
    try:
        found = parse_manifest(raw, claimed)
    except Malformed:
        return
    assert found.raw == raw


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.just(str(Digest.of(b""))),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=12,
)
_KEYS = ["schemaVersion", "mediaType", "config", "layers", "manifests", "blobs", "subject", "annotations", "platform"]


@given(
    st.dictionaries(st.sampled_from([*_KEYS, "artifactType", "digest", "size"]), _json), st.sampled_from(["", "x/y"])
)
def test_any_document(document: dict[str, Any], claimed: str) -> None:
    """A document of the right keys and the wrong values is read or refused; nothing else is raised."""
    raw = json.dumps(document, allow_nan=True).encode()
    try:
        found = parse_manifest(raw, claimed)
    except Malformed:
        return
    assert found.raw == raw


def test_docker_image() -> None:
    """A Docker manifest is read like an OCI one."""
    document = image(mediaType=DOCKER_MANIFEST)
    assert read(document, DOCKER_MANIFEST).descriptor.media_type == DOCKER_MANIFEST


def test_docker_list() -> None:
    """A Docker manifest list is an index, with its platforms."""
    found = read(index(mediaType=DOCKER_LIST), DOCKER_LIST)
    assert found.is_index
    assert [child.platform for child in found.children] == [Platform("linux", "arm64", "v8")]


def test_artifact_manifest() -> None:
    """The `blobs` of an OCI artifact manifest are its layers."""
    found = read({"mediaType": OCI_ARTIFACT, "artifactType": "a/b", "blobs": [entry()]})
    assert (found.descriptor.media_type, found.artifact_type, len(found.layers)) == (OCI_ARTIFACT, "a/b", 1)


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (image(config=entry(b"{}", EMPTY), artifactType="application/vnd.x"), "application/vnd.x"),
        (
            image(config=entry(b"{}", "application/vnd.cncf.helm.config.v1+json")),
            "application/vnd.cncf.helm.config.v1+json",
        ),
        (image(config=entry(b"{}", EMPTY)), ""),
        (index(artifactType="application/vnd.x"), "application/vnd.x"),
        (index(), ""),
    ],
)
def test_artifact_type(document: dict[str, Any], expected: str) -> None:
    """The artifact type is the document's own, else its config's (distribution-spec v1.1, listing referrers)."""
    assert read(document).artifact_type == expected


def test_subject() -> None:
    """The subject is read and is no link: it is not below this document."""
    subject = entry(b"subject", OCI_MANIFEST)
    found = read(image(subject=subject))
    assert found.subject == Descriptor(OCI_MANIFEST, Digest.of(b"subject"), 7)
    assert Digest.of(b"subject") not in found.links


def test_unknown_passes() -> None:
    """An unknown kind, unknown fields and unknown media types pass verbatim."""
    raw = b'{"what": {"ever": [1, 2.5, null]},\n "mediaType": "application/vnd.future+json" }\n'
    found = parse_manifest(raw, "application/vnd.future+json")
    assert (found.raw, found.descriptor.media_type, found.links) == (raw, "application/vnd.future+json", ())


@pytest.mark.parametrize("claimed", ["", "text/plain", "application/json", "application/octet-stream"])
@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (image(), OCI_MANIFEST),
        (index(mediaType=DOCKER_LIST), DOCKER_LIST),
        ({"manifests": []}, OCI_INDEX),
        ({"config": entry(b"{}", CONFIG), "layers": []}, OCI_MANIFEST),
        ({"config": entry(b"{}", "application/vnd.docker.container.image.v1+json"), "layers": []}, DOCKER_MANIFEST),
    ],
)
def test_vague_claim(document: dict[str, Any], expected: str, claimed: str) -> None:
    """Where upstream says nothing of use, the document does (clients.md section 10, item 23)."""
    assert read(document, claimed).descriptor.media_type == expected


REFUSED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", ""),
    "not json": (b"<html>", ""),
    "not an object": (b"[]", ""),
    "a number": (b"1", ""),
    "null": (b"null", ""),
    "cut short": (json.dumps(image()).encode()[:-1], ""),
    "two documents": (json.dumps(image()).encode() * 2, ""),
    "NaN": (b'{"x": NaN}', ""),
    "Infinity": (b'{"x": -Infinity}', ""),
    "a byte order mark": (b"\xef\xbb\xbf" + json.dumps(image()).encode(), ""),
    "UTF-16": (json.dumps(image()).encode("utf-16-le"), ""),
    "UTF-32": (json.dumps(image()).encode("utf-32-be"), ""),
    "not UTF-8": (b'{"annotations": {"a": "\xff"}}', ""),
    "a surrogate in UTF-8": (b'{"annotations": {"a": "\xed\xa0\x80"}}', ""),
    "half a surrogate pair": (b'{"annotations": {"a": "\\ud800"}}', ""),
    "a repeated key": (b'{"layers": [], "layers": []}', ""),
    "a repeated key below": (b'{"annotations": {"a": "1", "a": "2"}}', ""),
    "a repeated key, escaped": (b'{"layers": [], "l\\u0061yers": []}', ""),
    "a key in another case": (b'{"layers": [], "Layers": []}', ""),
    "a lone key in another case": (b'{"mediaType": "a/b", "Manifests": []}', ""),
    "a key that folds": (b'{"layers": [], "layer\xc5\xbf": []}', ""),
    "a digest in another case": (json.dumps({"layers": [{**entry(), "Digest": "x"}]}).encode(), ""),
    "index and manifest": (json.dumps({**index(), "layers": [entry()]}).encode(), ""),
    "index with a config": (json.dumps({**index(), "config": entry()}).encode(), ""),
    "index sent as a manifest": (b'{"manifests": []}', OCI_MANIFEST),
    "manifest sent as an index": (json.dumps({"layers": [entry()]}).encode(), OCI_INDEX),
    "manifest sent as a list": (json.dumps({"config": entry(b"{}", CONFIG)}).encode(), DOCKER_LIST),
    "another media type": (json.dumps(image()).encode(), DOCKER_MANIFEST),
    "an index sent as another": (json.dumps(index()).encode(), DOCKER_LIST),
    "schema 1": (b'{"schemaVersion": 1, "fsLayers": []}', ""),
    "schema 1 by type": (b'{"schemaVersion": 2}', DOCKER_SCHEMA1),
    "schema 1 signed": (b'{"schemaVersion": 1}', DOCKER_SCHEMA1_SIGNED),
    "schema 1 inside": (json.dumps({"mediaType": DOCKER_SCHEMA1}).encode(), ""),
    "a media type of control characters": (b'{"mediaType": "a/b\\r\\nX-Evil: 1"}', ""),
    "a media type that is a number": (b'{"mediaType": 5}', ""),
    "layers that are no list": (b'{"layers": {}}', ""),
    "layers of strings": (b'{"layers": ["x"]}', ""),
    "a layer without digest": (b'{"layers": [{"mediaType": "a/b", "size": 1}]}', ""),
    "a layer without size": (
        json.dumps({"layers": [{"mediaType": "a/b", "digest": str(Digest.of(b""))}]}).encode(),
        "",
    ),
    "a layer without media type": (json.dumps({"layers": [{"digest": str(Digest.of(b"")), "size": 0}]}).encode(), ""),
    "a config that is a list": (b'{"config": []}', ""),
    "a subject that is a string": (b'{"subject": "x"}', ""),
    "a platform of numbers": (json.dumps(index(manifests=[entry(platform={"os": 1})])).encode(), ""),
    "too deep": (b'{"a":' * 70 + b"1" + b"}" * 70, ""),
    "far too deep": (b"[" * 200_000, ""),
    "a number of 5000 digits": (b'{"a": ' + b"9" * 5000 + b"}", ""),
    "too large": (b'{"a": "' + b"x" * MAX_MANIFEST + b'"}', ""),
    "too many layers": (json.dumps({"layers": [entry()] * (MAX_DESCRIPTORS + 1)}).encode(), ""),
}
for name, size in {"negative": -1, "float": 1.0, "huge": 2**53, "text": "1", "true": True, "list": [1]}.items():
    REFUSED[f"a size that is {name}"] = (json.dumps({"layers": [{**entry(), "size": size}]}).encode(), "")
for name, digest in {"traversal": "sha256:../../etc", "md5": "md5:" + "0" * 32, "empty": "", "number": 5}.items():
    REFUSED[f"a digest that is {name}"] = (json.dumps({"layers": [{**entry(), "digest": digest}]}).encode(), "")


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    """What two readers might read differently, or what is no manifest, is refused, in a message that stays short."""
    raw, claimed = REFUSED[name]
    with pytest.raises(Malformed) as refused:
        parse_manifest(raw, claimed)
    assert len(str(refused.value)) < 1000


def test_annotations_may_differ_by_case() -> None:
    """Annotations are a map, which no reader folds."""
    assert read(image(annotations={"a": "1", "A": "2"})).annotations == {"a": "1", "A": "2"}


def test_at_the_bounds() -> None:
    """Just as many bytes and descriptors as are allowed pass."""
    padding = MAX_MANIFEST - len(json.dumps({"a": ""}).encode())
    assert read({"a": "x" * padding}).descriptor.size == MAX_MANIFEST
    assert len(read({"layers": [entry()] * MAX_DESCRIPTORS}).layers) == MAX_DESCRIPTORS


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_wrong_digest(algorithm: Any) -> None:
    """The bytes must hash to the digest that was asked for, whichever algorithm it is of."""
    raw = json.dumps(image()).encode()
    right = Digest.of(raw, algorithm)
    assert parse_manifest(raw, "", right).descriptor.digest == right
    with pytest.raises(ManifestInvalid, match="hash to"):
        parse_manifest(raw + b" ", "", right)


@given(st.text(max_size=20))
def test_platform(text: str) -> None:
    """A platform prints as it was written, or is refused."""
    try:
        assert str(Platform.parse(text)) == text
    except Malformed:
        assert len(text.split("/")) not in (2, 3) or not all(text.split("/"))


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [("linux/arm64", True), ("linux/arm64/v8", True), ("linux/arm64/v9", False), ("linux/amd64", False)],
)
def test_serves(wanted: str, expected: bool) -> None:  # noqa: FBT001  # a table's column, not an option
    """A variant that is not asked for is free."""
    assert Platform("linux", "arm64", "v8").serves(Platform.parse(wanted)) == expected


def test_repr_is_short() -> None:
    """What a person sees at 3 a.m. does not hold the whole document."""
    assert len(repr(read(image(annotations={"a": "x" * 5000})).descriptor)) < 300
