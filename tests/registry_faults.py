"""What may go wrong with an upstream's answer, as data that a test adds to a running `FakeRegistry`.

Rule 1: a `Fault` describes one answer; its knobs combine (a slow body that is cut, a redirect without a header).
Rule 2: a fault is armed for a glob over the raw path, for some methods, and for the next `times` matching requests.
Rule 3: the first armed fault that matches a request is used, and only that one.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from fnmatch import fnmatchcase


@dataclass(frozen=True)
class Fault:
    """One answer gone wrong. `None` and False leave that part of the answer right.

    Attributes:
        status: answered instead of the content, with an OCI error body (or `body`).
        body: sent instead of the content; its Content-Length is right.
        headers: set in the answer; a None value removes the header.
        location: answer `redirect_status` with this Location; `{path}` stands for the raw path asked for.
        no_answer: close the connection without a byte.
        truncate_at: close the connection after so many body bytes, the Content-Length kept.
        reset: the connection is reset instead of closed, wherever it is cut.
        corrupt_at: flip the lowest bit of this byte of the content.
        stall_at: after so many body bytes send nothing for `stall_for` seconds (-1: before the headers).
        rate: bytes a second at most.
        length_by: above 0, the Content-Length promises so many bytes more than come; below 0, so many bytes of the
            end are missing and the Content-Length agrees with what is left (a clean answer of the wrong size).
        append: bytes sent after the content, counted in the Content-Length.
        close_delimited: no Content-Length; the end of the connection ends the body.
        chunked: no Content-Length; chunked transfer coding.
        ignore_range: answer 200 with everything to a Range request.
        content_range: the Content-Range header of a 206 (also for a request without Range: a 206 nobody asked for).
        gzip: the body is gzipped and says so.
        wait_for: send nothing until this event (`FakeRegistry.gate`) is set; for tests that count who waits.
    """

    status: int | None = None
    body: bytes | None = None
    headers: Mapping[str, str | None] = field(default_factory=dict)
    location: str | None = None
    redirect_status: int = 307
    no_answer: bool = False
    truncate_at: int | None = None
    reset: bool = False
    corrupt_at: int | None = None
    stall_at: int | None = None
    stall_for: float = 3600.0
    rate: float | None = None
    length_by: int = 0
    append: bytes = b""
    close_delimited: bool = False
    chunked: bool = False
    ignore_range: bool = False
    content_range: str | None = None
    gzip: bool = False
    wait_for: str = ""

    def __str__(self) -> str:
        told = {each.name: getattr(self, each.name) for each in fields(self)}
        told = {name: value for name, value in told.items() if value != getattr(NOTHING_WRONG, name)}
        return " ".join(f"{name}={repr(value)[:40]}" for name, value in told.items())


NOTHING_WRONG = Fault()


@dataclass
class Armed:
    """A fault and the requests it is meant for. `used` counts how many got it. `share` of them get it, by lot."""

    pattern: str
    fault: Fault
    methods: frozenset[str]
    times: int | None
    skip: int = 0
    used: int = 0
    share: float = 1.0
    lots: random.Random = field(default_factory=lambda: random.Random(1))

    def takes(self, method: str, path: str) -> bool:
        """Whether this request gets the fault; counts it if so."""
        if method not in self.methods or not fnmatchcase(path, self.pattern):
            return False
        if self.skip > 0:
            self.skip -= 1
            return False
        if self.times is not None and self.used >= self.times:
            return False
        if self.share < 1 and self.lots.random() >= self.share:
            return False
        self.used += 1
        return True


class Faults:
    """The faults that are armed now, in the order in which they were added."""

    def __init__(self) -> None:
        self._armed: list[Armed] = []

    def add(
        self,
        pattern: str,
        fault: Fault,
        *,
        times: int | None = None,
        skip: int = 0,
        share: float = 1.0,
        methods: frozenset[str] = frozenset({"GET", "HEAD"}),
    ) -> Armed:
        """Arm `fault` for the next `times` requests (None: all) whose raw path matches the glob, after `skip` such.

        `share`: only so many of them get it, always the same ones.
        """
        armed = Armed(pattern, fault, methods, times, skip, share=share)
        self._armed.append(armed)
        return armed

    def clear(self) -> None:
        """Everything is right again, from the next request on."""
        self._armed.clear()

    def choose(self, method: str, path: str) -> Fault:
        """The fault for this request, `NOTHING_WRONG` where none is armed."""
        return next((armed.fault for armed in self._armed if armed.takes(method, path)), NOTHING_WRONG)
