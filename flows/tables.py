"""How answers are shown: tables for people, JSON for machines. What others wrote never moves the cursor or colours."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

import msgspec
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from models.records.duration import duration_text


def escape(text: str) -> str:
    """`text` on one line, with all that would move the cursor or turn the direction of writing spelt out."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def one_line(text: str) -> str:
    """`text` with every run of blanks and line breaks as one blank."""
    return " ".join(text.split())


def cell(value: object) -> Text:
    """One value as text on one line; a dash for None."""
    match value:
        case None:
            shown = "-"
        case bool():
            shown = "yes" if value else "no"
        case float():
            shown = f"{value:.3f}"
        case datetime():
            shown = value.isoformat(sep=" ", timespec="seconds").replace("+00:00", "Z")
        case _:
            shown = str(value)
    return Text(escape(shown), overflow="fold")


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> RenderableType:
    """Rows under a title. A column whose name begins with # holds numbers."""
    made = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for name in columns:
        made.add_column(name.removeprefix("#"), justify="right" if name.startswith("#") else "left", overflow="fold")
    for row in rows:
        made.add_row(*map(cell, row))
    return Group(_title(title), made)


def facts(title: str, pairs: Iterable[tuple[str, object]]) -> RenderableType:
    """Names and values, one pair a line; pairs without a value are left out."""
    made = Table(box=None, show_header=False, pad_edge=False)
    made.add_column(style="dim", no_wrap=True)
    made.add_column(overflow="fold")
    for name, value in pairs:
        if value is not None:
            made.add_row(Text(f"  {name}"), cell(value))
    return Group(_title(title), made)


def _title(title: str) -> Text:
    return Text(title, style="bold", overflow="fold")


def lasted(milliseconds: float) -> str:
    """A length of time to the second, as people write it: 0s, 3m20s, 1d4h2s."""
    return duration_text(timedelta(seconds=round(milliseconds / 1000)))


def to_json(value: object) -> str:
    """`value` as JSON on several lines; times in RFC 3339, bytes in base64."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
