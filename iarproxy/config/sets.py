"""`sets.toml`: what a site needs, by name. A file of its own, kept in git; `iarproxy sync` and `bundle create` read it.

    [[set]]
    name = "site-a"
    references = ["docker.io/library/tiny:1.0", { reference = "ghcr.io/org/app:2@sha256:...", referrers = false }]
    platforms = ["linux/amd64"]       # of indexes; none: all
    locks = ["iar.lock"]              # beside this file; any text that `lock import` reads
    charts = ["oci://ghcr.io/org/charts/app:1.2.0", { reference = "ghcr.io/org/charts/db:3.1.0", values = ["db.yaml"] }]
    referrers = true                  # signatures, SBOMs, attestations

    [[set.repositories]]
    name = "quay.io/org/tool"
    tags = ["v*"]
    semver = ">=1.2 <2"
    newest = 3
    platforms = ["linux/arm64"]       # instead of the set's
    referrers = false                 # instead of the set's; in the table of a reference too

Rule 1: an unknown key is an error that suggests the right one; every error names file, set and key.
Rule 2: names are full, or Docker Hub's, as for every program that writes such lists: a set means the same on each
        machine, whatever its `default_upstream` is.
Rule 3: what an item says of itself goes before what the set says. One that is there twice has to say the same.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from iarproxy.config.explaining import explain
from iarproxy.config.wanted import Wanted, WantedChart, WantedLock, WantedReference, WantedRepository, WantedSet
from iarproxy.errors import ConfigError, Malformed
from iarproxy.oci import Digest, DigestReference, Platform, Reference, Repository, parse_reference
from iarproxy.oci.bundle_manifest import SET_NAME
from iarproxy.oci.lock import Locked, Named
from iarproxy.oci.lock_reading import read_lock
from iarproxy.oci.yaml_text import MAX_TEXT
from iarproxy.trust.choosing import Selection, glob
from iarproxy.trust.versions import Range

_MOST = 10_000  # references, repositories, locks, charts of one set


# --- the file --------------------------------------------------------------------------------------------------------


def _read(parse: Callable[[Any], Any]) -> BeforeValidator:
    """What a value spells, in the form in which pydantic takes an error."""

    def read(value: Any) -> Any:
        try:
            return parse(value)
        except Malformed as error:
            raise ValueError(str(error)) from error

    return BeforeValidator(read)


def _range(value: Any) -> Range | None:
    if isinstance(value, int | float):  # TOML's 1.20 is 1.2
        raise Malformed(f'a number; write it in quotes: "{value}"')
    return None if value is None else Range.parse(str(value))


def _reference(value: Any) -> Wanted:
    """A reference; one with tag and digest is a tag that shall stand for that digest."""
    if not isinstance(value, str):
        raise Malformed("not a text; write it in quotes")
    named = Named.parse(value)
    if named.tag is not None and named.tag.is_attachment:
        raise Malformed(f"{value[:160]!r} is attached to an image; it comes with that, where referrers = true")
    if named.tag is not None and named.digest is not None:
        return Locked(named.pulled, named.digest)
    return parse_reference(value)


def _chart(value: Any) -> Reference:
    """The reference of a chart, with or without `oci://` in front; its version is a tag, so it is written out,
    with `_` for `+`, as helm pushes it.
    """
    named = Named.parse(str(value).removeprefix("oci://").replace("+", "_"))
    if named.digest is not None:
        return DigestReference(named.repository, named.digest)
    if named.reference is None:
        raise Malformed(f"{str(value)[:160]!r} has no version; write for example oci://ghcr.io/org/charts/app:1.2.0")
    return named.reference


def _repository(value: Any) -> Repository:
    named = Named.parse(str(value))
    if named.tag is not None or named.digest is not None:
        raise Malformed(f"{str(value)[:160]!r} names more than a repository; write tags, or move it to references")
    return named.repository


_Platforms = tuple[Annotated[Platform, _read(lambda value: Platform.parse(str(value)))], ...]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)


class ReferenceSection(_Section):
    """One of `references`."""

    reference: Annotated[Wanted, _read(_reference)]
    platforms: _Platforms | None = None
    referrers: bool | None = Field(None, strict=True)

    @model_validator(mode="before")
    @classmethod
    def _alone(cls, value: Any) -> Any:
        return value if isinstance(value, dict) else {"reference": value}


class RepositorySection(_Section):
    """`[[set.repositories]]`; see `trust.choosing.Selection`."""

    name: Annotated[Repository, _read(_repository)]
    tags: tuple[Annotated[str, _read(glob)], ...] = Field((), max_length=_MOST)
    semver: Annotated[Range | None, _read(_range)] = None
    newest: int | None = Field(None, ge=1, le=_MOST, strict=True)
    platforms: _Platforms | None = None
    referrers: bool | None = Field(None, strict=True)

    @model_validator(mode="after")
    def _checked(self) -> Self:
        if not self.tags and self.semver is None and self.newest is None:
            raise ValueError('which tags? write tags = ["1.*"], semver = ">=1.2 <2" or newest = 3; ["*"] means all')
        return self


class ChartSection(_Section):
    """One of `charts`; `values`: files beside this one."""

    reference: Annotated[Reference, _read(_chart)]
    values: tuple[str, ...] = Field((), max_length=_MOST)

    @model_validator(mode="before")
    @classmethod
    def _alone(cls, value: Any) -> Any:
        return {"reference": value} if isinstance(value, str) else value


class SetSection(_Section):
    """`[[set]]`."""

    name: str
    references: tuple[ReferenceSection, ...] = Field((), max_length=_MOST)
    repositories: tuple[RepositorySection, ...] = Field((), max_length=_MOST)
    platforms: _Platforms = ()
    locks: tuple[str, ...] = Field((), max_length=_MOST)
    charts: tuple[ChartSection, ...] = Field((), max_length=_MOST)
    referrers: bool = Field(default=True, strict=True)

    @model_validator(mode="after")
    def _checked(self) -> Self:
        if SET_NAME.fullmatch(self.name) is None:
            raise ValueError(f"not a name of a set: {self.name[:80]!r}; write up to 64 of a-z 0-9 . _ -")
        if not (self.references or self.repositories or self.locks or self.charts):
            raise ValueError("empty; write references, repositories, locks or charts")
        _insist_on_agreement("references", ((str(each.name), each) for each in self.wanted_references))
        _insist_on_agreement("repositories", ((str(each), each) for each in self.wanted_repositories))
        return self

    @property
    def wanted_references(self) -> tuple[WantedReference, ...]:
        """Each once."""
        every = (WantedReference(each.reference, self._platforms_of(each), each.referrers) for each in self.references)
        return tuple(dict.fromkeys(every))

    @property
    def wanted_repositories(self) -> tuple[WantedRepository, ...]:
        """As they are written."""
        return tuple(
            WantedRepository(
                each.name,
                Selection(each.tags, each.semver, each.newest),
                self._platforms_of(each),
                each.referrers,
            )
            for each in self.repositories
        )

    def _platforms_of(self, item: ReferenceSection | RepositorySection) -> tuple[Platform, ...]:
        wanted = self.platforms if item.platforms is None else item.platforms
        return tuple(sorted(set(wanted), key=str))


def _insist_on_agreement(key: str, items: Iterable[tuple[str, WantedReference | WantedRepository]]) -> None:
    """Refuse what is there twice and says different things of itself."""
    known: dict[str, WantedReference | WantedRepository] = {}
    for name, each in items:
        first = known.setdefault(name, each)
        if (first.platforms, first.referrers) != (each.platforms, each.referrers):
            raise ValueError(f"{key}: {name} is there twice, with other platforms or referrers; keep one")


@dataclass(frozen=True, slots=True)
class SetsFile:
    """What a file says. Lock files are read when a set is asked for."""

    path: Path
    sections: dict[str, SetSection]

    def __getitem__(self, name: str) -> WantedSet:
        """The set of that name.

        Raises:
            ConfigError: there is none, or a lock file of it cannot be read.
        """
        section = self.sections.get(name)
        if section is None:
            known = ", ".join(sorted(self.sections)) or "none"
            raise ConfigError(f"{self.path} has no set {name[:80]!r}; it has {known}")
        return WantedSet(
            name,
            section.wanted_references,
            section.wanted_repositories,
            section.platforms,
            tuple(self._lock(name, each) for each in dict.fromkeys(section.locks)),
            tuple(self._chart(name, each) for each in section.charts),
            section.referrers,
        )

    def _lock(self, name: str, file: str) -> WantedLock:
        data = self._beside(name, "locks", file)
        try:
            lock = read_lock(data, str(self.path.parent / file))
        except Malformed as error:
            raise ConfigError(f'{self.path}: set "{name}": locks: {error}') from error
        if not (lock.entries or lock.skipped):
            remedy = "write NAME:TAG@sha256:..., or tags into references"
            raise ConfigError(f'{self.path}: set "{name}": locks: {file} names no image with a digest; {remedy}')
        return WantedLock(file, lock, Digest.of(data))

    def _chart(self, name: str, section: ChartSection) -> WantedChart:
        return WantedChart(section.reference, tuple(self._beside(name, "charts", file) for file in section.values))

    def _beside(self, name: str, key: str, file: str) -> bytes:
        """What is in a file beside this one."""
        path = self.path.parent / file
        try:
            with path.open("rb") as opened:
                data = opened.read(MAX_TEXT + 1)
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path
            said = f"{path} cannot be read: {getattr(error, 'strerror', error)}; paths begin at this file"
            raise ConfigError(f'{self.path}: set "{name}": {key}: {said}') from error
        if len(data) > MAX_TEXT:
            raise ConfigError(f'{self.path}: set "{name}": {key}: {path}: more than {MAX_TEXT} bytes; split it')
        return data


def load_sets(path: Path) -> SetsFile:
    """The sets in a file.

    Raises:
        ConfigError: one line that names file, set, key and remedy.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not TOML: {error}; see config/sets.example.toml") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}; give --sets the path of a sets file") from error
    return SetsFile(path, _sections(path, document))


def _sections(path: Path, document: dict[str, Any]) -> dict[str, SetSection]:
    strange = [key for key in document if key != "set"]
    if strange:
        raise ConfigError(f"{path}: {strange[0][:80]}: unknown key; a sets file has [[set]] sections only")
    found: dict[str, SetSection] = {}
    listed = document.get("set", [])
    if not isinstance(listed, list):
        raise ConfigError(f"{path}: set: not a list of sections; write [[set]] with two brackets")
    for number, each in enumerate(listed, start=1):
        said = each.get("name") if isinstance(each, dict) else None
        where = f'{path}: set "{said[:64]}"' if isinstance(said, str) else f"{path}: set number {number}"
        try:
            section = SetSection.model_validate(each)
        except ValidationError as error:
            raise ConfigError(f"{where}: {explain(error, SetSection)}") from error
        if section.name in found:
            raise ConfigError(f"{where} is there twice; keep one")
        found[section.name] = section
    return found
