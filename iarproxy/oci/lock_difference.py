"""What differs between two locks: the tags that one of them lacks, and those with other content."""

from __future__ import annotations

from dataclasses import dataclass

from iarproxy.oci.digest import Digest
from iarproxy.oci.lock import Lock
from iarproxy.oci.reference import TagReference


@dataclass(frozen=True, slots=True)
class Difference:
    """One tag: the digest before and after. None: it is not there."""

    reference: TagReference
    before: Digest | None
    after: Digest | None

    @property
    def kind(self) -> str:
        """`added`, `removed` or `changed`."""
        if self.before is None:
            return "added"
        return "removed" if self.after is None else "changed"


def differences(before: Lock, after: Lock) -> list[Difference]:
    """By reference; none: both hold the same pins."""
    old = {each.reference: each.digest for each in before.entries}
    new = {each.reference: each.digest for each in after.entries}
    both = [Difference(each, old.get(each), new.get(each)) for each in sorted(old.keys() | new.keys())]
    return [each for each in both if each.before != each.after]
