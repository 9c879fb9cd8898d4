"""Which names may go: rules that delete, rules that keep, and facts about each pin. No input or output.

Rule 1: keep wins. A pin goes only where a rule deletes it, no rule keeps it, and nothing protects it.
Rule 2: the clocks are apart: how long ago a name was pinned, and how long ago it was used. One never stands in for the
        other; but nothing is unused for longer than it is pinned.
Rule 3: what is not known keeps: uses that cannot be read, or are not complete for as long as a rule asks.
Rule 4: content that is pinned in several environments goes from all of them at once, or from none.
Rule 5: an attachment tag is no name: it goes with what it is attached to.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TypeAlias, assert_never

from iarproxy.oci import Digest, Repository, TagReference
from iarproxy.trust.policy import Pattern
from iarproxy.trust.versions import Range, Version


class Action(StrEnum):
    """What a rule does."""

    DELETE = "delete"
    KEEP = "keep"


class By(StrEnum):
    """What makes a name newer than another one."""

    SEMVER = "semver"
    PINNED = "pinned"


@dataclass(frozen=True, slots=True)
class UsedAt:
    """When it was used last."""

    at: datetime


@dataclass(frozen=True, slots=True)
class NotUsedSince:
    """No use is known, and all uses since then would be."""

    since: datetime


@dataclass(frozen=True, slots=True)
class UseUnknown:
    """Nobody can tell, and why."""

    reason: str


LastUse: TypeAlias = UsedAt | NotUsedSince | UseUnknown


@dataclass(frozen=True, slots=True)
class Facts:
    """A pin, and what is known of it.

    Attributes:
        state: the last verdict on it (steady, drifted, vanished); None: it was not checked.
        protections: what keeps it whatever the rules say, in words.
    """

    environment: str
    reference: TagReference
    digest: Digest
    revision: int
    pinned_at: datetime
    used: LastUse
    state: str | None = None
    protections: tuple[str, ...] = ()

    @property
    def key(self) -> tuple[str, str]:
        """What it is the pin of, for sorting."""
        return self.environment, str(self.reference)


@dataclass(frozen=True, slots=True)
class Rule:
    """One `[[retention]]` section: it is about a pin when all that it says holds.

    Attributes:
        pinned_age, unused_for: of rules that delete: at least so long ago.
        pinned_within, used_within: of rules that keep: at most so long ago.
        count, by: of rules that keep: only the newest of each repository, of those that the rest of it is about.
        text: how it is named in plans.
    """

    action: Action
    match: Pattern
    environment: str
    text: str
    semver: Range | None = None
    states: frozenset[str] | None = None
    pinned_age: timedelta | None = None
    unused_for: timedelta | None = None
    pinned_within: timedelta | None = None
    used_within: timedelta | None = None
    count: int | None = None
    by: By = By.PINNED


@dataclass(frozen=True, slots=True)
class Delete:
    """It may go."""

    rule: str
    reason: str


@dataclass(frozen=True, slots=True)
class Keep:
    """A rule would delete it, and this keeps it."""

    why: str


@dataclass(frozen=True, slots=True)
class Untouched:
    """No rule deletes it."""


Verdict: TypeAlias = Delete | Keep | Untouched


def decide(pins: Sequence[Facts], rules: Sequence[Rule], as_of: datetime) -> dict[tuple[str, str], Verdict]:
    """The verdict on each pin, by `Facts.key`. `pins`: all of them, in every environment (rule 4)."""
    kept = _newest(pins, rules, as_of)
    verdicts = {each.key: _alone(each, rules, kept.get(each.key), as_of) for each in pins}
    by_content: defaultdict[Digest, list[Facts]] = defaultdict(list)
    for each in pins:
        by_content[each.digest].append(each)
    for group in by_content.values():
        verdicts.update(_together(group, verdicts))
    return verdicts


def _alone(pin: Facts, rules: Sequence[Rule], counted: str | None, as_of: datetime) -> Verdict:
    """The verdict that leaves other environments aside. `counted`: the rule that keeps it as one of the newest."""
    if pin.reference.tag.is_attachment:
        return Untouched()
    deleting = next((rule for rule in rules if rule.action is Action.DELETE and _deletes(rule, pin, as_of)), None)
    if deleting is None:
        return Untouched()
    if pin.protections:
        return Keep(pin.protections[0])
    if counted is not None:
        return Keep(counted)
    keeping = (rule for rule in rules if rule.action is Action.KEEP and rule.count is None)
    for rule in keeping:
        if _is_about(rule, pin) and _is_recent(rule, pin, as_of):
            return Keep(f"{rule.text} keeps it")
    return Delete(deleting.text, _reason(deleting, pin, as_of))


def _together(group: Iterable[Facts], verdicts: Mapping[tuple[str, str], Verdict]) -> dict[tuple[str, str], Verdict]:
    """What changes where content is pinned in several environments (rule 4)."""
    group = list(group)
    staying = [each for each in group if not isinstance(verdicts[each.key], Delete)]
    if not staying or len({each.environment for each in group}) == 1:
        return {}
    changed: dict[tuple[str, str], Verdict] = {}
    for each in group:
        if isinstance(verdicts[each.key], Delete):
            other = next((it for it in staying if it.environment != each.environment), staying[0])
            changed[each.key] = Keep(f"its content is pinned in {other.environment} too, as {other.reference}")
    return changed


def _newest(pins: Iterable[Facts], rules: Iterable[Rule], as_of: datetime) -> dict[tuple[str, str], str]:
    """Which pins are among the newest that a rule keeps, and which rule."""
    kept: dict[tuple[str, str], str] = {}
    for rule in rules:
        if rule.action is not Action.KEEP or rule.count is None:
            continue
        within: defaultdict[Repository, list[Facts]] = defaultdict(list)
        for pin in pins:
            if _is_about(rule, pin) and _is_recent(rule, pin, as_of) and _rank(rule.by, pin) is not None:
                within[pin.reference.repository].append(pin)
        for found in within.values():
            found.sort(key=lambda pin: (_rank(rule.by, pin), str(pin.reference)), reverse=True)
            text = f"{rule.text} keeps it as one of the {rule.count} newest by {rule.by}"
            kept |= {pin.key: text for pin in found[: rule.count]}
    return kept


def _rank(by: By, pin: Facts) -> datetime | Version | None:
    match by:
        case By.PINNED:
            return pin.pinned_at
        case By.SEMVER:
            return Version.of(pin.reference.tag.value)
        case _:
            assert_never(by)


def _is_about(rule: Rule, pin: Facts) -> bool:
    if pin.environment != rule.environment or not rule.match.matches(pin.reference):
        return False
    if rule.states is not None and pin.state not in rule.states:
        return False
    if rule.semver is None:
        return True
    version = Version.of(pin.reference.tag.value)
    return version is not None and rule.semver.holds(version)


def _deletes(rule: Rule, pin: Facts, as_of: datetime) -> bool:
    if not _is_about(rule, pin):
        return False
    if rule.pinned_age is not None and as_of - pin.pinned_at < rule.pinned_age:
        return False
    if rule.unused_for is None:
        return True
    idle_since = _idle_since(pin)
    return idle_since is not None and as_of - idle_since >= rule.unused_for


def _idle_since(pin: Facts) -> datetime | None:
    """Since when it is not used for certain; None: not known."""
    match pin.used:
        case UsedAt(at):
            return max(at, pin.pinned_at)
        case NotUsedSince(since):
            return max(since, pin.pinned_at)
        case UseUnknown():
            return None
        case _:
            assert_never(pin.used)


def _is_recent(rule: Rule, pin: Facts, as_of: datetime) -> bool:
    """Whether a rule that keeps is about it by its clocks too. A use that cannot be ruled out counts (rule 3)."""
    if rule.pinned_within is not None and as_of - pin.pinned_at > rule.pinned_within:
        return False
    if rule.used_within is None or isinstance(pin.used, UseUnknown):
        return True
    last = pin.used.at if isinstance(pin.used, UsedAt) else pin.used.since
    return as_of - last <= rule.used_within


def _reason(rule: Rule, pin: Facts, as_of: datetime) -> str:
    said = []
    if rule.states is not None:
        said.append(f"{pin.state} upstream")
    if rule.pinned_age is not None:
        said.append(f"pinned {(as_of - pin.pinned_at).days} days ago")
    idle_since = _idle_since(pin)
    if rule.unused_for is not None and idle_since is not None:
        said.append(f"not used for {(as_of - idle_since).days} days")
    return ", ".join(said)
