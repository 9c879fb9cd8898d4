"""What upstream does not have, or not for us: remembered for some seconds, by all workers (U28).

Rule 1: short, and shorter for digests, which may arrive at any moment: a herd that asks costs one request, no more.
        Attachments are no exception: who signs an image and then verifies it waits for as long.
Rule 2: a 401 that stands although we showed what we have is about the whole repository; any other no is about just
        what was asked for. What a token server refuses is remembered with its tokens (`sharing`), not here.
Rule 3: what is remembered is one word. Who asks on a person's or the drift watch's behalf asks anew, and a yes ends it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType

from iarproxy.errors import Denied, Refused, UnknownBlob, UnknownManifest, UnknownName
from iarproxy.oci import Digest, Tag
from iarproxy.upstream.cache import SharedCache

_DIGEST_FOR = 3.0  # seconds
_UNAUTHORIZED = 401
_WORDS = MappingProxyType({b"manifest": UnknownManifest, b"blob": UnknownBlob, b"name": UnknownName, b"denied": Denied})


@dataclass(frozen=True, slots=True)
class Question:
    """What was asked for. `family`: a word for the kind of content. `what`: for messages. `wanted`: None: a list."""

    family: str
    repository: str
    wanted: Tag | Digest | None
    what: str

    @property
    def key(self) -> str:
        """Names just this question."""
        return f"{self.family} {self.repository} {self.wanted or ''}"

    @property
    def wide_key(self) -> str:
        """Names all questions of this kind about the repository."""
        return f"{self.family} {self.repository}"


class Negative:
    """The negative answers of one upstream.

    Args:
        name: the upstream's.
        ttl: seconds for which a no is remembered; 0: only that of a digest is, briefly.
        remembered: is called for each question that was answered from here.
    """

    def __init__(self, name: str, cache: SharedCache, ttl: float, remembered: Callable[[], None]) -> None:
        self._name = name
        self._cache = cache
        self._ttl = ttl
        self._remembered = remembered

    async def check(self, question: Question) -> None:
        """Raise the refusal that was given to the same question a moment ago, if one was."""
        word = await self._cache.first([self._key(question.key), self._key(question.wide_key)])
        kind = _WORDS.get(word or b"")
        if kind is None:
            return
        self._remembered()
        said = (
            f"refuses access to {question.what}" if kind is Denied else f"has no {question.what.removeprefix('the ')}"
        )
        text = f"{self._name} {said} (asked a moment ago)"
        raise kind(text, upstream=self._name)

    async def learn(self, question: Question, error: Refused) -> None:
        """Remember a refusal."""
        word = next((word for word, kind in _WORDS.items() if type(error) is kind), None)
        elsewhere = isinstance(error, Denied) and error.detail.get("said_by") != "registry"
        if word is not None and not elsewhere:
            wide = isinstance(error, Denied) and error.detail.get("status") == _UNAUTHORIZED
            key = question.wide_key if wide else question.key
            await self._cache.put(self._key(key), word, self._lifetime(question, error))

    async def forget(self, question: Question) -> None:
        """It was answered: nothing that was remembered is true any more."""
        for key in (question.key, question.wide_key):
            await self._cache.forget(self._key(key))

    def _lifetime(self, question: Question, error: Refused) -> float:
        if isinstance(question.wanted, Digest) and not isinstance(error, Denied):
            return _DIGEST_FOR
        return self._ttl

    def _key(self, key: str) -> str:
        return f"no {self._name} {key}"
