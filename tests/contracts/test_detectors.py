"""Every detector keeps the contract of detector.py; a new file in analytics/detectors is tested without being named."""

from __future__ import annotations

import dataclasses
import itertools
import random
import re
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from analytics import rulebook as rulebooks
from analytics.detectors.detector import JOB, Detector, Finding, Seen, found, milliseconds
from analytics.histories import MOST_IN_HISTORY
from models.records.event import FAILING, Event, Outcome
from models.records.outputs import FindingRow, FindingState, ShardOutput
from tests.analytics.log import MINUTE, RULEBOOK, SCORER, T0, Log, fresh, one_by_one, play, resolver, standing
from tests.events import make_event

Example = Sequence[Seen]
DETECTORS = found()


def _examples(kind: str) -> Iterator[Any]:
    for cls in DETECTORS:
        for i, example in enumerate(getattr(cls, kind)):
            yield pytest.param(cls, example, id=f"{cls.__name__}-{i}")


FIRES = list(_examples("FIRES"))
SILENT = list(_examples("SILENT"))


def _event(seen: Seen) -> Event:
    """What a platform tells when `seen` happens: the same job of run after run, or one job run of one run."""
    return make_event(
        seen.outcome,
        T0 + seen.at_ms,
        pipeline_id=seen.pipeline_id,
        attempt=seen.attempt,
        commit_sha=seen.commit_sha,
        job_id=f"{seen.pipeline_id}-job",
    )


def _told(cls: type[Detector], example: Example, *, until_ms: int | None = None) -> Log:
    """A log of `example` with heartbeats; a source speaks of other repositories all the while."""
    events = [(T0 + seen.at_ms, _event(seen)) for seen in example]
    last = until_ms or events[-1][0]
    if cls.by != JOB:
        last = T0 + milliseconds(cls().within) - MINUTE
        for at in range(T0, last, 30 * MINUTE):
            other = make_event(Outcome.PASSED, at, repository="org/other", pipeline_id=str(at), job_id=str(at))
            events.append((at, other))
    log, now = Log(), T0
    for at, event in sorted(events, key=lambda told: (told[0], told[1].id)):
        log.heartbeats(now, at)
        log.event(event)
        now = at
    log.heartbeats(now, last)
    return log


def _of(cls: type[Detector], said: ShardOutput) -> list[FindingRow]:
    return [row for row in said.findings if row.detector == cls.__name__]


def _answers(detector: Detector, example: Example) -> list[Finding]:
    """What `detector` answers to `example`, asked as the contract says."""
    answers = []
    if detector.by == JOB:
        for count in range(1, len(example) + 1):
            at = example[count - 1].at_ms
            since = at - milliseconds(detector.within)
            visible = [s for s in sorted(example[:count]) if s.at_ms > since and s.outcome in detector.sees]
            answers.append(detector.judge(visible, at) if visible else None)
    else:
        due = detector.due(example[:1], None)
        assert due is not None
        if not any(seen.at_ms < due and seen.outcome not in detector.sees for seen in example):
            answers.append(detector.judge(example[:1], due))
    return [answer for answer in answers if answer is not None]


def test_there_are_detectors_each_with_examples_of_both_kinds() -> None:
    assert {cls.__name__ for cls in DETECTORS} >= {"FlakyTest", "RepeatedFailure", "StuckJob"}
    assert all(cls.FIRES and cls.SILENT for cls in DETECTORS)


@pytest.mark.parametrize("cls", DETECTORS)
def test_a_detector_says_what_it_finds_and_what_its_parameters_mean(cls: type[Detector]) -> None:
    assert cls.__doc__
    assert len(cls.__doc__) > 100
    for field in dataclasses.fields(cls):
        if field.name != "within":
            assert re.search(rf"`{field.name}`", cls.__doc__), f"`{field.name}` is not explained"


@pytest.mark.parametrize(("cls", "example"), FIRES)
def test_what_must_fire_fires(cls: type[Detector], example: Example) -> None:
    answer = _answers(cls(), example)[-1]
    assert set(answer.events) <= {seen.id for seen in example}
    assert answer.first_ms <= answer.last_ms
    said, _ = play(_told(cls, example).entries)
    raised = _of(cls, said)[0]
    assert raised.state == FindingState.RAISED
    assert set(raised.events) <= {_event(seen).id for seen in example}
    assert raised.repository == "org/repo"


