"""Events and entries as tests need them: short to write by hand, or any that are legal, by hypothesis."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import strategies as st

from models.records import payload
from models.records.columns import MAX_ID_LENGTH
from models.records.entry import Encoding, Entry, Kind, encode
from models.records.event import Event, EventType, FailureContext, Metadata, Outcome, event_id
from models.records.raw import RawEntry

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TYPES = {
    Outcome.QUEUED: EventType.STARTED,
    Outcome.RUNNING: EventType.STARTED,
    Outcome.FAILED: EventType.FAILED,
    Outcome.TIMED_OUT: EventType.FAILED,
    Outcome.ERRORED: EventType.FAILED,
}


def make_event(outcome: Outcome, at_ms: int, **given: Any) -> Event:
    """An event whose id is that of what happened; `given` names fields of any of its three parts.

    It is about job "job-1" named "test" of run "run-1" unless `given` says so; job_id and job_name None make it the
    run's.
    """
    known: dict[str, Any] = {
        "platform": "github",
        "repository": "org/repo",
        "pipeline_id": "run-1",
        "job_id": "job-1",
        "instance": "github.com",
        "workflow": "CI",
        "job_name": "test",
        "commit_sha": "c1",
        "rerun_after": "run",
        **given,
    }
    parts = [{k: known.pop(k) for k in s.__struct_fields__ if k in known} for s in (Metadata, FailureContext)]
    names = ("repository", "pipeline_id", "job_id")
    identity = event_id(
        instance=parts[0]["instance"],
        workflow_id=parts[0].get("workflow_id"),
        attempt=parts[0].get("attempt", 1),
        vendor_status=parts[0].get("vendor_status"),
        outcome=outcome,
        **{name: known[name] for name in names},
    )
    event_type = _TYPES.get(outcome, EventType.COMPLETED)
    failed = event_type is EventType.FAILED
    return Event(
        id=identity,
        timestamp=EPOCH + timedelta(milliseconds=at_ms),
        event_type=event_type,
        metadata=Metadata(outcome=outcome, **parts[0]),
        failure_context=FailureContext(**parts[1]) if failed else None,
        **known,
    )


def raw(position: int, entry: Entry, *, at_ms: int | None = None, seq: int = 0) -> RawEntry:
    """`entry` as it is read back from its stream."""
    return RawEntry(position, entry.received_ms if at_ms is None else at_ms, seq, encode(entry))


def raw_event(position: int, event: Event, received_ms: int, encoding: Encoding = Encoding.JSON) -> RawEntry:
    """`event` alone in an entry."""
    return raw(position, Entry(Kind.EVENT, encoding, received_ms, payload.to_bytes(event, encoding)))


_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40)
_NAMES = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0\x1f"), min_size=1, max_size=MAX_ID_LENGTH // 4
)
_INT32 = st.integers(-(2**31) + 1, 2**31 - 1)
_INT64 = st.integers(-(2**63), 2**63 - 1)
_MAYBE = st.none() | st.booleans()


def _optional(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | values


def metadatas() -> st.SearchStrategy[Metadata]:
    """Any metadata that is legal."""
    texts = (
        "author",
        "logs_url",
        "artifacts_url",
        "url",
        "vendor_status",
        "stage",
        "step",
        "runner",
        "trigger",
        "environment",
    )
    names = ("commit_sha", "branch", "workflow", "workflow_id", "job_name")
    flags = ("is_default_branch", "is_fork", "is_deploy", "allow_failure")
    return st.builds(
        Metadata,
        instance=_NAMES,
        outcome=st.sampled_from(Outcome),
        job_number=_optional(_INT64),
        attempt=_INT32,
        runner_labels=st.lists(_TEXT, max_size=3),
        native_retries=_optional(_INT32),
        rerun_after=st.sampled_from([None, "job", "run"]),
        queued_ms=_optional(_INT64),
        duration_ms=_optional(_INT64),
        **dict.fromkeys(texts, _optional(_TEXT)),
        **dict.fromkeys(names, _optional(_NAMES)),
        **dict.fromkeys(flags, _MAYBE),
    )


def failure_contexts() -> st.SearchStrategy[FailureContext]:
    """Any failure context that is legal."""
    return st.builds(
        FailureContext,
        exit_code=_optional(_INT32),
        error_patterns=st.lists(_TEXT, max_size=3),
        duration_ms=_optional(_INT64),
        reason=_optional(_TEXT),
        excerpt=_optional(_TEXT),
        tests_failed=_optional(_INT32),
    )


def events() -> st.SearchStrategy[Event]:
    """Any event that is legal."""
    return st.builds(
        Event,
        id=st.uuids().map(str),
        timestamp=st.datetimes(datetime(1970, 1, 1, 0, 0, 0, 1), timezones=st.just(UTC)),  # noqa: DTZ001 - in UTC
        platform=st.sampled_from(["github", "gitlab", "jenkins", "circleci"]),
        event_type=st.sampled_from(EventType),
        repository=_NAMES,
        pipeline_id=_NAMES,
        job_id=_optional(_NAMES),
        metadata=metadatas(),
        failure_context=_optional(failure_contexts()),
    )
