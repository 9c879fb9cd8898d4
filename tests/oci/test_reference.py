"""Names: one spelling for each thing (threats T27), and nothing outside the distribution-spec grammar."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grammar import digests, names, references, registries, repositories, tags
from iarproxy.errors import Malformed, NameInvalid
from iarproxy.oci import (
    Digest,
    DigestReference,
    Reference,
    Repository,
    Tag,
    TagReference,
    canonical_registry,
    parse_reference,
    parse_tag_or_digest,
)

DIGEST = Digest("sha256", "ab" * 32)
HUB_ALIASES = ["docker.io", "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com"]
SPELLINGS = [
    (alias, name)
    for host in HUB_ALIASES
    for alias in (host, host.upper(), host.title(), f"{host}:443")
    for name in ("tiny", "library/tiny")
]
NOT_REGISTRIES = [
    "",
    ".",
    "..",
    "-a.io",
    "a-.io",
    "a..io",
    ".io",
    "ghcr.io.",
    "ghcr.io/",
    "ghcr.io:",
    "ghcr.io:x",
    "ghcr.io:123456",
    "ghcr.io:-1",
    "ghcr.io:443:443",
    "ghcr.io:٤٤٣",
    "user@ghcr.io",
    "http://ghcr.io",
    "ghcr.io\n",
    " ghcr.io",
    "ghcr .io",
    "ghcr.io\x00",
    "ghcr%2eio",
    "g_cr.io",
    "doc\u212aer.io",  # KELVIN SIGN, whose lower case is k
    "\uff47hcr.io",  # FULLWIDTH SMALL LETTER G
    "lan",  # a reference could not name it: `lan/app` is a repository of Docker Hub
    "[::1",
    "::1",
    "[]",
    "[::1]x",
    "[::1%eth0]",
    "a" * 256,
]
NOT_NAMES = [
    "",
    "/",
    "a/",
    "/a",
    "a//b",
    "A",
    "a/B",
    "a___b",
    "a..b",
    "a._b",
    "_a",
    "a_",
    ".a",
    "a.",
    "-a",
    "a-",
    "..",
    "a/..",
    "../a",
    "a/./b",
    "a\n",
    "a b",
    "a\x00b",
    "a%2fb",
    "a\\b",
    "a:b",
    "a@b",
    "\uff41",  # FULLWIDTH SMALL LETTER A
    "a٣",
    "é",
    "a" * 260,
]
NOT_TAGS = ["", ".", "..", ".a", "-a", "a/b", "a:b", "a b", "a\n", "a\x00", "a%", "é", "٣", "a" * 129, "a@b", "a\\"]


@given(references)
def test_parse_and_print_are_inverse(reference: Reference) -> None:
    """A reference reads back as itself."""
    assert parse_reference(str(reference)) == reference


@given(registries)
def test_canonical_is_stable(text: str) -> None:
    """A canonical name is its own canonical name, whatever the case it was written in."""
    once = canonical_registry(text.upper())
    assert canonical_registry(once) == once


@given(st.text(max_size=30))
def test_any_text_is_a_registry_or_refused(text: str) -> None:
    """Any text is refused or has a stable, plain ASCII canonical name."""
    try:
        once = canonical_registry(text)
    except NameInvalid:
        return
    assert (canonical_registry(once), once.isascii(), once.lower()) == (once, True, once)


@given(repositories)
def test_repository_is_canonical(repository: Repository) -> None:
    """Making a canonical repository canonical changes nothing."""
    assert Repository.of(repository.registry, repository.name) == repository


@pytest.mark.parametrize(("registry", "name"), SPELLINGS)
def test_one_pin_for_all_spellings(registry: str, name: str) -> None:
    """Every alias of Docker Hub, with and without `library/`, is one repository."""
    assert Repository.of(registry, name) == Repository("docker.io", "library/tiny")


@pytest.mark.parametrize("text", ["GHCR.io", "ghcr.io:443", "Ghcr.Io:443"])
def test_one_spelling_of_a_registry(text: str) -> None:
    """Case and the default port are not part of a registry's name."""
    assert canonical_registry(text) == "ghcr.io"


def test_library_is_only_docker_hubs() -> None:
    """No other registry gets a `library/`, and a canonical Docker Hub name has two components at least."""
    assert str(Repository.of("ghcr.io", "tiny")) == "ghcr.io/tiny"
    with pytest.raises(NameInvalid):
        Repository("docker.io", "tiny")


@pytest.mark.parametrize("text", NOT_REGISTRIES)
def test_not_a_registry(text: str) -> None:
    """What is no host name or address is no registry."""
    with pytest.raises(NameInvalid):
        canonical_registry(text)


