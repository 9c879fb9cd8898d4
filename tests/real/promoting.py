"""A mirror with environments as a process of its own, and promotions as they end, whatever judged them."""

from __future__ import annotations

import asyncio
import http.client
import ssl
from pathlib import Path

from iarproxy import config
from iarproxy.cli.wiring import open_rooms
from iarproxy.ledger import Change, EventKind
from iarproxy.oci import Descriptor, Digest, TagReference, parse_reference
from iarproxy.oci.media_types import OCI_MANIFEST
from machine import Answer, Proxy
from processes import free_port

HOST = "prod.mirror.example"


class Staged(Proxy):
    """A mirror that shows prod by a listener, a host name and a path prefix.

    Attributes:
        prod: the port of prod's listener.
    """

    def __init__(self, folder: Path, upstream: int, *, refusal: str = "error", pins_from: str = "promotion") -> None:
        super().__init__(folder, upstream)
        self.prod = free_port()
        self.first = self.config.read_text().replace("[admin]", f'refusal = "{refusal}"\n[admin]')
        self.section = (
            f'[environments.prod]\nlisten = ["127.0.0.1:{self.prod}"]\nhosts = ["{HOST}"]\n'
            f'path_prefix = "prod"\npins_from = "{pins_from}"\n'
        )
        self.config.write_text(self.first + self.section)

    def ways(self, name: str, wanted: str) -> list[Answer]:
        """What each worker says by each of prod's ways: listener, host name, path prefix."""
        target = f"/v2/{name}/manifests/{wanted}"
        return [
            *self.get_from_all_at(self.prod, target),
            *self.get_from_all(target, Host=HOST),
            *self.get_from_all(target.replace("/v2/", "/v2/prod/")),
        ]

    def promote(self, reference: str, digest: str, size: int, *, old: str = "", to: str = "prod") -> None:
        """Have `reference` stand for the manifest of that digest in the environment."""
        asyncio.run(self._promote(reference, Descriptor(OCI_MANIFEST, Digest.parse(digest), size), old, to))

    async def _promote(self, reference: str, descriptor: Descriptor, old: str, to: str) -> None:
        named = parse_reference(reference)
        assert isinstance(named, TagReference)
        settings = config.load(self.config, {})
        change = Change(to, named, Digest.parse(old) if old else None, descriptor, "default")
        async with open_rooms(settings, {"RUNTIME_DIRECTORY": str(self.folder / "run")}) as rooms:
            await rooms.ledger.change(EventKind.PROMOTED, [change], reason="tested", actor="tester")


def ask_over_tls(port: int, target: str, trusted: Path) -> int:
    """The status of prod's answer, by its host name over TLS."""
    context = ssl.create_default_context(cafile=trusted)
    connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=60, context=context)
    try:
        connection.request("GET", target, headers={"Host": HOST})
        return connection.getresponse().status
    finally:
        connection.close()
