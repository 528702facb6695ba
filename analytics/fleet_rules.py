"""What the operator may say of fleet incidents: the table `fleet` of the rulebook."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Self

import msgspec

from models.records.errors import ConfigError

Count = Annotated[int, msgspec.Meta(ge=1)]
Share = Annotated[float, msgspec.Meta(gt=0, le=1)]


class FleetRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When so many repositories fail alike that it is an incident, and when that is over."""

    window_minutes: Annotated[int, msgspec.Meta(ge=1, le=60)] = 5  # repositories are counted over so many
    least_repositories: Annotated[int, msgspec.Meta(ge=2)] = 4  # that fail alike in a window, fewer are no incident
    least_failures: Count = 6  # likewise
    false_alarms_per_day: Annotated[float, msgspec.Meta(gt=0)] = 0.1  # of the whole fleet, at the most
    usual_repositories: Annotated[float, msgspec.Meta(gt=0)] = 0.1  # a window has so many of any symptom, at the least
    memory_hours: Count = 24  # half-life of what is usual
    learning_minutes: Count = 60  # of what is usual that must be known before anything is said
    calm_minutes: Count = 10  # so long it must be calm before an incident is closed
    longest_hours: Count = 24  # what lasts longer is how things are now
    explaining_share: Share = 0.8  # of the repositories that have a host, a label, ... in common that explains it

    @classmethod
    def of(cls, table: Mapping[str, Any]) -> Self:
        """The rules that `table` makes of the defaults.

        Raises:
            ConfigError: naming the key that is wrong.
        """
        try:
            return msgspec.convert(table, cls)
        except msgspec.ValidationError as error:
            raise ConfigError(f"rulebook.fleet: {error}") from None
