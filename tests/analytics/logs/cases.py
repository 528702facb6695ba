"""Small logs as platforms and tools write them, in tests/fixtures/logs, and what is found in them.

Beside each stands what it becomes, <name>.golden.json. `GUARD_BLESS=1 pytest tests/analytics/logs/test_analyse.py`
writes these; read the difference before it is committed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from analytics.logs.analyse import Analysis, Found

FOLDER: Final = Path(__file__).parents[2] / "fixtures" / "logs"
LOGS: Final = tuple(sorted(FOLDER.glob("*.log")))


def found_in(log: bytes, **given: Any) -> Found:
    """What the analysis of a whole log finds."""
    analysis = Analysis(**given)
    analysis.feed(log)
    return analysis.finish()


def told(found: Found) -> dict[str, Any]:
    """As it stands in a golden file."""
    lines = [f"{line.number:4} {line.text}".rstrip() for line in found["lines"]]
    return {**{name: value for name, value in found.items() if name != "lines"}, "lines": lines}
