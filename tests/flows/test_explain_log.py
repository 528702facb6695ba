"""guard explain on logs: from files and standard input, without any server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from analytics.signatures.catalogue import read
from flows import explain_log
from tests.flows.conftest import KEY, Guard

ROOT = Path(__file__).parents[2]
TOKEN = "ghp" + "_" + "0123456789abcdefghijklmnopqrstuvwxyz"
OWN = """
[no_host]
category = "network"
transient = true
priority = 60
cause = "The name of a host is not known."
fix = "Run it again."
owner = "runners"
action = "rerun_job"
text = ["resolve host: (?P<host>[a-z.]+)"]
matches = ["Could not resolve host: a.example"]
confusers = ["host"]

[make_failed]
category = "build"
cause = "Make failed."
fix = "Look above."
text = ["^make: .* Error"]
matches = ["make: *** [all] Error 2"]
confusers = ["make"]

[only_gitlab]
category = "policy"
hard_stop = true
cause = "GitLab forbids it."
fix = "Ask."
platforms = ["gitlab"]
text = ["^forbidden by rule"]
matches = ["forbidden by rule 7"]
confusers = ["forbidden"]

[killed]
category = "resources"
cause = "It was killed."
fix = "Give it more memory."
facts = ["[a-z]+ exit_code 137"]
matches = ["github exit_code 137"]
confusers = ["github exit_code 1"]
"""
HOST = "curl: (6) Could not resolve host: deb.example"
BUILD = ["building", f"token {TOKEN}", HOST, "make: *** [all] Error 2", "the end"]


@pytest.fixture(autouse=True)
def _small_catalogue(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few signatures, which compile at once and stay as they are."""
    monkeypatch.setattr(explain_log, "shipped", lambda: read("shipped", OWN))


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A failed log in which two signatures match."""
    return written(tmp_path / "build.log", *BUILD)


def written(path: Path, *lines: str) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def told(guard: Guard, *arguments: str | Path) -> dict[str, Any]:
    """What is told of one log."""
    (line,) = guard("explain", "--json", *arguments).lines
    known: dict[str, Any] = json.loads(line)
    return known


def test_a_log_is_explained_with_the_line_that_proves_it(guard: Guard, log: Path) -> None:
    said = told(guard, log)
    assert {
        name: said[name] for name in ("log", "diagnosis", "signature", "category", "line", "matched", "captures")
    } == {
        "log": str(log),
        "diagnosis": "matched",
        "signature": "no_host",
        "category": "network",
        "line": 3,
        "matched": HOST,
        "captures": {"host": "deb.example"},
    }
    assert (said["transient"], said["hard_stop"], said["owner"], said["action"]) == (
        True,
        False,
        "runners",
        "rerun_job",
    )
    assert (said["cause"], said["fix"]) == ("The name of a host is not known.", "Run it again.")
    assert 0 < said["confidence"] < 1
    assert (said["log_lines"], said["log_bytes"]) == (len(BUILD), log.stat().st_size)
    assert said["excerpt"][2] == {"number": 3, "text": HOST, "new": True}
    assert said["others"] == [
        {
            "signature": "make_failed",
            "category": "build",
            "line": 4,
            "matched": BUILD[3],
            "why": "another one has a higher priority",
        }
    ]


def test_people_read_the_same(guard: Guard, log: Path) -> None:
    said = guard("explain", log)
    assert (said.status, said.err) == (0, "")
    for part in ("no_host", "network", "transient", "Run it again.", "runners", "line 3: ", "host = deb.example"):
        assert part in said.out
    assert f"> 3 {HOST}" in said.lines
    assert any(line.startswith("make_failed") and "higher priority" in line for line in said.lines)


def test_it_fits_a_narrow_terminal(guard: Guard, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.command._PIPE_WIDTH", 40)
    said = guard("explain", log)
    assert max(map(len, said.lines)) <= 40
    assert "".join(HOST.split()) in "".join(said.out.split())


def test_line_numbers_are_those_of_the_log_however_long_it_is(guard: Guard, tmp_path: Path) -> None:
    path = written(tmp_path / "long.log", *(f"step {i} of the build is done" for i in range(40_000)), *BUILD)
    said = told(guard, path)
    assert (said["line"], said["log_lines"]) == (40_003, 40_005)
    assert {line["number"]: line["text"] for line in said["excerpt"]}[40_003] == HOST
    assert sum(len(line["text"].encode()) + 1 for line in said["excerpt"]) <= 16 << 10
    assert "..." in guard("explain", path).out or "40003" in guard("explain", path).out


def test_several_logs_are_several_lines_in_their_order(guard: Guard, log: Path, tmp_path: Path) -> None:
    other = written(tmp_path / "other.log", "all is well")
    said = guard("explain", "--json", log, other)
    assert [json.loads(line)["log"] for line in said.lines] == [str(log), str(other)]
    assert said.status == 1, "one of them is not explained"


def test_standard_input_is_read(log: Path) -> None:
    """As a process of its own, with the real catalogue and nothing set."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("GUARD_")}
    command = [sys.executable, "-c", "import sys; from flows.cli import main; sys.exit(main())"]
    done = subprocess.run(
        [*command, "explain", "--json", "-"],
        cwd=ROOT,
        env=environ,
        input=log.read_bytes(),
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    said = json.loads(done.stdout)
    assert (said["log"], said["category"], said["line"]) == ("standard input", "network", 3)


def test_secrets_do_not_pass(guard: Guard, log: Path) -> None:
    assert TOKEN not in guard("explain", log).out
    assert told(guard, log)["excerpt"][1]["text"] == "token [REDACTED:github-token]"


def test_people_are_the_same_people_under_the_key_of_the_settings(
    guard: Guard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path / "mail.log", "error: mail somebody" + "@example.org about it")

    def names() -> set[str]:
        return {told(guard, path)["excerpt"][0]["text"] for _ in range(2)}

    assert len(names()) == 2, "a key of the moment"
    monkeypatch.setenv("GUARD_REDACTION__KEY", KEY)
    assert len(names()) == 1


def test_foreign_text_does_not_reach_the_terminal_as_it_is(guard: Guard, tmp_path: Path) -> None:
    path = written(tmp_path / "red.log", "\x1b]0;title\x07error: \u202eexe.\x9b31m", HOST)
    out = guard("explain", path).out
    assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(out)


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\x00\xff\xfe" * 1000, b"x" * 300_000])
def test_whatever_a_file_holds_is_unknown_and_no_crash(guard: Guard, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "odd.log"
    path.write_bytes(content)
    assert guard("explain", path).status == 1
    said = told(guard, path)
    assert (said["diagnosis"], said["signature"], said["confidence"]) == ("no_pattern", None, None)


def test_an_unknown_failure_shows_the_line_by_which_it_is_known_again(guard: Guard, tmp_path: Path) -> None:
    path = written(tmp_path / "new.log", "starting", "error: flux capacitor 17 is not charged", "make failed")
    said = guard("explain", path)
    assert said.status == 1
    assert "none (no pattern)" in said.out
    assert "flux capacitor" in told(guard, path)["template"]
    assert any(line.startswith("> 2 ") for line in said.lines)


def test_what_the_passing_log_has_too_proves_nothing(guard: Guard, log: Path, tmp_path: Path) -> None:
    before = told(guard, log)
    passing = written(tmp_path / "passing.log", "building", HOST, "done")
    said = told(guard, log, "--passing", passing)
    assert (said["signature"], said["line"], said["compared"]) == ("make_failed", 4, True)
    assert said["others"][-1]["why"] == "the last passing log has its line too"
    assert [line["new"] for line in said["excerpt"]][:3] == [False, True, False]
    same = told(guard, log, "--passing", log)
    assert (same["signature"], same["seen_passing"], same["confidence"]) == (None, True, None)
    assert "proves nothing" in guard("explain", log, "--passing", log).out
    other = told(guard, log, "--passing", written(tmp_path / "other.log", "quite another"))
    assert other["signature"] == "no_host"
    assert other["confidence"] > before["confidence"]


def test_an_exit_code_is_a_fact(guard: Guard, tmp_path: Path) -> None:
    path = written(tmp_path / "killed.log", "##[error]Process completed with exit code 137.")
    said = told(guard, path)
    assert (said["exit_code"], said["signature"], said["line"]) == (137, "killed", None)
    assert said["matched"].endswith(" exit_code 137")
    assert told(guard, path, "--platform", "gitlab")["matched"] == "gitlab exit_code 137"


@pytest.mark.parametrize(("platform", "signature"), [([], "only_gitlab"), (["--platform", "gitlab"], "only_gitlab")])
def test_a_platforms_signature_counts_there_and_where_nobody_says_where(
    guard: Guard, tmp_path: Path, platform: list[str], signature: str
) -> None:
    path = written(tmp_path / "rule.log", "forbidden by rule 7")
    assert told(guard, path, *platform)["signature"] == signature
    elsewhere = told(guard, path, "--platform", "github")
    assert (elsewhere["signature"], elsewhere["others"][0]["why"]) == (None, "it is for another platform")


def test_own_signatures_add_to_the_shipped_ones_and_replace_those_of_their_name(
    guard: Guard, log: Path, tmp_path: Path
) -> None:
    own = tmp_path / "own.toml"
    own.write_text(
        '[no_host]\ncategory = "network"\ncause = "Ours."\nfix = "f"\npriority = 70\ntext = ["resolve host"]\n'
        "matches = []\nconfusers = []\n"
    )
    assert told(guard, "--signatures", own, log)["cause"] == "Ours."


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[a", "Expected ']'"),
        ('[bad_one]\ncategory = "network"\n', "bad_one: Object missing required field"),
        (OWN.replace("(?P<host>", "(?=", 1), "no_host: pattern 'resolve host: (?=[a-z.]+)': "),
    ],
)
def test_a_bad_file_of_signatures_is_refused_with_file_entry_and_reason(
    guard: Guard, log: Path, tmp_path: Path, text: str, reason: str
) -> None:
    own = tmp_path / "own.toml"
    own.write_text(text)
    said = guard("explain", "--signatures", own, log)
    assert (said.status, said.out, len(said.complaints)) == (2, "", 1)
    assert said.err.startswith(f"guard: {own}: {reason}")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "explain what? "),
        (["nowhere.log"], "nowhere.log: there is no such file, and it is no id"),
        (["--bogus"], "--bogus: there is no such file, and it is no id"),
        (["/"], "/: Is a directory"),
        ([os.devnull, "--passing", "nowhere.log"], "nowhere.log: No such file or directory"),
        ([os.devnull, "--signatures", "nowhere.toml"], "nowhere.toml: No such file or directory"),
        ([os.devnull, "--platform", "travis"], 'Invalid value "travis" for --platform'),
    ],
)
def test_a_mistake_is_one_clear_line(guard: Guard, arguments: list[str], complaint: str) -> None:
    said = guard("explain", *arguments)
    assert (said.status, len(said.complaints)) == (2, 1)
    assert said.err.startswith(f"guard: {complaint}")


def test_a_log_that_cannot_be_read_does_not_hold_up_the_others(guard: Guard, log: Path, tmp_path: Path) -> None:
    said = guard("explain", "--json", tmp_path, log)
    assert (said.status, len(said.complaints)) == (2, 1)
    assert [json.loads(line)["log"] for line in said.lines] == [str(log)]


def test_a_log_is_read_in_pieces(guard: Guard, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = told(guard, log)
    monkeypatch.setattr(explain_log, "_CHUNK_BYTES", 7)
    assert told(guard, log) == whole


def test_no_server_is_asked_unless_told_to(guard: Guard, tmp_path: Path) -> None:
    path = written(tmp_path / "new.log", "error: flux capacitor is not charged")
    said = guard("explain", "--connect", path)
    assert said.status == 1
    assert said.complaints[-1].startswith("guard: PostgreSQL: ")
    assert guard("explain", path).err == ""
