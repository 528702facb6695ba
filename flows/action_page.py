"""The table of actions in docs/actions.md, written from the code.

`python -m flows.action_page docs/actions.md` writes it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from analytics.actions.action import Action, found
from models.records.duration import duration_text

BEGIN: Final = "<!-- written by python -m flows.action_page docs/actions.md -->"
END: Final = "<!-- end of what is written -->"


def with_table(page: str) -> str:
    """`page` with the table as the code has it now."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{_table()}\n{END}{after}"


def _table() -> str:
    head = "| action | what it does | heals | calls | where | reaches | at most | undone by | verified by |\n"
    return head + "|---|---|---|---|---|---|---|---|---|\n" + "".join(_row(action) for action in found().values())


def _row(action: Action) -> str:
    calls = dict.fromkeys(name for _, names in action.FIRES for name in names)
    caps = ((action.most_per_run, "a run"), (action.most_per_day, "a day"))
    most = ", ".join(f"{count} {of}" for count, of in caps if count is not None) or "as `act.limits` has it"
    cells = (
        f"`{action.name}`" + (" (suggested only)" if action.suggest_only else ""),
        " ".join((type(action).__doc__ or "").partition("\n\n")[0].split()),
        ", ".join(action.heals),
        ", ".join(f"`{name}`" for name in calls),
        ", ".join(sorted(action.platforms)),
        action.reach,
        f"{most}; {duration_text(action.cooldown)} apart",
        action.undone_by,
        action.verified_by,
    )
    return f"| {' | '.join(cells)} |\n"


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(with_table(path.read_text("utf-8")), "utf-8")
