"""Gates of an environment: who is asked before a digest is let in, and what all of them say.

Rule 1: all gates are asked, at the same time, so that one refusal does not hide the others. Each has its deadline.
Rule 2: what gives no verdict is undecided, never allowed; a gate of ours that breaks is a bug and ends the promotion.
Rule 3: a policy endpoint is told the facts and nothing else; its token comes from a file at each question.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

import orjson

from iarproxy import errors
from iarproxy.trust.gates import Facts, Refused, Undecided, Verdict, facts_as_json, judge_age, judge_result

_MAX_ANSWER = 65_536  # bytes
_MAX_TOKEN = 16_384


class Gate(Protocol):
    """Something that has to let a digest pass."""

    @property
    def name(self) -> str:
        """For people, and for the record."""
        ...

    async def judge(self, facts: Facts) -> Verdict:
        """The verdict; never later than the gate's own deadline."""
        ...


class Answer(Protocol):
    """What was answered to a POST."""

    @property
    def body(self) -> bytes:
        """Bounded by what was wanted."""
        ...


class Posting(Protocol):
    """Posts a body to the one address that it was made for; see `upstream.posting`."""

    async def post(
        self, body: bytes, headers: Mapping[str, str] | None = None, *, media_type: str, wanted: int
    ) -> Answer:
        """Raises `errors.Refused` or `errors.Unavailable` where no answer can be used."""
        ...


async def ask_all(gates: Sequence[Gate], facts: Facts) -> tuple[tuple[str, Verdict], ...]:
    """What each gate says, in order and by its name."""
    async with asyncio.TaskGroup() as group:
        asked = [group.create_task(gate.judge(facts), name=f"gate {gate.name}") for gate in gates]
    return tuple((gate.name, task.result()) for gate, task in zip(gates, asked, strict=True))


class AgeGate:
    """Lets pass what has been here for a while, by our own observation."""

    name = "min_age"

    def __init__(self, least: timedelta, now: Callable[[], datetime]) -> None:
        self._least = least
        self._now = now

    async def judge(self, facts: Facts) -> Verdict:
        """See `Gate.judge`."""
        return judge_age(facts, self._least, self._now())


class PolicyGate:
    """Asks an endpoint in the way of OPA's data API: `{"input": facts}` there, `{"result": ...}` back.

    Args:
        posting: to the endpoint.
        token_file: holds the bearer token; None: none is shown.
    """

    name = "policy"

    def __init__(self, posting: Posting, token_file: Path | None = None) -> None:
        self._posting = posting
        self._token_file = token_file

    async def judge(self, facts: Facts) -> Verdict:
        """See `Gate.judge`."""
        try:
            headers = await asyncio.to_thread(self._headers)
            body = orjson.dumps({"input": facts_as_json(facts)})
            answer = await self._posting.post(body, headers, media_type="application/json", wanted=_MAX_ANSWER)
        except errors.Unavailable as error:
            return Undecided(str(error))
        except errors.Refused as error:
            return Refused((str(error),))
        return _judged(answer.body)

    def _headers(self) -> dict[str, str]:
        if self._token_file is None:
            return {}
        try:
            with self._token_file.open("rb") as file:
                token = file.read(_MAX_TOKEN + 1).strip()
        except OSError as error:
            raise errors.Refused(f"policy_token_file {self._token_file}: {error.strerror}") from error
        if not token or len(token) > _MAX_TOKEN or not token.isascii() or not token.decode().isprintable():
            raise errors.Refused(f"policy_token_file {self._token_file} holds no token: one line of printable ASCII")
        return {"Authorization": f"Bearer {token.decode()}"}


def _judged(body: bytes) -> Verdict:
    try:
        document: Any = orjson.loads(body)
    except orjson.JSONDecodeError:
        document = None
    if not isinstance(document, dict):
        return Undecided("the policy endpoint's answer is no JSON object")
    return judge_result(document.get("result"), defined="result" in document)
