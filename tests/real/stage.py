"""Where clients are watched: registry <- tap <- iarproxy <- tap <- client, and a sentinel as the real registry."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Self

from machine import Proxy, Registry
from processes import until
from taps import Tap
from wires import Wires

# what is refused, by a plain error; and what stops clients that would go past us
RULES = """
[drift] # what upstream hears is counted: it is looked at when a test says so
interval = "0s"

[[tags]]
match = "docker.io/library/refused-*"
mode = "refuse"

[[tags]]
match = "docker.io/library/stopped-*"
mode = "pin"
on_drift = "stop"
"""


class Stage:
    """Use as `with`. Tests share it: each uses names and contents of its own.

    Attributes:
        registry: the upstream of iarproxy, Debian's docker-registry.
        back: the tap between the two.
        proxy: iarproxy.
        front: the tap between clients and iarproxy; its port is what clients are told.
        sentinel: the real registry, as far as clients are concerned.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._wires = stack.enter_context(Wires())
            self.registry = Registry(self._folder / "upstream").start()
            stack.callback(self.registry.stop)
            self.back = self._wires.tap(self.registry.port)
            self.proxy = Proxy(self._folder / "mirror", self.back.port)
            with self.proxy.config.open("a") as config:
                config.write(RULES)
            self.proxy.start()
            stack.callback(self.proxy.stop)
            self.front: Tap = self._wires.tap(self.proxy.port)
            self.sentinel = self._wires.sentinel()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    @contextmanager
    def without_mirror(self) -> Iterator[None]:
        """For a while iarproxy is stopped and its port refuses connections."""
        port = self.front.port
        self._wires.close(self.front)
        self.proxy.stop()
        try:
            yield
        finally:
            self.proxy.start()
            self.front = self._wires.tap(self.proxy.port, port=port)

    def strayed(self) -> list[str]:
        """What reached the sentinel since this was last asked."""
        seen, self.sentinel.seen = self.sentinel.seen, []
        return seen

    def asked(self, containing: str) -> list[str]:
        """The first lines of clients' requests whose target has this in it."""
        return [line for head in self.front.heads if containing in (line := head.split("\r\n", 1)[0])]

    def hang_up(self) -> None:
        """Cut the connections that programs keep for later."""
        for tap in (self.front, self.back):
            self._wires.hang_up(tap)

    def settle(self) -> None:
        """Wait until all that was fetched is committed."""
        self.proxy.wait_for_clean_ingest()

    def drifted(self, repository: str) -> None:
        """Have iarproxy look at upstream now, and wait until all workers know that the repository's tag drifted."""
        self.proxy.command("drift", "check")
        target = f"/v2/{repository}/manifests/1"

        def known() -> bool:
            answers = self.proxy.get_from_all(target)
            return all("iar-upstream-digest" in answer.headers or answer.status >= 400 for answer in answers)

        until(known, "drift in the answers of all workers")
