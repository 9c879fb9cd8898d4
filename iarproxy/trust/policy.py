"""Which policy a tag has: the first rule whose pattern matches, else pin.

Rule 1: `*` stays within a segment, `**` crosses them, and a pattern without `:tag` means any tag (design section 6).
Rule 2: a pattern is matched as a whole against `registry/repository:tag` in canonical form.
Rule 3: an attachment tag is a growing set and is always followed, for a minute at a time; only a rule that is about
        attachments (its pattern's tag begins with `sha256-`) gives them another time to live, or refuses them alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from functools import lru_cache

from iarproxy.errors import Malformed
from iarproxy.oci import TagReference


class Mode(StrEnum):
    """What a tag is for us."""

    PIN = "pin"  # the first digest seen is served until a person says otherwise
    FOLLOW = "follow"  # upstream's word is taken anew when the time to live is over
    REFUSE = "refuse"  # never served


class OnDrift(StrEnum):
    """What clients get for a pinned tag that upstream moved."""

    KEEP = "keep"  # the pinned manifest, with a Warning header
    DENY = "deny"  # 403 naming both digests; safe only where clients cannot fall back to upstream
    STOP = "stop"  # a refusal manifest: clients that would fall back to upstream stop too


class Admission(StrEnum):
    """Which digests may become the first pin of a tag without a person's act."""

    ANY = "any"  # what upstream offers, once it has cooled down
    SEEDED = "seeded"  # what a seed names
    APPROVED = "approved"  # none


class RefusalForm(StrEnum):
    """How clients are told that policy refuses a tag for another reason than drift."""

    ERROR = "error"  # 403; a client with another host configured asks there
    STOP = "stop"  # a refusal manifest, for clients in mirror mode; 403 for others


_TOKEN = re.compile(r"\*\*|\*|[A-Za-z0-9._:/\[\]-]+", re.ASCII)
_WILD = {"**": ".*", "*": "[^/:]*"}


@dataclass(frozen=True, slots=True)
class Pattern:
    """A glob over references, for example `docker.io/library/*:latest` or `registry.example.com/**`."""

    text: str

    def __post_init__(self) -> None:
        if not self.text or "".join(_TOKEN.findall(self.text)) != self.text:
            raise Malformed(f"not a pattern: {self.text[:160]!r}; for example registry.example.com/**:v*")

    @property
    def is_of_attachments(self) -> bool:
        """Whether it speaks of attachment tags and of no other ones."""
        return self.text.rpartition("/")[2].partition(":")[2].startswith("sha256-")

    def matches(self, reference: TagReference) -> bool:
        """Whether the whole reference fits this pattern."""
        return _compiled(self.text).fullmatch(str(reference)) is not None


@lru_cache(maxsize=1024)
def _compiled(text: str) -> re.Pattern[str]:
    any_tag = "" if ":" in text.rpartition("/")[2] else ":[^/:]*"
    return re.compile("".join(_WILD.get(each, re.escape(each)) for each in _TOKEN.findall(text)) + any_tag, re.ASCII)


@dataclass(frozen=True, slots=True)
class TagRule:
    """One `[[tags]]` section. `ttl` counts for `follow` only; `on_drift`, `admit` and `cool_down` for `pin` only."""

    match: Pattern
    mode: Mode = Mode.PIN
    ttl: timedelta = timedelta(hours=1)
    on_drift: OnDrift = OnDrift.KEEP
    admit: Admission = Admission.ANY
    cool_down: timedelta = timedelta(0)


PIN_EVERYTHING = TagRule(Pattern("**"))
_ATTACHMENT = TagRule(Pattern("**"), Mode.FOLLOW, timedelta(minutes=1))


def rule_for(reference: TagReference, rules: Iterable[TagRule]) -> TagRule:
    """The first of `rules` that matches; pinning where none does."""
    first = next((rule for rule in rules if rule.match.matches(reference)), PIN_EVERYTHING)
    if not reference.tag.is_attachment or first.mode is Mode.REFUSE:
        return first
    return first if first.mode is Mode.FOLLOW and first.match.is_of_attachments else _ATTACHMENT
