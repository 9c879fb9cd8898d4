"""A bundle's manifest is read whole or not at all, and never takes more than any bundle's would."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import replace

import orjson
import pytest

from iarproxy.errors import Malformed
from iarproxy.oci import Descriptor, Digest, Repository, Tag, TagReference
from iarproxy.oci.bundle_manifest import MAX_NAMES, BundledAttachment, BundledName, BundleManifest, Carried
from iarproxy.oci.digest_list import packed
from iarproxy.oci.media_types import OCI_INDEX, OCI_MANIFEST

NAME = BundledName(
    TagReference(Repository("registry.example.com", "team/app"), Tag("1")), Descriptor(OCI_MANIFEST, Digest.of(b"a"), 1)
)
MANIFEST = BundleManifest(set="site-a", names=(NAME,), attachments=(), provides=(), requires=(Digest.of(b"a"),))
_ABOUT = Descriptor(OCI_INDEX, Digest.of(b"about"), 1)
WHOLE = BundleManifest(
    set="site-a",
    names=(NAME, replace(NAME, reference=TagReference(NAME.reference.repository, Tag("2")), descriptor=_ABOUT)),
    attachments=(
        BundledAttachment(
            TagReference(NAME.reference.repository, Tag.attached_to(NAME.descriptor.digest)),
            _ABOUT,
            (Digest.of(b"signature"),),
        ),
    ),
    provides=(),
    requires=tuple(sorted(map(Digest.of, (b"a", b"about", b"signature", b"layer")))),
)
_RAW = sorted(bytes.fromhex(Digest.of(each).hex) for each in (b"a", b"b"))


def test_it_is_read_as_it_was_written() -> None:
    """What was written is read again, and any other spelling of it is not."""
    raw = MANIFEST.dump()
    assert MANIFEST == BundleManifest.parse(raw)
    assert b'"requires":{}' in raw
    for other in (raw + b"\n", raw.replace(b",", b", ", 1), raw.replace(b'"requires":{}', b'"requires":{},"run":1')):
        with pytest.raises(Malformed):
            BundleManifest.parse(other)


def test_media_types_are_spelled_once() -> None:
    """Names and attachments have the number of their media type in a table, which has no other one."""
    document = orjson.loads(WHOLE.dump())
    assert [OCI_MANIFEST, OCI_INDEX] == document["mediaTypes"]
    assert ([0, 1], [1]) == tuple([each["type"] for each in document[kind]] for kind in ("names", "attachments"))
    assert WHOLE == BundleManifest.parse(WHOLE.dump())


@pytest.mark.parametrize("types", [[], [OCI_MANIFEST], [OCI_MANIFEST, OCI_INDEX, "a/b"], ["x", "y"], 7, None])
def test_another_table_of_media_types_is_malformed(types: object) -> None:
    """A table that lacks one or has one too many is no bundle's; neither is one that is numbered in another order."""
    document = orjson.loads(WHOLE.dump()) | {"mediaTypes": types}
    _is_malformed(document)
    swapped = orjson.loads(WHOLE.dump())
    swapped["mediaTypes"].reverse()
    for each in (*swapped["names"], *swapped["attachments"]):
        each["type"] = 1 - each["type"]
    _is_malformed(swapped)
    for number in (-1, 2, True, "0", None):
        document = orjson.loads(WHOLE.dump())
        document["names"][1]["type"] = number
        _is_malformed(document)


@pytest.mark.parametrize(
    "requires",
    [
        {"sha256": ""},
        {"sha256": b64encode(_RAW[1] + _RAW[0]).decode()},
        {"sha256": b64encode(_RAW[0] + _RAW[0]).decode()},
        {"sha256": b64encode(_RAW[0][:31]).decode()},
        {"sha256": b64encode(_RAW[0]).decode().rstrip("=")},
        {"sha256": b64encode(_RAW[0]).decode() + "\n"},
        {"sha256": b64encode(_RAW[0]).decode()[:-2] + "B="},  # bits behind the end
        {"sha256": "\u00e9" * 44},
        {"sha256": 7},
        {"sha256": None},
        {"md5": b64encode(bytes(16)).decode()},
        [],
        [str(Digest.of(b"a"))],
        None,
    ],
)
def test_digests_that_are_packed_otherwise_are_malformed(requires: object) -> None:
    """Digests twice, out of order, cut short, of unknown algorithms, or base64 of another spelling are no bundle's."""
    _is_malformed(orjson.loads(WHOLE.dump()) | {"requires": requires})
    document = orjson.loads(WHOLE.dump())
    document["attachments"][0]["manifests"] = requires
    if requires:
        _is_malformed(document)


