"""From what a platform's words were found to mean to the event. Nothing here knows a vendor."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from models.records.event import (
    FAILING,
    OPEN,
    Event,
    EventType,
    FailureContext,
    Metadata,
    Outcome,
    PlatformName,
    event_id,
)

MAX_EXCERPT_BYTES: Final = 16 * 1024


def event_type(outcome: Outcome, *, ended: bool) -> EventType:
    """What an outcome says of the run or job; a word that we do not know says only whether it has `ended`."""
    if outcome in FAILING:
        return EventType.FAILED
    if outcome in OPEN or (outcome is Outcome.UNKNOWN and not ended):
        return EventType.STARTED
    return EventType.COMPLETED


def tell(
    *,
    platform: PlatformName,
    at: datetime,
    repository: str,
    pipeline_id: str,
    job_id: str | None,
    metadata: Metadata,
    failure: FailureContext | None = None,
    ended: bool = True,
) -> Event:
    """The event, with the id of what happened; `failure` is dropped where nothing failed."""
    outcome = metadata.outcome
    return Event(
        id=event_id(
            instance=metadata.instance,
            repository=repository,
            pipeline_id=pipeline_id,
            workflow_id=metadata.workflow_id,
            attempt=metadata.attempt,
            job_id=job_id,
            outcome=outcome,
            vendor_status=metadata.vendor_status,
        ),
        timestamp=at,
        platform=platform,
        event_type=event_type(outcome, ended=ended),
        repository=repository,
        pipeline_id=pipeline_id,
        job_id=job_id,
        metadata=metadata,
        failure_context=failure if outcome in FAILING else None,
    )
