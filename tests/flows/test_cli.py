"""guard, without any server: its commands, its settings, its plain errors, and what is done by hand."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from flows import supervise
from models.records.payload import from_json
from tests.connectors.platforms.cases import BY_NAME, INSTANCE, delivery, normalised
from tests.flows.conftest import KEY, Guard

ROOT = Path(__file__).parents[2]
WEBHOOKS = ROOT / "tests" / "fixtures" / "webhooks"
COMMANDS = [
    "receive",
    "flow",
    "migrate",
    "status",
    "dead",
    "check",
    "rulebook",
    "explain",
    "unknown",
    "signatures",
    "normalise",
    "publish",
    "version",
]


def started(*arguments: str, **given: object) -> subprocess.Popen[bytes]:
    """The command as a process of its own."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("GUARD_")}
    command = [sys.executable, "-c", "import sys; from flows.cli import main; sys.exit(main())", *arguments]
    return subprocess.Popen(command, cwd=ROOT, env=environ, stderr=subprocess.PIPE, **given)  # type: ignore[call-overload, no-any-return] # any that Popen has


@pytest.mark.parametrize("command", COMMANDS)
def test_help_lists_every_command(guard: Guard, command: str) -> None:
    assert f" {command} " in guard("--help").out


def test_no_command_is_a_question_for_help(guard: Guard) -> None:
    assert guard() == guard("--help")


@pytest.mark.parametrize("command", [[name] for name in COMMANDS] + [["dead", "replay"], ["rulebook", "diff"]])
def test_every_command_has_help_of_its_own(guard: Guard, command: list[str]) -> None:
    said = guard(*command, "--help")
    assert said.status == 0
    assert f"guard {' '.join(command)}" in said.out


def test_version_names_the_release(guard: Guard) -> None:
    assert guard("version").out.startswith("pipeline-guard 0.")


@pytest.mark.parametrize(
    "arguments",
    [["bogus"], ["status", "--bogus"], ["explain"], ["explain", "no-uuid"], ["normalise", "--platform", "travis"]],
)
def test_a_wrong_command_line_is_one_line_and_status_2(guard: Guard, arguments: list[str]) -> None:
    said = guard(*arguments)
    assert (said.status, said.out, len(said.complaints)) == (2, "", 1)
    assert said.err.startswith("guard: ")


