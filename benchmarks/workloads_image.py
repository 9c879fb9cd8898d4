"""Whole images by the programs that people use: skopeo, and containerd's own client.

Rule 1: what is timed is the program, start to end; the server's processor time beside it tells what is the server's.
Rule 2: containerd fetches and does not unpack: unpacking costs the same whoever serves.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from benchmarks.arena import Stage
from benchmarks.content import MIB, Content, Image
from benchmarks.measure import Sample, Series, interleaved, settle
from benchmarks.peers import Server
from benchmarks.plan import Plan, Work
from benchmarks.processes import Command, Failed, Process, cpu_seconds, find, run, until

NAME = "library/image"
ROUNDS = 3
_LAYERS = [1 * MIB, 2 * MIB, 4 * MIB, 8 * MIB, 8 * MIB, 16 * MIB, 25 * MIB]

Pull: TypeAlias = Callable[[Server, Image], None]


@contextmanager
def skopeo(folder: Path) -> Iterator[Pull]:
    """Copies an image into a folder that goes at once."""
    policy = folder / "policy.json"
    policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    program = find("skopeo") or "skopeo"

    def pull(server: Server, image: Image) -> None:
        target = tempfile.mkdtemp(dir=folder)
        source = f"docker://127.0.0.1:{server.port}/{image.name}:{image.tag}"
        command: Command = [program, "--policy", policy, "--tmpdir", folder, "copy", "--src-tls-verify=false", source]
        run([*command, f"dir:{target}"], folder)
        shutil.rmtree(target)

    yield pull


@contextmanager
def containerd(folder: Path) -> Iterator[Pull]:
    """Fetches an image into a containerd of our own, which has the server as its mirror; and forgets it again.

    Raises:
        Failed: containerd does not start; it wants root.
    """
    home = Path(tempfile.mkdtemp(prefix="iar-"))  # the path of a unix socket must be short
    socket, config = home / "ctd.sock", home / "config.toml"
    config.write_text(
        f'version = 2\nroot = "{home}/root"\nstate = "{home}/state"\noom_score = 0\n'
        'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n'
        f'[grpc]\naddress = "{socket}"\n[debug]\naddress = "{home}/debug.sock"\n'
        f'[plugins."io.containerd.internal.v1.opt"]\npath = "{home}/opt"\n'
    )
    ctr = [find("ctr") or "ctr", "--address", str(socket), "--namespace", "bench"]
    daemon = Process([find("containerd") or "containerd", "--config", config], home, name="containerd")

    def pull(server: Server, image: Image) -> None:
        hosts = home / "hosts" / "docker.io" / "hosts.toml"
        hosts.parent.mkdir(parents=True, exist_ok=True)
        mirror = f"http://127.0.0.1:{server.port}"
        hosts.write_text(f'server = "{mirror}"\n[host."{mirror}"]\ncapabilities = ["pull", "resolve"]\n')
        reference = f"docker.io/{image.name}:{image.tag}"
        run([*ctr, "content", "fetch", "--hosts-dir", home / "hosts", reference], folder)
        run([*ctr, "images", "remove", "--sync", reference], folder)

    try:
        until(lambda: daemon.ended or _answers([*ctr, "version"], folder), "containerd's answer")
        if daemon.ended:
            raise Failed(f"containerd ended: {daemon.said()}")
        yield pull
    finally:
        daemon.stop()
        shutil.rmtree(home, ignore_errors=True)


def _answers(command: list[str], folder: Path) -> bool:
    try:
        run(command, folder, 5)
    except Failed:
        return False
    return True


@dataclass(frozen=True)
class ImagePull:
    """A whole image, cold and then warm."""

    name: str
    program: str
    kind: str = "image"

    def title(self, plan: Plan) -> str:  # noqa: ARG002  # the same in every plan
        return f"an image of {sum(_LAYERS) // MIB} MiB in {len(_LAYERS)} layers by {self.program}, cold and warm"

    def prepare(self, content: Content, plan: Plan) -> None:
        for number in range(plan.at_most(ROUNDS)):
            content.image(NAME, str(number), _LAYERS)

    def run(self, stage: Stage, plan: Plan) -> dict[str, Series]:
        servers = [stage.direct, *(each for each in stage.servers if each.peer.pulls)]
        if not find(self.program):
            return {"direct": Series(failure=f"not installed; on Debian: apt-get install -y {self.program}")}
        opened = skopeo if self.program == "skopeo" else containerd
        try:
            with opened(stage.scratch) as pull:
                return interleaved(servers, plan.at_most(ROUNDS), lambda s, n: _pulled(stage, pull, s, n))
        except Failed as error:
            return {"direct": Series(failure=str(error))}


def _pulled(stage: Stage, pull: Pull, server: Server, number: int) -> Sample:
    image = stage.content.images[number]
    mark = stage.source.mark()
    cold, cold_cpu = _timed(pull, server, image)
    passed = stage.source.since(mark)
    warm, warm_cpu = _timed(pull, server, image)
    settle(server)
    return {
        "seconds": cold,
        "server_cpu": cold_cpu,
        "warm_seconds": warm,
        "warm_server_cpu": warm_cpu,
        "upstream_ratio": passed.bytes / image.size,
        "upstream_requests": passed.requests,
    }


def _timed(pull: Pull, server: Server, image: Image) -> tuple[float, float]:
    before, began = cpu_seconds(server.process.pid), time.monotonic()
    pull(server, image)
    return time.monotonic() - began, cpu_seconds(server.process.pid) - before


ALL: list[Work] = [ImagePull("image-skopeo", "skopeo"), ImagePull("image-containerd", "containerd")]
