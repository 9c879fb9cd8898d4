"""Where events go: standard error, readable on a terminal, else a JSON object a line.

Rule 1: so do those of libraries and rooms that speak to `logging`; a line that is no JSON breaks who reads the others.
Rule 2: a traceback names functions and lines, never the values of variables: some are secrets (threats T39).
"""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime

import structlog
from structlog.typing import Processor

from iarproxy.server import access


def configure_logging(level: int) -> None:
    """Let events of `level` (as in `logging`) and above be written."""
    plain = sys.stderr.isatty()
    common: list[Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        *([] if plain else [structlog.processors.format_exc_info]),
    ]
    renderer: Processor = structlog.processors.JSONRenderer()
    if plain:
        renderer = structlog.dev.ConsoleRenderer(colors=True, exception_formatter=structlog.dev.plain_traceback)
    others = logging.StreamHandler()
    others.setLevel(logging.WARNING)
    others.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=common,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    logging.lastResort = others
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, *common, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )


def access_sink() -> access.Sink:
    """Where access records go: among the events, in their form."""
    if sys.stderr.isatty():
        return access.structlog_sink()
    return access.json_sink(sys.stderr.buffer, lambda: datetime.now(UTC))
