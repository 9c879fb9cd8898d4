"""gunicorn's log, as events of ours: what it calls a warning or worse; the rest is noise."""

from __future__ import annotations

import structlog

_log = structlog.get_logger("iarproxy.server")


class Quiet:
    """The interface of gunicorn's logger."""

    def __init__(self, cfg: object) -> None:
        self.setup(cfg)

    def setup(self, cfg: object) -> None:
        """Called by gunicorn with its settings."""
        self.cfg = cfg

    def critical(self, message: str, *args: object) -> None:
        """Passed on."""
        _log.error("supervisor", said=message % args)

    error = warning = critical

    def exception(self, message: str, *args: object) -> None:
        """Passed on with the traceback."""
        _log.error("supervisor", said=message % args, exc_info=True)

    def info(self, message: str, *args: object, **extra: object) -> None:
        """Dropped."""

    debug = info

    def close_on_exec(self) -> None:
        """Nothing is open here."""

    def reopen_files(self) -> None:
        """Nothing is open here."""
