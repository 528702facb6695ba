"""guard backtest: files of any kind on all cores, one's own detector, two rulebooks, and what is known to be true."""

from __future__ import annotations

import json
import random
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest

from analytics.backtest import replay
from analytics.rulebook import compose
from flows import backtest, backtest_inputs
from models.records.event import Event
from tests.analytics.log import T0
from tests.analytics.past import at, events_of, lines_of, table_of
from tests.flows.conftest import KEY, Guard

DETECTOR = '''
"""Two failures of one job soon after another."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from analytics.detectors.detector import JOB, Detector, Finding, History
from analytics.examples import failed
from models.records.event import FAILING


@dataclass(frozen=True, slots=True)
class QuickPair(Detector):
    """Two failures within `within`."""

    by = JOB
    sees = FAILING
    within: timedelta = timedelta(hours=2)

    def judge(self, history: History, at_ms: int) -> Finding | None:
        if len(history) < 2:
            return None
        return Finding(history[0].at_ms, history[-1].at_ms, len(history), tuple(s.id for s in history), "two")

    FIRES = ((failed(0), failed(5)),)
    SILENT = ((failed(0),),)
'''


@pytest.fixture
def events(rng: random.Random) -> list[Event]:
    """Some hours of the past."""
    return events_of(rng)


@pytest.fixture
def lines(events: list[Event], tmp_path: Path) -> Path:
    """They, as JSON lines."""
    path = tmp_path / "events.jsonl"
    path.write_bytes(b"\n".join(lines_of(events)) + b"\n")
    return path


@pytest.fixture
def detector(tmp_path: Path) -> Callable[[str], Path]:
    """A file with a detector, changed as a test likes."""

    def write(text: str) -> Path:
        path = tmp_path / "quick_pair.py"
        path.write_text(text)
        return path

    return write


def _rows(folder: Path) -> dict[str, list[dict[str, Any]]]:
    return {path.stem: pq.read_table(path).to_pylist() for path in sorted(folder.glob("*.parquet"))}


def test_lines_and_parquet_of_the_same_events_give_the_rows_of_a_replay(
    guard: Guard, events: list[Event], lines: Path, tmp_path: Path
) -> None:
    pl.DataFrame(table_of(events)).write_parquet(tmp_path / "events.parquet", row_group_size=50)
    expected = {name: rows.to_pylist() for name, rows in replay(table_of(events), compose()).tables.items()}
    for path in (lines, tmp_path / "events.parquet"):
        to = tmp_path / path.suffix
        assert guard("backtest", path, "--to", to, "--rulebook", "shipped").status == 0
        assert _rows(to) == expected
        assert sorted(p.name for p in to.iterdir()) == sorted(
            [*(f"{name}.parquet" for name in expected), "report.html", "report.json"]
        )


def test_processes_pieces_and_disorder_change_no_byte(
    guard: Guard, events: list[Event], lines: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rng: random.Random
) -> None:
    guard("backtest", lines, "--to", tmp_path / "one")
    by_time = list({at(event): event for event in events}.values())
    lines.write_bytes(b"\n".join(lines_of(by_time)))
    guard("backtest", lines, "--to", tmp_path / "one")
    rng.shuffle(by_time)
    lines.write_bytes(b"\n".join(lines_of(by_time)))
    monkeypatch.setattr(backtest, "_FEW_BYTES", 0)
    monkeypatch.setattr(backtest_inputs, "_PIECE_BYTES", 5000)
    guard("backtest", lines, "--to", tmp_path / "many")
    assert (tmp_path / "many" / "report.json").read_bytes() == (tmp_path / "one" / "report.json").read_bytes()
    assert (tmp_path / "many" / "report.html").read_bytes() == (tmp_path / "one" / "report.html").read_bytes()
    assert _rows(tmp_path / "many") == _rows(tmp_path / "one")


def test_a_detector_of_ones_own_judges_beside_the_others_and_stands_first(
    guard: Guard, lines: Path, tmp_path: Path, detector: Callable[[str], Path]
) -> None:
    said = guard("backtest", lines, "--to", tmp_path / "out", "--detector", detector(DETECTOR), "--json")
    assert said.status == 0
    report = said.json()
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == report
    assert report["own_detectors"] == ["QuickPair"]
    findings = report["said"][0]["findings"]
    assert findings[0]["detector"] == "QuickPair"
    assert findings[0]["raised"] > 0
    assert {one["detector"] for one in findings} >= {"RepeatedFailure", "FlakyTest", "StuckJob"}
    assert report["said"][0]["rulebook"] != compose().digest
    rows = pl.read_parquet(tmp_path / "out" / "findings.parquet").filter(pl.col("detector") == "QuickPair")
    assert set(rows["rulebook"]) == {report["said"][0]["rulebook"]}


