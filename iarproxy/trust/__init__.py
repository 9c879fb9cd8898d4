"""Judgement without I/O: verdicts on drift, which policy a tag has, and what may become a first pin.

Rule: everything here gets facts and returns a verdict; who fetched the facts, and what follows, is the caller's.
"""

from iarproxy.trust.drift import Drifted, Steady, Vanished, Verdict, judge
from iarproxy.trust.policy import Admission, Mode, OnDrift, Pattern, RefusalForm, TagRule, rule_for

__all__ = [
    "Admission",
    "Drifted",
    "Mode",
    "OnDrift",
    "Pattern",
    "RefusalForm",
    "Steady",
    "TagRule",
    "Vanished",
    "Verdict",
    "judge",
    "rule_for",
]
