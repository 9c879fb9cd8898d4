"""The report: Markdown tables, plots and the goals, made from the results alone."""

from __future__ import annotations

from pathlib import Path


def write(results: Path, docs: Path) -> None:
    """Make `docs/benchmarks.md` from the results."""
    _ = results, docs