def test_another_text_of_a_detector_is_another_rulebook(
    guard: Guard, lines: Path, tmp_path: Path, detector: Callable[[str], Path]
) -> None:
    digests = []
    for text in (DETECTOR, DETECTOR.replace('"two"', '"2"')):
        said = guard("backtest", lines, "--to", tmp_path / "out", "--detector", detector(text), "--json")
        digests.append(said.json()["said"][0]["rulebook"])
    assert digests[0] != digests[1]


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (("failed(0), failed(5)", "failed(0), failed(500)"), "QuickPair: FIRES[0] must fire, and did not"),
        (
            ("SILENT = ((failed(0),),)", "SILENT = ((failed(0), failed(1)),)"),
            "SILENT[0] must be silent, and fired: two",
        ),
        (("return Finding(", "return ("), "FIRES[0]: TypeError: judge() answered tuple"),
        (("history[-1].at_ms", "history[9].at_ms"), "FIRES[0]: IndexError"),
        (("(s.id for s in history)", "('x' for s in history)"), "not a tuple of ids that it was shown"),
        (("FIRES = ((failed(0), failed(5)),)", ""), "FIRES is empty"),
        (("def judge", "def jugde"), "has no judge()"),
        (("class QuickPair(Detector)", "class QuickPair"), "one class of a detector was expected, there is none"),
        (("import timedelta", "import timdelta"), "quick_pair.py:7: ImportError"),
        (("by = JOB", "by = = JOB"), "quick_pair.py:18: SyntaxError"),
    ],
)
def test_a_detector_that_breaks_its_contract_is_refused_and_told_why(
    guard: Guard, lines: Path, tmp_path: Path, detector: Callable[[str], Path], fault: tuple[str, str], words: str
) -> None:
    said = guard("backtest", lines, "--to", tmp_path / "out", "--detector", detector(DETECTOR.replace(*fault)))
    assert said.status == 2
    assert "quick_pair.py" in said.err
    assert words in said.err
    assert not (tmp_path / "out").exists()


def test_a_detector_that_fails_on_the_past_is_named_with_what_it_failed_on(
    guard: Guard, lines: Path, tmp_path: Path, detector: Callable[[str], Path]
) -> None:
    fails = DETECTOR.replace('"two")', '"two" if len(history) < 3 else 1 / 0)')
    said = guard("backtest", lines, "--to", tmp_path / "out", "--detector", detector(fails))
    assert said.status == 0
    assert "detectors that failed" in said.out
    fault = json.loads((tmp_path / "out" / "report.json").read_text())["said"][0]["detector_faults"][0]
    assert (fault["detector"], fault["error"]) == ("QuickPair", "ZeroDivisionError: division by zero")
    known = set(pl.read_parquet(tmp_path / "out" / "failures.parquet")["failure_id"])
    assert fault["first"]["event_id"] in known
    assert "ZeroDivisionError" in (tmp_path / "out" / "report.html").read_text()


def test_only_asks_nobody_else(guard: Guard, lines: Path, tmp_path: Path, detector: Callable[[str], Path]) -> None:
    guard("backtest", lines, "--to", tmp_path / "out", "--detector", detector(DETECTOR), "--only")
    assert set(pl.read_parquet(tmp_path / "out" / "findings.parquet")["detector"]) == {"QuickPair"}


def test_rows_that_are_no_events_are_left_out_counted_and_told(guard: Guard, lines: Path, tmp_path: Path) -> None:
    good = lines.read_bytes().splitlines()
    lines.write_bytes(b"\n".join([*good[:3], b"{", *good[3:], good[0].replace(b'"platform":"', b'"platform":"x')]))
    said = guard("backtest", lines, "--to", tmp_path / "out", "--json")
    assert said.status == 3
    assert any("events.jsonl: row 4: " in line for line in said.complaints)
    read = said.json()["input"]
    assert (read["rows"], read["events"], read["no_events"]) == (len(good) + 2, len(good), 2)
    assert "`platform`" in read["no_events_because"][1]


