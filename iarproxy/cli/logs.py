"""Where events go: standard error, readable on a terminal, else a JSON object a line."""

from __future__ import annotations

import sys

import structlog


def configure_logging(level: int) -> None:
    """Let events of `level` (as in `logging`) and above be written."""
    plain = sys.stderr.isatty()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *([] if plain else [structlog.processors.format_exc_info]),
            structlog.dev.ConsoleRenderer(colors=True) if plain else structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
