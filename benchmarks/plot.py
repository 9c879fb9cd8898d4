"""Horizontal bars as SVG, written by hand: a plot that shows in every browser and diff, without a dependency."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from benchmarks.results import Shown

_ROW, _TOP, _LEFT, _RIGHT, _WIDTH = 26, 58, 250, 190, 860
_OURS, _THEIRS, _TEXT, _FAINT = "#1f6feb", "#9aa4b2", "#24292f", "#57606a"


@dataclass(frozen=True)
class Bar:
    """One server's value; `note` stands behind it; `ours` gives it the other colour."""

    label: str
    value: float
    note: str = ""
    ours: bool = False


def bars(title: str, under: str, rows: Sequence[Bar], show: Shown) -> str:
    """The plot. The longest bar is the largest value; all begin at zero."""
    most = max((row.value for row in rows), default=0) or 1
    height = _TOP + _ROW * len(rows) + 14
    box = f'viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {box} font-family="system-ui, sans-serif" font-size="13" role="img">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="16" y="24" font-size="16" font-weight="600" fill="{_TEXT}">{escape(title)}</text>',
        f'<text x="16" y="43" font-size="12" fill="{_FAINT}">{escape(under)}</text>',
        *(line for number, row in enumerate(rows) for line in _bar(row, number, most, show)),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _bar(row: Bar, number: int, most: float, show: Shown) -> list[str]:
    top = _TOP + _ROW * number
    length = max(1.0, row.value / most * (_WIDTH - _LEFT - _RIGHT))
    colour = _OURS if row.ours else _THEIRS
    weight = ' font-weight="600"' if row.ours else ""
    told = escape(f"{show(row.value)}  {row.note}".strip())
    return [
        f'<text x="{_LEFT - 10}" y="{top + 14}" text-anchor="end" fill="{_TEXT}"{weight}>{escape(row.label)}</text>',
        f'<rect x="{_LEFT}" y="{top + 1}" width="{length:.1f}" height="18" rx="2" fill="{colour}"/>',
        f'<text x="{_LEFT + length + 8:.1f}" y="{top + 14}" fill="{_TEXT}"{weight}>{told}</text>',
    ]


def save(folder: Path, name: str, picture: str) -> str:
    """Write the plot into `folder`; its Markdown."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.svg").write_text(picture)
    return f"![{name}]({folder.name}/{name}.svg)\n"
