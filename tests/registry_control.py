"""A `FakeRegistry` beside the test: in a thread, or in a process of its own, steered over a small HTTP interface.

Rule 1: both have one face, `Steered`: named acts with JSON arguments, so that a test may change from one to the other.
Rule 2: a process ends when its standard input does, so that none outlives its test.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import inspect
import json
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from iarproxy.oci import Digest
from images import random_blob, small_image
from registry import FakeRegistry
from registry_faults import Fault

_PATIENCE = 30.0  # seconds until an act or a start counts as failed


class Acts:
    """What can be asked of a steered registry. Arguments and results are JSON; each act runs in the registry's loop."""

    def __init__(self, registry: FakeRegistry) -> None:
        self._registry = registry

    def publish(
        self, repository: str, tag: str, *, seed: int = 0, size: int = 2000, docker: bool = False
    ) -> dict[str, Any]:
        """Publish `small_image(seed)`; returns the digest and the layers' digests."""
        image = small_image(seed, size=size, docker=docker)
        self._registry.content.publish(repository, tag, image)
        return {"digest": str(image.digest), "layers": [str(layer) for layer in image.layers]}

    def publish_blob(self, repository: str, size: int, seed: int = 0) -> str:
        """Publish `random_blob(size, seed)`."""
        return str(self._registry.content.publish_blob(repository, random_blob(size, seed)))

    def delete_tag(self, repository: str, tag: str) -> None:
        """Forget a tag."""
        self._registry.content.delete_tag(repository, tag)

    def delete_blob(self, repository: str, digest: str) -> None:
        """Forget a blob."""
        self._registry.content.delete_blob(repository, Digest.parse(digest))

    def add_fault(self, pattern: str, fault: dict[str, Any], times: int | None = None, skip: int = 0) -> None:
        """Arm `Fault(**fault)`; bytes are written as base64."""
        for name in ("body", "append"):
            if isinstance(fault.get(name), str):
                fault[name] = base64.b64decode(fault[name])
        self._registry.faults.add(pattern, Fault(**fault), times=times, skip=skip)

    def clear_faults(self) -> None:
        """Everything is right again."""
        self._registry.faults.clear()

    def open_gate(self, name: str) -> None:
        """Set the event of `Fault.wait_for`."""
        self._registry.gate(name).set()

    def log(self) -> list[dict[str, Any]]:
        """Every request: method, path, status, headers."""
        return [
            {"method": seen.method, "path": seen.path, "status": seen.status, "headers": dict(seen.headers)}
            for seen in self._registry.log
        ]

    def sent(self) -> dict[str, int]:
        """Bytes sent per digest."""
        return dict(self._registry.sent)

    def forget(self) -> None:
        """Empty the log and the counters."""
        self._registry.forget()

    async def stop(self) -> None:
        """Upstream is down: nothing listens on the port."""
        await self._registry.stop()

    async def start(self) -> None:
        """Upstream is back on its old port."""
        await self._registry.start()


class Steered(Protocol):
    """A registry elsewhere: its address, and `act(name, **arguments)`."""

    url: str

    def act(self, name: str, **arguments: Any) -> Any: ...


async def _perform(acts: Acts, name: str, arguments: Mapping[str, Any]) -> Any:
    result = getattr(acts, name)(**arguments)
    return await result if inspect.isawaitable(result) else result


class RegistryThread:
    """A registry in a thread with a loop of its own, for tests whose own code blocks."""

    def __init__(self, registry: FakeRegistry | None = None) -> None:
        self.registry = registry or FakeRegistry()
        self.url = ""
        self._acts = Acts(self.registry)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fake-registry", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self.registry.start(), self._loop).result(_PATIENCE)
        self.url = self.registry.url
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self.registry.stop(), self._loop).result(_PATIENCE)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_PATIENCE)
        self._loop.close()

    def act(self, name: str, **arguments: Any) -> Any:
        """Do it in the registry's loop and wait for the result."""
        return asyncio.run_coroutine_threadsafe(_perform(self._acts, name, arguments), self._loop).result(_PATIENCE)


class RegistryProcess:
    """A registry in a child process, steered by lines of JSON on its standard input and output."""

    def __init__(self) -> None:
        self.url = ""
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        command = [sys.executable, str(Path(__file__).with_name("registry.py"))]
        self._child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.url = self._answer()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._child.stdin is not None and self._child.stdout is not None  # noqa: PT018  # both are pipes, see __enter__
        self._child.stdin.close()
        self._child.stdout.close()
        try:
            self._child.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()

    def act(self, name: str, **arguments: Any) -> Any:
        """Send the act to the child and wait for the result."""
        assert self._child.stdin is not None
        with self._lock:
            self._child.stdin.write(json.dumps({"act": name, "arguments": arguments}) + "\n")
            self._child.stdin.flush()
            return self._answer()

    def _answer(self) -> Any:
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        if not line:
            raise RuntimeError(f"the registry process ended with {self._child.wait(_PATIENCE)}")
        answer = json.loads(line)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["result"]


def _say(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


async def _serve(port: int) -> None:
    loop = asyncio.get_running_loop()
    registry = await FakeRegistry().start(port)
    acts = Acts(registry)
    _say({"result": registry.url})
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        asked = json.loads(line)
        try:
            _say({"result": await _perform(acts, asked["act"], asked["arguments"])})
        except Exception as error:  # noqa: BLE001  # whatever it is, the test on the other side must see it
            _say({"error": repr(error)})
    await registry.stop()


def serve() -> int:
    """`python tests/registry.py [--port N]`: print the URL as a line of JSON, then take acts from standard input."""
    parser = argparse.ArgumentParser(description=serve.__doc__)
    parser.add_argument("--port", type=int, default=0)
    asyncio.run(_serve(parser.parse_args().port))
    return 0
