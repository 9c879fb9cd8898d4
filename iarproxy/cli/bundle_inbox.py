"""`iarproxy bundle inbox`: one pass over the watched folder of `[inbox]`, as systemd/iarproxy-inbox.service runs it.

Rule 1: keys are read before root is given up; the bundles are read as the store's owner, who must be able to.
Rule 2: a receipt appears whole or not at all; one that is there is left as it is.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from iarproxy.archive.applying.naming import Prefer
from iarproxy.archive.applying.site import Done, Order, Outcome, Unchanged
from iarproxy.archive.folder import BundleFolder
from iarproxy.archive.taking import Fate, Taken, Taking
from iarproxy.cli.actor import kernel_actor
from iarproxy.cli.bundle_apply import site_of
from iarproxy.cli.bundle_receipt import acknowledging
from iarproxy.cli.holdings import Holdings
from iarproxy.cli.key_reading import signers
from iarproxy.cli.options import ConfigOption, JsonOption, environment_of, load, run_held
from iarproxy.cli.output import Exit, as_bytes, out, plain, print_error, print_json, stop
from iarproxy.config import Config
from iarproxy.config.inbox import InboxSettings
from iarproxy.errors import ConfigError, Refused
from iarproxy.ledger.bundles import Applied
from iarproxy.trust.signing import PublicKey

log = structlog.get_logger("iarproxy.inbox")

_TOLD_AS_ERRORS = frozenset({Fate.REFUSED, Fate.UNREADABLE, Fate.FAILED})


def inbox(json: JsonOption = False, config: ConfigOption = None) -> None:
    """Apply what arrived in the watched folder, in order, and end; what is not all there is left for the next time.

    The folder and whose signatures count stand in [inbox] of the configuration. Nothing in the folder is changed, and
    nothing is applied twice. Exit code 1: something was refused, or could not be read; each refusal counts once.
    """
    settings = load(config)
    section = _section(settings)
    keys = signers(section.trust)
    actor = kernel_actor()
    taken = run_held(config, lambda holdings: _taking(holdings, section, keys, actor).run())
    if json:
        print_json({"bundles": list(map(_as_json, taken))})
    else:
        for each in taken:
            _print(each)
    fates = {each.fate for each in taken}
    if fates & {Fate.REFUSED, Fate.UNREADABLE}:
        stop(Exit.REFUSED)
    if Fate.FAILED in fates:
        stop(Exit.UNAVAILABLE)


def _section(settings: Config) -> InboxSettings:
    if settings.inbox is None:
        where = settings.source or "the configuration"
        raise ConfigError(f"{where} has no [inbox]; write `path` and `trust` there, or use `iarproxy bundle apply`")
    return settings.inbox


def _taking(holdings: Holdings, section: InboxSettings, keys: Sequence[Sequence[PublicKey]], actor: str) -> Taking:
    environment = environment_of(holdings.config, section.environment)
    order = Order(
        trusted=keys,
        threshold=section.threshold,
        prefer=None if section.prefer is None else Prefer(section.prefer),
        reason=f"it arrived in {section.path}",
        actor=actor,
    )
    applying = _Applying(holdings, order, section)
    prints = [sorted(key.fingerprint for key in each) for each in keys]
    return Taking(
        holdings.ledger,
        section.path,
        section.settle.total_seconds(),
        apply=applying.apply,
        again=applying.acknowledge,
        actor=actor,
        terms=f"{prints} {section.threshold} {section.prefer} {environment}",
        now=lambda: datetime.now(UTC).timestamp(),
        clock=asyncio.get_running_loop().time,
    )


@dataclass(frozen=True, slots=True)
class _Applying:
    """Applies a bundle, and writes its receipt."""

    holdings: Holdings
    order: Order
    section: InboxSettings

    async def apply(self, folders: Sequence[Path]) -> str:
        """Apply the bundle in these folders; what it came to.

        Raises:
            Refused, Unavailable: as `archive.applying.Site.apply`.
        """
        environment = environment_of(self.holdings.config, self.section.environment)
        with await asyncio.to_thread(BundleFolder.open, folders) as folder:
            outcome = await site_of(self.holdings, environment).apply(folder, self.order)
        return _said(outcome) + await self._acknowledged(outcome.applied)

    async def acknowledge(self, applied: Applied) -> None:
        """Write the receipt of what was applied, where there is none yet.

        Raises:
            Refused: it cannot be written.
        """
        if self.section.receipts is None:
            return
        target = self.section.receipts / f"{applied.set}-{applied.sequence}-{applied.bundle.hex[:12]}.receipt"
        if await asyncio.to_thread(target.exists):
            return
        raw = await acknowledging(self.holdings).receipt(applied)
        await asyncio.to_thread(partial(_write, target, raw))

    async def _acknowledged(self, applied: Applied) -> str:
        """What there is to say of the receipt; the bundle is applied by now."""
        try:
            await self.acknowledge(applied)
        except Refused as refused:
            log.warning("no receipt", set=applied.set, sequence=applied.sequence, reason=str(refused))
            return f"; {refused}"
        return ""


def _write(target: Path, raw: bytes) -> None:
    """Make the new file `target` (rule 2)."""
    again = "`iarproxy bundle receipt SET` writes it again"
    try:
        target.parent.mkdir(mode=0o755, exist_ok=True)
        fd, name = tempfile.mkstemp(prefix=".", dir=target.parent)
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(raw)
                file.flush()
                os.fsync(fd)
                os.fchmod(fd, 0o644)
            Path(name).rename(target)
        finally:
            with suppress(FileNotFoundError):
                Path(name).unlink()
    except OSError as error:
        raise Refused(f"its receipt {target} cannot be written: {error.strerror}; {again}") from error


def _said(outcome: Outcome) -> str:
    match outcome:
        case Unchanged():
            return "was applied before"
        case Done(names=names):
            kept = f", {len(names.kept)} kept as they are" if names.kept else ""
            changed = f"{len(names.changes)} names changed, {names.unchanged} as they were{kept}"
            return f"{changed}; {as_bytes(outcome.taken)} taken"


def _print(taken: Taken) -> None:
    code = f" ({taken.code})" if taken.code else ""
    line = plain(f"{taken.fate.value}: {taken.what}{code}: {taken.said}")
    if taken.fate in _TOLD_AS_ERRORS:
        print_error(line)
    else:
        out.print(line, markup=False)


def _as_json(taken: Taken) -> dict[str, Any]:
    return {
        "what": plain(taken.what),
        "outcome": taken.fate.value,
        "code": taken.code or None,
        "said": plain(taken.said),
        "bundle": None if taken.bundle is None else str(taken.bundle),
    }
