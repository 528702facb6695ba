"""What a recorded delivery becomes, without any server: behind `guard normalise`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from connectors.platforms import PLATFORMS
from connectors.platforms.platform import Request
from models.records.errors import MalformedPayload
from models.records.event import PlatformName
from models.records.payload import to_json


@dataclass(frozen=True, slots=True)
class Answer:
    """Events as JSON lines without line breaks, or why there are none; `rejected` where the delivery is at fault."""

    lines: tuple[bytes, ...] = ()
    reason: str | None = None
    rejected: bool = False


def normalise(
    platform: PlatformName, instance: str, headers: Mapping[str, str], body: bytes, *, received_at: float = 0.0
) -> Answer:
    """What `body` becomes. Names of headers may be in any case; no signature is checked.

    `received_at` (Unix seconds) is the time of events whose platform sends none.
    """
    request = Request({name.lower(): value for name, value in headers.items()}, body, received_at)
    try:
        normalised = PLATFORMS[platform].events(request, instance)
    except MalformedPayload as error:
        return Answer(reason=f"rejected: {error.detail}", rejected=True)
    if normalised.ignored is not None:
        return Answer(reason=f"ignored: {normalised.ignored}")
    return Answer(tuple(to_json(event) for event in normalised.events))
