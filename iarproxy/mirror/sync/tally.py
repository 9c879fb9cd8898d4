"""How many names of a set are signed, and have an SBOM or provenance, as far as what is attached claims.

Rule: what counts is said of an image by its own attestations (BuildKit's children), or attached to the image, its index
or a child of it; what is attached to a signature says nothing about the image.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from iarproxy.oci import Digest, Manifest, Reference, Repository
from iarproxy.oci.attached_kind import AttachedKind, kinds_of


@dataclass(slots=True)
class Tally:
    """What is said about the manifests of a set.

    Attributes:
        below: the manifests of each name.
        about: by what is attached in a repository.
    """

    below: dict[Reference, frozenset[Digest]] = field(default_factory=dict)
    about: defaultdict[tuple[Repository, Digest], set[AttachedKind]] = field(default_factory=lambda: defaultdict(set))
    _says: dict[Digest, frozenset[AttachedKind]] = field(default_factory=dict)

    def look(self, manifest: Manifest) -> None:
        """What the manifest itself says."""
        kinds = kinds_of(manifest.raw)
        if kinds:
            self._says[manifest.descriptor.digest] = kinds

    def said_by(self, manifests: Iterable[Digest]) -> set[AttachedKind]:
        """What these say, of those that were looked at."""
        return {kind for digest in manifests for kind in self._says.get(digest, ())}

    def counts(self) -> dict[AttachedKind, int]:
        """Of how many names each is said."""
        found = Counter(kind for name in self.below for kind in self._of(name))
        return {kind: found[kind] for kind in AttachedKind}

    def _of(self, name: Reference) -> set[AttachedKind]:
        kinds = self.said_by(self.below[name])
        for digest in self.below[name]:
            kinds |= self.about.get((name.repository, digest), set())
        return kinds
