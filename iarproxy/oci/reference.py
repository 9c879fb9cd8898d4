"""Names of content: repository, tag, and the reference that joins a repository with a tag or a digest.

Rule 1: a value that exists is valid (distribution-spec v1.1 grammar, ASCII, full match, lengths bounded).
Rule 2: tag and digest are different types; a `Reference` is one or the other, never a string that may be either.
Rule 3: registries are canonical: lower case, no `:443`, every alias of Docker Hub is `docker.io`; and a Docker Hub
        repository of one component lives in `library/` (threats T27: two spellings must not give two pins).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self, TypeAlias

from iarproxy.errors import Malformed, NameInvalid
from iarproxy.oci.digest import Digest

DOCKER_HUB = "docker.io"
_HUB_ALIASES = frozenset({"index.docker.io", "registry-1.docker.io", "registry.hub.docker.com"})
_MAX_NAME = 255  # host + "/" + repository: the limit that clients share (distribution/reference)

_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*", re.ASCII)
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}", re.ASCII)
_LABEL = r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?"
_REGISTRY = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-f:.]+\])(?::[0-9]{{1,5}})?", re.ASCII)
# Growing sets that tools keep beside an image: never pins, never drift (design section 5).
_ATTACHMENT = re.compile(r"sha256-[0-9a-f]{64}(?:\.(?:sig|att|sbom))?", re.ASCII)


def is_registry_like(component: str) -> bool:
    """Whether the first component of a reference is a registry and not part of a name (distribution/reference)."""
    return "." in component or ":" in component or component == "localhost"


def canonical_registry(text: str) -> str:
    """The one spelling of a registry's name (`host` or `host:port`).

    Raises:
        NameInvalid: when `text` is no host name, address or `host:port`.
    """
    # ASCII before lower case: the lower case of U+212A, the Kelvin sign, is a plain k.
    lower = text.lower() if text.isascii() else ""
    if len(lower) > _MAX_NAME or _REGISTRY.fullmatch(lower) is None or not is_registry_like(lower):
        raise NameInvalid(f"not a registry name: {text[:160]!r}; expected a host such as ghcr.io or host:5000")
    name = lower.removesuffix(":443")
    return DOCKER_HUB if name in _HUB_ALIASES else name


@dataclass(frozen=True, slots=True, order=True)
class Repository:
    """A repository in a registry: the canonical pair by which pins and content are keyed."""

    registry: str
    name: str

    def __post_init__(self) -> None:
        if self.registry != canonical_registry(self.registry):
            raise NameInvalid(f"not the canonical name of a registry: {self.registry[:160]!r}")
        if self.registry == DOCKER_HUB and "/" not in self.name:
            raise NameInvalid(f"not the canonical name of a repository: {self.name[:160]!r}; write library/ in front")
        if len(self.registry) + 1 + len(self.name) > _MAX_NAME or _REPOSITORY.fullmatch(self.name) is None:
            raise NameInvalid(f"not a repository name: {self.name[:160]!r}; see the distribution-spec grammar")

    def __str__(self) -> str:
        return f"{self.registry}/{self.name}"

    @classmethod
    def of(cls, registry: str, name: str) -> Self:
        """The repository `name` of `registry`, made canonical: aliases resolved, `library/` added on Docker Hub.

        Raises:
            NameInvalid: when either is outside its grammar.
        """
        canonical = canonical_registry(registry)
        if canonical == DOCKER_HUB and "/" not in name:
            name = f"library/{name}"
        return cls(canonical, name)


@dataclass(frozen=True, slots=True, order=True)
class Tag:
    """A mutable name inside a repository."""

    value: str

    def __post_init__(self) -> None:
        if _TAG.fullmatch(self.value) is None:
            raise NameInvalid(f"not a tag: {self.value[:160]!r}; at most 128 of [A-Za-z0-9_.-]")

    def __str__(self) -> str:
        return self.value

    @property
    def is_attachment(self) -> bool:
        """Whether this is the fallback tag under which signatures and referrers of a digest are kept."""
        return _ATTACHMENT.fullmatch(self.value) is not None

    @property
    def subject(self) -> Digest | None:
        """What an attachment tag is attached to; None: it is another tag."""
        return Digest("sha256", self.value[7:71]) if self.is_attachment else None

    @classmethod
    def attached_to(cls, digest: Digest) -> Self:
        """The tag that lists a digest's referrers where upstream has no referrers API (distribution-spec v1.1)."""
        return cls(f"{digest.algorithm[:32]}-{digest.hex[:64]}")


@dataclass(frozen=True, slots=True, order=True)
class TagReference:
    """A repository and a tag."""

    repository: Repository
    tag: Tag

    def __str__(self) -> str:
        return f"{self.repository}:{self.tag}"


@dataclass(frozen=True, slots=True, order=True)
class DigestReference:
    """A repository and a digest."""

    repository: Repository
    digest: Digest

    def __str__(self) -> str:
        return f"{self.repository}@{self.digest}"


Reference: TypeAlias = TagReference | DigestReference


def parse_tag_or_digest(text: str) -> Tag | Digest:
    """A tag, or a digest where `text` has a colon (no tag has one)."""
    return Digest.parse(text) if ":" in text else Tag(text)


def parse_reference(text: str, default: str = DOCKER_HUB) -> Reference:
    """The reference that a person or a script wrote: `alpine`, `ghcr.io/org/app:1`, `reg:5000/x@sha256:...`.

    As in distribution/reference: the first component is a registry if it has a dot or a colon or is `localhost`;
    else the registry is `default`. No tag means `latest`. With tag and digest the digest decides.

    Raises:
        Malformed: when a part is outside its grammar.
    """
    name, at, digest = text.partition("@")
    head, slash, tail = name.partition("/")
    if slash and is_registry_like(head):
        registry, path = head, tail
    else:
        registry, path = default, name
    path, colon, tag = path.partition(":")
    if not path or (at and not digest) or (colon and not tag):
        raise Malformed(f"not a reference: {text[:200]!r}; expected [REGISTRY/]REPOSITORY[:TAG][@DIGEST]")
    repository = Repository.of(registry, path)
    written = Tag(tag) if colon else Tag("latest")
    return DigestReference(repository, Digest.parse(digest)) if at else TagReference(repository, written)
