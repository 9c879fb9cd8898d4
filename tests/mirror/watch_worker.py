"""A process that would watch drift: `watch_worker.py STORE UPSTREAM LOG`. For each verdict it writes down its id."""

from __future__ import annotations

import asyncio
import os
import sys
from datetime import timedelta
from pathlib import Path

from iarproxy import config
from iarproxy.ledger import Ledger
from iarproxy.mirror.chores import Chores
from iarproxy.mirror.drift.checking import Checked
from iarproxy.mirror.mirror import Mirror
from iarproxy.store import Store
from iarproxy.upstream import Upstreams

INTERVAL = timedelta(seconds=2)


async def main(folder: Path, url: str, log: Path) -> None:
    """Work until it is killed."""
    written = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def note(_: Checked) -> None:
        os.write(written, f"{os.getpid()}\n".encode())

    settings = config.parse({"store": {"path": folder}, "upstreams": {"registry.example.com": {"url": url}}}, None)
    store = Store.open(folder, max_size=10**9)
    ledger = await Ledger.open(settings.ledger_path, store_identity=store.identity, store_is_empty=store.is_empty())
    upstreams = await Upstreams.open(settings.upstreams, cache_dir=None)
    mirror = Mirror(store=store, ledger=ledger, upstreams=upstreams, on_verdict=note)
    Chores(store, ledger, mirror.watch, store.election("chores")).start(INTERVAL)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])))
