"""The demo as it is run, in a process of its own without a terminal; and its view, which is a pure function."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path
from uuid import UUID

import msgspec
import pytest
from rich.console import Console

from connectors.postgres_live import Job, Landed, Latency, Live
from flows.demo import Options, picture
from flows.demo_numbers import Numbers
from flows.demo_stage import Files, Ports, tail
from flows.demo_truth import Truth, compared
from flows.demo_view import landed_line, line, summary, view
from flows.settings import Settings
from models.records.errors import ConfigError
from tests.helpers import wait_until

LANDED = Landed(
    decision_id=UUID(int=1),
    written_at=datetime(2026, 11, 23, 14, 5, 3, tzinfo=UTC),
    platform="gitlab",
    repository="acme/app",
    job="test (1)",
    more_jobs=2,
    signature="network_trouble",
    score=0.684,
    verdict="act",
    reason="transient_cause",
)
NUMBERS = Numbers(
    seconds=42.5,
    of_seconds=60.0,
    deliveries={"github": {"accepted": 1200, "duplicate": 34}, "gitlab": {"accepted": 5, "unauthorised": 6}},
    events=1500,
    rates=(10.0, 40.0, 80.0, 20.0),
    duplicates=77,
    rows=Live(
        failures=31,
        dead_letters=3,
        first_decision=datetime(2026, 11, 23, 14, 5, 3, tzinfo=UTC),
        latency=Latency(12.4, 34.6, 123.4),
        causes=((None, "no_pattern", 20), ("network_trouble", "matched", 9), (None, "no_text", 2)),
        decisions=(("skip", "unknown_cause", 22), ("act", "transient_cause", 9)),
        findings=(("StuckJob", "raised", 4), ("StuckJob", "cleared", 1), ("FlakyTest", "changed", 8)),
        landed=(LANDED,) * 40,
    ),
)


# --- the whole


@pytest.fixture
def short_dir() -> Iterator[Path]:
    """Where the demo makes its directory: a path short enough for sockets, and open to PostgreSQL's own user."""
    path = Path(tempfile.mkdtemp(prefix="gdt-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)


def start(short_dir: Path, *options: str) -> subprocess.Popen[str]:
    # The address of a server that is none: what is set for real servers must not reach the demo.
    env = {**os.environ, "TMPDIR": str(short_dir), "GUARD_REDIS__URL": "redis://127.0.0.1:1", "PGPORT": "1"}
    env |= {"PYTHONFAULTHANDLER": "1", "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "flows.cli", "demo", *options],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=env,
    )


def processes(short_dir: Path) -> dict[int, str]:
    """The processes whose command line names the directory; none can be seen but on Linux."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(short_dir) in command:
            found[int(entry.name)] = command
    return found


def nothing_left(short_dir: Path) -> bool:
    return not list(short_dir.iterdir()) and not processes(short_dir)


def ended(demo: subprocess.Popen[str], *, within: float = 60.0) -> tuple[str, str]:
    """What it said when it has ended; one that does not end fails the test with where each of its threads is."""
    try:
        return demo.communicate(timeout=within)
    except subprocess.TimeoutExpired:
        demo.send_signal(signal.SIGABRT)
        said, wrong = demo.communicate()
        raise AssertionError(f"the demo has not ended within {within:.0f} s:\n{said}\n{wrong}") from None


def wait_for_the_world(demo: subprocess.Popen[str], short_dir: Path) -> None:
    """Until the first delivery was posted; fails with what the demo said when it ends before."""

    def under_way() -> bool:
        assert demo.poll() is None, "".join(demo.communicate())
        return any(path.stat().st_size for path in short_dir.glob("*/world-0.jsonl"))

    try:
        wait_until(under_way, within=60, what="the first delivery")
    except AssertionError:
        ended(demo, within=0)
        raise


def test_it_shows_decisions_and_leaves_nothing_behind(short_dir: Path) -> None:
    demo = start(short_dir, "--seconds", "5", "--seed", "9")
    said, wrong = ended(demo, within=90)
    assert demo.returncode == 0, said + wrong
    decisions = re.search(r"^Decisions: +([\d,]+):", said, re.MULTILINE)
    assert decisions is not None
    assert int(decisions[1].replace(",", "")) > 0, said
    assert re.search(r"First decision in PostgreSQL [\d.]+ s after the start", said), said
    failed, recorded = re.findall(r"^Failed jobs: (\d+) in the world, (\d+) of them", said, re.MULTILINE)[0]
    assert failed == recorded, said
    assert "\x1b" not in said, "no terminal, no escapes"
    assert nothing_left(short_dir), processes(short_dir)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="processes are found under /proc")
def test_a_healer_that_is_killed_is_started_again(short_dir: Path) -> None:
    demo = start(short_dir, "--stay")
    wait_for_the_world(demo, short_dir)

    def healers() -> set[int]:
        return {pid for pid, command in processes(short_dir).items() if " act " in command}

    (before,) = healers()
    os.kill(before, signal.SIGKILL)
    wait_until(lambda: healers() - {before}, within=30, what="another healer")
    demo.send_signal(signal.SIGINT)
    said, wrong = ended(demo)
    assert "killed" not in said + wrong
    assert nothing_left(short_dir), processes(short_dir)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="processes are found under /proc")
def test_a_process_that_ends_is_named_and_ends_it_all(short_dir: Path) -> None:
    demo = start(short_dir, "--stay")
    wait_for_the_world(demo, short_dir)
    receiver = next(pid for pid, command in processes(short_dir).items() if " receive " in command)
    os.kill(receiver, signal.SIGKILL)
    said, wrong = ended(demo)
    assert demo.returncode == 1, said + wrong
    assert "the receiver was killed by signal 9" in wrong
    assert '"event": "receiving"' in wrong, "the last lines of its log"
    assert nothing_left(short_dir), processes(short_dir)


def test_one_that_stays_says_how_to_reach_it_and_ends_at_an_interrupt(short_dir: Path) -> None:
    demo = start(short_dir, "--stay")
    wait_for_the_world(demo, short_dir)
    demo.send_signal(signal.SIGINT)
    said, wrong = ended(demo)
    assert demo.returncode in {0, 1}, said + wrong  # 1: it was ended before a job had failed
    assert re.search(r"^post +curl -K \S+ http://127.0.0.1:\d+/webhooks/jenkins$", said, re.MULTILINE), said
    assert "Where to look next" in said, said + wrong
    assert nothing_left(short_dir), processes(short_dir)


# --- its directory


def test_an_earlier_demos_secrets_are_taken_up_again(tmp_path: Path) -> None:
    first = Files(tmp_path / "demo")
    before = first.secrets.read_text(), first.key.read_text()
    again = Files(tmp_path / "demo")
    assert (again.secrets.read_text(), again.key.read_text()) == before


def test_two_demos_have_different_secrets(tmp_path: Path) -> None:
    assert Files(tmp_path / "a").secrets.read_text() != Files(tmp_path / "b").secrets.read_text()


def test_a_directory_that_holds_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    mode = tmp_path.stat().st_mode
    with pytest.raises(ConfigError, match="not empty"):
        Files(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    assert tmp_path.stat().st_mode == mode


def test_its_settings_are_an_operators_and_secrets_are_for_its_user_alone(tmp_path: Path) -> None:
    files = Files(tmp_path)
    files.write_settings(redis="unix:///v.sock", postgres="postgresql://postgres@/x?host=/p", ports=Ports(1, 2, 3))
    settings = Settings.load({}, path=files.settings)
    assert {source.platform for source in settings.receiver.sources.values()} == set(settings.receiver.sources)
    assert settings.rulebook.detectors == {"StuckJob": {"patience": "20s", "patience_unknown": "20s", "factor": 0}}
    for path in (files.settings, files.secrets, files.key, files.curl):
        assert path.stat().st_mode & 0o077 == 0, path


def test_nothing_or_less_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="--seconds"):
        Options(seconds=0.0)
    with pytest.raises(ConfigError, match="--speed"):
        Options(speed=-1.0)
    with pytest.raises(ConfigError, match="--rate"):
        Options(rate=float("nan"))


def test_the_last_words_are_the_last_lines(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("\n".join(f"line {i}" for i in range(100)))
    assert tail(log).splitlines()[-1] == "line 99"
    assert len(tail(log).splitlines()) < 100
    assert "cannot be read" in tail(tmp_path / "none")


# --- its view


def drawn(numbers: Numbers, width: int, height: int, where: tuple[str, ...] = ()) -> list[str]:
    console = Console(width=width, height=height, file=StringIO(), record=True, highlight=False)
    console.print(view(numbers, where, width=width, height=height))
    return console.export_text().splitlines()


@pytest.mark.parametrize(("width", "height"), [(200, 60), (128, 40), (100, 34), (80, 24), (80, 50)])
@pytest.mark.parametrize("numbers", [NUMBERS, Numbers()])
def test_the_view_fits_its_terminal(numbers: Numbers, width: int, height: int) -> None:
    lines = drawn(numbers, width, height)
    assert max(map(len, lines)) <= width
    assert len(lines) < height, "a line is left for the cursor"


def test_the_view_shows_what_there_is() -> None:
    text = "\n".join(drawn(NUMBERS, 128, 40))
    for part in (
        *("0:42 of 1:00", "1,234", "p50 12 p95 35 p99 123 ms", "31 failures", "31 decisions", "77 absorbed"),
        *("network_trouble", "not explained", "unknown_cause", "transient_cause", "0.68", "act 9, wait 0, skip 22"),
        *("acme/app test (1) +2", "14:05:03", "stuck", "repeated", "flaky"),
    ):
        assert part in text, part
    assert re.search(r"not explained +22 ", text), "with text or without, unexplained is unexplained"
    assert re.search(r"stuck +4 +1 ", text)
    assert re.search(r"flaky +0 +0 ", text), "a finding that changed was not raised again"
    assert re.search(r"gitlab +11 +5 +0 +0 +6 ", text), "refused is what was neither accepted nor known"


def test_what_others_wrote_cannot_steer_the_terminal() -> None:
    hostile = LANDED._replace(repository="acme/\x1b[2J\x07app", job="a\nb", signature="[bold]x[/bold]")
    numbers = Numbers(
        rows=Live(landed=(hostile,), causes=(("\x1b[31mred", "matched", 1),), decisions=(("act", "x", 1),))
    )
    text = "\n".join(drawn(numbers, 200, 60))
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "[bold]x[/bold]" in text
    assert "\n" not in landed_line(hostile)
    assert "\x1b" not in landed_line(hostile)


def test_addresses_take_the_place_of_the_words_below() -> None:
    text = "\n".join(drawn(NUMBERS, 128, 40, ("post     curl somewhere",)))
    assert "curl somewhere" in text
    assert "A simulated world" not in text


def test_a_line_says_the_same() -> None:
    assert line(NUMBERS) == (
        "0:42  1,245 deliveries  38 events/s  31 failures  31 decisions (act 9, wait 0, skip 22)"
        "  4 findings  0 of 0 reruns green  0 held  p99 123 ms"
    )
    assert line(Numbers()).endswith("p99 -")


def test_the_picture_loads_nothing_from_elsewhere() -> None:
    svg = picture(NUMBERS)
    assert svg.startswith("<svg")
    assert "url(http" not in svg.replace('"', "")
    assert "@font-face" not in svg
    assert svg == picture(NUMBERS), "the same numbers give the same picture"


def test_the_summary_sets_the_worlds_word_against_ours() -> None:
    truth = Truth(deliveries=1245, copies=34, refused=6, failed=29, recorded=28, silent=5, stuck=4)
    began = NUMBERS.rows.first_decision
    assert began is not None
    text = "\n".join(summary(NUMBERS, truth, began=began.timestamp() - 4.5))
    assert "4.5 s after the start" in text
    assert "29 in the world, 28 of them in PostgreSQL" in text
    assert "5 for more than 20 s, 4 of them found stuck" in text
    assert "No decision was seen" in "\n".join(summary(Numbers(), truth, began=0.0))


# --- its truth


def told(
    job: str, what: str, at: float, *, source: str = "github", status: int = 202, ending: str | None = None
) -> bytes:
    says = {
        "what": what,
        "repository": "acme/app",
        "pipeline": "1",
        "workflow": None,
        "attempt": 1,
        "job": job,
        "ending": ending,
    }
    return msgspec.json.encode(
        {"record": "delivery", "source": source, "status": status, "copy": 0, "posted": at, "says": says, "more": [1]}
    )


def job(number: str | None) -> Job:
    return Job("acme/app", "1", None, 1, number)


def held_against(
    lines: list[bytes], *, failed: frozenset[Job] = frozenset(), stuck: frozenset[Job] = frozenset()
) -> Truth:
    return compared(lines, failed=failed, stuck=stuck, patience=timedelta(seconds=20), at=100.0)


def test_a_failed_job_without_a_row_is_missed() -> None:
    lines = [told("1", "job_finished", 1.0, ending="failed"), told("2", "job_finished", 1.0, ending="timed_out")]
    truth = held_against(lines, failed=frozenset({job("1"), job("9")}))
    assert (truth.failed, truth.recorded) == (2, 1)


def test_what_was_refused_or_said_of_a_run_is_expected_of_nobody() -> None:
    lines = [
        told("1", "job_finished", 1.0, ending="failed", status=503),
        told("2", "run_finished", 1.0, ending="failed"),
        told("3", "job_finished", 1.0, ending="passed"),
    ]
    truth = held_against(lines)
    assert (truth.failed, truth.refused, truth.deliveries) == (0, 1, 3)


def test_a_jenkins_build_is_its_own_job_and_its_time_out_is_no_failure() -> None:
    failed = told("7", "run_finished", 1.0, source="jenkins", ending="failed")
    assert held_against([failed], failed=frozenset({job(None)})).recorded == 1
    assert held_against([told("7", "run_finished", 1.0, source="jenkins", ending="timed_out")]).failed == 0


def test_a_job_is_silent_from_the_last_word_of_it_until_its_end() -> None:
    silent = [told("1", "job_queued", 1.0), told("1", "job_started", 70.0)]
    late = [told("2", "job_started", 1.0), told("2", "job_finished", 90.0, ending="timed_out")]
    soon = [told("3", "job_started", 60.0), told("3", "job_finished", 61.0, ending="passed")]
    young = [told("4", "job_started", 79.0)]
    truth = held_against([*silent, *late, *soon, *young], stuck=frozenset({job("1")}))
    assert (truth.silent, truth.stuck) == (2, 1)


def test_other_lines_and_a_torn_one_are_passed_over() -> None:
    true = msgspec.json.encode({"record": "truth", "source": "github", "job": "1", "ending": None})
    assert held_against([true, told("1", "job_started", 99.0), b'{"record": "deliv']).deliveries == 1
