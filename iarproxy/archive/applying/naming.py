"""What the names of a bundle mean for a site: new, as they are, or conflicts that a person decides.

Rule 1: a pin on something else is a conflict, whoever made it: also where an earlier bundle of the same set did, and
        somebody changed the name at the origin since. It is told apart, so that a person sees what to decide.
Rule 2: a name that a person here removed is a conflict too: it awaits a person's word, as it does for a first fetch.
        One that retention took away is as one that never was.
Rule 3: conflicts are listed together, and nothing is applied until it was said which side wins.
Rule 4: a recall always wins: a name that leads to recalled content is left out where the site wins, and refused where
        it does not.
Rule 5: tags that policy follows are set as followed, and those that it refuses are left out, and told.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC
from enum import StrEnum
from typing import Any, Final, assert_never

from iarproxy.errors import BundleRefused, Denied
from iarproxy.ledger import Change, Event, EventKind, Ledger, Pin, Unpinned
from iarproxy.ledger.recalls import Recall, remedy
from iarproxy.oci import Descriptor, Digest, Reference, TagReference
from iarproxy.oci.bundle_manifest import BundledAttachment, BundledName, BundleManifest
from iarproxy.together import together
from iarproxy.trust import Mode, TagRule
from iarproxy.trust.bundles import BundleStatement
from iarproxy.trust.environments import Environment, PinsFrom

_AT_ONCE: Final = 200  # names that the ledger is asked for at the same time
_SPELLED: Final = 20


class Prefer(StrEnum):
    """Which side wins where a name stands for different things."""

    BUNDLE = "bundle"
    SITE = "site"


@dataclass(frozen=True, slots=True)
class Differs:
    """A name that stands for something else here. `said`: in one sentence."""

    reference: TagReference
    said: str


@dataclass(frozen=True, slots=True)
class Names:
    """What applying the names comes to.

    Attributes:
        changes: of pins. unchanged: how many are as the bundle has them.
        followed: attachment tags, and tags that policy follows.
        kept: what differs and stays, since the site wins.
        skipped: what policy refuses, a sentence each.
    """

    changes: tuple[Change, ...]
    unchanged: int
    followed: tuple[tuple[TagReference, Descriptor], ...]
    kept: tuple[Differs, ...] = ()
    skipped: tuple[str, ...] = ()

    def without(self, recalled: Mapping[TagReference, Recall]) -> Names:
        """The same without names that lead to recalled content (rule 4)."""
        left = tuple(each for each in self.changes if each.reference not in recalled)
        out = tuple(
            Differs(each.reference, f"{each.reference} leads to recalled content: {recalled[each.reference]}")
            for each in self.changes
            if each.reference in recalled
        )
        followed = tuple(each for each in self.followed if each[0] not in recalled)
        return replace(self, changes=left, followed=followed, kept=(*self.kept, *out))


@dataclass(frozen=True, slots=True)
class Naming:
    """How a site takes names. `upstreams`: the registries that it serves."""

    ledger: Ledger
    upstreams: Collection[str]
    rules: Sequence[TagRule]
    environment: Environment

    def insist(self, manifest: BundleManifest) -> None:
        """Return if names of these registries can be served here, and bundles may pin in this environment.

        Raises:
            BundleRefused: `conflict`: a registry is no upstream of this site. Denied: pins come by promotion.
        """
        if self.environment.pins_from is PinsFrom.PROMOTION:
            raise Denied(
                f"the environment {self.environment.name} takes pins by promotion only; `iarproxy bundle apply` into"
                f" {self.environment.promote_from}, then `iarproxy promote`"
            )
        every: Iterable[BundledName | BundledAttachment] = (*manifest.names, *manifest.attachments)
        unknown = sorted({each.reference.repository.registry for each in every}.difference(self.upstreams))
        if unknown:
            sections = ", ".join(f'[upstreams."{each}"] with its url' for each in unknown[:_SPELLED])
            raise BundleRefused(
                "conflict",
                f"{', '.join(unknown[:_SPELLED])}: no upstream of this site, so nobody could ask for its names; add"
                f" {sections} to the configuration, and apply the bundle again",
            )

    def insist_on_none_recalled(self, manifest: BundleManifest, prefer: Prefer | None) -> dict[Digest, Recall]:
        """What of a bundle is recalled here, where the site wins.

        Raises:
            BundleRefused: `conflict`: some of it is, and the site does not win.
        """
        contents = {*(each.digest for each in manifest.provides), *manifest.requires}
        found = {digest: recall for digest, recall in self.ledger.recalls.known.items() if digest in contents}
        if found and prefer is not Prefer.SITE:
            first = next(iter(found.values()))
            raise BundleRefused(
                "conflict",
                f"the bundle has recalled content: {first}; `{remedy(first.digest)}` lifts it, or `--prefer site`"
                " leaves out what contains it",
                recalled=len(found),
            )
        return found

    async def compare(self, manifest: BundleManifest, said: BundleStatement, prefer: Prefer | None) -> Names:
        """What is to be done.

        Raises:
            BundleRefused: `conflict`: names stand for something else here, and nobody said which side wins.
            LedgerDamaged, LedgerUnavailable: what they stand for cannot be read.
        """
        detail = detail_of(said)
        modes = [(name, self._mode(name.reference)) for name in manifest.names]
        pinned = [name for name, mode in modes if mode is Mode.PIN]
        skipped = [f"{name.reference}: a tag rule refuses it here" for name, mode in modes if mode is Mode.REFUSE]
        changes, differing, unchanged = list[Change](), list[tuple[Change, Differs]](), 0
        for name, now in zip(pinned, await self._standing(pinned), strict=True):
            change = _change(self.environment.name, name, now, detail)
            if change is None:
                unchanged += 1
            elif (differs := await self._differs(now, change, said)) is None:
                changes.append(change)
            else:
                differing.append((change, differs))
        kept = _decided([each for _, each in differing], prefer)
        won = [change for change, _ in differing] if prefer is Prefer.BUNDLE else []
        return Names((*changes, *won), unchanged, self.followed(manifest), tuple(kept), tuple(skipped))

    def followed(self, manifest: BundleManifest) -> tuple[tuple[TagReference, Descriptor], ...]:
        """The attachment tags of a bundle, and its tags that policy follows here."""
        names = [
            (each.reference, each.descriptor)
            for each in manifest.names
            if isinstance(each.reference, TagReference) and self._mode(each.reference) is Mode.FOLLOW
        ]
        return (*((each.reference, each.descriptor) for each in manifest.attachments), *names)

    def _mode(self, reference: Reference) -> Mode | None:
        """What policy makes of a name; None: it is by digest, and nothing to change."""
        if not isinstance(reference, TagReference):
            return None
        if reference.tag.is_attachment:
            return Mode.FOLLOW
        return self.environment.rule_for(reference, self.rules).mode

    async def _standing(self, names: Sequence[BundledName]) -> list[Pin | Unpinned]:
        pins = self.ledger.within(self.environment.name)
        tags = (each.reference for each in names if isinstance(each.reference, TagReference))
        return await together(tags, pins.standing, at_a_time=_AT_ONCE)

    async def _differs(self, now: Pin | Unpinned, change: Change, said: BundleStatement) -> Differs | None:
        """Why a change is a conflict; None: it is none (rule 2)."""
        if isinstance(now, Unpinned) and (not now.revision or now.retired):
            return None
        event = await self.ledger.within(self.environment.name).made(change.reference)
        new = change.new.digest if change.new is not None else None
        if isinstance(now, Unpinned):
            return Differs(now.reference, f"{now.reference} was removed here{_by(event)}; the bundle has {new}")
        brought = "" if event is None else _brought(event, said)
        told = f"{now.reference} is {now.descriptor.digest} here{brought or _by(event)}; the bundle has {new}"
        return Differs(now.reference, told)


def detail_of(said: BundleStatement) -> dict[str, Any]:
    """What the journal keeps of a bundle with each name that it brought."""
    return {
        "bundle": str(said.bundle),
        "origin": said.origin,
        "set": said.set,
        "sequence": said.sequence,
        "created": said.created.isoformat(),
    }


def _change(environment: str, name: BundledName, now: Pin | Unpinned, detail: dict[str, Any]) -> Change | None:
    """What makes a tag what the bundle says; None: it is."""
    old = now.descriptor.digest if isinstance(now, Pin) else None
    if old == name.descriptor.digest:
        return None
    assert isinstance(name.reference, TagReference)  # noqa: S101  # others are not asked for
    source = f"bundle {detail['sequence']} of set {detail['set']} from {detail['origin']}"
    return Change(environment, name.reference, old, name.descriptor, source, detail)


def _by(event: Event | None) -> str:
    return "" if event is None else f" by {event.actor} at {event.at.astimezone(UTC):%Y-%m-%d %H:%M:%SZ}"


def _brought(event: Event, said: BundleStatement) -> str:
    """Which earlier bundle of the same origin the event was the apply of; empty: it was none."""
    body = event.body
    if event.kind is not EventKind.IMPORTED or body.get("origin") != said.origin or "bundle" not in body:
        return ""
    return f", as bundle {body['sequence']} of its set {body['set']} brought it"


def _decided(differing: Sequence[Differs], prefer: Prefer | None) -> Sequence[Differs]:
    """What stays as it is here.

    Raises:
        BundleRefused: nobody said which side wins.
    """
    match prefer:
        case Prefer.BUNDLE:
            return ()
        case Prefer.SITE:
            return differing
        case None:
            if differing:
                rest = f"; and {len(differing) - _SPELLED} more" if len(differing) > _SPELLED else ""
                told = "; ".join(each.said for each in differing[:_SPELLED])
                raise BundleRefused(
                    "conflict", f"{told}{rest}; say which side wins with --prefer bundle or --prefer site"
                )
            return ()
        case _:
            assert_never(prefer)
