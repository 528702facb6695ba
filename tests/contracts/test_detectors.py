"""Every detector keeps the contract of detector.py; a new file in analytics/detectors is tested without being named."""

from __future__ import annotations

import dataclasses
import itertools
import random
import re
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from msgspec.structs import replace

from analytics import rulebook as rulebooks
from analytics.detectors.detector import (
    JOB,
    LABELS,
    SIGNATURE,
    AbsenceDetector,
    Detector,
    Finding,
    History,
    ProfileDetector,
    Rule,
    Seen,
    found,
    milliseconds,
)
from analytics.examples import Ran
from analytics.examples import seen as happened
from analytics.histories import MOST_IN_HISTORY
from analytics.profiles import DAY_MS, HOUR_MS, SETTLED_MS, STRETCH_MS
from models.records.event import FAILING, Event, Outcome
from models.records.outputs import FindingRow, FindingState, ShardOutput
from tests.analytics.log import MINUTE, RULEBOOK, SCORER, T0, Log, fresh, one_by_one, play, resolver, standing
from tests.events import make_event

Example = Sequence[Any]
RULES = found()
MONDAY = (T0 // DAY_MS - (T0 // DAY_MS + 3) % 7) * DAY_MS
"""The start of an example of a profile, which counts from a Monday; T0 is a midnight."""

SHOWN: dict[str, dict[str, Any]] = {
    "github_set_up_job": {"step": "Set up job"},
    "gitlab_script_failure": {"step": "Run pytest -q"},
    "disk_full": {"excerpt": "cp: error writing 'app.bin': No space left on device"},
}
"""What a webhook shows when a failure of an example has this signature."""


def _examples(kind: str, of: type[Rule] = Rule) -> Iterator[Any]:
    for cls in RULES:
        if issubclass(cls, of):
            for i, example in enumerate(getattr(cls, kind)):
                yield pytest.param(cls, example, id=f"{cls.__name__}-{i}")


FIRES = list(_examples("FIRES"))
SILENT = list(_examples("SILENT"))
OF_EVENTS = [*_examples("FIRES", Detector), *_examples("SILENT", Detector)]


def _event(seen: Seen) -> Event:
    """What a platform tells when `seen` happens: the same job of run after run, or one job run of one run."""
    return make_event(
        seen.outcome,
        T0 + seen.at_ms,
        pipeline_id=seen.pipeline_id,
        attempt=seen.attempt,
        commit_sha=seen.commit_sha,
        # Of a run several jobs may fail; what starts and what ends is one.
        job_id=f"{seen.pipeline_id}-{seen.at_ms}" if seen.outcome in FAILING else seen.pipeline_id,
        runner=seen.runner,
        is_default_branch=seen.main,
        **SHOWN.get(seen.signature or "", {}),
    )


def _ended(ran: Ran, number: int) -> Event:
    at = MONDAY + round(ran.hours * HOUR_MS)
    return make_event(
        ran.outcome,
        at,
        pipeline_id=str(number),
        job_id=str(number),
        attempt=ran.attempt,
        duration_ms=round(ran.seconds * 1000),
        queued_ms=None if ran.waited_seconds is None else round(ran.waited_seconds * 1000),
    )


def _told(cls: type[Rule], example: Example, *, until_ms: int | None = None) -> Log:
    """A log of `example` with heartbeats; a source speaks of other repositories all the while."""
    if issubclass(cls, ProfileDetector):
        events = [_ended(ran, i) for i, ran in enumerate(example)]
        end = MONDAY + round(example[-1].hours * HOUR_MS)
        last, step = until_ms or end // STRETCH_MS[cls.by] * STRETCH_MS[cls.by] + STRETCH_MS[cls.by], HOUR_MS
        last += SETTLED_MS + 3 * MINUTE
    else:
        events = [_event(seen) for seen in example]
        last = until_ms or T0 + example[-1].at_ms
        step = MINUTE if example[-1].at_ms < DAY_MS else HOUR_MS
    if issubclass(cls, AbsenceDetector):
        last = T0 + milliseconds(cls().within) - MINUTE
        for at in range(T0, last, 30 * MINUTE):
            events.append(make_event(Outcome.PASSED, at, repository="org/other", pipeline_id=str(at), job_id=str(at)))
    log = Log()
    told = sorted((round(event.timestamp.timestamp() * 1000), event.id, event) for event in events)
    now = told[0][0]
    for at, _, event in told:
        log.heartbeats(now, at, step)
        log.event(event)
        now = at
    log.heartbeats(now, last, step)
    return log


def _of(cls: type[Rule], said: ShardOutput) -> list[FindingRow]:
    return [row for row in said.findings if row.detector == cls.__name__]


def _answers(rule: Rule, example: Example) -> list[Finding]:
    """What `rule` answers to `example` of events, asked as the contract says."""
    answers = []
    if isinstance(rule, Detector):
        since = min(seen.at_ms for seen in example)
        # A history of a signature has only events of that signature.
        mine = [s for s in example if rule.by != SIGNATURE or s.signature == example[-1].signature]
        for count in range(1, len(mine) + 1):
            at = mine[count - 1].at_ms
            begin = at - milliseconds(rule.within)
            visible = [s for s in sorted(mine[:count]) if s.at_ms > begin and s.outcome in rule.sees]
            visible = [s for s in visible if rule.categories is None or s.category in rule.categories]
            if rule.by != JOB:
                visible = [s for s in visible if s.outcome in FAILING and (rule.by != SIGNATURE or s.signature)]
            answers.append(rule.judge(History(visible, since), at) if visible else None)
    return [answer for answer in answers if answer is not None]


def test_there_are_detectors_each_with_examples_of_both_kinds() -> None:
    assert {cls.__name__ for cls in RULES} >= {"FlakyTest", "RepeatedFailure", "StuckJob", "BrokenMain"}
    assert all(cls.FIRES and cls.SILENT for cls in RULES)


@pytest.mark.parametrize("cls", RULES)
def test_a_detector_says_what_it_finds_and_what_its_parameters_mean(cls: type[Rule]) -> None:
    assert cls.__doc__
    assert len(cls.__doc__) > 100
    for field in dataclasses.fields(cls):
        if field.name not in {"within", "enabled"}:
            assert re.search(rf"`{field.name}`", cls.__doc__), f"`{field.name}` is not explained"


@pytest.mark.parametrize("cls", [cls for cls in RULES if issubclass(cls, Detector)])
def test_what_is_said_to_change_nothing_when_it_comes_last_changes_nothing(
    cls: type[Detector], rng: random.Random
) -> None:
    """The shard does not ask then."""
    assert cls.changed_by <= cls.sees
    quiet = sorted(cls.sees - cls.changed_by)
    answers = []
    for _ in range(500 if quiet else 0):
        told = [
            happened(rng.choice(sorted(cls.sees)), minute, commit=rng.choice("abcd"), main=rng.random() < 0.8)
            for minute in range(rng.randint(1, 9))
        ]
        last = happened(rng.choice(quiet), 10, commit=rng.choice("abcd"), main=rng.random() < 0.8)
        before, after = (cls().judge(History(history), last.at_ms) for history in (told, [*told, last]))
        assert before == after
        answers.append(before)
    assert not quiet or any(answers)


@pytest.mark.parametrize(("cls", "example"), FIRES)
def test_what_must_fire_fires(cls: type[Rule], example: Example) -> None:
    said, _ = play(_told(cls, example).entries)
    raised = _of(cls, said)[0]
    assert raised.state == FindingState.RAISED
    assert raised.repository == "org/repo"
    assert raised.first_ms <= raised.last_ms
    if not issubclass(cls, ProfileDetector):
        assert set(raised.events) <= {_event(seen).id for seen in example}
    if issubclass(cls, Detector):
        answer = _answers(cls(), example)[-1]
        assert set(answer.events) <= {seen.id for seen in example}


@pytest.mark.parametrize(("cls", "example"), SILENT)
def test_what_must_be_silent_is_silent(cls: type[Rule], example: Example) -> None:
    assert _answers(cls(), example) == []
    said, _ = play(_told(cls, example).entries)
    assert _of(cls, said) == []


@pytest.mark.parametrize("cls", [cls for cls in RULES if issubclass(cls, AbsenceDetector)])
def test_what_is_found_by_absence_says_when_to_ask(cls: type[AbsenceDetector]) -> None:
    outcome = Outcome.RUNNING if cls.by != LABELS else Outcome.QUEUED
    start = History([Seen(T0, "", outcome, None, "1", 1)])
    assert T0 < cls().due(start, None) < T0 + milliseconds(cls().within)


@pytest.mark.parametrize(("cls", "example"), FIRES)
def test_every_finding_is_cleared_by_time_alone_and_says_why(cls: type[Rule], example: Example) -> None:
    start, last = (MONDAY, example[-1].hours * HOUR_MS) if issubclass(cls, ProfileDetector) else (T0, example[-1].at_ms)
    until = start + round(last) + milliseconds(cls().within) + 2 * HOUR_MS
    log = _told(cls, example, until_ms=until)
    log.heartbeats(log.entries[-1].entry_ms, until, HOUR_MS)
    said, _ = play(log.entries)
    assert _of(cls, said)[-1].state == FindingState.CLEARED
    assert _of(cls, said)[-1].message
    assert [row for row in standing(said) if row.detector == cls.__name__] == []


@pytest.mark.parametrize(("cls", "example"), OF_EVENTS)
def test_the_order_of_arrival_does_not_matter_once_all_are_in(
    cls: type[Detector], example: Example, rng: random.Random
) -> None:
    """All orders of five events and a hundred of more, of what happened within the bound for disorder."""
    shrunk = _within_bound(example)
    now = T0 + max(seen.at_ms for seen in shrunk)
    orders = (
        list(itertools.permutations(shrunk))
        if len(shrunk) <= 5
        else [rng.sample(shrunk, len(shrunk)) for _ in range(100)]
    )
    results = []
    for order in orders:
        log = Log()
        log.event(make_event(Outcome.FAILED, T0 - 5 * DAY_MS, pipeline_id="old", job_id="old", job_name="old"))
        for seen in order:
            log.event(_event(seen), now)
        log.heartbeats(now, now + MINUTE)
        said, _ = play(log.entries)
        results.append({(r.finding_id, r.first_ms, r.last_ms, r.occurrences, *r.events) for r in standing(said)})
    assert results == [results[0]] * len(results)


def _within_bound(example: Sequence[Seen]) -> list[Seen]:
    """The same with all of it within four minutes, in the same order: what comes later than that may be forgotten."""
    moments = sorted({seen.at_ms for seen in example})
    step = 4 * MINUTE // len(moments)
    return [replace(seen, at_ms=step * moments.index(seen.at_ms)) for seen in example]


@pytest.mark.parametrize(("cls", "example"), FIRES)
def test_a_restart_after_every_entry_changes_nothing(cls: type[Rule], example: Example) -> None:
    log = _told(cls, example)
    whole, _ = play(log.entries)
    restarted, _ = play(log.entries, sizes=one_by_one(), restores=lambda: True)
    assert restarted.findings == whole.findings


@pytest.mark.parametrize(("cls", "example"), FIRES)
def test_a_changed_parameter_counts_from_its_control_entry(cls: type[Rule], example: Example) -> None:
    short = rulebooks.compose(scorer=SCORER, detectors={cls.__name__: {"enabled": False}})
    resolve = resolver(short)
    log = _told(cls, example)
    to_short, to_shipped = Log(), Log()
    for before, new in ((to_short, short), (to_shipped, RULEBOOK)):
        before.control(T0, new)
        before.take(log.entries)
    silenced, _ = play(to_short.entries, fresh(RULEBOOK, resolve), resolve=resolve)
    allowed, _ = play(to_shipped.entries, fresh(short, resolve), resolve=resolve)
    assert _of(cls, silenced) == []
    assert _of(cls, allowed) != []
    assert {row.rulebook for row in allowed.findings} == {RULEBOOK.digest}


@pytest.mark.parametrize(("cls", "example"), FIRES)
def test_a_finding_that_a_new_rulebook_does_not_support_is_cleared(cls: type[Rule], example: Example) -> None:
    short = rulebooks.compose(scorer=SCORER, detectors={cls.__name__: {"enabled": False}})
    resolve = resolver(short)
    log = _told(cls, example)
    log.control(log.entries[-1].entry_ms, short)
    log.heartbeats(log.entries[-1].entry_ms, log.entries[-1].entry_ms + 2 * MINUTE)
    said, _ = play(log.entries, fresh(RULEBOOK, resolve), resolve=resolve)
    assert [row for row in standing(said) if row.detector == cls.__name__] == []
    assert _of(cls, said)[-1].rulebook == short.digest


@pytest.mark.parametrize(("cls", "example"), [*FIRES, *SILENT])
def test_an_unknown_outcome_is_survived_and_changes_nothing(cls: type[Rule], example: Example) -> None:
    log, strange = _told(cls, example), Log()
    for entry in log.entries:
        strange.take([entry])
        strange.say(Outcome.UNKNOWN, entry.entry_ms, vendor_status="odd", job_id=str(len(strange.entries)))
    plain, _ = play(log.entries)
    said, _ = play(strange.entries)
    assert [r._replace(position=0) for r in said.findings] == [r._replace(position=0) for r in plain.findings]


@pytest.mark.parametrize("cls", [cls for cls in RULES if issubclass(cls, Detector)])
def test_memory_of_one_job_is_bounded(cls: type[Detector], rng: random.Random) -> None:
    outcomes = sorted(cls.sees | FAILING)
    sizes = []
    for count in (200, 2000):
        log = Log()
        for i in range(count):
            shown = {"step": "Set up job", "is_default_branch": rng.random() < 0.5}
            log.say(rng.choice(outcomes), T0 + i, pipeline_id=str(i), job_id="same", **shown)
        said, shard = play(log.entries)
        kept = [known.seen for one in shard._scopes._all for known in one._histories.values()]
        assert all(len(seen) <= MOST_IN_HISTORY for seen in kept)
        assert all(len(row.events) <= 32 for row in said.findings)
        sizes.append(sum(map(len, kept)))
    assert sizes[0] == sizes[1]


class MuteError(Exception):
    """Cannot say what is wrong."""

    def __str__(self) -> str:
        raise ValueError


@dataclasses.dataclass(frozen=True, slots=True)
class Breaking(Detector):
    """Raises, or answers what it must not, on failures of the commit that says so."""

    sees = FAILING

    def judge(self, history: History, at_ms: int) -> Finding | None:
        """Do what the newest commit says."""
        good = Finding(history[0].at_ms, history[-1].at_ms, len(history), (history[-1].id,), "failed")
        answers: dict[str | None, Any] = {
            "text": "failed",
            "strange": good._replace(events=("nobody",)),
            "backwards": good._replace(first_ms=history[-1].at_ms + 1),
            "nul": good._replace(message="a\0b"),
            "half": good._replace(message="\ud800"),
            "long": good._replace(message="x" * 10_000),
            "float": good._replace(occurrences=1.5),  # type: ignore[arg-type]
        }
        if history[-1].commit_sha == "mute":
            raise MuteError
        if history[-1].commit_sha == "raise":
            raise ZeroDivisionError("of the detector")
        return answers.get(history[-1].commit_sha, good)  # type: ignore[no-any-return]  # that is the point


@pytest.mark.parametrize("commit", ["raise", "mute", "text", "strange", "backwards", "nul", "half", "long", "float"])
def test_a_detector_that_breaks_is_named_and_set_aside_for_that_key_and_the_rest_goes_on(commit: str) -> None:
    rulebook = rulebooks.compose(scorer=SCORER, also={Breaking: "digest"})
    resolve = resolver(rulebook)
    log = Log()
    log.say(Outcome.FAILED, T0, pipeline_id="1", job_id="1", commit_sha="good")
    bad = log.say(Outcome.FAILED, T0 + 1, pipeline_id="2", job_id="2", commit_sha=commit)
    log.say(Outcome.FAILED, T0 + 2, pipeline_id="3", job_id="3", commit_sha="good")
    log.say(Outcome.FAILED, T0 + 3, pipeline_id="4", job_id="4", job_name="other", commit_sha="good")
    said, _ = play(log.entries, fresh(rulebook, resolve), resolve=resolve)
    (fault,) = said.detector_faults
    assert (fault.detector, fault.repository, fault.event_id) == ("Breaking", "org/repo", bad.id)
    assert ("ZeroDivisionError: of the detector" in fault.error) == (commit == "raise")
    assert [(row.state, row.subject.count("other")) for row in _of(Breaking, said)] == [
        ("raised", 0),
        ("cleared", 0),
        ("raised", 1),
    ]
    assert _of(Breaking, said)[1].message == "its detector failed and was set aside"
    assert [row.state for row in said.findings if row.detector == "RepeatedFailure"] == ["raised"]
    assert len(said.failures) == 4
    again, _ = play(log.entries, fresh(rulebook, resolve), sizes=one_by_one(), restores=lambda: True, resolve=resolve)
    assert (again.detector_faults, again.findings) == (said.detector_faults, said.findings)


def test_a_detector_that_was_turned_off_says_nothing() -> None:
    rulebook = rulebooks.compose(scorer=SCORER, detectors={"RepeatedFailure": {"enabled": False}})
    resolve = resolver(rulebook)
    log = Log()
    for i in range(5):
        log.say(Outcome.FAILED, T0 + i, pipeline_id=str(i), job_id=str(i))
    said, _ = play(log.entries, fresh(rulebook, resolve), resolve=resolve)
    assert [row for row in said.findings if row.detector == "RepeatedFailure"] == []
