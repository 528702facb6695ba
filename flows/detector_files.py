"""Detectors that stand in files of their own: read, made classes of, and held to their own examples."""

from __future__ import annotations

import hashlib
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from analytics.contract import problems
from analytics.detectors.detector import Rule, classes_of
from models.records.errors import ConfigError


class DetectorFile(NamedTuple):
    """A file as it was read; what a process makes of it does not change when the file does."""

    path: str
    source: str

    @property
    def digest(self) -> str:
        """What tells this text from others, in a rulebook."""
        return hashlib.sha256(self.source.encode()).hexdigest()


def read(path: Path) -> DetectorFile:
    """The file at `path`.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        return DetectorFile(str(path), path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not UTF-8 text") from None


def load(file: DetectorFile) -> type[Rule]:
    """The one detector in `file`; its code is run.

    Raises:
        ConfigError: it is not Python, fails, or holds no detector or several; file and line are named.
    """
    name = f"guard_detector_{file.digest[:16]}"
    module = sys.modules.get(name)
    if module is None:
        module = ModuleType(name)
        module.__file__ = file.path
        sys.modules[name] = module  # where dataclasses look for what annotations mean
        try:
            exec(compile(file.source, file.path, "exec"), vars(module))  # noqa: S102 - the operator's own file
        except Exception as error:  # noqa: BLE001 - whatever the file raises is its own
            del sys.modules[name]
            raise ConfigError(f"{file.path}:{_line(file, error)}: {type(error).__name__}: {error}") from None
    classes = [cls for cls in classes_of(vars(module)) if cls.__module__ == name]
    if len(classes) != 1:
        found = ", ".join(cls.__name__ for cls in classes) or "none"
        raise ConfigError(f"{file.path}: one class of a detector was expected, there is {found}")
    return classes[0]


def checked(file: DetectorFile) -> type[Rule]:
    """The detector in `file`, which does what its own examples say.

    Raises:
        ConfigError: as `load`; or all that its examples show to be wrong, a line each.
    """
    cls = load(file)
    wrong = problems(cls)
    if wrong:
        raise ConfigError("\n".join(f"{file.path}: {cls.__name__}: {problem}" for problem in wrong))
    return cls


def _line(file: DetectorFile, error: Exception) -> int:
    if isinstance(error, SyntaxError):
        return error.lineno or 0
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file.path]
    return (lines[-1] if lines else None) or 0
