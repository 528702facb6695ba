"""The analysis of a log: the small logs of each platform, and what it promises for any."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analytics.logs import analyse as module
from analytics.logs.analyse import Analysis, Found
from analytics.logs.normalise import normalise
from analytics.logs.pages import starts_of
from analytics.logs.passing import PassingIndexing
from models.records.evidence import EXCERPT_BYTES, Evidence, Reading
from tests.analytics.logs.cases import FOLDER, LOGS, found_in, told

# What must be shown of each, in the order of the log.
CAUSES = {
    "azure_msbuild": ["Cart.cs(41,17): error CS0103: The name 'totl' does not exist"],
    "circleci_pytest": [
        "def test_reserve_all(stock):",
        "E           stock.OutOfStock: pear",
        "FAILED tests/test_stock.py",
    ],
    "docker_apt": ["E: Unable to locate package libfoo-dev", "ERROR: failed to solve"],
    "github_jest": [
        "adds the same thing twice",
        "Expected: 2",
        "at Object.<anonymous> (src/basket.test.js:16:32)",
    ],
    "gitlab_cargo": [
        "error[E0382]: borrow of moved value: `entries`",
        "--> src/book.rs:41:20",
        "value borrowed here after move",
    ],
    "jenkins_maven": [
        "OrderTest.totalsWithDiscount -- Time elapsed",
        "AssertionFailedError",
        "at com.example.orders.OrderTest",
    ],
    "travis_rspec": ["1) Invoice adds value-added tax", "expected: 119", "# ./spec/invoice_spec.rb:12"],
}
CODES = {"docker_apt": 100, "gitlab_cargo": 101}

each_log = pytest.mark.parametrize("path", LOGS, ids=lambda path: path.stem)


def _text(found: Found) -> str:
    return "\n".join(line.text for line in found["lines"])


def _size(found: Found) -> int:
    return sum(len(line.text.encode()) + 1 for line in found["lines"])


@each_log
def test_each_log_is_told_as_its_golden_file_says(path: Path) -> None:
    golden = path.with_suffix(".golden.json")
    found = told(found_in(path.read_bytes()))
    if os.environ.get("GUARD_BLESS"):
        golden.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", "utf-8")
    assert found == json.loads(golden.read_text("utf-8"))


def test_every_log_has_a_cause_that_must_be_shown() -> None:
    assert {path.stem for path in LOGS} == CAUSES.keys()
    assert {path.name.removesuffix(".golden.json") for path in FOLDER.glob("*.golden.json")} == CAUSES.keys()


@each_log
@pytest.mark.parametrize("noise", [0, 3000])
def test_the_cause_is_shown_in_its_order_however_much_stands_around_it(path: Path, noise: int) -> None:
    text = normalise(path.read_bytes())
    around = b"".join(b"[info] step %d of the pipeline is done in 0.%d s\n" % (n, n) for n in range(noise))
    found = found_in(b"$ make prepare\n" + around + b"$ make all\n" + around + text)
    shown = _text(found)
    places = [shown.find(cause) for cause in CAUSES[path.stem]]
    assert -1 not in places
    assert places == sorted(places)
    assert found["exit_code"] == CODES.get(path.stem, 1)
    assert _size(found) <= max(module._LEAST_BYTES, found["log_bytes"] * module._SHARE)


@each_log
def test_numbers_are_those_of_the_log(path: Path) -> None:
    raw = path.read_bytes()
    lines = normalise(raw).decode().split("\n")
    found = found_in(raw)
    assert all(lines[line.number - 1] == line.text for line in found["lines"])
    assert [line.number for line in found["lines"]] == sorted({line.number for line in found["lines"]})
    assert (found["log_lines"], found["log_bytes"]) == (len(lines) - 1, len(raw))


@each_log
def test_what_is_found_is_evidence(path: Path) -> None:
    about = {"event_id": "e", "instance": "i", "repository": "r", "pipeline_id": "p", "job_id": "j", "attempt": 1}
    evidence = Evidence(**about, reading=Reading.READ, **found_in(path.read_bytes()))  # type: ignore[arg-type] # strings
    assert evidence.lines
    assert evidence.normaliser
    assert not evidence.cut


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1", "utf-8-sig"])
def test_the_encoding_does_not_matter(encoding: str) -> None:
    text = normalise((FOLDER / "travis_rspec.log").read_bytes()).decode()
    assert found_in(text.encode(encoding))["lines"] == found_in(text.encode())["lines"]


_LINES = st.sampled_from(
    [
        *(
            "error: it failed\n",
            "ok 1\n",
            "  at x (a.js:1:2)\n",
            "\n",
            "--- FAIL: TestX\n",
            "make: *** [all] Error 2\n",
        ),
        *("$ make\n", "quiet\n" * 50, "Process completed with exit code 3.\n", "x" * 3000 + "\n", "warning: unused\n"),
    ]
)


@settings(max_examples=60, deadline=None)
@given(st.lists(_LINES, max_size=60).map("".join), st.integers(1, 5000), st.integers(1, 200))
def test_chunks_do_not_matter_and_excerpts_are_bounded(log: str, step: int, times: int) -> None:
    raw = (log * times).encode()[:300_000]
    analysis = Analysis()
    for at in range(0, len(raw), step * 100):
        analysis.feed(raw[at : at + step * 100])
    found = analysis.finish()
    assert found == found_in(raw)
    assert _size(found) <= EXCERPT_BYTES


def _long_log(megabytes: int) -> bytes:
    noise = b"".join(b"compiling part %d of the thing, no trouble here\n" % number for number in range(20_000))
    early = noise + b"early/file.c:12:3: error: this one came first\n"
    return early + noise * megabytes + b"late/file.c:7:1: error: and this one last\nmake: *** [all] Error 2\n"


def test_a_long_log_is_read_in_bounded_memory_and_loses_no_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_WHOLE_BYTES", 2 << 20)
    monkeypatch.setattr(module, "_OLD_BYTES", 100 << 10)
    raw = _long_log(12)
    analysis, other = Analysis(), Analysis()
    for at in range(0, len(raw), 77_777):
        analysis.feed(raw[at : at + 77_777])
        held = sum(len(page.text) for page in (*analysis._whole, *analysis._thin))
        assert held <= (2 << 20) + (100 << 10)
    other.feed(raw)
    found = analysis.finish()
    assert found == other.finish()
    assert "this one came first" in _text(found)
    assert "and this one last" in _text(found)
    assert found["lines"][-1].number <= found["log_lines"] == raw.count(b"\n")


def test_lines_that_a_signature_knows_are_kept_wherever_they_stand() -> None:
    noise = b"".join(b"error: number %d of many\n" % number for number in range(5000))
    raw = noise + b"the quota of the team is used up\n" + noise

    def find(text: bytes) -> list[int]:
        at = text.find(b"the quota")
        return [at] if at >= 0 else []

    assert "the quota" not in _text(found_in(raw))
    assert "the quota" in _text(found_in(raw, find=find))


def test_known_lines_by_the_thousand_leave_room_for_the_cause() -> None:
    raw = (b"$ make\n" + b"known trouble with a thing that is named here\n" * 2000) * 5 + b"error: the cause\n"

    def find(text: bytes) -> list[int]:
        return [at for at in range(0, len(text), 1 << 10) if text.startswith(b"known", text.rfind(b"\n", 0, at) + 1)]

    found = found_in(raw, find=find)
    assert "error: the cause" in _text(found)
    assert "known trouble" in _text(found)


def test_lines_that_the_passing_log_did_not_have_come_first() -> None:
    usual = b"".join(b"error: harmless trouble with part %s\n" % word for word in (b"a", b"b", b"c") * 400)
    raw = usual + b"the flux capacitor is cold\n" + usual
    indexing = PassingIndexing()
    indexing.feed(usual)
    found = found_in(raw, passing=indexing.finish())
    assert found["compared"]
    assert [line.text for line in found["lines"] if line.new] == ["the flux capacitor is cold"]
    assert not found_in(raw)["compared"]
    assert all(line.new for line in found_in(raw)["lines"])


def test_an_index_of_quite_another_log_changes_nothing_but_the_marks() -> None:
    indexing = PassingIndexing()
    indexing.feed(b"nothing of the sort\n")
    raw = (FOLDER / "github_jest.log").read_bytes()
    compared = found_in(raw, passing=indexing.finish())
    assert [line.text for line in compared["lines"]] == [line.text for line in found_in(raw)["lines"]]


def test_only_what_is_kept_is_redacted_and_the_bound_holds_after_it() -> None:
    seen: list[str] = []

    def redact(text: str) -> str:
        seen.append(text)
        return text.replace("hunter2", "[REDACTED:assigned-password] " * 3)

    raw = b"".join(b"error: password=hunter2 was refused for part %d\n" % number for number in range(20_000))
    found = found_in(raw + b"done\n" * 20_000, redact=redact)
    assert "hunter2" not in _text(found)
    assert "REDACTED" in _text(found)
    assert EXCERPT_BYTES // 2 < _size(found) <= EXCERPT_BYTES
    assert sum(map(len, seen)) < 10 * EXCERPT_BYTES


def test_where_a_secret_takes_lines_with_it_the_others_keep_their_numbers() -> None:
    raw = b"error: one\nsecret begins\nand goes on\nsecret ends\nerror: two\nerror: three\n"
    found = found_in(raw, redact=lambda text: text.replace("secret begins\nand goes on\nsecret ends", "[gone]"))
    assert [(line.number, line.text) for line in found["lines"]] == [
        (1, "error: one"),
        (2, "[gone]"),
        (5, "error: two"),
        (6, "error: three"),
    ]


def test_no_line_of_a_private_key_is_kept() -> None:
    body = "".join(f"error{number}MIIEpAIBAAKCAQEAx7Zk3v\n" for number in range(40))
    key = "-----BEGIN RSA PRIVATE" + " KEY-----\n" + body + "-----END RSA PRIVATE" + " KEY-----\n"
    raw = "error: before\n" + key + "error: after\n" + "-----BEGIN OPENSSH PRIVATE" + " KEY-----\n" + body
    found = found_in(raw.encode())
    assert "MIIEp" not in _text(found)
    assert "error: before" in _text(found)
    assert "error: after" in _text(found)
    assert found["lines"][-1].number <= found["log_lines"] == raw.count("\n")


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("Process completed with exit code 137.", 137),
        ('The command "make test" exited with 65.', 65),
        ('The command "apt-get update" failed and exited with 100 during .', 100),
        ("ERROR: Job failed: exit code 1", 1),
        ("ERROR: Job failed: command terminated with exit code 137", 137),
        ("ERROR: script returned exit code 2", 2),
        ("Exited with code exit status 3", 3),
        ("##[error]Bash exited with code '4'.", 4),
        ("make[1]: *** [Makefile:3: all] Error 2", 2),
        ("error Command failed with exit code 5.", 5),
        ("The command '/bin/sh -c make' returned a non-zero code: 6", 6),
        ("##[error]Cmd.exe exited with code '-1073741819'.", -1073741819),
        ('The command "make" exited with 0.', None),
        ("finished, exit code 0", None),
        ("nothing of the kind", None),
    ],
)
def test_the_exit_code(line: str, code: int | None) -> None:
    assert found_in(f"some output\n{line}\n".encode())["exit_code"] == code


def test_the_platform_outranks_the_tool_and_the_last_one_counts() -> None:
    platform = b"Process completed with exit code 3.\nProcess completed with exit code 4.\n"
    raw = b"make: *** [a] Error 2\n" + platform + b"make: *** [b] Error 5\n"
    assert found_in(raw)["exit_code"] == 4


def test_an_empty_log_is_nothing_and_no_error() -> None:
    found = found_in(b"")
    assert (found["lines"], found["template"], found["log_lines"]) == ((), None, 0)
    assert Analysis().finish(cut=True)["cut"]


def test_the_template_is_what_failures_of_one_kind_have_in_common() -> None:
    logs = [f"warming up\nerror: OutOfCheese: {n} pieces of {n + 7} left\nmake: *** [x] Error 2\n" for n in (1, 22)]
    assert {found_in(log.encode())["template"] for log in logs} == {"error: OutOfCheese:<*> pieces of<*> left"}


def test_lines_that_signatures_know_close_to_one_another_are_kept_together() -> None:
    log = "\n".join(
        [
            *(f"setting up {n}" for n in range(300)),
            "found 13 vulnerabilities (5 low)",
            "  run `npm audit fix` to fix them",
            *(f"building {n}" for n in range(300)),
            "found 4 vulnerabilities (1 low)",
            "  run `npm audit fix` to fix them",
            *(f"testing {n}" for n in range(300)),
            "not ok 1 it adds",
        ]
    ).encode()

    def find(block: bytes) -> list[int]:
        words = (b"found ", b"  run `npm")
        return [at for at in starts_of(block)[:-1].tolist() if block.startswith(words, at)]

    analysis = Analysis(find=find)
    analysis.feed(log)
    kept = {line.number for line in analysis.finish()["lines"]}
    assert {301, 302, 603, 604} <= kept
