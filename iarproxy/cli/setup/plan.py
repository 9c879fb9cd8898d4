"""What a set-up is made of: the mirror, what is wished for, and the plan that comes of it. Values only.

Rule 1: making a plan reads and writes nothing; `writing` compares it with what is there, `merging` joins it.
Rule 2: a form that a client does not have is said (`NoStrictForm`), never replaced by a weaker one.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, StrEnum
from ipaddress import ip_address
from pathlib import Path
from typing import TypeAlias

from iarproxy.errors import Refused
from iarproxy.oci import DOCKER_HUB

EVERY = "*"  # as a registry: whatever the client asks for
IMAGE = "docker.io/library/busybox:stable"  # what a Kubernetes node writes files with
MARK = "# Written by `iarproxy setup`; the same command with --undo takes it back."

Version: TypeAlias = tuple[int, ...]


class Fall(Enum):
    """What a client may ask of the real registry once the mirror gave no answer (clients.md section 2)."""

    OPEN = "everything"
    DIGESTS = "content by digest, and pushes"
    NONE = "nothing"


class ImageStore(StrEnum):
    """Where dockerd keeps images; decides whom it asks, and how."""

    CLASSIC = "classic"
    CONTAINERD = "containerd"


class NoStrictForm(Refused):
    """The client has no configuration that keeps it from the real registry. `instead`: what to do about it."""

    def __init__(self, client: str, instead: tuple[str, ...]) -> None:
        super().__init__(
            f"{client} has no strict form: whatever we answer with an error, it asks the real registry for"
        )
        self.instead = instead


@dataclass(frozen=True, slots=True)
class Mirror:
    """Where clients find us.

    Attributes:
        scheme: http or https.
        authority: host and port, as clients write it.
        ca: the certificate authority's file; None: one that machines know already.
        registries: canonical names that are to be asked for here; `EVERY` alone stands for all there are.
        default: the upstream of names that say nothing; None: there is none.
    """

    scheme: str
    authority: str
    ca: Path | None
    registries: tuple[str, ...]
    default: str | None = DOCKER_HUB

    @property
    def url(self) -> str:
        """Its base URL, without a slash at the end."""
        return f"{self.scheme}://{self.authority}"

    @property
    def plain(self) -> bool:
        """Whether it speaks plain HTTP."""
        return self.scheme == "http"

    @property
    def host(self) -> str:
        """The host alone."""
        return self.authority.rpartition(":")[0]

    @property
    def is_loopback(self) -> bool:
        """Whether the address means the client's own machine."""
        return means_this_machine(self.host)


@dataclass(frozen=True, slots=True)
class Wish:
    """What was asked for.

    Attributes:
        folder: the client's configuration folder.
        config_file: the client's main configuration file, where it has one beside the folder; None: leave it alone.
        version: of the client program; None: not known.
        mirrors: those that dockerd says it has; None: it was not asked, or did not say.
        image: what a Kubernetes node writes the files with.
    """

    mirror: Mirror
    folder: Path
    fall: Fall = Fall.OPEN
    config_file: Path | None = None
    version: Version | None = None
    store: ImageStore | None = None
    mirrors: tuple[str, ...] | None = None
    image: str = IMAGE

    @property
    def strict(self) -> bool:
        """Whether tags may be resolved nowhere else."""
        return self.fall is not Fall.OPEN


@dataclass(frozen=True, slots=True)
class Whole:
    """A file that is ours alone."""

    path: Path
    content: bytes


@dataclass(frozen=True, slots=True)
class Merged:
    """A file of others that takes something of ours.

    Attributes:
        part: what is ours in it, to be shown; the rest may hold secrets.
        merge: from what is there (None: no file) to what shall be there; raises `Refused` where that is not safe.
    """

    path: Path
    part: str
    merge: Callable[[bytes | None], bytes]


Change: TypeAlias = Whole | Merged


@dataclass(frozen=True, slots=True)
class Plan:
    """What to change.

    Attributes:
        then: what somebody has to do afterwards, in order.
        notes: what this does not do, and what to know.
    """

    changes: tuple[Change, ...]
    then: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class Weight(StrEnum):
    """What a finding means for pulls."""

    WRONG = "wrong"  # pulls do not arrive here
    OPEN = "open"  # they arrive; what we refuse is asked of the real registry
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something about a client's configuration. `registry`: whom it is about; None: all of them."""

    weight: Weight
    where: str
    text: str
    registry: str | None = None


def parse_version(text: str) -> Version | None:
    """The first thing in `text` that looks like a version, as numbers."""
    found = re.search(r"(?<![\d.])(\d{1,4})\.(\d{1,4})(?:\.(\d{1,4}))?", text, re.ASCII)
    return tuple(int(each) for each in found.groups() if each is not None) if found else None


def means_this_machine(host: str) -> bool:
    """Whether a host name or address is the loopback of whoever asks."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def real_url(registry: str) -> str:
    """Where a client without a mirror finds a registry."""
    if registry == DOCKER_HUB:
        return "https://registry-1.docker.io"
    scheme = "http" if means_this_machine(registry.rpartition(":")[0] or registry) else "https"
    return f"{scheme}://{registry}"
