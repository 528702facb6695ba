"""Policies, jobs and cases at random, of few words, so that rules and jobs meet; most of them would be run again."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from analytics.policy.decide import CaseView, FailedJob
from analytics.policy.rules import FORKS, MODES, Policy, Rule, Subject, Terms, When
from models.records.event import Outcome

WORDS = ("a", "b", "ab")
PATTERNS = ("a", "b", "*", "a*", "*b", "A*B", ("a", "b*"))

_VALUES: dict[str, tuple[Any, ...]] = {
    "mode": MODES,
    "most_attempts": (3, 2, 1, 0),
    "most_native_retries": (2, 1, 0),
    "most_failed_jobs": (9, 3, 1, 0),
    "least_score": (0.5, 0.0, 0.9, 1.0),
    "forks": FORKS[::-1],
    "backoff_seconds": (60, 1, 0),
    "backoff_factor": (2, 1, 3),
    "longest_backoff_seconds": (3600, 60, 0),
}
_FLAWS: list[dict[str, Any]] = [
    {"signature": None, "category": None},
    {"transient": False},
    {"hard_stop": True},
    {"is_deploy": True},
    {"is_fork": True},
    {"allow_failure": True},
    {"native_retries": 1},
    {"native_retries": 3},
    {"score": None},
    {"score": 0.4},
    {"repeated": True},
    {"awaits_log": True},
    {"job_id": None},
    {"job_name": None},
    {"environments": ("a", "eu-PROD")},
]
_TROUBLES: list[dict[str, Any]] = [
    {"attempt": 2},
    {"attempt": 3},
    {"attempt": 4},
    {"rerun_after": None},
    {"ended": None},
    {"ended": None, "given_up": True},
    {"ended": Outcome.PASSED},
    {"ended": Outcome.CANCELLED},
    {"branch": None},
]


def when(**asks: Any) -> When:
    """What a rule asks for."""
    return When(**asks)


def _some(choices: dict[str, Any], least: int, most: int) -> st.SearchStrategy[dict[str, Any]]:
    """Some of the names, each with one of its values."""
    pairs = [(name, value) for name, values in choices.items() for value in values]
    return st.lists(st.sampled_from(pairs), min_size=least, max_size=most).map(dict)


def _whens() -> st.SearchStrategy[When]:
    return _some(dict.fromkeys(Subject._fields, PATTERNS), 1, 3).map(lambda asks: When(**asks))


def rules() -> st.SearchStrategy[Rule]:
    """Any rule."""
    sets = st.one_of(_some(_VALUES, 1, 3), _some(_VALUES, 1, 3), st.just({"never": True}))
    return st.builds(lambda asks, values: Rule(when=asks, **values), _whens(), sets)


def forbidding() -> st.SearchStrategy[Rule]:
    """Rules that only say no, or the least that can be said of a value."""
    least = {"mode": "observe", "most_attempts": 0, "most_failed_jobs": 0, "least_score": 1.0, "forks": "never"}
    said: list[dict[str, Any]] = [{"never": True}, *({name: value} for name, value in least.items())]
    return st.builds(lambda asks, sets: Rule(when=asks, **sets), _whens(), st.sampled_from(said))


def policies() -> st.SearchStrategy[Policy]:
    """Any policy; the first of all values are generous."""
    generous = {name: values[0] for name, values in _VALUES.items()}
    protected = st.sampled_from([("*prod*",), ("a*",), ()])
    return st.builds(
        lambda values, environments, some: Policy(
            **{**generous, **values}, protected_environments=environments, rules=tuple(some)
        ),
        _some(_VALUES, 0, 2),
        protected,
        st.lists(rules(), max_size=4),
    )


def subjects() -> st.SearchStrategy[Subject]:
    """Any job that rules look at."""
    known, any_ = st.sampled_from(WORDS), st.sampled_from([*WORDS, None])
    always = dict.fromkeys(("platform", "repository", "action"), known)
    return st.builds(Subject, **{name: always.get(name, any_) for name in Subject._fields})


def terms() -> st.SearchStrategy[Terms]:
    """Any terms."""
    values = {name: st.sampled_from(some) for name, some in _VALUES.items()}
    numbers = st.lists(st.integers(1, 4), max_size=3, unique=True).map(lambda some: tuple(sorted(some)))
    return st.builds(Terms, never=st.booleans(), rules=numbers, **values)


def _job(number: int, at_ms: int, word: str, flaw: dict[str, Any]) -> FailedJob:
    """A failed job that nothing speaks against but its flaw."""
    good = FailedJob(
        failure_id=f"f{number}",
        job_id=f"j{number}",
        at_ms=at_ms,
        signature=word,
        transient=True,
        hard_stop=False,
        is_deploy=False,
        is_fork=False,
        allow_failure=False,
        native_retries=0,
        score=0.9,
        repeated=False,
        workflow=word,
        job_name=word,
        category=word,
    )
    return good._replace(**flaw)


def _jobs() -> st.SearchStrategy[tuple[FailedJob, ...]]:
    flaws = st.sampled_from([*[{}] * 2 * len(_FLAWS), *_FLAWS])
    parts = st.lists(st.tuples(st.integers(1, 3), st.sampled_from(WORDS), flaws), min_size=1, max_size=4)
    return parts.map(lambda some: tuple(_job(number, *part) for number, part in enumerate(some)))


def cases() -> st.SearchStrategy[CaseView]:
    """A run attempt with one to four failed jobs."""
    troubles = st.sampled_from([*[{}] * 2 * len(_TROUBLES), *_TROUBLES])
    return st.builds(
        lambda jobs, word, after, trouble: CaseView(
            platform=word,
            instance=word,
            repository=word,
            pipeline_id="1",
            workflow_id=None,
            attempt=1,
            rerun_after=after,
            ended=Outcome.FAILED,
            given_up=False,
            jobs=jobs,
            branch=word,
            ended_ms=2,
        )._replace(**trouble),
        _jobs(),
        st.sampled_from(WORDS),
        st.sampled_from(["job", "run"]),
        troubles,
    )
