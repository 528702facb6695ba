"""What the shard says of acts: what came of them, whatever the order in which it hears of it, and what it learns."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from analytics import outcomes
from analytics.outcomes import MASKED_MS, SETTLED_MS, UNSEEN_MS, read_outcome
from analytics.reruns import LEEWAY_MS
from analytics.shard import Shard
from models.records.acted import Acted, ActResult
from models.records.entry import Encoding, Entry, Kind
from models.records.errors import MalformedPayload
from models.records.event import Event, Outcome
from models.records.outputs import ActOutcome, ShardOutput
from tests.analytics.log import MINUTE, OTHER_RULEBOOK, RESOLVE, T0, Log, acted_on, fresh, one_by_one, play
from tests.analytics.snapshots import as_version_4
from tests.events import make_event

HOUR = 60 * MINUTE
ASKED = T0 + MINUTE
SET_UP: dict[str, Any] = {"step": "Set up job"}
GITHUB: dict[str, Any] = {"platform": "github", "branch": "topic"}
GITLAB: dict[str, Any] = {"platform": "gitlab", "instance": "lab", "rerun_after": "job", "branch": "topic"}
CIRCLE: dict[str, Any] = {"platform": "circleci", "instance": "circle", "branch": "topic"}
JENKINS: dict[str, Any] = {"platform": "jenkins", "instance": "butler", "job_id": None, "branch": "topic"}
AGAIN: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "github": (GITHUB, {"attempt": 2, "job_id": "job-1b"}),
    "gitlab": (GITLAB, {"job_id": "job-1b"}),
    "circleci": (CIRCLE | {"workflow_id": "w1"}, {"workflow_id": "w2", "job_id": "job-1b"}),
    "jenkins": (JENKINS, {"pipeline_id": "run-2"}),
    "a run": (GITHUB | {"job_id": None, "job_name": None}, {"attempt": 2}),
}
"""By platform: what a run says of itself, and what a rerun of it says otherwise."""


def said_of(log: Log, until_ms: int | None = None, **given: Any) -> list[ActOutcome]:
    if until_ms is not None:
        log.heartbeats(log.entries[-1].entry_ms, until_ms, HOUR)
    return play(log.entries, **given)[0].act_outcomes


def failed_and_asked(run: dict[str, Any] = GITHUB, **given: Any) -> tuple[Log, Event]:
    """A log in which a job failed and was run again."""
    log = Log()
    failed = log.say(Outcome.FAILED, T0, **run, **SET_UP)
    log.acted(failed, ASKED, **given)
    return log, failed


@pytest.mark.parametrize(("run", "again"), AGAIN.values(), ids=AGAIN)
@pytest.mark.parametrize("before", [False, True], ids=["told after", "told before"])
def test_a_rerun_that_passes_on_every_platform(run: dict[str, Any], again: dict[str, Any], before: bool) -> None:
    log = Log()
    failed = log.say(Outcome.FAILED, T0, **run, **SET_UP)
    act = acted_on([failed], ASKED)
    entry = Entry(Kind.OUTCOME, Encoding.JSON, ASKED + 4 * MINUTE, msgspec.json.encode(act))
    if not before:
        log.put(entry)
    end = log.say(Outcome.PASSED, ASKED + 2 * MINUTE, duration_ms=30_000, **run | again)
    if before:
        log.put(entry)
    (row,) = said_of(log)
    assert (row.act_id, row.revision, row.outcome, row.masked, row.event_id) == (act.act_id, 0, "passed", False, end.id)
    assert (row.asked_ms, row.ended_ms, row.duration_ms) == (ASKED, ASKED + 2 * MINUTE, 30_000)
    assert json.loads(row.ends)[0]["failure_id"] == failed.id
    assert (row.passes, row.fails) == (1.0, 0.0)


@pytest.mark.parametrize(("run", "again"), AGAIN.values(), ids=AGAIN)
def test_what_is_no_rerun_of_it_tells_nothing(run: dict[str, Any], again: dict[str, Any]) -> None:
    log, failed = failed_and_asked(run)
    log.event(failed, ASKED)  # the same end, delivered twice
    log.say(Outcome.PASSED, ASKED + MINUTE, **run | again | {"commit_sha": "c2"})
    log.say(Outcome.PASSED, ASKED - LEEWAY_MS, **run | again)
    if run["platform"] != "jenkins":
        log.say(Outcome.PASSED, ASKED + MINUTE, **run | again | {"pipeline_id": "another of the same commit"})
    assert said_of(log) == []


def test_a_failure_with_the_same_signature_and_with_another() -> None:
    log, _ = failed_and_asked()
    log.say(Outcome.FAILED, ASKED + MINUTE, attempt=2, **GITHUB, **SET_UP)
    (row,) = said_of(log)
    assert (row.outcome, row.passes, row.fails) == ("failed_same", 0.0, 1.0)
    log, _ = failed_and_asked()
    log.say(Outcome.TIMED_OUT, ASKED + MINUTE, attempt=2, step="Run tests", **GITHUB)
    (row,) = said_of(log)
    assert (row.outcome, row.fails) == ("failed_otherwise", 1.0)


@pytest.mark.parametrize("log_first", [False, True])
def test_the_log_has_the_last_word_on_how_it_failed(log_first: bool) -> None:
    log = Log()
    failed = log.say(Outcome.FAILED, T0, **GITHUB, step="Run tests")
    act = acted_on([failed], ASKED, signature="disk_full")
    entry = Entry(Kind.OUTCOME, Encoding.JSON, ASKED + 3 * MINUTE, msgspec.json.encode(act))
    if not log_first:
        log.put(entry)
    red = log.say(Outcome.FAILED, ASKED + MINUTE, attempt=2, **GITHUB, step="Run tests")
    log.evidence(red, ASKED + 2 * MINUTE, lines=[(1, "No space left on device")])
    if log_first:
        log.put(entry)
    rows = said_of(log, shard=fresh(OTHER_RULEBOOK))
    assert [row.outcome for row in rows] == (["failed_same"] if log_first else ["failed_otherwise", "failed_same"])
    assert rows[-1].fails == 1.0


def test_all_jobs_of_an_act_must_pass() -> None:
    jobs = [make_event(Outcome.FAILED, T0, job_id=name, job_name=name, **GITHUB, **SET_UP) for name in ("a", "b")]
    log = Log()
    for job in jobs:
        log.event(job)
    log.acted(jobs, ASKED)
    log.say(Outcome.PASSED, ASKED + MINUTE, attempt=2, job_id="a2", job_name="a", duration_ms=1000, **GITHUB)
    assert said_of(log) == []
    end = log.say(Outcome.PASSED, ASKED + 2 * MINUTE, attempt=2, job_id="b2", job_name="b", duration_ms=500, **GITHUB)
    (row,) = said_of(log)
    assert (row.outcome, row.event_id, row.duration_ms) == ("passed", end.id, 1500)
    assert (row.passes, row.fails) == (1.0, 0.0), "one act counts once"


def test_a_job_that_failed_settles_it_before_the_others_end() -> None:
    jobs = [make_event(Outcome.FAILED, T0, job_id=name, job_name=name, **GITHUB, **SET_UP) for name in ("a", "b")]
    log = Log()
    for job in jobs:
        log.event(job)
    log.acted(jobs, ASKED)
    log.say(Outcome.FAILED, ASKED + MINUTE, attempt=2, job_id="a2", job_name="a", **GITHUB, **SET_UP)
    assert [row.outcome for row in said_of(log)] == ["failed_same"]


@pytest.mark.parametrize("newer", [False, True])
def test_a_rerun_that_was_called_off(newer: bool) -> None:
    log, _ = failed_and_asked()
    if newer:
        log.say(Outcome.RUNNING, ASKED + MINUTE, **GITHUB | {"pipeline_id": "run-2", "commit_sha": "c2"})
    log.say(Outcome.RUNNING, ASKED + MINUTE, **GITHUB | {"pipeline_id": "run-3", "commit_sha": "c3", "branch": "other"})
    log.say(Outcome.CANCELLED, ASKED + 2 * MINUTE, attempt=2, **GITHUB)
    (row,) = said_of(log)
    assert (row.outcome, row.passes, row.fails) == ("overtaken" if newer else "cancelled", 0.0, 0.0)


def test_a_newer_commit_that_is_heard_of_later_overtook_it_all_the_same() -> None:
    log, _ = failed_and_asked()
    log.say(Outcome.CANCELLED, ASKED + 2 * MINUTE, attempt=2, **GITHUB)
    late: dict[str, Any] = {"pipeline_id": "run-2", "commit_sha": "c2", "received_ms": ASKED + 4 * MINUTE}
    log.say(Outcome.RUNNING, ASKED + MINUTE, **GITHUB | late)
    assert [(row.revision, row.outcome) for row in said_of(log)] == [(0, "cancelled"), (1, "overtaken")]


@pytest.mark.parametrize("newer", [False, True])
def test_what_never_ends_is_unseen_or_overtaken(newer: bool) -> None:
    log, _ = failed_and_asked()
    if newer:
        log.say(Outcome.RUNNING, ASKED + MINUTE, **GITHUB | {"pipeline_id": "run-2", "commit_sha": "c2"})
    assert said_of(log, ASKED + UNSEEN_MS - HOUR) == []
    (row,) = said_of(log, ASKED + UNSEEN_MS + HOUR)
    assert (row.outcome, row.event_id, row.ended_ms) == ("overtaken" if newer else "unseen", None, None)
    log.say(Outcome.PASSED, ASKED + UNSEEN_MS + 2 * HOUR, attempt=2, **GITHUB)
    assert len(said_of(log)) == 1, "it is not waited for any longer"


def test_an_earlier_end_that_comes_later_decides() -> None:
    log, _ = failed_and_asked()
    log.say(Outcome.PASSED, ASKED + 3 * MINUTE, attempt=3, **GITHUB)
    log.say(Outcome.FAILED, ASKED + 2 * MINUTE, attempt=2, received_ms=ASKED + 4 * MINUTE, **GITHUB, **SET_UP)
    rows = said_of(log)
    assert [(row.revision, row.outcome, row.passes, row.fails) for row in rows] == [
        (0, "passed", 1.0, 0.0),
        (1, "failed_same", 0.0, 1.0),
    ]


@pytest.mark.parametrize(
    "given",
    [
        {"result": ActResult.DROPPED},
        {"result": ActResult.REFUSED},
        {"action": "cancel"},
        {"action": "clear_caches"},
        {"action": "comment"},
    ],
)
def test_what_runs_nothing_again_is_not_watched(given: dict[str, Any]) -> None:
    log, _ = failed_and_asked(**given)
    log.say(Outcome.PASSED, ASKED + MINUTE, attempt=2, **GITHUB)
    said, shard = play(log.entries)
    assert (said.act_outcomes, said.dead_letters, shard._outcomes._watches) == ([], [], {})


def test_an_act_that_is_told_twice_counts_once() -> None:
    log, failed = failed_and_asked()
    log.acted(failed, ASKED + 1000)
    log.say(Outcome.PASSED, ASKED + MINUTE, attempt=2, **GITHUB)
    log.acted(failed, ASKED + 2 * MINUTE)
    log.heartbeats(ASKED + 2 * MINUTE, ASKED + MASKED_MS + HOUR, HOUR)
    log.acted(failed, ASKED + MASKED_MS + 2 * HOUR)
    (row,) = said_of(log, ASKED + MASKED_MS + UNSEEN_MS + 4 * HOUR)
    assert (row.outcome, row.passes) == ("passed", 1.0)


# --- masked regressions


def test_a_commit_that_fails_again_was_broken_all_the_time() -> None:
    log, _ = failed_and_asked()
    log.say(Outcome.PASSED, ASKED + MINUTE, attempt=2, **GITHUB)
    red = log.say(Outcome.FAILED, ASKED + HOUR, duration_ms=1000, **GITHUB | {"pipeline_id": "nightly"})
    rows = said_of(log)
    assert [(row.revision, row.outcome, row.masked) for row in rows] == [(0, "passed", False), (1, "passed", True)]
    assert (rows[-1].event_id, rows[-1].passes, rows[-1].fails) == (red.id, 0.0, 0.0), "its pass proves nothing"


def test_what_began_before_it_passed_or_is_another_job_masks_nothing() -> None:
    log, _ = failed_and_asked()
    log.say(Outcome.PASSED, ASKED + MINUTE, attempt=2, **GITHUB)
    log.say(Outcome.FAILED, ASKED + 2 * MINUTE, duration_ms=5 * MINUTE, **GITHUB | {"pipeline_id": "beside it"})
    log.say(Outcome.FAILED, ASKED + HOUR, **GITHUB | {"pipeline_id": "nightly", "job_name": "lint"})
    log.say(Outcome.FAILED, ASKED + MASKED_MS + 2 * HOUR, **GITHUB | {"pipeline_id": "next night"})
    assert [row.masked for row in said_of(log)] == [False]


@pytest.mark.parametrize("told_before", [False, True])
def test_what_we_ran_again_ourselves_masks_nothing(told_before: bool) -> None:
    log, _ = failed_and_asked()
    log.say(Outcome.PASSED, ASKED + MINUTE, attempt=2, **GITHUB)
    other = make_event(Outcome.FAILED, T0, **GITHUB | {"pipeline_id": "beside it"}, **SET_UP)
    log.event(other, ASKED + 2 * MINUTE)
    act = acted_on([other], ASKED + 3 * MINUTE)
    red = make_event(Outcome.FAILED, ASKED + 4 * MINUTE, attempt=2, **GITHUB | {"pipeline_id": "beside it"}, **SET_UP)
    entry = Entry(Kind.OUTCOME, Encoding.JSON, ASKED + 5 * MINUTE, msgspec.json.encode(act))
    for tell in (lambda: log.put(entry), lambda: log.event(red, ASKED + 5 * MINUTE))[:: 1 if told_before else -1]:
        tell()
    last = {row.act_id: row for row in said_of(log)}
    assert sorted((row.outcome, row.masked) for row in last.values()) == [("failed_same", False), ("passed", False)]


def test_a_commit_by_which_the_default_branch_broke() -> None:
    main: dict[str, Any] = GITHUB | {"branch": "main"}
    log = Log()
    failed = log.say(Outcome.FAILED, T0, **main, **SET_UP)
    log.acted(failed, ASKED)
    log.say(Outcome.PASSED, ASKED + MINUTE, attempt=2, **main)
    second = log.say(Outcome.FAILED, ASKED + 2 * MINUTE, **main | {"pipeline_id": "run-2"}, **SET_UP)
    log.acted(second, ASKED + 3 * MINUTE)
    log.say(Outcome.FAILED, ASKED + 4 * MINUTE, attempt=2, **main | {"pipeline_id": "run-2"}, **SET_UP)
    log.say(Outcome.FAILED, ASKED + 5 * MINUTE, **main | {"pipeline_id": "run-3", "commit_sha": "c2"}, **SET_UP)
    said = play(log.entries)[0]
    assert any(row.detector == "BrokenMain" for row in said.findings)
    last = {row.act_id: row for row in said.act_outcomes}
    assert [row.masked for row in last.values()] == [True, False]


# --- what is learnt


def _healed_again_and_again(outcome: Outcome, count: int, **given: Any) -> Log:
    """A log in which the same signature is run again on `count` commits, and once more fails after."""
    log = Log()
    for number in range(count + 1):
        at = T0 + number * HOUR
        own = GITHUB | {"pipeline_id": f"run-{number}", "commit_sha": f"c{number}", "repository": f"org/repo-{number}"}
        failed = log.say(Outcome.FAILED, at, **own, **SET_UP)
        log.say(Outcome.FAILED, at + 1000, **own | {"job_id": None, "job_name": None})
        if number < count:
            log.acted(failed, at + MINUTE, **given)
            log.say(outcome, at + 2 * MINUTE, attempt=2, **own, **(SET_UP if outcome is Outcome.FAILED else {}))
    return log


def test_a_signature_whose_reruns_never_pass_is_soon_not_run_again() -> None:
    said, _ = play(_healed_again_and_again(Outcome.FAILED, 4).entries)
    acts = [row for row in said.decisions if row.attempt == 1 and row.verdict != "wait"]
    assert [row.verdict for row in acts] == ["act"] * 4 + ["skip"]
    assert (acts[-1].reason, acts[0].score) == ("score_too_low", 0.880797)
    assert acts[-1].score == round((4 * 0.880797 + 0) / 8, 6)
    (learnt,) = json.loads(acts[-1].explanation)["learnt"]
    assert learnt == {
        "failure_id": acts[-1].jobs[0], "before": 0.880797, "after": acts[-1].score, "passes": 0.0, "fails": 4.0,
    }  # fmt: skip
    assert "learnt" not in json.loads(acts[0].explanation)


def test_one_whose_reruns_pass_gains() -> None:
    said, _ = play(_healed_again_and_again(Outcome.PASSED, 4).entries)
    acts = [row for row in said.decisions if row.attempt == 1 and row.verdict == "act"]
    assert [row.score for row in acts] == sorted(row.score or 0 for row in acts)
    assert acts[-1].score == round((4 * 0.880797 + 4) / 8, 6)


def test_another_action_learns_nothing_of_it_and_probes_teach_nothing() -> None:
    for given in ({"action": "rerun"}, {"probe": True}):
        said, _ = play(_healed_again_and_again(Outcome.FAILED, 4, **given).entries)
        assert all("learnt" not in json.loads(row.explanation) for row in said.decisions), given


def test_without_outcomes_nothing_is_otherwise() -> None:
    log = Log()
    log.take(e for e in _healed_again_and_again(Outcome.FAILED, 4).entries if not e.fields[0].startswith(b"outcome"))
    with_probes, _ = play(_healed_again_and_again(Outcome.FAILED, 4, probe=True).entries)
    without, _ = play(log.entries)
    assert [r._replace(position=0) for r in with_probes.decisions] == [
        r._replace(position=0) for r in without.decisions
    ]


# --- order, bounds, snapshots


def _story(rng: random.Random) -> tuple[list[Event], list[tuple[int, Entry]]]:
    """Jobs that failed, the acts on them and what came of those, with when that is heard of at the earliest."""
    failures, told = [], []
    for number in range(30):
        run, again = rng.choice(list(AGAIN.values()))
        own = run | {"pipeline_id": f"run-{number}", "commit_sha": f"c{number}", "branch": f"b{number}"}
        more = again | ({"pipeline_id": f"run-{number}b"} if run is JENKINS else {})
        at = T0 + rng.randrange(40) * MINUTE
        failed = make_event(Outcome.FAILED, at, **own, **SET_UP)
        took = rng.choice([1000, MINUTE, 10 * MINUTE])
        ends = [Outcome.PASSED, Outcome.PASSED, Outcome.FAILED, Outcome.CANCELLED, Outcome.SKIPPED]
        step = {"step": rng.choice(["Set up job", "Run tests"])}
        failures.append(failed)
        told.append(_entry(acted_on([failed], at + MINUTE)))
        told.append(_entry(make_event(rng.choice(ends), at + MINUTE + took, duration_ms=took, **own | more, **step)))
        if rng.random() < 0.3:
            late = {"pipeline_id": f"later {number}", "duration_ms": 1000, **step}
            told.append(_entry(make_event(Outcome.FAILED, at + 30 * MINUTE, **own | late)))
    return failures, told


def _entry(what: Event | Acted) -> tuple[int, Entry]:
    payload = msgspec.json.encode(what)
    if isinstance(what, Acted):
        return what.asked_ms, Entry(Kind.OUTCOME, Encoding.JSON, what.asked_ms, payload)
    at_ms = round(what.timestamp.timestamp() * 1000)
    return at_ms, Entry(Kind.EVENT, Encoding.JSON, at_ms, payload)


def _final(said: ShardOutput) -> dict[str, tuple[Any, ...]]:
    last = {row.act_id: row for row in said.act_outcomes}
    return {
        row.act_id: (
            row.outcome,
            row.masked,
            row.event_id,
            row.ended_ms,
            [j["event_id"] for j in json.loads(row.ends)],
        )
        for row in last.values()
    }


@pytest.mark.parametrize("seed", range(8))
def test_disorder_of_five_minutes_leaves_the_same_outcomes(seed: int) -> None:
    """What failed is heard of at once: nobody acts on what was not heard of."""
    rng = random.Random(seed)
    failures, told = _story(rng)
    causes = [_entry(failed) for failed in failures]
    expected = None
    for most_ms in (1, 5 * MINUTE, 5 * MINUTE, 5 * MINUTE, 5 * MINUTE):
        log = Log()
        late = [(at + rng.randrange(most_ms), entry) for at, entry in told]
        for at, entry in sorted([*causes, *late], key=lambda t: t[0]):
            log.put(Entry(entry.kind, entry.encoding, at, entry.payload))
        log.heartbeats(log.entries[-1].entry_ms, T0 + 40 * HOUR, HOUR)
        final = _final(play(log.entries, sizes=one_by_one())[0])
        expected = expected or final
        assert final == expected, f"seed {seed}"
    assert expected
    assert len(expected) == 30


def test_acts_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcomes, "MOST_WATCHED", 3)
    log = Log()
    for number in range(5):
        failed = log.say(Outcome.FAILED, T0 + number, **GITHUB | {"pipeline_id": f"run-{number}"}, **SET_UP)
        log.acted(failed, ASKED)
    said, shard = play(log.entries)
    assert [row.outcome for row in said.act_outcomes] == ["unseen", "unseen"]
    assert len(shard._outcomes._watches) == 3


def test_what_has_settled_is_let_go() -> None:
    log, _ = failed_and_asked()
    log.say(Outcome.FAILED, ASKED + MINUTE, attempt=2, **GITHUB, **SET_UP)
    log.heartbeats(ASKED + MINUTE, ASKED + SETTLED_MS + 3 * MINUTE)
    _, shard = play(log.entries)
    assert (shard._outcomes._watches, shard._outcomes.watched, shard._outcomes.branches) == ({}, {}, {})


def test_a_snapshot_of_version_3_is_read(restored: Callable[[Shard], Shard]) -> None:
    log, failed = failed_and_asked()
    _, shard = play(log.entries[:1])
    old = restored(shard)
    said = play(log.entries[1:], old)[0]
    assert said.act_outcomes == []
    log.entries.clear()
    log.say(Outcome.PASSED, ASKED + MINUTE, attempt=2, **GITHUB)
    (row,) = play(log.entries, old)[0].act_outcomes
    assert row.outcome == "passed"
    assert failed.id in row.ends


@pytest.fixture
def restored() -> Callable[[Shard], Shard]:
    """What restores a shard from a snapshot as version 3 wrote it."""

    def restore(shard: Shard) -> Shard:
        said = as_version_4(shard.snapshot())
        said["v"] = 3
        del said["journals"]["outcomes"]
        return Shard.restore(msgspec.msgpack.encode(said), RESOLVE)

    return restore


# --- what is no outcome


GOOD = msgspec.to_builtins(acted_on([make_event(Outcome.FAILED, T0, **GITHUB, **SET_UP)], ASKED))
BAD: dict[str, dict[str, Any]] = {
    "an id that is none": {"act_id": "act-1"},
    "an id in another form": {"case_id": "{" + GOOD["case_id"] + "}"},
    "a failure that is none": {"jobs": [["x", "CI", "test", None]]},
    "a negative attempt": {"attempt": -1},
    "an attempt that no table holds": {"attempt": 2**40},
    "a time that no table holds": {"asked_ms": 2**60},
    "NUL": {"repository": "org/\0"},
    "a name without end": {"signature": "x" * 600},
    "a result that is none": {"result": "perhaps"},
}


@pytest.mark.parametrize("changes", BAD.values(), ids=BAD)
def test_a_bad_outcome_is_a_dead_letter(changes: dict[str, Any]) -> None:
    payload = msgspec.json.encode(GOOD | changes)
    with pytest.raises(MalformedPayload):
        read_outcome(payload)
    log = Log()
    log.put(Entry(Kind.OUTCOME, Encoding.JSON, T0, payload))
    said, _ = play(log.entries)
    assert [(letter.reason, letter.payload) for letter in said.dead_letters] == [("malformed_payload", payload)]


@pytest.mark.parametrize("payload", [b"", b"{", b"[" * 5000, b"\xff", b'{"act_id":"\\ud800"}'])
def test_what_is_no_json_is_a_dead_letter(payload: bytes) -> None:
    with pytest.raises(MalformedPayload):
        read_outcome(payload)


def test_a_good_one_is_read() -> None:
    assert read_outcome(msgspec.json.encode(GOOD)).act_id == GOOD["act_id"]
