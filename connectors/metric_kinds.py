"""The kinds of metric, typed by their labels: a misspelt name, label or word of a closed set fails mypy.

A metric is declared as an empty function: its name is the metric's, its keyword arguments are the labels, its docstring
says what it means and then what to do when it moves. One process has one registry and one port; what the process does
not declare or touch is not in its exposition, so that `absent()` means what it says.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from itertools import product
from typing import Annotated, Any, ClassVar, Final, Generic, Literal, ParamSpec, get_args, get_origin, get_type_hints

import prometheus_client as prometheus

P = ParamSpec("P")
Process = Literal["receiver", "flow", "logs", "archive", "act", "reconcile"]
EVERY: Final[tuple[Process, ...]] = get_args(Process)
BOTH: Final[tuple[Process, ...]] = ("receiver", "flow")

REGISTRY: Final = prometheus.CollectorRegistry()
prometheus.ProcessCollector(registry=REGISTRY)
prometheus.disable_created_metrics()  # type: ignore[no-untyped-call] # series of no use; upstream left it untyped
_declaring: Final = threading.Lock()


class Metric(Generic[P]):
    """One metric of the table. `words` is, for each label, the closed set of its values, or None where it is open."""

    kind: ClassVar[str]

    def __init__(self, declared: Callable[P, None], *, unit: str, of: Sequence[Process]) -> None:
        hints = get_type_hints(declared, include_extras=True)
        self.name = declared.__name__
        self.unit = unit
        self.of = tuple(of)
        self.meaning, _, self.moves = (inspect.getdoc(declared) or "").partition("\n\n")
        self.words: Mapping[str, tuple[str, ...] | None] = {
            label: _closed(hints[label]) for label in inspect.signature(declared).parameters
        }
        self._collector: Any = None

    def _made(self) -> Any:  # noqa: ANN401 - a collector of the kind's own class, which each kind names
        raise NotImplementedError

    def collector(self) -> Any:  # noqa: ANN401 - as above
        """What is exposed, from the first call on."""
        if self._collector is None:
            with _declaring:
                if self._collector is None:
                    self._collector = self._made()
        return self._collector

    def _child(self, labels: Mapping[str, object]) -> Any:  # noqa: ANN401 - as above
        collector = self.collector()
        return collector.labels(**labels) if self.words else collector

    def declare(self) -> None:
        """Expose the metric before anything moves it; a counter with closed labels starts every series at nought.

        Without that, the first count of a series is not seen as an increase.
        """
        self.collector()
        sets = [words for words in self.words.values() if words is not None]
        if self.kind == "counter" and len(sets) == len(self.words):
            for values in product(*sets):
                self._child(dict(zip(self.words, values, strict=True)))


def _closed(annotation: Any) -> tuple[str, ...] | None:  # noqa: ANN401 - any annotation
    if get_origin(annotation) is Annotated:
        return tuple(str(value) for value in annotation.__metadata__[0])
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return tuple(str(member.value) for member in annotation)
    return None


class Counter(Metric[P]):
    """What only grows, until the process starts anew."""

    kind = "counter"

    def _made(self) -> prometheus.Counter:
        return prometheus.Counter(self.name, self.meaning, tuple(self.words), registry=REGISTRY)

    def __call__(self, *_: P.args, **labels: P.kwargs) -> prometheus.Counter:
        """The series with these labels; `.inc()` it."""
        child: prometheus.Counter = self._child(labels)
        return child


class Gauge(Metric[P]):
    """What goes up and down."""

    kind = "gauge"

    def _made(self) -> prometheus.Gauge:
        return prometheus.Gauge(self.name, self.meaning, tuple(self.words), registry=REGISTRY)

    def __call__(self, *_: P.args, **labels: P.kwargs) -> prometheus.Gauge:
        """The series with these labels; `.set()` it, or `.set_function()` what is worked out when asked for."""
        child: prometheus.Gauge = self._child(labels)
        return child


class Histogram(Metric[P]):
    """How values are spread, in buckets with exact upper edges."""

    kind = "histogram"

    def __init__(
        self, declared: Callable[P, None], *, unit: str, of: Sequence[Process], buckets: Sequence[float]
    ) -> None:
        super().__init__(declared, unit=unit, of=of)
        self.buckets = tuple(buckets)

    def _made(self) -> prometheus.Histogram:
        return prometheus.Histogram(self.name, self.meaning, tuple(self.words), buckets=self.buckets, registry=REGISTRY)

    def __call__(self, *_: P.args, **labels: P.kwargs) -> prometheus.Histogram:
        """The series with these labels; `.observe()` a value."""
        child: prometheus.Histogram = self._child(labels)
        return child


def counter(*, unit: str, of: Sequence[Process]) -> Callable[[Callable[P, None]], Counter[P]]:
    """Declare a counter; its name ends in _total."""
    return lambda declared: Counter(declared, unit=unit, of=of)


def gauge(*, unit: str, of: Sequence[Process]) -> Callable[[Callable[P, None]], Gauge[P]]:
    """Declare a gauge."""
    return lambda declared: Gauge(declared, unit=unit, of=of)


def histogram(
    *, unit: str, of: Sequence[Process], buckets: Sequence[float]
) -> Callable[[Callable[P, None]], Histogram[P]]:
    """Declare a histogram with these upper edges; one without an edge is added."""
    return lambda declared: Histogram(declared, unit=unit, of=of, buckets=buckets)
