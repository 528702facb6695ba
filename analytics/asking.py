"""Asking detectors, which anyone may write: one that fails is named and set aside, and the flow goes on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

from analytics.detectors.detector import Finding, History, Rule
from analytics.findings import Context
from analytics.subjects import subject_of
from models.records.event import uuid5_text
from models.records.outputs import DetectorFault

MOST_ASIDE: Final = 100
"""A detector that failed on so many keys of a shard is not asked there at all until the rulebook changes."""
_MOST_TEXT: Final = 500
_LARGE: Final = 1 << 53

T = TypeVar("T")


class Asking:
    """Which detectors are not asked about what, and what is to be said of them."""

    def __init__(self) -> None:
        """Begin with none set aside."""
        self._aside: dict[str, list[str]] = {}
        self.said: list[DetectorFault] = []

    def judge(self, rule: Any, key: str, judged: Any, where: Context, event: str | None = None) -> Finding | None:  # noqa: ANN401 - each kind of rule judges its own
        """What `rule` says of `judged`; None too where it fails, or failed before."""
        if self._aside and self.is_aside(rule, key):
            return None
        try:
            answer: Finding | None = rule.judge(judged, where.at_ms)
            if answer is not None:
                _check(answer, judged)
        except Exception as error:  # noqa: BLE001 - whatever a detector raises is its own
            self._set_aside(rule, key, _words(error), event, where)
            return None
        return answer

    def cleared(self, rule: Any, key: str, judged: Any, where: Context, event: str | None = None) -> str | None:  # noqa: ANN401 - each kind of rule judges its own
        """Why `rule` does not hold any more; None where it fails, or failed before."""
        return self.ask(rule, key, where, _why, rule, judged, where.at_ms, event=event)

    def ask(
        self,
        rule: Rule,
        key: str,
        where: Context,
        question: Callable[..., T],
        *given: Any,  # noqa: ANN401 - the question's
        event: str | None = None,
    ) -> T | None:
        """The answer of `question`, or None where `rule` fails or failed before; `event` is what made us ask."""
        if self._aside and self.is_aside(rule, key):
            return None
        try:
            return question(*given)
        except Exception as error:  # noqa: BLE001 - whatever a detector raises is its own
            self._set_aside(rule, key, _words(error), event, where)
            return None

    def is_aside(self, rule: Rule, key: str) -> bool:
        """Whether `rule` is not asked about `key`."""
        aside = self._aside.get(type(rule).__name__, ())
        return key in aside or len(aside) >= MOST_ASIDE

    def _set_aside(self, rule: Rule, key: str, error: str, event: str | None, where: Context) -> None:
        name = type(rule).__name__
        self._aside.setdefault(name, []).append(key)
        instance, repository, subject = subject_of(rule, key)
        # Where an object lives in memory differs from run to run.
        told = error.split(" at 0x", 1)[0][:_MOST_TEXT].replace("\0", "").encode("utf-8", "replace").decode()
        self.said.append(
            DetectorFault(
                fault_id=uuid5_text("fault", name, key, where.rulebook, str(where.position)),
                shard=where.shard,
                position=where.position,
                detector=name,
                instance=instance,
                repository=repository,
                subject=subject,
                event_id=event,
                error=told,
                at_ms=where.at_ms,
                rulebook=where.rulebook,
            )
        )

    def anew(self) -> None:
        """Ask all of them again: the rules changed."""
        self._aside.clear()

    def state(self) -> dict[str, list[str]]:
        """Who is set aside, as plain data."""
        return self._aside

    def load(self, state: dict[str, list[str]]) -> None:
        """Take what `state` gave."""
        self._aside = state


def _words(error: Exception) -> str:
    """What an error says of itself; one that cannot is named all the same."""
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # noqa: BLE001 - as above
        return type(error).__name__


def _check(answer: object, judged: object) -> None:
    """See whether an answer is a finding that can be written down.

    Raises:
        TypeError, ValueError: it is not.
    """
    if type(answer) is not Finding:
        raise TypeError(f"judge() answered {type(answer).__name__}, not a Finding or None")
    first, last, count = times = (answer.first_ms, answer.last_ms, answer.occurrences)
    if not type(first) is type(last) is type(count) is int or not (0 <= first <= last < _LARGE and 0 <= count < _LARGE):
        raise ValueError(f"judge() answered first_ms, last_ms, occurrences = {times}")
    _check_text(answer.message)
    events = answer.events
    if type(events) is not tuple or (events and not (type(judged) is History and judged.ids.issuperset(events))):
        raise ValueError("judge() answered events that are not a tuple of ids that it was shown")


def _why(rule: Any, judged: Any, at_ms: int) -> str:  # noqa: ANN401 - each kind of rule judges its own
    """Why `rule` does not hold any more.

    Raises:
        ValueError: it says so in no words that can be written down.
    """
    why: str = rule.cleared(judged, at_ms)
    _check_text(why)
    return why


def _check_text(text: object) -> None:
    if type(text) is not str or not 0 < len(text) <= _MOST_TEXT or "\0" in text:
        raise ValueError(f"a message must be a text of 1 to {_MOST_TEXT} characters")
    text.encode()  # a lone surrogate has no place in a row