def test_wrong_settings_are_one_line_each_and_status_2(guard: Guard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GUARD_FLOW__PROCES", "2")
    monkeypatch.setenv("GUARD_MODE", "destroy")
    said = guard("check")
    assert (said.status, said.out) == (2, "")
    assert [line.split(":")[1].strip() for line in said.complaints] == ["mode", "flow.proces"]
    assert "did you mean flow.processes?" in said.err


@pytest.mark.parametrize("arguments", [["--settings", "FILE", "check"], ["check", "--settings", "FILE"]])
def test_the_settings_file_may_be_named_before_or_after_the_command(
    guard: Guard, tmp_path: Path, arguments: list[str]
) -> None:
    path = tmp_path / "guard.toml"
    path.write_text('mode = "suggest"')
    said = guard(*(path if argument == "FILE" else argument for argument in arguments))
    assert said.status == 0
    assert f'mode = "suggest"  ({path})' in said.lines


def test_check_shows_what_was_set_and_with_all_what_was_not(guard: Guard) -> None:
    few, every = guard("check"), guard("check", "--all")
    assert not any("flow.processes" in line for line in few.lines)
    assert "flow.processes = 1  (default)" in every.lines
    assert few.lines[-1].startswith("ok  rulebook: ")


def test_check_never_shows_a_secret(guard: Guard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GUARD_REDACTION__KEY", KEY)
    assert KEY not in guard("check", "--all").out


def test_check_finds_a_rulebook_that_cannot_be_put_together(guard: Guard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GUARD_RULEBOOK__POLICY__LEAST_SCORE", '"much"')
    said = guard("check")
    assert said.status == 2
    assert "least_score" in said.complaints[0]


def test_check_finds_a_signature_file_that_is_no_text(
    guard: Guard, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "latin.toml"
    path.write_bytes(b"# \xe9")
    monkeypatch.setenv("GUARD_RULEBOOK__SIGNATURE_FILES", json.dumps([str(path)]))
    said = guard("check")
    assert (said.status, said.err) == (2, f"guard: {path}: not UTF-8 text\n")


@pytest.mark.parametrize(
    ("name", "url"),
    [("REDIS", "redis://:cAnArY@host:99999/0"), ("POSTGRES", "postgresql://guard:cAnArY%zz@127.0.0.1/guard")],
)
def test_an_address_that_is_none_is_said_without_its_password(
    guard: Guard, monkeypatch: pytest.MonkeyPatch, name: str, url: str
) -> None:
    monkeypatch.setenv(f"GUARD_{name}__URL", url)
    said = guard("status")
    assert said.status != 0
    assert "cAnArY" not in said.out + said.err
    assert "Traceback" not in said.err


def test_check_says_of_each_server_that_it_is_away(guard: Guard) -> None:
    said = guard("check", "--connect")
    assert said.status == 1
    assert [line.split(":")[0] for line in said.lines[-2:]] == ["NOT OK  redis", "NOT OK  postgresql"]


@pytest.mark.parametrize(
    "arguments",
    [["status"], ["migrate"], ["dead", "list"], ["rulebook", "show", "0123"], ["explain", "0" * 32], ["flow"]],
)
def test_a_server_that_is_away_is_said_without_a_traceback_and_status_1(guard: Guard, arguments: list[str]) -> None:
    said = guard(*arguments)
    assert said.status == 1
    assert said.complaints[-1].startswith("guard: PostgreSQL: connection ")
    assert "Traceback" not in said.err


@pytest.mark.parametrize("arguments", [["publish", os.devnull], ["dead", "replay", "--all"], ["receive"]])
def test_what_redacts_needs_its_key(guard: Guard, arguments: list[str]) -> None:
    said = guard(*arguments)
    assert (said.status, said.err) == (2, "guard: redaction.key: must be set to do this\n")


ENTRY = "[a]\ncategory = 'network'\ncause = 'c'\nfix = 'f'\nmatches = ['x']\nconfusers = ['y']\n"


def test_the_rulebook_of_the_settings_differs_from_the_shipped_one_where_it_was_set(
    guard: Guard, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    own = tmp_path / "own.toml"
    own.write_text(
        '[lost_licence]\ncategory = "configuration"\ncause = "c"\nfix = "f"\ntext = ["no licence"]\n'
        'matches = ["no licence"]\nconfusers = ["licence"]\n'
    )
    monkeypatch.setenv("GUARD_RULEBOOK__DETECTORS__RepeatedFailure__THRESHOLD", "7")
    monkeypatch.setenv("GUARD_RULEBOOK__DETECTORS__FlakyTest__WITHIN", "3h")
    monkeypatch.setenv("GUARD_RULEBOOK__POLICY__MOST_ATTEMPTS", "2")
    monkeypatch.setenv("GUARD_RULEBOOK__SIGNATURE_FILES", json.dumps([str(own)]))
    lines = guard("rulebook", "diff", "shipped").lines
    assert lines[:3] == [
        '$.detectors.FlakyTest.within: "2h" -> "3h"',
        "$.detectors.RepeatedFailure.threshold: 3 -> 7",
        "$.policy.most_attempts: 1 -> 2",
    ]
    assert lines[3].startswith('$.signatures.lost_licence: + {"name":"lost_licence"')
    assert len(lines) == 4


BAD_FILES = {
    "no TOML": ("[a", "own.toml: "),
    "a missing key": ("[a]\ncategory = 'network'", "own.toml: a: Object missing required field `cause`"),
    "nested quantifiers": (f"{ENTRY}text = ['(x+)+y']", "own.toml: a: pattern '(x+)+y': a repetition without end"),
    "a huge repetition": (f"{ENTRY}text = ['x{{900}}']", "own.toml: a: pattern 'x{900}': its counted repetitions"),
    "too long": (f"{ENTRY}text = ['{'x' * 1001}']", "it is longer than 1000 characters"),
    "no RE2": (f"{ENTRY}text = ['(x']", "own.toml: a: pattern '(x': missing )"),
    "what only one engine takes": (f"{ENTRY}text = ['x\\by']", "own.toml: signature a: pattern 'x\\\\by': Hyperscan"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_signature_file_is_refused_by_file_entry_and_reason(
    guard: Guard, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, case: str
) -> None:
    text, reason = BAD_FILES[case]
    own = tmp_path / "own.toml"
    own.write_text(text)
    monkeypatch.setenv("GUARD_RULEBOOK__SIGNATURE_FILES", json.dumps([str(own)]))
    said = guard("rulebook", "check")
    assert said.status != 0
    assert str(own) in said.err
    assert reason in said.err


def test_a_rulebook_does_not_differ_from_itself(guard: Guard) -> None:
    assert guard("rulebook", "diff", "settings").out == ""


def test_the_rulebook_is_shown_whole(guard: Guard) -> None:
    shown = guard("rulebook", "show", "shipped", "--json").json()
    digest = guard("rulebook", "check").lines[0].split()[1].removesuffix(":")
    assert shown["policy"]["mode"] == "observe"
    assert shown["detectors"]["RepeatedFailure"]["threshold"] == 3
    text = guard("rulebook", "show").out
    assert all(name in text for name in shown["signatures"])
    assert digest in text


def test_a_recorded_delivery_becomes_json_lines(guard: Guard) -> None:
    case = BY_NAME["circleci", "job.failed"]
    said = guard("normalise", "--platform", "circleci", "--instance", INSTANCE, WEBHOOKS / "circleci/job.failed.json")
    assert [from_json(line.encode()) for line in said.lines] == normalised(case).events
    assert (said.status, said.err) == (0, "")


def test_headers_come_from_options_or_a_file_of_lines_or_of_json(guard: Guard, tmp_path: Path) -> None:
    case = BY_NAME["github", "workflow_run.passed"]
    body, lines, table = tmp_path / "body", tmp_path / "headers.txt", tmp_path / "headers.json"
    body.write_bytes(json.dumps(case.body).encode())
    lines.write_text("".join(f"{name}: {value}\r\n" for name, value in case.headers.items()))
    table.write_text(json.dumps(case.headers))
    options = [word for name, value in case.headers.items() for word in ("-H", f"{name}: {value}")]
    ways = ["--headers", lines], ["--headers", table], options
    said = [guard("normalise", "--platform", "github", "--instance", INSTANCE, *way, body) for way in ways]
    assert said[0] == said[1] == said[2]
    assert len(said[0].lines) == 1


def test_a_form_is_read_as_it_was_sent(guard: Guard) -> None:
    said = guard("normalise", "--platform", "github", WEBHOOKS / "github/workflow_job.failed_form.json")
    assert (said.status, len(said.lines)) == (0, 1)


def test_a_body_may_stand_as_text_beside_its_headers(guard: Guard, tmp_path: Path) -> None:
    case = BY_NAME["github", "workflow_run.passed"]
    path = tmp_path / "both.json"
    path.write_text(json.dumps({"headers": case.headers, "body": delivery(case.headers, case.body).body.decode()}))
    said = guard("normalise", "--platform", "github", "--instance", INSTANCE, path)
    assert [from_json(line.encode()) for line in said.lines] == normalised(case).events


def test_what_is_knowingly_ignored_says_why_and_is_fine(guard: Guard) -> None:
    said = guard("normalise", "--platform", "github", WEBHOOKS / "github/ping.json")
    assert (said.status, said.out) == (0, "")
    assert said.err.startswith("guard: ignored: a ping")


def test_what_is_rejected_says_why_and_has_status_3(guard: Guard) -> None:
    said = guard("normalise", "--platform", "gitlab", WEBHOOKS / "gitlab/custom_template.json")
    assert (said.status, said.out) == (3, "")
    assert said.err == "guard: rejected: object_kind: missing; a custom webhook template cannot be read\n"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["normalise", "--platform", "github", "nowhere.json"], "nowhere.json: No such file or directory"),
        (["publish", "nowhere.jsonl"], "nowhere.jsonl: No such file or directory"),
        (["normalise", "--platform", "github", "-H", "nonsense", os.devnull], "a header is written 'Name: value'"),
        (["normalise", "--platform", "github", "--headers", "/", os.devnull], "/: Is a directory"),
        (["publish", "--rate", "0", os.devnull], "--rate: expected more than 0"),
        (["publish", "--rate", "inf", os.devnull], "--rate: expected more than 0"),
        (["dead", "list", "--limit", "0"], 'Invalid value "0" for --limit'),
        (["dead", "replay"], "name dead letters by their ids, or say --all, or --reason"),
        (["dead", "replay", "--all", "--reason", "bad_checksum"], "name dead letters by their ids"),
    ],
)
def test_an_operators_mistake_is_one_clear_line(
    guard: Guard, monkeypatch: pytest.MonkeyPatch, arguments: list[str], complaint: str
) -> None:
    monkeypatch.setenv("GUARD_REDACTION__KEY", KEY)
    said = guard(*arguments)
    assert (said.status, len(said.complaints)) == (2, 1)
    assert said.err.startswith(f"guard: {complaint}")


def test_foreign_text_in_a_complaint_cannot_steer_the_terminal(guard: Guard) -> None:
    assert "\x1b" not in guard("normalise", "--platform", "github", "\x1b[2Jno\nwhere").err


def test_standard_input_is_read_by_a_process_of_its_own() -> None:
    content = (WEBHOOKS / "github/workflow_run.passed.json").read_bytes()
    with started("normalise", "--platform", "github", stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        out, err = process.communicate(content, timeout=60)
    assert (process.returncode, err) == (0, b"")
    assert from_json(out.strip()).repository == "acme/rocket"


@pytest.mark.parametrize("arguments", [["rulebook", "show", "shipped"], ["--help"], ["check", "--all"]])
def test_a_broken_pipe_is_no_error(arguments: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with started(*arguments, stdout=writing) as process:
        os.close(writing)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, b"")


def test_each_process_of_the_flow_is_told_what_the_command_line_said(
    guard: Guard, servers: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[list[str]] = []
    path = tmp_path / "guard.toml"
    path.write_text("")
    monkeypatch.setenv("GUARD_FLOW__PROCESSES", "1")
    monkeypatch.setattr(supervise, "supervise", seen.extend)
    assert guard("flow", "--processes", "2", "--ephemeral", "--from-progress", "--settings", path).status == 0
    assert os.environ["GUARD_FLOW__PROCESSES"] == "2"
    assert [command[1:] for command in seen] == [
        ["-m", "flows.worker", "--process", number, "--settings", str(path), "--ephemeral", "--from-progress"]
        for number in ("0", "1")
    ]


def test_more_processes_than_shards_are_refused(guard: Guard) -> None:
    said = guard("flow", "--processes", "13")
    assert said.status == 2
    assert said.err.startswith("guard: flow.processes: ")
    assert "(command line)" in said.err
