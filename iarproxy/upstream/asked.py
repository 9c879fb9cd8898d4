"""What is asked of an upstream, and on whose behalf: the words in which its budget is kept.

Rule 1: a purpose is passed down with each call that may spend something; nothing is looked up from a context.
Rule 2: a kind has few values, so that it may be a label of a metric; a repository never is one.
"""

from __future__ import annotations

from enum import Enum, StrEnum

from yarl import URL


class Purpose(Enum):
    """Why something is asked of upstream."""

    CLIENT = "client"  # a client waits for it
    PERSON = "person"  # somebody typed the command: it asks anew what was denied a moment ago
    BACKGROUND = "background"  # nobody waits: it asks anew, and leaves the rest of a quota to those who do

    @property
    def may_spend(self) -> bool:
        """Whether the last of a quota is for this."""
        return self is not Purpose.BACKGROUND

    @property
    def takes_no(self) -> bool:
        """Whether a negative answer of a moment ago is good enough."""
        return self is Purpose.CLIENT


class Kind(StrEnum):
    """What a request is about."""

    MANIFEST = "manifest"  # a GET: what Docker Hub's pull quota counts
    HEAD = "head"
    BLOB = "blob"
    TAGS = "tags"
    REFERRERS = "referrers"
    TOKEN = "token"  # noqa: S105  # a word, no password
    OTHER = "other"


_BY_PATH = {
    "manifests": Kind.MANIFEST,
    "blobs": Kind.BLOB,
    "tags": Kind.TAGS,
    "referrers": Kind.REFERRERS,
}


def kind_of(method: str, url: URL) -> tuple[Kind, str]:
    """The kind of a request to a registry's API, and the repository it is about; empty: about none."""
    name, _, rest = url.path.removeprefix("/v2/").rpartition("/")
    name, _, word = name.rpartition("/")
    kind = _BY_PATH.get(word)
    if kind is None or not rest or not name:
        return Kind.OTHER, ""
    return (Kind.HEAD if method == "HEAD" else kind), name
