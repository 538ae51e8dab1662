"""A bar chart of the ratios of one data set, as SVG, with nothing but strings."""

from __future__ import annotations

import math
from html import escape

from .figures import figures, rows_of
from .report import times
from .runner import Result

__all__ = ["bar_chart"]

_WIDTH = 860
_NAMES = 190
_BAR = 16
_COLOURS = ("#4878a8", "#c07838", "#5a9367", "#a05a7c", "#8a7f4a", "#6b6b6b")


def bar_chart(result: Result) -> str:
    """Return a chart of how many times as fast the first program is, a bar for each operation and other program.

    The scale is logarithmic: twice as fast is as far from the middle line as half as fast. Empty if there is nothing
    to compare.
    """
    bars = _ratios(result)
    if not bars:
        return ""
    others = [program for program in result.programs[1:] if any(program in row for row in bars.values())]
    legend = 24 + 20 * math.ceil(len(others) / 4)
    largest = max(abs(math.log(ratio)) for row in bars.values() for ratio in row.values()) or 1.0
    low = min(0.0, *(math.log(ratio) for row in bars.values() for ratio in row.values()))
    room = _WIDTH - _NAMES - 70
    scale = room / (largest - low)
    origin = _NAMES - low * scale
    parts: list[str] = [_text(10, 16, f"{result.name}: times as fast as each other program (logarithmic)", bold=True)]
    for index, program in enumerate(others):
        x, y = 10 + index % 4 * 210, 26 + index // 4 * 20
        parts += [_rectangle(x, y, 12, 12, index), _text(x + 18, y + 11, program)]
    y = legend + 14
    for title, row in bars.items():
        parts.append(_text(10, y + 12, title))
        for program, ratio in row.items():
            length = math.log(ratio) * scale
            parts.append(
                _rectangle(min(origin, origin + length), y, max(1.0, abs(length)), _BAR - 3, others.index(program))
            )
            parts.append(_text(max(origin, origin + length) + 4, y + 11, times(ratio, 1.0)))
            y += _BAR
        y += 8
    parts.append(f'<path d="M{origin:.1f} {legend + 8}V{y}" stroke="#222"/>')
    size = f'viewBox="0 0 {_WIDTH} {y + 6}" font-family="sans-serif" font-size="12"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size}>'
    return "\n".join([head, f'<rect width="{_WIDTH}" height="{y + 6}" fill="#fff"/>', *parts, "</svg>", ""])


def _ratios(result: Result) -> dict[str, dict[str, float]]:
    """Return the ratios by title and program, without what could not be compared."""
    cells = figures(result)
    ratios: dict[str, dict[str, float]] = {}
    for title in rows_of(result):
        own = cells.get((title, result.programs[0]))
        pairs: list[tuple[str, float]] = []
        for program in result.programs[1:]:
            figure = cells.get((title, program))
            if own is not None and figure is not None and own.wall_seconds > 0 and figure.wall_seconds > 0:
                pairs.append((program, figure.wall_seconds / own.wall_seconds))
        if pairs:
            ratios[title] = dict(pairs)
    return ratios


def _rectangle(x: float, y: float, width: float, height: float, colour: int) -> str:
    fill = _COLOURS[colour % len(_COLOURS)]
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{fill}"/>'


def _text(x: float, y: float, text: str, *, bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{weight}>{escape(text)}</text>'
