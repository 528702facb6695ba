"""The table of shipped detectors in docs/detectors.md, written from the code.

`python -m flows.detector_page docs/detectors.md` writes it.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from analytics.detectors.detector import AbsenceDetector, Detector, ProfileDetector, Rule, found
from models.records.duration import duration_text

BEGIN: Final = "<!-- written by python -m flows.detector_page docs/detectors.md -->"
END: Final = "<!-- end of what is written -->"
_KINDS: Final[Mapping[type[Any], str]] = {Detector: "history", AbsenceDetector: "absence", ProfileDetector: "profile"}


def with_table(page: str) -> str:
    """`page` with the table as the code has it now."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{_table()}\n{END}{after}"


def _table() -> str:
    head = "| detector | judges | of each | finds | parameters |\n|---|---|---|---|---|\n"
    return head + "".join(_row(cls) for cls in found())


def _row(cls: type[Rule]) -> str:
    kind = next(word for base, word in _KINDS.items() if issubclass(cls, base))
    cells = (f"`{cls.__name__}`", kind, ", ".join(cls.by), _first_sentence(cls), ", ".join(_parameters(cls)))
    return f"| {' | '.join(cells)} |\n"


def _first_sentence(cls: type[Rule]) -> str:
    return " ".join((cls.__doc__ or "").partition("\n\n")[0].split())


def _parameters(cls: type[Rule]) -> list[str]:
    names = (field.name for field in dataclasses.fields(cls))
    return [f"`{name} = {_written(getattr(cls(), name))}`" for name in names if name != "enabled"]


def _written(value: Any) -> str:  # noqa: ANN401 - whatever a parameter may be
    """As in the settings."""
    return f'"{duration_text(value)}"' if isinstance(value, timedelta) else f"{value}"


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(with_table(path.read_text("utf-8")), "utf-8")
