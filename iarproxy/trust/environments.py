"""Environments: named sets of pins, and what a tag is in one of them.

Rule 1: `mode = "refuse"` counts in every environment. `mode = "follow"` counts only where pins come from first fetches:
        in the others nothing but a pin says what a tag means, and upstream is never asked for one.
Rule 2: attachment tags are followed everywhere. Signatures belong to a digest, and digests are the same everywhere.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum

from iarproxy.oci import TagReference
from iarproxy.oci.routing import DEFAULT
from iarproxy.trust.policy import Mode, TagRule, rule_for


class PinsFrom(StrEnum):
    """What gives an environment its pins, beside a person's acts on one pin."""

    FIRST_FETCH = "first-fetch"  # whatever a client asks for first
    PROMOTION = "promotion"  # `iarproxy promote`, from another environment
    LOCK = "lock"  # `iarproxy lock import`, from a lock file


@dataclass(frozen=True, slots=True)
class Environment:
    """A named set of pins. `promote_from`: the environment from which names are promoted into this one."""

    name: str = DEFAULT
    pins_from: PinsFrom = PinsFrom.FIRST_FETCH
    promote_from: str = DEFAULT

    @property
    def pins_first_fetches(self) -> bool:
        """Whether a tag without a pin is asked of upstream, and drift from upstream means something."""
        return self.pins_from is PinsFrom.FIRST_FETCH

    def rule_for(self, reference: TagReference, rules: Iterable[TagRule]) -> TagRule:
        """The first of `rules` that matches, as it counts here; pinning where none does."""
        rule = rule_for(reference, rules)
        if self.pins_first_fetches or rule.mode is not Mode.FOLLOW or reference.tag.is_attachment:
            return rule
        return replace(rule, mode=Mode.PIN)


FIRST_FETCHES = Environment()


def env_option(environment: str) -> str:
    """What names that environment in a command, with a blank before it; empty for the default one."""
    return "" if environment == DEFAULT else f" --env {environment}"