def test_digests_of_both_algorithms_are_packed() -> None:
    """43 bytes for each sha256; sha512 stands apart, and its digests come after."""
    held = (*sorted(Digest.of(bytes([each])) for each in range(30)), Digest.of(b"x", "sha512"))
    raw = replace(WHOLE, requires=held).dump()
    assert set(held) == set(BundleManifest.parse(raw).requires).difference(WHOLE.requires)
    told = orjson.loads(raw)["requires"]
    assert {"sha256": 30 * 32 * 4 // 3, "sha512": 88} == {algorithm: len(text) for algorithm, text in told.items()}


def test_what_names_say_is_not_said_again() -> None:
    """Manifests of names and attachments are required where they do not travel, and `requires` does not repeat them."""
    layer = Digest.of(b"layer")
    assert packed([layer]) == orjson.loads(WHOLE.dump())["requires"]
    _is_malformed(orjson.loads(WHOLE.dump()) | {"requires": packed(WHOLE.requires)})
    carried = Carried(NAME.descriptor.digest, 1)
    some = replace(
        WHOLE, provides=(carried,), requires=tuple(each for each in WHOLE.requires if each != carried.digest)
    )
    assert some == BundleManifest.parse(some.dump())
    assert packed([layer]) == orjson.loads(some.dump())["requires"]


def _is_malformed(document: object) -> None:
    with pytest.raises(Malformed):
        BundleManifest.parse(orjson.dumps(document, option=orjson.OPT_SORT_KEYS))


@pytest.mark.parametrize("raw", [b'{"names":[' + b"[]," * 2_000_001 + b"0]}", b"[" * 100_000, b'{"names":1}', b"\xff"])
def test_nonsense_is_malformed(raw: bytes) -> None:
    """Documents that would take gigabytes, or the stack, or that are something else, are one refusal."""
    with pytest.raises(Malformed, match="not a bundle's manifest"):
        BundleManifest.parse(raw)


def test_more_names_than_anybody_has() -> None:
    """The number of names is bounded before one of them is looked at."""
    document = orjson.loads(MANIFEST.dump())
    document["names"] *= MAX_NAMES + 1
    with pytest.raises(Malformed, match=f"over {MAX_NAMES} names"):
        BundleManifest.parse(orjson.dumps(document))


REQUIRED = Digest.of(b"d")
FIRST, SECOND = sorted((Digest.of(b"b"), Digest.of(b"c")))
DELTA = replace(
    MANIFEST,
    provides=(Carried(FIRST, 3), Carried(SECOND, 5)),
    requires=tuple(sorted((REQUIRED, NAME.descriptor.digest))),
)
NO_LISTS: tuple[object, ...] = ({}, "", None, 0, {str(FIRST): 3}, [[]])
LONG = Digest.of(b"a", "sha512")


@pytest.mark.parametrize(
    "said",
    [
        *NO_LISTS,
        [[str(FIRST), 3.0]],
        [[str(FIRST), True]],
        [[str(FIRST), -1]],
        [[str(FIRST), "3"]],
        [[str(FIRST), 3, 3]],
        [[str(FIRST).upper(), 3]],
        [[f"{FIRST} ", 3]],
        [{str(FIRST): 1, str(SECOND): 2}],
        [[str(SECOND), 3], [str(FIRST), 3]],
        [[str(FIRST), 3], [str(FIRST), 3]],
        [[str(REQUIRED), 1]],
        [[str(LONG), 3], [str(FIRST), 3]],
    ],
)
def test_the_list_of_what_travels_is_exact(said: object) -> None:
    """What is no list of digests and sizes as they are written, in order and each once, is no bundle's manifest."""
    raw = orjson.dumps(orjson.loads(DELTA.dump()) | {"provides": said}, option=orjson.OPT_SORT_KEYS)
    with pytest.raises(Malformed):
        BundleManifest.parse(raw)


@pytest.mark.parametrize("pieces", [(), ((FIRST, ("0" * 64, "1" * 64)),)], ids=["whole", "cut"])
def test_it_is_called_the_same_wherever_it_is_read(pieces: tuple[tuple[Digest, tuple[str, ...]], ...]) -> None:
    """A bundle's identity is that of its document without pieces, for who wrote it and for who reads it."""
    written = replace(DELTA, pieces=pieces)
    assert {Digest.of(DELTA.dump())} == {written.identity, BundleManifest.parse(written.dump()).identity}
