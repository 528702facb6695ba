"""What every command of guard has in common: what stood before it, where it writes, and how it ends."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

from cyclopts import Parameter
from rich.console import Console, RenderableType

from connectors.redaction import redacting_processor
from flows import logs, servers
from flows.settings import Settings
from flows.tables import escape

DONE: Final = 0
AWAY: Final = 1
WRONG: Final = 2
LEFT_OUT: Final = 3
INTERRUPTED: Final = 130
_PIPE_WIDTH: Final = 200  # columns of a table that nobody's terminal bounds


@dataclass(frozen=True, slots=True)
class Context:
    """What stood before the command."""

    path: Path | None

    def settings(self, **given: Any) -> Settings:  # noqa: ANN401 - nested as the settings file is
        """The settings, with what the command line itself set.

        Raises:
            ConfigError: all that is wrong with them.
        """
        return Settings.load(os.environ, path=self.path, given=given)


In = Annotated[Context, Parameter(parse=False)]
"""What a command takes that needs settings."""

PLAIN: Final = Parameter(negative=(), show_default=False)
"""Options have no --no- twin, and their defaults stand in their words."""


class Help(Console):
    """Where help is written. Rich itself would end the process where nobody reads on."""

    def on_broken_pipe(self) -> None:
        """Leave it to main."""
        raise BrokenPipeError


def log_from_here_on(settings: Settings) -> None:
    """Let what this process does be logged as the settings say.

    Raises:
        ConfigError: redaction.key is not set.
    """
    logs.configure(settings.logging, redact=redacting_processor(servers.redactor(settings)))


def answer(line: str) -> None:
    """One line, or several, on standard output."""
    sys.stdout.write(f"{line}\n")


def complain(message: str) -> None:
    """Say on standard error what is wrong, a line for each thing."""
    for line in message.splitlines():
        sys.stderr.write(f"guard: {escape(line)}\n")


def show(parts: Iterable[RenderableType]) -> None:
    """Tables on standard output, as wide as the terminal; wider where there is none."""
    console = Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH, highlight=False)
    with console.capture() as captured:
        for part in parts:
            console.print(part)
            console.print()
    if text := captured.get().rstrip():
        answer("\n".join(line.rstrip() for line in text.split("\n")))