def test_bad_lines_are_counted_across_pieces(
    guard: Guard, lines: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = lines.read_bytes().splitlines()
    lines.write_bytes(b"\n".join([*good, b"the last one"]))
    monkeypatch.setattr(backtest_inputs, "_PIECE_BYTES", 1000)
    read = guard("backtest", lines, "--to", tmp_path / "out", "--json").json()["input"]
    assert read["events"] == len(good)
    assert read["no_events_because"][0].startswith(f"events.jsonl: row {len(good) + 1}: ")


def test_columns_that_nobody_knows_are_told_once(guard: Guard, events: list[Event], tmp_path: Path) -> None:
    pl.DataFrame(table_of(events)).with_columns(weather=pl.lit("fine")).write_parquet(tmp_path / "e.parquet")
    said = guard("backtest", tmp_path / "e.parquet", "--to", tmp_path / "out")
    assert said.status == 0
    assert [line for line in said.complaints if "weather" in line] == [
        "guard: passed over columns that no event has: weather"
    ]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("nothing.jsonl", None, "nothing.jsonl: No such file"),
        ("empty.jsonl", b"", "no events in"),
        ("words.txt", b"hello\nworld\n", "no events in words.txt; the first: words.txt: row 1:"),
        ("cut.parquet", b"PAR1 and no more", "cut.parquet: "),
    ],
)
def test_what_holds_no_events_is_an_error_that_names_it(
    guard: Guard, tmp_path: Path, name: str, content: bytes | None, words: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    said = guard("backtest", tmp_path / name, "--to", tmp_path / "out")
    assert said.status == 2
    assert words in said.err


def test_a_missing_column_is_named_with_its_file(guard: Guard, events: list[Event], tmp_path: Path) -> None:
    pl.DataFrame(table_of(events)).drop("repository").write_parquet(tmp_path / "e.parquet")
    said = guard("backtest", tmp_path / "e.parquet", "--to", tmp_path / "out")
    assert said.status == 2
    assert "e.parquet: no column 'repository'" in said.err


def test_two_rulebooks_side_by_side_say_what_differs_and_why(guard: Guard, lines: Path, tmp_path: Path) -> None:
    lines.write_bytes(b"\n".join(lines_of(events_of(random.Random(5), 160))))
    (tmp_path / "strict.toml").write_text(
        "[rulebook.policy]\nleast_score = 0.999\n[rulebook.detectors.RepeatedFailure]\nthreshold = 2\n"
    )
    arguments = ("--rulebook", "shipped", "--compare", tmp_path / "strict.toml")
    said = guard("backtest", lines, "--to", tmp_path / "out", *arguments, "--json")
    report = said.json()
    assert any("least_score" in line for line in report["rules"])
    decisions = report["comparison"]["decisions"]
    assert decisions["changed"] == sum(group["count"] for group in decisions["groups"]) > 0
    assert {group["after"] for group in decisions["groups"]} >= {"skip: repeated_failure"}
    assert any("repeated" in why for group in decisions["groups"] for why in group["because"])
    assert report["comparison"]["findings"]["only_after"]["RepeatedFailure"]["count"] > 0
    one, other = (
        pl.read_parquet(tmp_path / "out" / name) for name in ("decisions.parquet", "compared/decisions.parquet")
    )
    assert {*one["rulebook"]} | {*other["rulebook"]} == {side["rulebook"] for side in report["said"]}
    assert "side by side" in (tmp_path / "out" / "report.html").read_text()


def test_a_rulebook_against_itself_changes_nothing(guard: Guard, lines: Path, tmp_path: Path) -> None:
    body = tmp_path / "body.json"
    body.write_text(json.dumps(compose().body))
    arguments = ("--rulebook", "shipped", "--compare", body)
    said = guard("backtest", lines, "--to", tmp_path / "out", *arguments)
    assert said.status == 0
    assert "decisions that differ: 0 of" in said.out


@pytest.mark.parametrize("few_bytes", [0, 1 << 30])
def test_a_signature_that_cannot_be_compiled_is_named(
    guard: Guard, lines: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, few_bytes: int
) -> None:
    monkeypatch.setattr(backtest, "_FEW_BYTES", few_bytes)
    body = json.loads(json.dumps(compose().body))
    name = min(body["signatures"])
    body["signatures"][name] |= {"text": [r"\bx\bx"], "matches": []}  # RE2 takes it
    (tmp_path / "body.json").write_text(json.dumps(body))
    said = guard("backtest", lines, "--to", tmp_path / "out", "--rulebook", tmp_path / "body.json")
    assert said.status == 2
    assert f"signature {name}: pattern" in said.err


def test_findings_are_held_against_what_is_known_to_have_happened(
    guard: Guard, lines: Path, tmp_path: Path, detector: Callable[[str], Path]
) -> None:
    known = tmp_path / "truth.csv"
    known.write_text(
        "kind,repository,begins_at,ends_at\n"
        "QuickPair,org/repo-0,2026-09-20T00:00:00Z,2027-01-01T00:00:00Z\n"
        "QuickPair,org/nowhere,2026-09-20T00:00:00Z,\n"
    )
    arguments = ("--detector", detector(DETECTOR), "--truth", known, "--json")
    judged = guard("backtest", lines, "--to", tmp_path / "out", *arguments).json()["said"][0]["truth"]
    assert set(judged) == {"QuickPair"}
    assert (judged["QuickPair"]["truths"], judged["QuickPair"]["found"]) == (2, 1)
    assert judged["QuickPair"]["recall"] == 0.5
    assert 0 < judged["QuickPair"]["precision"] < 1
    assert judged["QuickPair"]["missed"][0]["subject"] == {"repository": "org/nowhere"}
    assert T0 > 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("kind,repository\n", "no column 'begins_at'"),
        ("kind,begins_at\nSpecies,2026-01-01T00:00:00Z\n", "row 1: kind 'Species' is none of"),
        ("kind,begins_at\nStuckJob,yesterday\n", "row 1: begins_at 'yesterday' is no time"),
        ("kind,begins_at\nStuckJob,2026-01-01T00:00:00\n", "row 1: begins_at 2026-01-01T00:00:00 has no time zone"),
        ("kind,begins_at,ends_at\nStuckJob,2026-01-02T00:00:00Z,2026-01-01T00:00:00Z\n", "row 1: ends_at lies before"),
    ],
)
def test_a_truth_that_cannot_be_read_is_named(guard: Guard, lines: Path, tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "truth.csv").write_text(text)
    said = guard("backtest", lines, "--to", tmp_path / "out", "--truth", tmp_path / "truth.csv")
    assert said.status == 2
    assert f"truth.csv: {words}" in said.err


