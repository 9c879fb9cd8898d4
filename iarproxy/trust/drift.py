"""What upstream's answer of today means for a pinned tag.

Rule 1: a verdict is on bytes: `offered` is a digest that was computed over bytes received, never a header.
Rule 2: "upstream did not answer" is not a verdict. It is `errors.Unavailable`, raised before `judge` is called, so an
        outage can never look like drift, nor drift like an outage.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from iarproxy.oci import Digest


@dataclass(frozen=True, slots=True)
class Steady:
    """Upstream offers what is pinned."""

    pinned: Digest


@dataclass(frozen=True, slots=True)
class Drifted:
    """Upstream offers something else under the pinned tag."""

    pinned: Digest
    offered: Digest


@dataclass(frozen=True, slots=True)
class Vanished:
    """Upstream answered that it has no such tag any more."""

    pinned: Digest


Verdict: TypeAlias = Steady | Drifted | Vanished


def judge(pinned: Digest, offered: Digest | None) -> Verdict:
    """The verdict on a pinned tag; `offered` is None where upstream answered that the tag does not exist."""
    if offered is None:
        return Vanished(pinned)
    return Steady(pinned) if offered == pinned else Drifted(pinned, offered)
