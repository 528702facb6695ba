import io
import json
import logging
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import pytest
import structlog
from structlog.typing import EventDict, WrappedLogger

from connectors.redaction import Redactor, redacting_processor
from flows import logs
from flows.settings import Logging

ROOT = Path(__file__).parents[2]
CANARY = "ghp_" + "a1B2c3D4e5F6" * 3
HOSTILE = 'nice\n{"event": "forged"}\r\x1b[31mred\x1b]0;title\x07 \x9b2J \u2028 \u202e \x00end'


def keep(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    return event


class Terminal(io.StringIO):
    """What is written to somebody who looks at it."""

    def isatty(self) -> bool:
        """Say so."""
        return True


def fail(message: str) -> None:
    raise RuntimeError(message)


@pytest.fixture
def configured() -> Iterator[Callable[..., io.StringIO]]:
    """Configures logging onto a stream of its own, which it returns, and puts all back afterwards."""
    root = logging.getLogger()
    before = (root.handlers[:], root.level, sys.excepthook, threading.excepthook)

    def configure(
        form: Literal["auto", "json", "console"] = "json",
        level: Literal["debug", "info", "warning", "error"] = "info",
        redact: Any = keep,
        stream: io.StringIO | None = None,
    ) -> io.StringIO:
        stream = stream or io.StringIO()
        logs.configure(Logging(level=level, format=form), redact=redact, stream=stream)
        return stream

    yield configure
    structlog.contextvars.clear_contextvars()
    structlog.reset_defaults()
    root.handlers[:], sys.excepthook, threading.excepthook = before[0], before[2], before[3]
    root.setLevel(before[1])


def test_a_record_is_one_json_line_with_its_time_in_utc(configured: Callable[..., io.StringIO]) -> None:
    stream = configured()
    before = datetime.now(UTC)
    structlog.contextvars.bind_contextvars(delivery="d-1")
    structlog.get_logger().warning("spool full", source="acme", entries=12)
    (line,) = stream.getvalue().splitlines()
    record = json.loads(line)
    at = datetime.fromisoformat(record.pop("timestamp"))
    assert before <= at <= datetime.now(UTC)
    assert at.utcoffset() == before.utcoffset()
    assert record == {
        "event": "spool full",
        "level": "warning",
        "source": "acme",
        "entries": 12,
        "delivery": "d-1",
    }


def test_the_logging_of_libraries_comes_out_the_same_way(configured: Callable[..., io.StringIO]) -> None:
    stream = configured()
    logging.getLogger("redis.client").error("cannot reach %s", "bus")
    record = json.loads(stream.getvalue())
    assert (record["event"], record["level"], record["logger"]) == ("cannot reach bus", "error", "redis.client")
    assert record["timestamp"].endswith("Z")


def test_less_than_the_level_is_not_written(configured: Callable[..., io.StringIO]) -> None:
    stream = configured(level="error")
    structlog.get_logger().warning("no")
    logging.getLogger("x").warning("no")
    assert stream.getvalue() == ""


@pytest.mark.parametrize(("stream", "is_json"), [(io.StringIO(), True), (Terminal(), False)])
def test_the_form_follows_where_the_log_goes(
    stream: io.StringIO, is_json: bool, configured: Callable[..., io.StringIO]
) -> None:
    configured("auto", stream=stream)
    structlog.get_logger().info("hello")
    assert stream.getvalue().startswith("{") is is_json


@pytest.mark.parametrize("form", ["json", "console"])
@pytest.mark.parametrize("through", ["structlog", "logging"])
def test_foreign_text_neither_breaks_a_line_nor_steers_a_terminal(
    form: str, through: str, configured: Callable[..., io.StringIO]
) -> None:
    stream = configured(form)
    if through == "structlog":
        structlog.get_logger().info(HOSTILE, **{"a" + HOSTILE: HOSTILE, "many": [HOSTILE], "raw": HOSTILE.encode()})
    else:
        logging.getLogger("library").info("said %s", HOSTILE)
    text = stream.getvalue()
    assert text.count("\n") == 1
    assert text.endswith("\n")
    assert text[:-1].isprintable()


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_message_inside_a_traceback_cannot_pose_as_a_record(
    form: str, configured: Callable[..., io.StringIO]
) -> None:
    stream = configured(form)
    try:
        fail(HOSTILE)
    except RuntimeError:
        structlog.get_logger().exception("failed")
        logging.getLogger("library").exception("failed too")
    lines = stream.getvalue().splitlines()
    starts = [line for line in lines if not line.startswith("    ")]
    assert len(starts) == 2
    assert all("failed" in line for line in starts)
    assert all(line.isprintable() for line in lines)
    assert "RuntimeError" in stream.getvalue()


@pytest.mark.parametrize("form", ["json", "console"])
def test_redaction_sees_everything_that_is_written(form: str, configured: Callable[..., io.StringIO]) -> None:
    stream = configured(form, redact=redacting_processor(Redactor(b"0123456789abcdef")))

    class Holder:
        def __repr__(self) -> str:
            return f"Holder({CANARY})"

    structlog.contextvars.bind_contextvars(bound=f"token {CANARY}")
    log = structlog.get_logger()
    try:
        fail(f"refused: {CANARY}")
    except RuntimeError:
        log.exception(CANARY, deep={"in": [CANARY]}, raw=CANARY.encode(), held=Holder())
        logging.getLogger("library").exception("with %s", CANARY)
    assert CANARY not in stream.getvalue()
    assert stream.getvalue().count("[REDACTED:") >= 8


def test_a_record_that_cannot_be_redacted_is_told_of_without_its_text(
    configured: Callable[..., io.StringIO], capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> EventDict:
        raise ArithmeticError

    stream = configured(redact=broken)
    logging.getLogger("library").info(CANARY)
    assert json.loads(stream.getvalue()) == {
        "event": "a log record could not be written",
        "logger": "library",
        "error": "ArithmeticError",
    }
    assert CANARY not in "".join(capsys.readouterr())


def test_what_ends_a_thread_is_logged(configured: Callable[..., io.StringIO]) -> None:
    stream = configured()

    thread = threading.Thread(target=fail, args=("lost",), name="spool")
    thread.start()
    thread.join()
    record = json.loads(stream.getvalue())
    assert (record["event"], record["level"], record["thread"]) == ("thread crashed", "critical", "spool")
    assert record["exception"].endswith("RuntimeError: lost")


def test_what_ends_the_process_is_logged_redacted() -> None:
    code = (
        "from connectors.redaction import Redactor, redacting_processor\n"
        "from flows import logs\nfrom flows.settings import Logging\n"
        "logs.configure(Logging(), redact=redacting_processor(Redactor(b'0123456789abcdef')))\n"
        f"raise RuntimeError('{CANARY}')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == 1
    record = json.loads(done.stderr)
    assert (record["event"], record["level"]) == ("crashed", "critical")
    assert "RuntimeError" in record["exception"]
    assert CANARY not in done.stderr


def test_an_interrupt_by_hand_is_no_crash(
    configured: Callable[..., io.StringIO], capsys: pytest.CaptureFixture[str]
) -> None:
    stream = configured()
    sys.excepthook(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert stream.getvalue() == ""
    assert "KeyboardInterrupt" in capsys.readouterr().err