@pytest.mark.parametrize(("cls", "example"), SILENT)
def test_what_must_be_silent_is_silent(cls: type[Detector], example: Example) -> None:
    assert _answers(cls(), example) == []
    said, _ = play(_told(cls, example).entries)
    assert _of(cls, said) == []


@pytest.mark.parametrize("cls", DETECTORS)
def test_only_what_is_found_by_absence_is_asked_again_though_nothing_happens(cls: type[Detector]) -> None:
    start = (Seen(T0, "", Outcome.RUNNING, None, "1", 1),)
    due = cls().due(start, None)
    assert (due is None) == (cls.by == JOB)
    assert due is None or T0 < due < T0 + milliseconds(cls().within)


@pytest.mark.parametrize(("cls", "example"), FIRES)
def test_every_finding_is_cleared_by_time_alone(cls: type[Detector], example: Example) -> None:
    until = T0 + example[-1].at_ms + milliseconds(cls().within) + MINUTE
    log = _told(cls, example, until_ms=until)
    log.heartbeats(log.entries[-1].entry_ms, until)
    said, _ = play(log.entries)
    assert _of(cls, said)[-1].state == FindingState.CLEARED
    assert standing(said) == []


@pytest.mark.parametrize(("cls", "example"), [*FIRES, *SILENT])
def test_the_order_of_arrival_does_not_matter_once_all_are_in(cls: type[Detector], example: Example) -> None:
    if cls.by != JOB:
        example = [seen._replace(at_ms=0) for seen in example]
    now = T0 + example[-1].at_ms
    results = []
    for order in itertools.permutations(example):
        log = Log()
        for seen in order:
            log.event(_event(seen), now)
        log.heartbeats(now, now + 5 * MINUTE)
        said, _ = play(log.entries)
        results.append({(r.finding_id, r.first_ms, r.last_ms, r.occurrences, *r.events) for r in standing(said)})
    assert results == [results[0]] * len(results)


@pytest.mark.parametrize(("cls", "example"), FIRES)
def test_a_restart_after_every_entry_changes_nothing(cls: type[Detector], example: Example) -> None:
    log = _told(cls, example)
    whole, _ = play(log.entries)
    restarted, _ = play(log.entries, sizes=one_by_one(), restores=lambda: True)
    assert restarted.findings == whole.findings


@pytest.mark.parametrize(("cls", "example"), FIRES)
def test_a_changed_parameter_counts_from_its_control_entry(cls: type[Detector], example: Example) -> None:
    short = rulebooks.compose(scorer=SCORER, detectors={cls.__name__: {"within": "1ms"}})
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
def test_a_finding_that_a_new_rulebook_does_not_support_is_cleared(cls: type[Detector], example: Example) -> None:
    short = rulebooks.compose(scorer=SCORER, detectors={cls.__name__: {"within": "1ms"}})
    resolve = resolver(short)
    log = _told(cls, example)
    log.control(log.entries[-1].entry_ms, short)
    log.heartbeats(log.entries[-1].entry_ms, log.entries[-1].entry_ms + 2 * MINUTE)
    said, _ = play(log.entries, fresh(RULEBOOK, resolve), resolve=resolve)
    assert [row for row in standing(said) if row.detector == cls.__name__] == []
    assert _of(cls, said)[-1].rulebook == short.digest


@pytest.mark.parametrize(("cls", "example"), [*FIRES, *SILENT])
def test_an_unknown_outcome_is_survived_and_changes_nothing(cls: type[Detector], example: Example) -> None:
    log, strange = _told(cls, example), Log()
    for entry in log.entries:
        strange.take([entry])
        strange.say(Outcome.UNKNOWN, entry.entry_ms, vendor_status="odd", job_id=str(len(strange.entries)))
    plain, _ = play(log.entries)
    said, _ = play(strange.entries)
    assert [r._replace(position=0) for r in said.findings] == [r._replace(position=0) for r in plain.findings]


@pytest.mark.parametrize("cls", DETECTORS)
def test_memory_of_one_job_is_bounded(cls: type[Detector], rng: random.Random) -> None:
    outcomes = sorted(cls.sees | FAILING)
    sizes = []
    for count in (200, 2000):
        log = Log()
        for i in range(count):
            log.say(rng.choice(outcomes), T0 + i, pipeline_id=str(i), job_id="same")
        said, shard = play(log.entries)
        assert all(len(history.seen) <= MOST_IN_HISTORY for history in shard._histories._histories.values())
        assert all(len(row.events) <= 32 for row in said.findings)
        sizes.append(sum(len(history.seen) for history in shard._histories._histories.values()))
    assert sizes[0] == sizes[1]
