"""`WWW-Authenticate` (RFC 9110 section 11.6.1; distribution docs, spec/auth/token): from headers to challenges.

Rule 1: several challenges may share a header, and a challenge's parameters are separated by the same commas; a word is
        a parameter if `=` follows it, else a scheme.
Rule 2: what does not parse ends its header; challenges in front of it count.
Rule 3: everything is bounded; the first value of a repeated parameter counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

_MAX_HEADER = 8192  # characters
_MAX_CHALLENGES = 16
_MAX_PARAMETERS = 32

_WORD = r"[A-Za-z0-9!#$%&'*+.^_`|~-]+"
_SPACE = re.compile(r"[ \t]*")
_SEPARATOR = re.compile(r"[ \t,]*")
_SCHEME = re.compile(rf"({_WORD})(?=[ \t,]|\Z)", re.ASCII)
_PARAMETER = re.compile(
    rf"({_WORD})[ \t]*=[ \t]*(?:\"((?:[^\"\\]|\\.)*)\"|([^ \t,\"]+))(?=[ \t,]|\Z)", re.ASCII | re.DOTALL
)
_TOKEN68 = re.compile(r"[A-Za-z0-9._~+/-]+=*(?=[ \t]*(?:,|\Z))", re.ASCII)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Challenge:
    """What upstream wants to see. `scheme` and the names of parameters are lower case."""

    scheme: str
    parameters: dict[str, str] = field(default_factory=dict)


def parse_challenges(headers: Iterable[str]) -> list[Challenge]:
    """The challenges in all `WWW-Authenticate` headers of an answer, in order."""
    found: list[Challenge] = []
    for header in headers:
        found += _challenges(header[:_MAX_HEADER])
    return found[:_MAX_CHALLENGES]


def _challenges(text: str) -> list[Challenge]:
    found: list[Challenge] = []
    at = _skip(_SEPARATOR, text, 0)
    while at < len(text) and len(found) < _MAX_CHALLENGES:
        scheme = _SCHEME.match(text, at)
        if scheme is None:
            break
        parameters, at = _parameters(text, _skip(_SPACE, text, scheme.end()))
        found.append(Challenge(scheme[1].lower(), parameters))
    return found


def _parameters(text: str, at: int) -> tuple[dict[str, str], int]:
    """The parameters from `at` on, and where the next challenge starts."""
    parameters: dict[str, str] = {}
    while len(parameters) < _MAX_PARAMETERS:
        found = _PARAMETER.match(text, at)
        if found is None:
            break
        quoted, plain = found[2], found[3]
        value = plain if quoted is None else _ESCAPED.sub(r"\1", quoted)
        parameters.setdefault(found[1].lower(), value)
        at = _skip(_SEPARATOR, text, found.end())
    if not parameters and (opaque := _TOKEN68.match(text, at)):
        at = opaque.end()
    return parameters, _skip(_SEPARATOR, text, at)


def _skip(pattern: re.Pattern[str], text: str, at: int) -> int:
    found = pattern.match(text, at)
    return at if found is None else found.end()