def test_secrets_in_the_input_are_in_no_output(
    guard: Guard, events: list[Event], lines: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = "ghp_" + "a1B2c3D4" * 4 + "e5F6"
    text = lines.read_bytes().replace(b'"job_name":"job 0"', f'"job_name":"job {token}"'.encode())
    assert token.encode() in text
    lines.write_bytes(text)
    monkeypatch.setenv("GUARD_REDACTION__KEY", KEY)
    assert guard("backtest", lines, "--to", tmp_path / "out").status == 0
    failures = pl.read_parquet(tmp_path / "out" / "failures.parquet")
    assert "job [REDACTED:github-token]" in set(failures["job_name"]) or any(
        "REDACTED" in name for name in failures["job_name"].drop_nulls()
    )
    assert token not in (tmp_path / "out" / "report.json").read_text()
    assert not any(token in str(rows) for rows in _rows(tmp_path / "out").values())


def test_the_page_stands_alone_and_a_browser_shows_it(
    guard: Guard, lines: Path, tmp_path: Path, detector: Callable[[str], Path], chromium: str
) -> None:
    text = lines.read_bytes().replace(b"org/repo-", b"org/<b>repo</b>-")
    lines.write_bytes(text)
    guard("backtest", lines, "--to", tmp_path / "out", "--detector", detector(DETECTOR))
    page = tmp_path / "out" / "report.html"
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'chromium'}"]
    shot = [f"--screenshot={tmp_path / 'page.png'}", "--window-size=1000,2400"]
    done = subprocess.run(
        [chromium, *options, *shot, "--dump-dom", page.as_uri()], check=True, capture_output=True, text=True, timeout=90
    )
    assert "<script" not in page.read_text()
    assert "http" not in page.read_text().replace("org/", "")
    assert "<h3>QuickPair</h3>" in done.stdout
    assert "<b>repo</b>-" not in done.stdout
    assert "&lt;b&gt;repo&lt;/b&gt;-" in done.stdout
    assert done.stdout.count("<svg") == page.read_text().count("<svg") > 3
