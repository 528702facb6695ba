"""Charts as SVG that stands in a page: no script, no library, nothing fetched. Colours are the page's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from typing import Final

_WIDTH: Final = 760
_LABEL_WIDTH: Final = 300
_ROW: Final = 22
_LEFT: Final = 44
_CHARACTER: Final = 7.2  # px of a character of the labels


def bars(counts: Mapping[str, int], *, what: str) -> str:
    """One horizontal bar for each name, as long as its count."""
    most = max(counts.values(), default=0) or 1
    room = _WIDTH - _LABEL_WIDTH - 80
    rows = []
    for number, (name, count) in enumerate(counts.items()):
        y, length = number * _ROW, max(1, round(room * count / most))
        rows.append(
            f'<text x="{_LABEL_WIDTH - 8}" y="{y + 15}" class="name">{escape(_cut(name))}</text>'
            f'<rect x="{_LABEL_WIDTH}" y="{y + 3}" width="{length}" height="{_ROW - 6}" rx="2">'
            f"<title>{escape(name)}: {count:,}</title></rect>"
            f'<text x="{_LABEL_WIDTH + length + 6}" y="{y + 15}">{count:,}</text>'
        )
    return _svg(_ROW * len(counts), what, "".join(rows))


def columns(counts: Sequence[int], *, first_ms: int, step_ms: int, what: str, height: int = 120) -> str:
    """One column for each step of time, as high as its count."""
    most = max(counts, default=0) or 1
    room, base = _WIDTH - _LEFT, height - 20
    wide = room / max(1, len(counts))
    parts = [f'<text x="{_LEFT - 6}" y="12" class="name">{most:,}</text>']
    for number, count in enumerate(counts):
        if count:
            tall = max(1.0, (base - 4) * count / most)
            parts.append(
                f'<rect x="{_LEFT + number * wide:.1f}" y="{base - tall:.1f}" width="{max(1.0, wide - 1):.1f}" '
                f'height="{tall:.1f}"><title>{_time(first_ms + number * step_ms)}: {count:,}</title></rect>'
            )
    parts.append(f'<line x1="{_LEFT}" y1="{base}" x2="{_WIDTH}" y2="{base}"/>')
    parts.append(f'<text x="{_LEFT}" y="{height - 5}">{_time(first_ms)}</text>')
    if len(counts) > 1:
        last = _time(first_ms + (len(counts) - 1) * step_ms)
        parts.append(f'<text x="{_WIDTH}" y="{height - 5}" class="name">{last}</text>')
    return _svg(height, what, "".join(parts))


def _svg(height: int, what: str, inside: str) -> str:
    head = f'<svg viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" role="img"'
    return f'{head} aria-label="{escape(what)}">{inside}</svg>'


def _cut(name: str) -> str:
    most = int((_LABEL_WIDTH - 12) / _CHARACTER)
    return name if len(name) <= most else f"{name[: most - 1]}…"


def _time(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M")