@pytest.mark.parametrize("text", NOT_NAMES)
def test_not_a_repository(text: str) -> None:
    """What the grammar does not know is no repository."""
    with pytest.raises(NameInvalid):
        Repository.of("ghcr.io", text)


@pytest.mark.parametrize("text", ["GHCR.IO", "index.docker.io", "ghcr.io:443"])
def test_a_repository_takes_no_alias(text: str) -> None:
    """The constructor takes canonical names only; `of` makes them so."""
    with pytest.raises(NameInvalid):
        Repository(text, "a/b")


@pytest.mark.parametrize("text", NOT_TAGS)
def test_not_a_tag(text: str) -> None:
    """What the grammar does not know is no tag."""
    with pytest.raises(NameInvalid):
        Tag(text)


@given(tags)
def test_tags_pass(tag: Tag) -> None:
    """A tag prints as it was written and is never taken for a digest."""
    assert parse_tag_or_digest(str(tag)) == tag


@given(digests)
def test_digests_are_not_tags(digest: Digest) -> None:
    """A digest is a digest where either may stand."""
    assert parse_tag_or_digest(str(digest)) == digest


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"sha256-{'ab' * 32}", True),
        (f"sha256-{'ab' * 32}.sig", True),
        (f"sha256-{'ab' * 32}.att", True),
        (f"sha256-{'ab' * 32}.sbom", True),
        (f"sha256-{'ab' * 32}.sig2", False),
        (f"sha256-{'ab' * 31}", False),
        (f"sha256-{'AB' * 32}", False),
        (f"sha256-{'ab' * 32}-x", False),
        ("latest", False),
    ],
)
def test_attachments(text: str, expected: bool) -> None:  # noqa: FBT001  # a table's column, not an option
    """Only exactly the fallback tags of signatures and referrers are growing sets."""
    assert Tag(text).is_attachment == expected


@given(digests)
def test_fallback_tag(digest: Digest) -> None:
    """The referrers fallback tag of a sha256 digest is an attachment; it is a valid tag for sha512 too."""
    assert Tag.attached_to(digest).is_attachment == (digest.algorithm == "sha256")
    assert Tag.attached_to(digest).subject == (digest if digest.algorithm == "sha256" else None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("alpine", "docker.io/library/alpine:latest"),
        ("alpine:3", "docker.io/library/alpine:3"),
        ("grafana/grafana:11", "docker.io/grafana/grafana:11"),
        ("docker.io/alpine", "docker.io/library/alpine:latest"),
        ("index.docker.io/library/alpine:3", "docker.io/library/alpine:3"),
        ("ghcr.io/org/app:1", "ghcr.io/org/app:1"),
        ("localhost/x", "localhost/x:latest"),
        ("localhost:5000/x:y", "localhost:5000/x:y"),
        ("[::1]:5000/x", "[::1]:5000/x:latest"),
        (f"alpine@{DIGEST}", f"docker.io/library/alpine@{DIGEST}"),
        (f"reg:5000/x:1@{DIGEST}", f"reg:5000/x@{DIGEST}"),
        ("team/app", "docker.io/team/app:latest"),
    ],
)
def test_written_by_people(text: str, expected: str) -> None:
    """The short forms that people write mean what they mean to docker."""
    assert str(parse_reference(text)) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "@",
        "a:",
        "a@",
        ":1",
        "A",
        "a b",
        "ghcr.io/",
        "ghcr.io/:1",
        "a:b:c",
        f"a@{DIGEST}@{DIGEST}",
        "a:1@1",
        "http://ghcr.io/a",
        "ghcr.io//a",
        "ghcr.io/a/../b",
        "a\n",
        f"a:@{DIGEST}",
        "a@sha256:1",
    ],
)
def test_not_a_reference(text: str) -> None:
    """What people mistype is refused."""
    with pytest.raises(Malformed):
        parse_reference(text)


@given(st.text(max_size=60))
def test_any_text_is_a_reference_or_refused(text: str) -> None:
    """Any text is refused or reads back from what it prints."""
    try:
        reference = parse_reference(text)
    except Malformed:
        return
    assert parse_reference(str(reference)) == reference


@given(names, tags, digests)
def test_digest_decides(name: str, tag: Tag, digest: Digest) -> None:
    """With tag and digest the digest decides."""
    reference = parse_reference(f"ghcr.io/{name}:{tag}@{digest}")
    assert reference == DigestReference(Repository.of("ghcr.io", name), digest)


def test_two_types() -> None:
    """A tag's reference and a digest's are two types."""
    assert isinstance(parse_reference("a"), TagReference)
    assert isinstance(parse_reference(f"a@{DIGEST}"), DigestReference)
