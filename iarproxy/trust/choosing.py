"""Which tags of a repository a set wants: globs, a range of versions, the newest few. No input or output.

Rule 1: everything that is written must hold: a glob fits (where there are some), the version is in the range, and of
        what is left the newest come, by version. With `semver` or `newest`, tags that are no versions are left out.
Rule 2: a version with a suffix, `1.2.3-rc.1` or `1.2.3-alpine`, is wanted only where a glob that fits has a hyphen too:
        nobody who writes ">=1.2" means release candidates and variants. The range is about the numbers then, unless
        it has a suffix itself: ">=1.2 <2" with "*-alpine" is 1.2.0-alpine and not 2.0.0-alpine.
Rule 3: attachment tags are no names; they come with what they are attached to.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import translate
from functools import lru_cache

from iarproxy.errors import Malformed
from iarproxy.oci import Tag
from iarproxy.trust.versions import Range, Version

_GLOB = re.compile(r"[A-Za-z0-9_.*?-]{1,128}", re.ASCII)


def glob(value: object) -> str:
    """A pattern of tags.

    Raises:
        Malformed: it is none.
    """
    if not isinstance(value, str) or _GLOB.fullmatch(value) is None:
        raise Malformed(f'not a pattern of tags: {str(value)[:80]!r}; write for example "1.*"')
    return value


@dataclass(frozen=True, slots=True)
class Selection:
    """What is wanted of a repository.

    Attributes:
        globs: as `glob` takes them; `*` is any text, `?` one character; empty: any tag.
        newest: so many, by version; None: all.
    """

    globs: tuple[str, ...] = ()
    semver: Range | None = None
    newest: int | None = None

    @property
    def meaning(self) -> tuple[list[str], list[str], int | None]:
        """The same for all spellings of it."""
        return sorted(set(self.globs)), self.semver.meaning if self.semver else [], self.newest

    @property
    def of_versions(self) -> bool:
        """Whether only versions are wanted."""
        return self.semver is not None or self.newest is not None

    def __str__(self) -> str:
        parts = [f"tags {' '.join(self.globs)}"] if self.globs else []
        parts += [f"semver {self.semver.text}"] if self.semver else []
        parts += [f"newest {self.newest}"] if self.newest else []
        return ", ".join(parts) or "all tags"


@dataclass(frozen=True, slots=True)
class Chosen:
    """The tags that are wanted, sorted; and how many versions were left out for their suffix (rule 2)."""

    tags: tuple[Tag, ...]
    suffixed: int = 0


def choose(selection: Selection, tags: Iterable[str]) -> Chosen:
    """What `selection` wants of the tags that there are."""
    named = [Tag(each) for each in tags]
    fitting = [tag for tag in named if not tag.is_attachment and _fits(selection.globs, tag)]
    if not selection.of_versions:
        return Chosen(tuple(sorted(fitting)))
    versions = {tag: version for tag in fitting if (version := Version.of(tag.value)) is not None}
    within = [tag for tag in versions if _is_within(selection.semver, versions[tag])]
    wanted = [tag for tag in within if not versions[tag].pre or _means_suffixes(selection.globs, tag)]
    newest = sorted(wanted, key=lambda tag: (versions[tag], tag), reverse=True)[: selection.newest]
    return Chosen(tuple(sorted(newest)), len(within) - len(wanted))


def _is_within(semver: Range | None, version: Version) -> bool:
    if semver is None:
        return True
    return semver.holds(version if semver.names_suffixes else Version(version.numbers))


def _fits(globs: tuple[str, ...], tag: Tag) -> bool:
    return not globs or any(_compiled(each).fullmatch(tag.value) for each in globs)


def _means_suffixes(globs: tuple[str, ...], tag: Tag) -> bool:
    return any("-" in each and _compiled(each).fullmatch(tag.value) for each in globs)


@lru_cache(maxsize=1024)
def _compiled(text: str) -> re.Pattern[str]:
    return re.compile(translate(text))  # in time that grows with the text alone, however many `*` there are
