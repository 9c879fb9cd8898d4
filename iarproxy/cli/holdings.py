"""Store and ledger: what a command works with that asks no upstream, and so has no need of the mirror either.

Rule 1: a process that starts as root becomes the store's owner before it opens anything in the store.
Rule 2: what was opened is closed, in reverse order, however the command ends.
"""

from __future__ import annotations

import codecs
import os
import pwd
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from iarproxy.config import Config
from iarproxy.errors import ConfigError
from iarproxy.ledger import Ledger
from iarproxy.mirror.events.checkpointing import Checkpointing
from iarproxy.store import Store


@dataclass(frozen=True, slots=True)
class Holdings:
    """What this machine holds, opened."""

    config: Config
    store: Store
    ledger: Ledger


def become_owner(path: Path) -> None:
    """Give up root for the owner of the store, for good; nothing happens for others, or before the store exists.

    Raises:
        ConfigError: the store cannot be looked at.
    """
    try:
        owner = path.stat()
    except FileNotFoundError:
        return
    except OSError as error:
        raise ConfigError(
            f"{path}: {error.strerror}; run as the owner of the store, or choose another store.path"
        ) from error
    if os.geteuid() != 0 or owner.st_uid == 0:
        return
    for each in ("ascii", "idna"):  # read from Python's own folder when first used, which may be root's alone
        codecs.lookup(each)
    os.setgroups([])
    os.setgid(owner.st_gid)
    os.setuid(owner.st_uid)
    with suppress(KeyError):
        os.environ["HOME"] = pwd.getpwuid(owner.st_uid).pw_dir


@asynccontextmanager
async def open_holdings(config: Config, *, checked: bool = False) -> AsyncIterator[Holdings]:
    """Open store and ledger.

    Args:
        config: where they are.
        checked: the structure of the ledger's file was checked just now, by whoever started this process.

    Raises:
        ConfigError: one of them cannot be used as it is; the message says what to do.
    """
    async with AsyncExitStack() as stack:
        store = Store.open(config.store.path, max_size=config.store.max_size)
        stack.push_async_callback(store.close)
        ledger = await Ledger.open(
            config.ledger_path, store_identity=store.identity, store_is_empty=store.is_empty(), checked=checked
        )
        stack.push_async_callback(ledger.close)
        yield Holdings(config, store, ledger)


def checkpointing(holdings: Holdings) -> Checkpointing:
    """What signs the journal of these holdings, as the configuration says."""
    return Checkpointing(holdings.ledger, holdings.config.journal_key, holdings.config.journal.checkpoint_file)
