"""Every history that one failure enters: that of its job, its repository, its signature and its runner's labels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from msgspec.structs import replace

from analytics.desk import Desk
from analytics.detectors.detector import LABELS, REPOSITORY, SIGNATURE, Field, Seen
from analytics.histories import Histories, JobHistories
from analytics.rows import SEPARATOR

_ONLY_FAILURES: Final = (REPOSITORY, SIGNATURE, LABELS)


class Place(NamedTuple):
    """Where a failure belongs: its job, and its runner's labels, both behind instance and repository."""

    job: str
    labels: str

    @property
    def repository(self) -> str:
        """Its repository."""
        instance, repository, *_ = self.labels.split(SEPARATOR, 2)
        return f"{instance}{SEPARATOR}{repository}"


class Scopes:
    """The histories of one shard."""

    def __init__(self, desk: Desk) -> None:
        """Begin with none."""
        self._desk: Final = desk
        self.jobs: Final = JobHistories(desk)
        self._others: Final = {by: Histories(desk, by) for by in _ONLY_FAILURES}
        self._all: Final = (self.jobs, *self._others.values())
        self.when_due: Final[dict[str, Callable[[str, int, int], None]]] = {
            **{one.finding_due: one.recheck for one in self._all},
            **{one.history_due: one.forget for one in self._all},
        }

    def failed(self, place: Place, seen: Seen, position: int) -> None:
        """Put a failure into the histories that it belongs to."""
        self._desk.repositories.hear(place.repository, seen.at_ms)
        self.jobs.remember(place.job, seen, position)
        shorter = replace(seen, case_key="")  # of use to jobs only, and long
        for by, key in self._keys(place, seen.signature, seen.category).items():
            self._others[by].remember(key, shorter, position)

    def explained(self, place: Place, event: str, cause: tuple[str | None, str | None], position: int) -> None:
        """Note that a failure has another signature and category than when it came."""
        seen = self.jobs.find(place.job, event)
        if seen is None:
            return
        signature, category = cause
        self.jobs.explain(place.job, event, signature, category, position)
        new = replace(seen, signature=signature, category=category, case_key="")
        old_keys = self._keys(place, seen.signature, seen.category)
        new_keys = self._keys(place, signature, category)
        for by, one in self._others.items():
            old_key, new_key = old_keys.get(by), new_keys.get(by)
            if old_key is not None and old_key == new_key:
                one.explain(old_key, event, signature, category, position)
                continue
            if old_key is not None:
                one.drop(old_key, event, position)
            if new_key is not None:
                one.remember(new_key, new, position)

    def _keys(self, place: Place, signature: str | None, category: str | None) -> dict[tuple[Field, ...], str]:
        """The histories besides the job's which somebody judges, by scope."""
        scopes, keys = self._desk.scopes, {}
        if scopes[REPOSITORY].wants(category):
            keys[REPOSITORY] = place.repository
        if signature is not None and scopes[SIGNATURE].wants(category):
            keys[SIGNATURE] = f"{place.repository}{SEPARATOR}{signature}"
        if scopes[LABELS].wants(category):
            keys[LABELS] = place.labels
        return keys

    def judge_anew(self, position: int) -> None:
        """Let new rules speak on what stands."""
        for one in self._all:
            one.judge_anew(position)

    def set_timers(self) -> None:
        """Make due again what the histories say is due."""
        for one in self._all:
            one.set_timers()

    def settle(self) -> None:
        """Write down what changed."""
        for one in self._all:
            one.settle()

    def state(self) -> list[Any]:
        """All histories as plain data."""
        return [one.state() for one in self._all]

    def load(self, state: list[Any]) -> None:
        """Take what `state` gave."""
        for one, told in zip(self._all, state, strict=True):
            one.load(told)
