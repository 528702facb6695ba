"""Every history that one failure enters: that of its job, its repository, its signature and its runner's labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

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
        for by, key in self._keys(place, seen.signature):
            self._others[by].remember(key, seen, position)

    def explained(
        self, place: Place, event: str, before: str | None, cause: tuple[str | None, str | None], position: int
    ) -> None:
        """Note that a failure of signature `before` has another signature and category."""
        seen = self.jobs.find(place.job, event)
        if seen is None:
            return
        signature, category = cause
        self.jobs.explain(place.job, event, signature, category, position)
        if before is not None and before != signature:
            self._others[SIGNATURE].drop(f"{place.repository}{SEPARATOR}{before}", event, position)
        new = seen._replace(signature=signature, category=category)
        for by, key in self._keys(place, signature):
            if by == SIGNATURE and before != signature:
                self._others[by].remember(key, new, position)
            else:
                self._others[by].explain(key, event, signature, category, position)

    def _keys(self, place: Place, signature: str | None) -> Iterator[tuple[tuple[Field, ...], str]]:
        """The histories besides the job's which somebody judges."""
        scopes = self._desk.scopes
        if scopes[REPOSITORY].rules:
            yield REPOSITORY, place.repository
        if scopes[SIGNATURE].rules and signature is not None:
            yield SIGNATURE, f"{place.repository}{SEPARATOR}{signature}"
        if scopes[LABELS].rules:
            yield LABELS, place.labels

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
