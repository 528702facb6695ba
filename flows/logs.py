"""Our own log: one line a record on standard error, redacted, with UTC times; the standard library's logging joins it.

    log = structlog.get_logger(); log.warning("spool full", source="acme", entries=12)

What foreign text can hold cannot pose as a line of ours or steer a terminal: JSON escapes every control character,
and so do we on the console, where only a traceback has further lines, all of them indented.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from flows.settings import Logging

_COMMON: Final[tuple[Processor, ...]] = (
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
)


class _Handler(logging.StreamHandler[TextIO]):
    """Writes records; where one cannot be rendered it says so, without the text that could not be redacted."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the standard library's name
        """Say where the record came from and what went wrong with it, and go on."""
        kind = getattr(sys.exc_info()[0], "__name__", "unknown")
        said = {"event": "a log record could not be written", "logger": record.name, "error": kind}
        self.stream.write(json.dumps(said) + "\n")


def configure(settings: Logging, *, redact: Processor, stream: TextIO | None = None) -> None:
    """Set up logging for the whole process, once. What ends a thread or the process unforeseen is logged as well.

    `redact` is the last to change a record before it is rendered: connectors.redaction.redacting_processor.
    """
    stream = stream or sys.stderr
    console = settings.format == "console" or (settings.format == "auto" and stream.isatty())
    rendered: tuple[Processor, ...] = (structlog.processors.JSONRenderer(),)
    if console:
        rendered = (_flat, structlog.dev.ConsoleRenderer(colors=stream.isatty()))
    handler = _Handler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*_COMMON, structlog.stdlib.add_logger_name],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                redact,
                *rendered,
            ],
        )
    )
    logging.basicConfig(handlers=[handler], level=settings.level.upper(), force=True)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *_COMMON,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    sys.excepthook = _crashed
    threading.excepthook = _thread_crashed


def _flat(_logger: WrappedLogger, _method: str, event: EventDict) -> Mapping[str, Any]:
    """Every value on one line, without control characters; a traceback's lines indented."""
    return {_escaped(name): _lines(value) if name == "exception" else _line(value) for name, value in event.items()}


def _line(value: object) -> object:
    if isinstance(value, (int, float, type(None))):
        return value
    return _escaped(value if isinstance(value, str) else repr(value))


def _lines(traceback: str) -> str:
    return "\n".join(f"    {_escaped(line)}" for line in traceback.split("\n"))


def _escaped(text: str) -> str:
    """`text` with all that would break the line, move the cursor or turn the direction of writing spelt out."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _crashed(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, traceback)
        return
    structlog.get_logger(__name__).critical("crashed", exc_info=(kind, error, traceback))


def _thread_crashed(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is not None and not issubclass(args.exc_type, SystemExit):
        name = args.thread.name if args.thread else "unknown"
        exc_info = (args.exc_type, args.exc_value, args.exc_traceback)
        structlog.get_logger(__name__).critical("thread crashed", thread=name, exc_info=exc_info)
